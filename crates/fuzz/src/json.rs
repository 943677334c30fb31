//! JSON as requests.

use mi_http::fuzzing;

/// Requests that have between them every kind of field: lists, maps, messages, enums, times, durations, bytes, masks.
const METHODS: [&str; 6] = [
    "/mi.v1.TaskService/CreateTask",
    "/mi.v1.TaskService/CompleteTask",
    "/mi.v1.AgentService/HireAgent",
    "/mi.v1.AgentService/UpdateAgent",
    "/mi.v1.OfficeService/UpdateOfficeSettings",
    "/mi.v1.ActivityService/ListActivity",
];

/// A text as the JSON of a request: what is read is written and read again as the same.
pub fn json(data: &[u8]) -> bool {
    let mut is_read = false;
    for method in METHODS {
        if let Some(is_same) = fuzzing::json(method, data) {
            assert!(is_same, "{method}: {:?}", String::from_utf8_lossy(data));
            is_read = true;
        }
    }
    is_read
}

//! What requests of REST are taken for.

use http::{HeaderMap, HeaderValue, Method, header};
use prost_reflect::DynamicMessage;
use serde_json::{Value, json};
use tonic::{Status, body::Body};
use tonic_types::StatusExt;

use super::{bind::Asked, query::Query, routes};
use crate::{
    credential,
    json::{Style, written},
    refusal::rest_status,
};

async fn asked(method: Method, target: &str, content_type: Option<&str>, body: &str) -> Result<DynamicMessage, Status> {
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let query = Query::parse(query)?;
    let (place, values) = routes::find(path).expect("a place");
    let route = place.route(&method).expect("a route");
    let mut headers = HeaderMap::new();
    if let Some(content_type) = content_type {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_str(content_type).expect("a value"));
    }
    let body = Body::new(axum::body::Body::from(body.to_owned()));
    Asked::new(route, &values, query)?.message(&headers, body).await
}

async fn get(target: &str) -> Result<Value, Status> {
    asked(Method::GET, target, None, "").await.map(|message| canonical(&message))
}

async fn send(method: Method, target: &str, body: &str) -> Result<Value, Status> {
    asked(method, target, Some("application/json"), body).await.map(|message| canonical(&message))
}

fn canonical(message: &DynamicMessage) -> Value {
    serde_json::from_slice(&written(message, Style::Canonical).expect("JSON")).expect("JSON")
}

/// The status of HTTP, the field, and what is said.
fn refused(outcome: Result<Value, Status>) -> (u16, String, String) {
    let status = outcome.expect_err("refused");
    let violations = status.get_details_bad_request().map(|request| request.field_violations).unwrap_or_default();
    let field = violations.first().map(|violation| violation.field.clone()).unwrap_or_default();
    assert!(status.get_details_error_info().is_some(), "{status:?}");
    (rest_status(&status).as_u16(), field, status.message().to_owned())
}

#[tokio::test]
async fn queries_have_what_neither_path_nor_body_has() {
    for (target, message) in [
        ("/v1/offices/o/tasks", json!({"officeId": "o"})),
        (
            "/v1/offices/o/tasks?page_size=7&pageToken=a%2Bb+c&statuses=queued,TASK_STATUS_RUNNING",
            json!({
                "officeId": "o", "pageSize": 7, "pageToken": "a+b c",
                "statuses": ["TASK_STATUS_QUEUED", "TASK_STATUS_RUNNING"],
            }),
        ),
        (
            "/v1/offices/o/file-changes?cursor=9223372036854775807&",
            json!({"officeId": "o", "cursor": "9223372036854775807"}),
        ),
        ("/v1/offices/o/file-changes:watch?after_cursor=0", json!({"officeId": "o", "afterCursor": "0"})),
        (
            "/v1/offices/o/activity?categories=task,lifecycle&categories=chat",
            json!({"officeId": "o", "categories": ["task", "lifecycle", "chat"]}),
        ),
        (
            "/v1/offices/o/agents/bob/logs?start_time=2026-01-31T12:00:00Z&end_time=2026-01-31T12:00:00%2B02:00",
            json!({"officeId": "o", "agent": "bob", "startTime": "2026-01-31T12:00:00Z", "endTime": "2026-01-31T10:00:00Z"}),
        ),
        ("/v1/offices/o/file-info/a%2Fb/%E4%BD%A0%20:c", json!({"officeId": "o", "path": "a/b/你 :c"})),
        ("/v1/offices/%2e%2e/settings", json!({"officeId": ".."})),
        ("/v1/offices/o/files/a//../b", json!({"officeId": "o", "path": "a//../b"})),
    ] {
        assert_eq!(get(target).await.expect(target), message, "{target}");
    }
}

#[tokio::test]
async fn queries_that_are_not_understood_are_refused() {
    for (target, status, field, said) in [
        ("/v1/offices?nonsense=1&page_size=3&more", 400, "query", "has `nonsense`, `more`; here it may have `"),
        ("/v1/offices/o?office_id=p", 400, "query", "has `office_id`; here it may have nothing"),
        ("/v1/offices?page_size=1&pageSize=2", 400, "pageSize", "is there twice"),
        ("/v1/offices?page_size=much", 400, "page_size", "must be a whole number of at most 32 bits"),
        ("/v1/offices?page_size=2147483648", 400, "page_size", "must be a whole number of at most 32 bits"),
        (
            "/v1/offices/o/file-changes?cursor=9223372036854775808",
            400,
            "cursor",
            "must be a whole number of at most 64 bits",
        ),
        ("/v1/offices/o/agents/b/logs?start_time=now", 400, "start_time", "must be a time such as"),
        ("/v1/offices?page_size=%", 400, "query", "has a `%`"),
        ("/v1/offices?page_token=%FF", 400, "query", "has a `%`"),
        ("/v1/offices/%zz", 400, "office_id", "has a `%`"),
        ("/v1/offices/%C3%28", 400, "office_id", "has a `%`"),
        ("/v1/offices/o/files/a?offset=1", 400, "query", "has `offset`; here it may have nothing"),
    ] {
        let (code, name, message) = refused(get(target).await);
        assert_eq!((code, name.as_str()), (status, field), "{target}: {message}");
        assert!(message.contains(said), "{target}: {message}");
        assert!(!message.contains("mi_x"), "{message}");
    }
}

#[tokio::test]
async fn bodies_have_the_rest() {
    let target = "/v1/offices/o/agents/bob:promote";
    let promoted = json!({"officeId": "o", "name": "bob", "modelTier": "opus"});
    for body in [r#"{"model_tier": "opus"}"#, r#"{"modelTier":"opus","officeId":"o","name":"bob"}"#] {
        assert_eq!(send(Method::POST, target, body).await.expect(body), promoted);
    }
    let none = asked(Method::POST, "/v1/offices/o:suspend", None, "").await.expect("an empty body");
    assert_eq!(canonical(&none), json!({"officeId": "o"}));
    let empty = send(Method::POST, "/v1/offices/o:suspend", "").await.expect("an empty body");
    assert_eq!(empty, json!({"officeId": "o"}));

    let settings = "/v1/offices/o/settings";
    let own = send(Method::PATCH, settings, r#"{"max_agents": 3, "allowAgentHiring": false}"#).await.expect("a change");
    assert_eq!(own, json!({"officeId": "o", "settings": {"maxAgents": 3}, "updateMask": "allowAgentHiring,maxAgents"}));
    for mask in ["max_agents,default_model_tier", "maxAgents,defaultModelTier"] {
        let target = format!("{settings}?update_mask={mask}");
        let asked = send(Method::PATCH, &target, r#"{"max_agents": 3}"#).await.expect(mask);
        let mask = "maxAgents,defaultModelTier";
        assert_eq!(asked, json!({"officeId": "o", "settings": {"maxAgents": 3}, "updateMask": mask}));
    }
}

#[tokio::test]
async fn bodies_that_are_not_understood_are_refused() {
    let deep = format!("{}1{}", r#"{"title":["#.repeat(500), "]}".repeat(500));
    let huge = format!(r#"{{"title":"{}"}}"#, "x".repeat(9 << 20));
    for (body, status, field, said) in [
        ("{", 400, "body", "is not the JSON of a CreateTaskRequest"),
        ("[]", 400, "body", "is not the JSON of a CreateTaskRequest"),
        (r#"{"title":"a"} x"#, 400, "body", "trailing characters"),
        (r#"{"title":"a","title":"b"}"#, 400, "body", "`title` is there twice"),
        (r#"{"titel":"a"}"#, 400, "body", "titel"),
        (r#"{"priority":9223372036854775808}"#, 400, "body", "is not the JSON of a CreateTaskRequest"),
        (r#"{"title":7}"#, 400, "body", "is not the JSON of a CreateTaskRequest"),
        ("{\"title\":\"\u{0}\"}", 400, "body", "control character"),
        (&deep, 400, "body", "recursion limit"),
        (&huge, 413, "", "bytes"),
        (r#"{"office_id":"p"}"#, 400, "office_id", "is something else in the body than in the path"),
    ] {
        let (code, name, message) = refused(send(Method::POST, "/v1/offices/o/tasks", body).await);
        assert_eq!((code, name.as_str()), (status, field), "{message}");
        assert!(message.contains(said) && message.len() < 500, "{message}");
    }
    let canonical = |outcome: Result<DynamicMessage, Status>| outcome.map(|message| canonical(&message));
    for content_type in
        [None, Some("text/plain"), Some("application/x-www-form-urlencoded"), Some("application/json; charset=latin1")]
    {
        let outcome = asked(Method::POST, "/v1/offices", content_type, "{}").await;
        let (code, field, message) = refused(canonical(outcome));
        assert_eq!((code, field.as_str()), (415, ""), "{message}");
    }
    for good in ["application/json;charset=UTF-8", "Application/JSON"] {
        assert!(asked(Method::POST, "/v1/offices", Some(good), "{}").await.is_ok(), "{good}");
    }
    let (code, field, message) = refused(canonical(asked(Method::GET, "/v1/offices", None, "{}").await));
    assert_eq!((code, field.as_str()), (400, "body"), "{message}");
    let (code, field, message) = refused(send(Method::POST, "/v1/offices?name=a", "{}").await);
    assert_eq!((code, field.as_str()), (400, "query"), "{message}");
}

#[test]
fn no_field_is_called_as_a_credential() {
    for route in routes::PLACES.iter().flat_map(|place| &place.routes) {
        for field in route.input().fields().filter(|field| route.is_free(field)) {
            let pair = format!("{}=x", field.name());
            assert!(credential::in_query(&pair).is_none(), "{} {}", route.rpc.full_name(), field.name());
        }
    }
}

//! The shapes that programs read, and the table against the list of calls that that product has.

use http::{Method, header};
use mi_kernel::Error;
use serde_json::{Value, json};
use tonic::Status;

use super::{answer, chat, credits, fields::Fields, integrations, offices, routes, shape, task_notes, tasks};

/// What a client may call: method and path, and nothing beside it.
const CALLS: &str = "
    GET POST /api/v1/offices
    GET DELETE /api/v1/offices/{}
    GET PATCH /api/v1/offices/{}/settings
    GET /api/v1/offices/{}/status
    POST /api/v1/offices/{}/suspend
    POST /api/v1/offices/{}/resume
    GET POST /api/v1/offices/{}/employees
    GET PATCH DELETE /api/v1/offices/{}/employees/{}
    GET /api/v1/offices/{}/employees/{}/logs
    GET /api/v1/offices/{}/employees/{}/activity
    GET /api/v1/offices/{}/employees/{}/presence
    GET /api/v1/offices/{}/employees/{}/last-error
    GET /api/v1/offices/{}/employees/{}/integrations
    POST /api/v1/offices/{}/employees/{}/promote
    POST /api/v1/offices/{}/employees/{}/skills
    POST /api/v1/offices/{}/employees/{}/lifecycle
    POST /api/v1/offices/{}/employees/{}/credentials/rotate
    GET POST /api/v1/offices/{}/tasks
    GET PATCH /api/v1/offices/{}/tasks/{}
    GET /api/v1/offices/{}/tasks/stats
    POST /api/v1/offices/{}/tasks/claim
    POST /api/v1/offices/{}/tasks/{}/log
    POST /api/v1/offices/{}/tasks/{}/comments
    GET /api/v1/offices/{}/tasks/{}/subtasks
    GET POST /api/v1/offices/{}/tasks/{}/artifacts
    POST /api/v1/offices/{}/tasks/{}/verify
    POST /api/v1/offices/{}/tasks/{}/retry
    GET POST /api/v1/offices/{}/files
    GET DELETE /api/v1/offices/{}/files/{..}
    GET /api/v1/offices/{}/files/_changes
    GET /api/offices/{}/integrations
    GET /api/v1/offices/{}/integrations
    POST DELETE /api/v1/offices/{}/integrations/{}/secret
    POST /api/v1/offices/{}/integrations/{}/agents/{}
    GET /api/v1/offices/{}/provider-models
    GET POST /api/v1/offices/{}/credits
    GET /api/v1/offices/{}/credits/history
    GET /api/v1/offices/{}/usage/summary
    GET /api/v1/offices/{}/usage/llm/summary
    GET /api/v1/offices/{}/backups
    GET DELETE /api/v1/offices/{}/backups/{}
    GET /api/v1/offices/{}/xmtp/groups
    GET /api/v1/offices/{}/xmtp/groups/{}/messages
    POST /api/v1/offices/{}/xmtp/groups/{}/send
    POST /api/v1/offices/{}/xmtp/send
    GET /api/v1/offices/{}/xmtp/stream
    POST /api/v1/offices/{}/invites
    POST /api/agents/join
    POST /api/agents/heartbeat
    GET /healthz";

#[test]
fn the_table_is_the_list_of_calls() {
    let mut expected = Vec::new();
    for line in CALLS.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let (methods, path) = line.rsplit_once(' ').expect("a method and a path");
        expected.extend(methods.split(' ').map(|method| format!("{method} {path}")));
    }
    let mut routes: Vec<String> = routes::all().map(|(method, path)| format!("{method} {path}")).collect();
    expected.sort();
    routes.sort();
    assert_eq!(routes, expected);
}

fn parts(method: &str, path: &str) -> Result<Vec<String>, (u16, String)> {
    let method = Method::from_bytes(method.as_bytes()).expect("a method");
    match routes::find(&method, path) {
        Ok(found) => Ok(found.parts),
        Err(refused) => {
            let allow = refused.headers().get(header::ALLOW).map(|value| value.to_str().expect("text").to_owned());
            Err((refused.status().as_u16(), allow.unwrap_or_default()))
        }
    }
}

#[test]
fn paths_are_told_apart_and_decoded() {
    let owned = |parts: &[&str]| Ok(parts.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>());
    assert_eq!(parts("GET", "/healthz"), owned(&[]));
    assert_eq!(parts("GET", "/api/v1/offices/o/employees/M%C3%BCller%20x"), owned(&["o", "Müller x"]));
    assert_eq!(parts("GET", "/api/v1/offices/o/tasks/stats"), owned(&["o"]));
    assert_eq!(parts("GET", "/api/v1/offices/o/tasks/7"), owned(&["o", "7"]));
    assert_eq!(parts("GET", "/api/v1/offices/o/files/a/b%20c.md"), owned(&["o", "a/b c.md"]));
    assert_eq!(parts("GET", "/api/v1/offices/o/files/..%2F..%2Fetc"), owned(&["o", "../../etc"]));
    assert_eq!(parts("GET", "/api/v1/offices/o/files/100%.txt"), owned(&["o", "100%.txt"]));
    assert_eq!(parts("GET", "/api/v1/offices/o/files/_changes"), owned(&["o"]));
    assert_eq!(parts("GET", "/api/v1/offices/o/files/%FF"), Err((400, String::new())));
    let none = |code| Err((code, String::new()));
    for unknown in [
        "/api",
        "/api/v1",
        "/api/v1/offices/",
        "/api/v1/offices//status",
        "/api/v1/offices/o/nonsense",
        "/api/v2/offices",
    ] {
        assert_eq!(parts("GET", unknown), none(404), "{unknown}");
    }
    assert_eq!(parts("PUT", "/api/v1/offices"), Err((405, "GET, POST".into())));
    assert_eq!(parts("GET", "/api/v1/offices/o/xmtp/send"), Err((405, "POST".into())));
    for absent in ["/api/marketplace/x", "/api/v1/offices/o/extensions", "/api/v1/offices/o/employees/a/terminal/1"] {
        assert_eq!(parts("POST", absent), none(501), "{absent}");
    }
    assert_eq!(parts("GET", "/api/marketplaces"), none(404));
}

#[test]
fn refusals_have_the_numbers_that_that_client_goes_by() {
    let soon = std::time::Duration::from_millis(1500);
    let unset = Error::precondition("INTEGRATION_NOT_CONFIGURED", "no secret");
    for (error, code, retry, name) in [
        (Error::invalid("name", "is bad"), 400, None, "INVALID_ARGUMENT"),
        (Error::unauthenticated("who?"), 401, None, "UNAUTHENTICATED"),
        (Error::exhausted("OUT_OF_CREDITS", "none left", soon), 402, None, "OUT_OF_CREDITS"),
        (Error::exhausted("BUDGET_REACHED", "none left", soon), 402, None, "BUDGET_REACHED"),
        (Error::denied("no"), 403, None, "PERMISSION_DENIED"),
        (Error::not_found("agent", "a"), 404, None, "NOT_FOUND"),
        (Error::already_exists("agent", "a"), 409, None, "ALREADY_EXISTS"),
        (Error::precondition("OFFICE_NOT_ACTIVE", "suspended"), 409, None, "OFFICE_NOT_ACTIVE"),
        (Error::precondition("REVISION_CONFLICT", "changed"), 409, None, "REVISION_CONFLICT"),
        (unset, 400, None, "INTEGRATION_NOT_CONFIGURED"),
        (Error::new(mi_kernel::ErrorKind::Exhausted, "MESSAGE_TOO_LARGE", "large"), 413, None, "MESSAGE_TOO_LARGE"),
        (Error::exhausted("RATE_LIMITED", "slow down", soon), 429, Some("1"), "RATE_LIMITED"),
        (Error::unavailable("away"), 503, Some("1"), "UNAVAILABLE"),
    ] {
        let (message, response) = (error.message.clone(), answer::refused(&mi_rpc::status(error)));
        assert_eq!(response.status().as_u16(), code, "{name}");
        let after = response.headers().get(header::RETRY_AFTER).map(|value| value.to_str().expect("text"));
        assert_eq!(after, retry, "{name}");
        assert_eq!(text(response), json!({"error": message, "message": message, "code": name}));
    }
    let response = answer::refused(&Status::unimplemented("no such thing"));
    assert_eq!(response.status().as_u16(), 501);
    assert_eq!(text(response)["code"], "UNIMPLEMENTED");
}

/// The body of an answer.
fn text(response: mi_rpc::HttpResponse) -> Value {
    use futures::FutureExt;
    use http_body_util::BodyExt;
    let whole = response.into_body().collect().now_or_never().expect("is there").expect("is whole");
    serde_json::from_slice(&whole.to_bytes()).expect("JSON")
}

#[test]
fn nothing_is_an_answer_without_body_and_type() {
    let none = answer::none();
    assert_eq!((none.status().as_u16(), none.headers().get(header::CONTENT_TYPE)), (204, None));
}

#[test]
fn fields_are_read_in_both_spellings_and_refused_by_name() {
    let body = Fields::read(br#"{"assigned_agent":"bob","dependsOn":"a, b,,7","parentId":7,"tools":["x",1],"n":null}"#);
    let body = body.expect("an object");
    assert_eq!(body.text("assignedAgent").expect("text"), "bob");
    assert_eq!(body.texts("dependsOn").expect("ids"), ["a", "b", "7"]);
    assert_eq!(body.texts("tools").expect("texts"), ["x", "1"]);
    assert_eq!(body.id("parentId").expect("an id"), "7");
    assert_eq!((body.text("n").expect("none"), body.flag("n").expect("none")), ("", None));
    for (body, told) in [
        (&b"[1]"[..], "body must be a JSON object"),
        (b"{\"a\":1,\"a\":2}", "body is not JSON: `a` is there twice at line 1 column 13"),
        (b"{", "body is not JSON: EOF while parsing an object at line 1 column 1"),
    ] {
        assert_eq!(Fields::read(body).expect_err("wrong").message, told);
    }
    assert_eq!(Fields::read(b" \n").expect("nothing").0.len(), 0);
    let wrong = Fields::read(br#"{"a":1,"b":"x","c":[[]],"d":{"e":1}}"#).expect("an object");
    let told = [
        wrong.text("a").expect_err("a number").message,
        wrong.flag("b").expect_err("a text").message,
        wrong.number("b").expect_err("a text").message,
        wrong.texts("c").expect_err("lists").message,
        wrong.map("d").expect_err("numbers").message,
    ];
    let expected = [
        "a must be a string",
        "b must be true or false",
        "b must be a whole number",
        "c must be a list of strings, or one string with commas",
        "d must be an object of strings",
    ];
    assert_eq!(told, expected);
}

#[test]
fn a_task_has_both_spellings_and_runs_while_it_is_verified() {
    let task = json!({
        "id": "t", "title": "T", "description": "d", "kind": "TASK_KIND_CODE", "priority": 50,
        "status": "TASK_STATUS_VERIFYING", "assigned_agent": "bob", "parent_id": "p", "depends_on": ["a", "b"],
        "required_tools": ["git"], "attempt": 1, "max_attempts": 3, "result": "r", "error": "", "created_by": "operator",
        "created_at": "2026-01-02T03:04:05Z", "updated_at": "2026-01-02T03:04:05Z", "finished_at": "2026-01-02T03:05:05Z",
        "blocked_reason": "", "worker": "bob",
    });
    let shown = tasks::shown("o", &task);
    for (camel, snake, value) in [
        ("assignedAgent", "assigned_agent", json!("bob")),
        ("parentId", "parent_id", json!("p")),
        ("dependsOn", "depends_on", json!("a,b")),
        ("resultSummary", "result_summary", json!("r")),
        ("createdAt", "created_at", json!("2026-01-02T03:04:05Z")),
        ("completedAt", "completed_at", json!("2026-01-02T03:05:05Z")),
        ("spawnedBy", "spawned_by", json!("operator")),
        ("officeId", "office_id", json!("o")),
        ("status", "status", json!("running")),
        ("kind", "kind", json!("code")),
    ] {
        assert_eq!((&shown[camel], &shown[snake]), (&value, &value), "{camel}");
    }
    assert_eq!(shown.get("claimedAt"), None);
    let counts = [("VERIFYING", 1), ("RUNNING", 2), ("BLOCKED", 3), ("DONE", 4)];
    let counts = counts.map(|(status, count)| json!({"status": format!("TASK_STATUS_{status}"), "count": count}));
    let stats = tasks::counted(&json!({"counts": counts, "total": 10}));
    let expected = json!({"total": 10, "queued": 0, "running": 3, "completed": 4, "failed": 0, "pending": 3, "claimed": 3,
        "cancelled": 0});
    assert_eq!(stats, expected);
}

#[test]
fn an_agent_has_a_phase_with_a_capital_and_one_of_two_types() {
    let agent = json!({
        "id": "i", "name": "analyst", "employee_type": "EMPLOYEE_TYPE_PROCESS", "model_tier": "sonnet", "provider": "",
        "role": "engineer", "skills": ["github"], "system_prompt": "p", "env": {}, "hired_by": "boss",
        "public_key": "AAEC/w==", "created_at": "2026-01-02T03:04:05Z",
        "status": {"phase": "AGENT_PHASE_RUNNING", "ready": true, "message": "", "restarts": 0, "last_seen_at": "2026-01-02T03:04:05Z"},
    });
    let shown = super::agents::shown(&agent);
    assert_eq!(shown["status"]["phase"], "Running");
    assert_eq!(
        (&shown["status"]["lastSeen"], &shown["status"]["last_seen"]),
        (&json!("2026-01-02T03:04:05Z"), &json!("2026-01-02T03:04:05Z"))
    );
    assert_eq!((&shown["employeeType"], &shown["employee_type"]), (&json!("kubernetes"), &json!("kubernetes")));
    assert_eq!((&shown["spawned_by"], &shown["public_key"]), (&json!("boss"), &json!("000102ff")));
    assert_eq!((&shown["modelTier"], &shown["model_provider"]), (&json!("sonnet"), &json!("")));
    let outside = json!({"employee_type": "EMPLOYEE_TYPE_EXTERNAL", "status": {}});
    assert_eq!(super::agents::shown(&outside)["employeeType"], "external");
}

#[test]
fn an_office_has_a_word_a_phase_and_settings_in_camel_case() {
    let office = json!({"id": "i", "name": "My Colony", "account_id": "me", "status": "OFFICE_STATUS_ACTIVE", "created_at": "2026-01-02T03:04:05Z"});
    let shown = offices::shown(&office);
    assert_eq!(
        (&shown["status"], &shown["owner_id"], &shown["created_at"]),
        (&json!("active"), &json!("me"), &json!("2026-01-02T03:04:05Z"))
    );
    let ready = json!({"ready": true});
    let state = offices::state(&json!({"status": "OFFICE_STATUS_ACTIVE", "conditions": [{"type": "a", "ok": true}]}));
    assert_eq!(state, json!({"phase": "ready", "operator": ready, "ingress": ready}));
    let sick =
        json!({"status": "OFFICE_STATUS_ACTIVE", "conditions": [{"type": "disk", "ok": false, "message": "is full"}]});
    let unready = json!({"ready": false});
    let expected = json!({"phase": "degraded", "message": "disk: is full", "operator": unready, "ingress": unready});
    assert_eq!(offices::state(&sick), expected);

    let ours = json!({"allow_agent_hiring": true, "max_agents": 50, "hires_per_10_minutes": 3, "verification": "VERIFICATION_PEER",
        "model_budget_per_task": "1500000", "idle_fire_after": "600s"});
    let settings = offices::all(&ours);
    let told = [
        "allowAgentHiring",
        "maxEmployees",
        "hiresPer10Minutes",
        "verification",
        "modelBudgetPerTask",
        "idleFireAfter",
    ];
    assert_eq!(
        told.map(|name| settings[name].clone()),
        [json!(true), json!(50), json!(3), json!("peer"), json!(1.5), json!("600s")]
    );
    let change = |value: Value| offices::changed(value.as_object().expect("an object")).map_err(|error| error.message);
    let (changed, mask) = change(json!({"maxEmployees": 7, "verification": "none"})).expect("known");
    assert_eq!(changed, json!({"max_agents": 7, "verification": "VERIFICATION_NONE"}));
    assert_eq!(mask, ["max_agents", "verification"]);
    let unknown = change(json!({"colour": "red"})).expect_err("unknown");
    assert!(unknown.starts_with("settings has no `colour`; there are allowAgentHiring, maxEmployees, "), "{unknown}");
    assert_eq!(change(json!({"allowAgentHiring": "yes"})), Err("allowAgentHiring must be true or false".into()));
}

#[test]
fn credits_are_exact_to_the_micro_credit() {
    let written: Vec<Value> = [5_000_000, 1_500_000, -1, 0].map(shape::credits).into();
    assert_eq!(written, [json!(5), json!(1.5), json!(-0.000_001), json!(0)]);
    let read = |value: Value| shape::micro("amount", &value).map_err(|error| error.message);
    assert_eq!((read(json!(5)), read(json!(0.1)), read(json!(0.000_001))), (Ok(5_000_000), Ok(100_000), Ok(1)));
    assert_eq!(read(json!("5")), Err("amount must be a number of credits".into()));
    assert_eq!(read(json!(1e300)), Err("amount is too large".into()));
    let usage = |key: &str, amount: i64| json!({"key": key, "amount": amount.to_string(), "input_tokens": "2", "output_tokens": "3", "calls": "1"});
    let summary =
        credits::summary(&[usage("openai/gpt", 2_000_000), usage("compute", 9_000_000)], &[usage("bob", 11_000_000)]);
    assert_eq!(
        (&summary["total_tokens"], &summary["total_cost"], &summary["total_credits"]),
        (&json!(5), &json!(2), &json!(2))
    );
    assert_eq!((&summary["agents"][0]["name"], &summary["agents"][0]["total_credits"]), (&json!("bob"), &json!(11)));
}

#[test]
fn notes_are_told_apart() {
    let note = |body: &str| json!({"id": "n", "author": "bob", "body": body, "time": "2026-01-02T03:04:05Z"});
    let artifact = r#"[artifact] {"kind":"file","path":"a.md","label":"A"}"#;
    let notes = ["[progress] half", "[WIP] no event", "plain", artifact, "[artifact] no JSON", "[] x"].map(note);
    let told = task_notes::Notes::of(&notes);
    let said = |notes: &[Value]| {
        notes.iter().map(|note| note["message"].as_str().expect("text").to_owned()).collect::<Vec<_>>()
    };
    assert_eq!(said(&told.logs), ["half", "no JSON"]);
    assert_eq!((&told.logs[0]["event"], &told.logs[0]["agent"]), (&json!("progress"), &json!("bob")));
    assert_eq!(said(&told.comments), ["[WIP] no event", "plain", "[] x"]);
    let task = json!({"artifacts": ["a.md", "b.md"], "worker": "bob"});
    let all = task_notes::artifacts_of(&task, told.artifacts);
    let paths: Vec<&str> = all.iter().map(|artifact| artifact["path"].as_str().expect("text")).collect();
    assert_eq!((paths, &all[0]["label"]), (vec!["a.md", "b.md"], &json!("A")));
}

#[test]
fn secrets_are_named_or_the_one_that_is_needed() {
    let github = json!({"name": "github", "secrets": [
        {"name": "webhook", "env": "GITHUB_WEBHOOK", "required": false}, {"name": "token", "env": "GITHUB_TOKEN", "required": true}]});
    let given = |body: &[u8]| {
        integrations::given(&github, &Fields::read(body).expect("an object")).map_err(|error| error.message)
    };
    let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(given(br#"{"key":"x"}"#), Ok(vec![pair("token", "x")]));
    assert_eq!(given(br#"{"GITHUB_TOKEN":"x","webhook":"y"}"#), Ok(vec![pair("token", "x"), pair("webhook", "y")]));
    assert_eq!(given(b"{}"), Err("key is missing".into()));
    assert_eq!(given(br#"{"nope":"x"}"#), Err("secret `nope` is none of github; there are webhook, token".into()));
    assert_eq!(given(br#"{"key":7}"#), Err("secret `key` must be a string that is not empty".into()));
}

#[test]
fn keys_and_times_are_taken_as_people_have_them() {
    assert_eq!((shape::key("000102ff"), shape::key("AAEC/w==")), ("AAEC/w==".into(), "AAEC/w==".into()));
    let message = json!({"id": "m", "from": "bob", "to_agent": "", "body": "hi", "time": "2026-01-02T03:04:05.678Z"});
    let shown = chat::message(&message);
    assert_eq!(
        (&shown["from_agent"], &shown["body"], &shown["created_at"]),
        (&json!("bob"), &json!("hi"), &json!(1_767_323_045_678_i64))
    );
    assert_eq!(
        (shape::millis(1_767_323_045_678_000), shape::millis(1_767_323_045_678_901)),
        (json!(1_767_323_045_678_i64), json!(1_767_323_045_678.901))
    );
    let time =
        |text| super::fields::time("since", text).map(|time| time.timestamp_millis()).map_err(|error| error.field);
    assert_eq!(
        (time("1767323045678"), time("2026-01-02T03:04:05.678Z")),
        (Ok(1_767_323_045_678), Ok(1_767_323_045_678))
    );
    assert_eq!(time("soon"), Err(Some("since")));
}

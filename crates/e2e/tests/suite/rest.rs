//! REST as its users meet it: HTTP/1.1 and JSON at the port of the gateway, against the real binary.

mod bad;
pub(crate) mod client;
mod description;
mod files;
mod streams;

use http::Method;
use mi_e2e::{LIMIT, World};
use mi_kernel::receipt::sha256_hex;
use mi_testkit::{Arrangement, Backend, on_both, until};
use serde_json::{Value, json};

use self::client::Rest;

on_both! {
    an_office_its_agents_and_its_tasks,
    another_tenant_sees_what_is_not_there,
    what_a_report_claims_is_in_its_answer,
}

/// An active office.
pub(crate) async fn office(rest: &Rest, name: &str) -> String {
    let made = rest.json(Method::POST, "/v1/offices", &json!({"name": name})).await.ok();
    let id = made["id"].as_str().expect("an id").to_owned();
    until("the office is active", LIMIT, async || {
        let office = rest.get(&format!("/v1/offices/{id}")).await.ok();
        if office["status"] == "OFFICE_STATUS_ACTIVE" { Ok(Some(())) } else { Err(office.to_string()) }
    })
    .await;
    id
}

async fn an_office_its_agents_and_its_tasks(backend: Backend) {
    let arrangement = match backend {
        Backend::Sqlite => Arrangement::OneProcess,
        Backend::Postgres => Arrangement::ProcessPerRole,
    };
    let world = World::start(backend, arrangement).await;
    let rest = Rest::of_account(&world, "north").await;
    let id = office(&rest, "My Colony").await;
    let path = |rest: &str| format!("/v1/offices/{id}{rest}");
    let listed = rest.get("/v1/offices?page_size=5").await.ok();
    assert_eq!(listed["offices"].as_array().map(Vec::len), Some(1));
    assert_eq!((&listed["offices"][0]["id"], &listed["next_page_token"]), (&json!(id), &json!("")));

    let changed =
        rest.json(Method::PATCH, &path("/settings"), &json!({"max_agents": 7, "allowAgentHiring": true})).await.ok();
    assert_eq!((&changed["max_agents"], &changed["allow_agent_hiring"]), (&json!(7), &json!(true)));
    let changed = rest.json(Method::PATCH, &path("/settings?update_mask=allow_agent_hiring"), &json!({})).await.ok();
    assert_eq!((&changed["max_agents"], &changed["allow_agent_hiring"]), (&json!(7), &json!(false)));
    let refused = rest.json(Method::PATCH, &path("/settings?update_mask=nonsense"), &json!({})).await;
    assert_eq!(refused.refusal(), (400, "INVALID_ARGUMENT".into(), "INVALID_ARGUMENT".into()));

    let hired =
        rest.json(Method::POST, &path("/agents"), &json!({"name": "bob", "system_prompt": "Be brief."})).await.ok();
    assert_eq!((&hired["name"], &hired["system_prompt"]), (&json!("bob"), &json!("Be brief.")));
    until("bob runs", LIMIT, async || {
        let agent = rest.get(&path("/agents/bob")).await.ok();
        if agent["status"]["phase"] == "AGENT_PHASE_RUNNING" { Ok(Some(())) } else { Err(agent["status"].to_string()) }
    })
    .await;
    let promoted = rest.json(Method::POST, &path("/agents/bob:promote"), &json!({"model_tier": "opus"})).await.ok();
    assert_eq!((&promoted["id"], &promoted["model_tier"]), (&hired["id"], &json!("opus")));
    let again = rest.json(Method::POST, &path("/agents"), &json!({"name": "BOB"})).await;
    assert_eq!(again.refusal(), (409, "ALREADY_EXISTS".into(), "ALREADY_EXISTS".into()));
    let wrong = rest.get(&path("/agents/bob:promote")).await;
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("POST")));
    let nobody = rest.json(Method::POST, &path("/agents/bob:praise"), &json!({})).await;
    assert_eq!((nobody.status, nobody.header("allow")), (405, Some("DELETE, GET, HEAD, PATCH")));

    let request =
        json!({"title": "Count", "priority": 10, "depends_on": [], "request_id": "r1", "assigned_agent": "nobody-yet"});
    let refused = rest.json(Method::POST, &path("/tasks"), &request).await;
    assert_eq!(refused.status, 404, "{}", refused.text());
    let request = json!({"title": "Count", "priority": 10, "request_id": "r1", "required_tools": ["abacus"]});
    let task = rest.json(Method::POST, &path("/tasks"), &request).await.ok();
    let same = rest.json(Method::POST, &path("/tasks"), &request).await.ok();
    assert_eq!((&task["title"], &task["priority"], &task["id"]), (&json!("Count"), &json!(10), &same["id"]));
    let task_path = path(&format!("/tasks/{}", task["id"].as_str().expect("an id")));
    assert_eq!(rest.get(&task_path).await.ok()["id"], task["id"]);
    let cancelled = rest.empty(Method::POST, &format!("{task_path}:cancel")).await.ok();
    assert_eq!(cancelled["status"], "TASK_STATUS_CANCELLED");
    for (statuses, count) in [("cancelled", 1), ("TASK_STATUS_CANCELLED", 1), ("queued,running", 0)] {
        let tasks = rest.get(&path(&format!("/tasks?statuses={statuses}"))).await.ok();
        assert_eq!(tasks["tasks"].as_array().map(Vec::len), Some(count), "{statuses}");
    }

    let head = rest.empty(Method::HEAD, &task_path).await;
    let whole = rest.get(&task_path).await;
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert_eq!(head.header("content-length"), Some(whole.body.len().to_string().as_str()));

    // What an agent leaves behind is bytes as well.
    assert_eq!(rest.empty(Method::DELETE, &path("/agents/bob")).await.ok()["name"], "bob");
    let backup = until("bob has a backup", LIMIT, async || {
        let backups = rest.get(&path("/backups")).await.ok();
        Ok::<_, String>(backups["backups"].get(0).cloned())
    })
    .await;
    let backup_path = path(&format!("/backups/{}:download", backup["id"].as_str().expect("an id")));
    let archive = rest.send(Method::GET, &backup_path, &[("range", "bytes=0-3")], &[]).await;
    assert_eq!((archive.status, archive.header("accept-ranges")), (200, Some("none")));
    assert_eq!(json!(sha256_hex(&archive.body)), backup["sha256"]);
    assert_eq!(json!(archive.body.len().to_string()), backup["size_bytes"]);

    let gone = rest.empty(Method::DELETE, &path("")).await;
    assert_eq!(gone.status, 200, "{}", gone.text());
    until("the office is gone", LIMIT, async || {
        let answer = rest.get(&path("")).await;
        if answer.status == 404 { Ok(Some(())) } else { Err(answer.text()) }
    })
    .await;
}

async fn what_a_report_claims_is_in_its_answer(backend: Backend) {
    let world = World::start(backend, Arrangement::OneProcess).await;
    let rest = Rest::of_account(&world, "north").await;
    let id = office(&rest, "Queue").await;
    let path = |rest: &str| format!("/v1/offices/{id}/tasks{rest}");
    for title in ["first", "second"] {
        rest.json(Method::POST, &path(""), &json!({"title": title})).await.ok();
    }
    let claimed = rest.json(Method::POST, &path(":claim"), &json!({})).await.ok();
    let first = claimed["tasks"][0]["id"].as_str().expect("an id");
    let report = json!({"result": "done", "claim_next": {"max_tasks": 5}});
    let answer = rest.json(Method::POST, &path(&format!("/{first}:complete")), &report).await.ok();
    assert_eq!((&answer["task"]["id"], &answer["task"]["status"]), (&json!(first), &json!("TASK_STATUS_DONE")));
    assert_eq!((&answer["claimed"][0]["title"], &answer["claimed"][1]), (&json!("second"), &Value::Null));
    // Where nothing is claimed, it is the task, as ever.
    let second = answer["claimed"][0]["id"].as_str().expect("an id");
    let answer = rest.json(Method::POST, &path(&format!("/{second}:complete")), &report).await.ok();
    assert_eq!((&answer["id"], &answer["status"]), (&json!(second), &json!("TASK_STATUS_DONE")));
}

async fn another_tenant_sees_what_is_not_there(backend: Backend) {
    let world = World::start(backend, Arrangement::OneProcess).await;
    let (owner, stranger) = (Rest::of_account(&world, "north").await, Rest::of_account(&world, "south").await);
    let (theirs, missing) = (office(&owner, "Private").await, "01890000-0000-7000-8000-000000000000");
    let written = owner.send(Method::PUT, &format!("/v1/offices/{theirs}/files/a"), &[], b"secret").await;
    assert_eq!(written.status, 200, "{}", written.text());
    for (method, rest, body) in [
        (Method::GET, "", Value::Null),
        (Method::GET, "/settings", Value::Null),
        (Method::PATCH, "/settings", json!({"max_agents": 1})),
        (Method::GET, "/agents", Value::Null),
        (Method::GET, "/agents:watch", Value::Null),
        (Method::POST, "/agents", json!({"name": "spy"})),
        (Method::GET, "/tasks:watch", Value::Null),
        (Method::GET, "/files", Value::Null),
        (Method::GET, "/files/a", Value::Null),
        (Method::GET, "/file-info/a", Value::Null),
        (Method::DELETE, "/files/a", Value::Null),
        (Method::PUT, "/files/b", Value::Null),
        (Method::GET, "/activity:watch", Value::Null),
        (Method::GET, "/messages", Value::Null),
        (Method::DELETE, "", Value::Null),
    ] {
        let ask = async |office: &str| {
            let path = format!("/v1/offices/{office}{rest}");
            let answer = match &body {
                Value::Null => stranger.empty(method.clone(), &path).await,
                body => stranger.json(method.clone(), &path, body).await,
            };
            (answer.status, answer.header("content-type").map(str::to_owned), answer.text().replace(office, "OFFICE"))
        };
        let (foreign, absent) = (ask(&theirs).await, ask(missing).await);
        assert_eq!(foreign, absent, "{method} {rest}");
        assert_eq!(foreign.0, 404, "{method} {rest}: {}", foreign.2);
    }
    let nobody = owner.unknown();
    let refused = nobody.get(&format!("/v1/offices/{theirs}")).await;
    assert_eq!(refused.refusal(), (401, "UNAUTHENTICATED".into(), "UNAUTHENTICATED".into()));
    assert_eq!(refused.header("www-authenticate"), Some("Bearer"));
}

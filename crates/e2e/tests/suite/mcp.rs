//! MCP as its clients meet it: JSON-RPC over HTTP at the port of the gateway, against the real binary.

mod bad;
mod client;
mod sdk;

use std::{collections::BTreeMap, fs};

use mi_e2e::{LIMIT, World};
use mi_proto::v1::{self, AgentPhase};
use mi_testkit::{Arrangement, Backend, on_both, until};
use serde_json::{Value, json};

use self::client::{Mcp, NEWER, outcome};

on_both! {
    an_agent_is_hired_and_gets_a_task_done,
    nobody_sees_what_another_account_has,
}

async fn start(backend: Backend) -> World {
    let arrangement = match backend {
        Backend::Sqlite => Arrangement::OneProcess,
        Backend::Postgres => Arrangement::ProcessPerRole,
    };
    World::start(backend, arrangement).await
}

/// An active office.
async fn office(mcp: &Mcp, name: &str) -> String {
    let made = mcp.done("create_office", json!({"name": name})).await;
    let id = made["office"]["id"].as_str().expect("an id").to_owned();
    until("the office is active", LIMIT, async || {
        let office = mcp.done("get_office", json!({"office_id": id})).await;
        assert_eq!(office["office"]["name"], name);
        if office["status"]["status"] == "OFFICE_STATUS_ACTIVE" { Ok(Some(())) } else { Err(office.to_string()) }
    })
    .await;
    id
}

async fn an_agent_is_hired_and_gets_a_task_done(backend: Backend) {
    let world = start(backend).await;
    let mcp = Mcp::of_account(&world, "acme").await;
    let hello = json!({
        "protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "e2e", "version": "1"}});
    let begun = mcp.request("initialize", hello).await.expect("begun");
    assert_eq!((&begun["protocolVersion"], &begun["serverInfo"]["name"]), (&json!("2025-11-25"), &json!("mi")));
    let (status, _) = mcp.raw(r#"{"jsonrpc": "2.0", "method": "notifications/initialized"}"#).await;
    assert_eq!(status, 202);
    let tools = mcp.tools().await;
    assert_eq!((tools.len(), tools["hire_agent"], tools["get_task"]), (25, false, true));

    let id = office(&mcp, "My Colony").await;
    let in_office = |mut arguments: Value| {
        arguments["office_id"] = id.as_str().into();
        arguments
    };
    let offices = mcp.done("list_offices", json!({})).await;
    assert_eq!((offices["offices"].as_array().map(Vec::len), &offices["offices"][0]["id"]), (Some(1), &json!(id)));
    let hired = mcp.done("hire_agent", in_office(json!({"name": "bob", "request_id": "one"}))).await;
    let again = mcp.done("hire_agent", in_office(json!({"name": "bob", "request_id": "one"}))).await;
    assert_eq!(hired["agent"]["id"], again["agent"]["id"]);
    let script = "echo from $((40 + 2))";
    let task = json!({"title": "greet", "kind": "TASK_KIND_COMMAND", "description": script, "wait": true});
    let done = mcp.done("create_task", in_office(task)).await;
    assert_eq!((&done["task"]["status"], &done["task"]["worker"]), (&json!("TASK_STATUS_DONE"), &json!("bob")));
    let result = done["task"]["result"].as_str().expect("a result");
    assert!(result.contains("from 42"), "{result}");
    let read = mcp.done("get_task", in_office(json!({"task_id": done["task"]["id"], "wait": true}))).await;
    assert_eq!(read, done);
    let listed = mcp.done("list_tasks", in_office(json!({"statuses": ["TASK_STATUS_DONE"]}))).await;
    assert_eq!(listed, json!({"tasks": [done["task"]]}));

    files_are_resources(&mcp, &id).await;
    let said = mcp.done("send_message", in_office(json!({"body": "hello, all"}))).await;
    let messages = mcp.done("list_messages", in_office(json!({}))).await;
    assert_eq!(messages, json!({"messages": [said["message"]]}));
    until("the hire is in the feed", LIMIT, async || {
        let events = mcp.done("list_activity", in_office(json!({"agent": "bob", "categories": ["lifecycle"]}))).await;
        let events = events["events"].as_array().cloned().unwrap_or_default();
        Ok::<_, String>(events.iter().any(|event| event["type"] == "agent.hired").then_some(()))
    })
    .await;
    let credits = mcp.done("get_credits", in_office(json!({}))).await;
    assert!(credits["balance"]["available"].is_string() && credits["usages"].is_array(), "{credits}");
    let catalogue = mcp.done("list_catalogue", json!({})).await;
    assert_eq!(catalogue["model_tiers"][0]["name"], "sonnet");
    assert!(catalogue["roles"].as_array().is_some_and(|roles| roles.len() >= 4), "{catalogue}");
    let promoted = mcp.done("promote_agent", in_office(json!({"name": "bob", "model_tier": "opus"}))).await;
    assert_eq!(promoted["agent"]["model_tier"], "opus");
    mcp.done("get_logs", in_office(json!({"agent": "bob", "limit": 5}))).await;
    mcp.done("fire_agent", in_office(json!({"name": "bob"}))).await;
    world_without(&mcp, &id, "bob").await;
}

async fn world_without(mcp: &Mcp, office: &str, agent: &str) {
    until("the agent is gone", LIMIT, async || {
        let (is_error, said) = mcp.tool("get_agent", json!({"office_id": office, "name": agent})).await;
        if is_error { Ok(Some(())) } else { Err(said.to_string()) }
    })
    .await;
    let agents = mcp.done("list_agents", json!({"office_id": office})).await;
    assert_eq!(agents, json!({"agents": []}));
}

async fn files_are_resources(mcp: &Mcp, office: &str) {
    let in_office = |mut arguments: Value| {
        arguments["office_id"] = office.into();
        arguments
    };
    let text = "é".repeat(40_000);
    let written = mcp.done("write_file", in_office(json!({"path": "notes/a b.txt", "text": text}))).await;
    assert_eq!(written["file"]["size"], "80000");
    let (mut whole, mut offset) = (String::new(), json!(0));
    while !offset.is_null() {
        let part = mcp
            .done("read_file", in_office(json!({"path": "notes/a b.txt", "offset": offset, "length": 30_001})))
            .await;
        whole += part["text"].as_str().expect("text");
        offset = part["next_offset"].clone();
    }
    assert_eq!(whole, text);
    let conflict = mcp.refused("write_file", in_office(json!({"path": "notes/a b.txt", "text": "x"}))).await;
    assert_eq!(conflict["reason"], "REVISION_CONFLICT");
    assert!(conflict["hint"].as_str().is_some_and(|hint| hint.contains("if_revision")), "{conflict}");
    // Three bytes that are no text, and more than one message of an upload.
    let bytes = base64::Engine::encode(&base64::prelude::BASE64_STANDARD, vec![0xff; 1_500_000]);
    mcp.done("write_file", in_office(json!({"path": "big.bin", "base64": bytes}))).await;
    let part = mcp.done("read_file", in_office(json!({"path": "big.bin", "offset": 1_499_997}))).await;
    assert_eq!((&part["base64"], &part["next_offset"]), (&json!("////"), &Value::Null));

    let listed = mcp.request("resources/list", json!({})).await.expect("listed");
    let uris: Vec<_> = listed["resources"].as_array().expect("a list").iter().map(|one| &one["uri"]).collect();
    let notes = format!("mi://office/{office}/files/notes/a%20b.txt");
    assert_eq!(uris, [&json!(format!("mi://office/{office}/files/big.bin")), &json!(notes)]);
    let read = mcp.request("resources/read", json!({"uri": notes})).await.expect("read");
    assert_eq!((&read["contents"][0]["text"], &read["contents"][0]["uri"]), (&json!(text), &json!(notes)));
    let first = mcp.request("resources/read", json!({"uri": uris[0]})).await.expect("read");
    let next = first["contents"][0]["_meta"]["mi/next"].as_str().expect("it goes on");
    assert_eq!(next, format!("mi://office/{office}/files/big.bin?offset=262144"));
    mcp.request("resources/read", json!({"uri": next})).await.expect("read");
    let missing = format!("mi://office/{office}/files/nothing");
    let error = mcp.request("resources/read", json!({"uri": missing})).await.expect_err("refused");
    assert_eq!((&error["code"], &error["data"]["uri"]), (&json!(-32002), &json!(missing)));
    let templates = mcp.request("resources/templates/list", json!({})).await.expect("listed");
    assert_eq!(templates["resourceTemplates"][0]["uriTemplate"], "mi://office/{office_id}/files/{+path}");
    let deleted = mcp.done("delete_file", in_office(json!({"path": "big.bin", "force": true}))).await;
    assert_eq!(deleted, json!({}));
}

async fn nobody_sees_what_another_account_has(backend: Backend) {
    let world = start(backend).await;
    let (owner, stranger) = (Mcp::of_account(&world, "acme").await, Mcp::of_account(&world, "rival").await);
    let theirs = office(&owner, "Theirs").await;
    owner.done("hire_agent", json!({"office_id": theirs, "name": "bob"})).await;
    let task = owner.done("create_task", json!({"office_id": theirs, "title": "t"})).await["task"]["id"].clone();
    owner.done("write_file", json!({"office_id": theirs, "path": "a", "text": "secret"})).await;
    let nowhere = uuid::Uuid::now_v7().to_string();
    for (tool, arguments) in [
        ("get_office", json!({})),
        ("list_agents", json!({})),
        ("get_agent", json!({"name": "bob"})),
        ("hire_agent", json!({"name": "eve"})),
        ("promote_agent", json!({"name": "bob"})),
        ("fire_agent", json!({"name": "bob"})),
        ("get_logs", json!({"agent": "bob"})),
        ("list_activity", json!({})),
        ("create_task", json!({"title": "t", "wait": true})),
        ("list_tasks", json!({})),
        ("get_task", json!({"task_id": task, "wait": true})),
        ("cancel_task", json!({"task_id": task})),
        ("retry_task", json!({"task_id": task})),
        ("verify_task", json!({"task_id": task, "approve": true})),
        ("list_files", json!({})),
        ("read_file", json!({"path": "a"})),
        ("write_file", json!({"path": "b", "text": "x"})),
        ("delete_file", json!({"path": "a", "force": true})),
        ("send_message", json!({"body": "hello"})),
        ("list_messages", json!({})),
        ("get_credits", json!({})),
    ] {
        let refused = async |office: &str| {
            let mut arguments = arguments.clone();
            arguments["office_id"] = office.into();
            stranger.refused(tool, arguments).await
        };
        let (foreign, missing) = (refused(&theirs).await, refused(&nowhere).await);
        assert_eq!(foreign["code"], "NOT_FOUND", "{tool}: {foreign}");
        let same = |error: &Value, id: &str| error.to_string().replace(id, "ID");
        assert_eq!(same(&foreign, &theirs), same(&missing, &nowhere), "{tool}");
    }
    let uri = format!("mi://office/{theirs}/files/a");
    let error = stranger.request("resources/read", json!({"uri": uri})).await.expect_err("refused");
    assert_eq!(error["code"], -32002);
    let listed = stranger.request("resources/list", json!({})).await.expect("listed");
    assert_eq!(listed["resources"], json!([]));
    let place = format!("{theirs}/{}", task.as_str().expect("an id"));
    let capabilities = json!({"extensions": {"io.modelcontextprotocol/tasks": {}}});
    for method in ["tasks/get", "tasks/cancel"] {
        let (_, answer) = stranger.newer(method, json!({"taskId": place}), capabilities.clone()).await;
        assert_eq!(outcome(answer).expect_err("refused")["code"], -32602, "{method}");
    }
    let task = owner.done("get_task", json!({"office_id": theirs, "task_id": task})).await;
    assert_eq!(task["task"]["title"], "t");
    assert_ne!(task["task"]["status"], "TASK_STATUS_CANCELLED");
}

#[tokio::test]
async fn the_newer_revision_needs_no_beginning_and_has_tasks() {
    let world = World::start(Backend::Sqlite, Arrangement::OneProcess).await;
    let mcp = Mcp::of_account(&world, "acme").await;
    let id = office(&mcp, "Newer").await;
    let (status, answer) = mcp.newer("server/discover", json!({}), json!({})).await;
    let discovered = outcome(answer).expect("discovered");
    let versions = discovered["supportedVersions"].as_array().expect("a list");
    assert!(
        status == 200 && versions.contains(&json!(NEWER)) && versions.contains(&json!("2025-11-25")),
        "{discovered}"
    );
    let (_, answer) = mcp.newer("tools/list", json!({}), json!({})).await;
    let listed = outcome(answer).expect("listed");
    assert_eq!((&listed["resultType"], &listed["cacheScope"]), (&json!("complete"), &json!("private")));
    let (status, answer) = mcp.newer("initialize", json!({}), json!({})).await;
    assert_eq!((status.as_u16(), &answer["error"]["code"]), (404, &json!(-32601)));

    mcp.done("hire_agent", json!({"office_id": id, "name": "bob"})).await;
    let tasks = json!({"extensions": {"io.modelcontextprotocol/tasks": {}}});
    let create = |script: &str| {
        let task =
            json!({"office_id": id, "title": "t", "kind": "TASK_KIND_COMMAND", "description": script, "wait": true});
        json!({"name": "create_task", "arguments": task})
    };
    let (_, answer) = mcp.newer("tools/call", create("echo from $((40 + 2))"), tasks.clone()).await;
    let handle = outcome(answer).expect("created");
    assert_eq!((&handle["resultType"], &handle["status"]), (&json!("task"), &json!("working")));
    let get = json!({"taskId": handle["taskId"]});
    let finished = until("the task is done", LIMIT, async || {
        let (_, answer) = mcp.newer("tasks/get", get.clone(), tasks.clone()).await;
        let task = outcome(answer).expect("answered");
        if task["status"] == "completed" { Ok(Some(task)) } else { Err(task.to_string()) }
    })
    .await;
    let task = &finished["result"]["structuredContent"]["task"];
    assert_eq!(task["status"], "TASK_STATUS_DONE");
    assert!(task["result"].as_str().is_some_and(|result| result.contains("from 42")), "{finished}");

    let (_, answer) = mcp.newer("tools/call", create("sleep 1000"), tasks.clone()).await;
    let get = json!({"taskId": outcome(answer).expect("created")["taskId"]});
    for _ in 0..2 {
        let (status, answer) = mcp.newer("tasks/cancel", get.clone(), tasks.clone()).await;
        assert_eq!((status.as_u16(), &answer["result"]["resultType"]), (200, &json!("complete")), "{answer}");
    }
    let (_, answer) = mcp.newer("tasks/get", get, tasks.clone()).await;
    assert_eq!(outcome(answer).expect("answered")["status"], "cancelled");
    // Who does not know tasks waits.
    let (_, answer) = mcp.newer("tools/call", create("echo waited"), json!({})).await;
    assert_eq!(answer["result"]["structuredContent"]["task"]["status"], "TASK_STATUS_DONE", "{answer}");
}

#[tokio::test]
async fn a_wait_tells_how_it_goes_and_ends_when_its_client_leaves() {
    let world = World::start(Backend::Sqlite, Arrangement::OneProcess).await;
    let mcp = Mcp::of_account(&world, "acme").await;
    let id = office(&mcp, "Waits").await;
    let made = mcp.done("create_task", json!({"office_id": id, "title": "nobody is there"})).await;
    let task = &made["task"]["id"];
    let call = |seconds: u64| {
        let arguments = json!({"office_id": id, "task_id": task, "wait": true, "wait_seconds": seconds});
        let params = json!({"name": "get_task", "arguments": arguments, "_meta": {"progressToken": "p"}});
        json!({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}).to_string()
    };
    let text = mcp.post(call(1)).send().await.expect("answered").text().await.expect("whole");
    let messages: Vec<Value> = text
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let note = &messages[0]["params"];
    let expected = (json!("p"), json!(1.0), json!("queued"));
    assert_eq!((&note["progressToken"], &note["progress"], &note["message"]), (&expected.0, &expected.1, &expected.2));
    let last = &messages[messages.len() - 1]["result"]["structuredContent"];
    assert_eq!(last["task"]["status"], "TASK_STATUS_QUEUED");
    assert!(last["note"].as_str().is_some_and(|note| note.contains("get_task")), "{last}");

    // More than may be open at once in one account.
    for _ in 0..600 {
        let mut response = mcp.post(call(600)).send().await.expect("answered");
        let begun = response.chunk().await.expect("a note").expect("a note");
        assert!(begun.starts_with(b"data: "), "{begun:?}");
    }
    until("none is open any more", LIMIT, async || {
        let (is_error, said) = mcp.tool("get_task", json!({"office_id": id, "task_id": task})).await;
        if is_error { Err(said.to_string()) } else { Ok(Some(())) }
    })
    .await;
}

#[tokio::test]
async fn a_program_of_an_agent_finds_the_tools_and_sees_its_own_office() {
    let world = World::start(Backend::Sqlite, Arrangement::OneProcess).await;
    let (own, other) = (world.office("Own").await, world.office("Other").await);
    let hire = v1::HireAgentRequest {
        office_id: own.clone(),
        name: "coder".into(),
        command: "env > env.new; mv env.new env.txt; exec sleep 1000".into(),
        ..Default::default()
    };
    let agent = world.hire_as(hire).await.expect("hired");
    world.settled(&own, "coder", AgentPhase::Running).await;
    let file = world.workspace(&agent).join("env.txt");
    let text = until("the program has begun", LIMIT, async || Ok::<_, String>(fs::read_to_string(&file).ok())).await;
    let env: BTreeMap<_, _> = text.lines().filter_map(|line| line.split_once('=')).collect();
    let config: Value = serde_json::from_str(env["MI_MCP_CONFIG"]).expect("JSON");
    let server = &config["mcpServers"]["mi"];
    let bearer = format!("Bearer {}", env["MI_MCP_TOKEN"]);
    assert_eq!((&server["url"], &server["headers"]["Authorization"]), (&json!(env["MI_MCP_URL"]), &json!(bearer)));

    let mcp = Mcp::new(env["MI_MCP_URL"].to_owned(), Some(env["MI_MCP_TOKEN"]));
    let tools = mcp.tools().await;
    assert_eq!(tools.len(), 23);
    assert!(!tools.contains_key("list_offices") && !tools.contains_key("create_office"));
    let error = mcp.request("tools/call", json!({"name": "list_offices"})).await.expect_err("not for agents");
    assert_eq!(error["code"], -32602);
    let who = mcp.done("whoami", json!({})).await;
    assert_eq!((&who["principal"]["agent"], &who["principal"]["office_id"]), (&json!("coder"), &json!(own)));
    let agents = mcp.done("list_agents", json!({})).await;
    assert_eq!((&agents["agents"][0]["name"], agents["agents"].as_array().map(Vec::len)), (&json!("coder"), Some(1)));
    let made = mcp.done("create_task", json!({"title": "for others"})).await;
    assert_eq!(made["task"]["created_by"], "coder");
    mcp.done("write_file", json!({"path": "a.txt", "text": "mine"})).await;
    let listed = mcp.request("resources/list", json!({})).await.expect("listed");
    assert_eq!(listed["resources"][0]["uri"], format!("mi://office/{own}/files/a.txt"));
    let refused = mcp.refused("list_agents", json!({"office_id": other})).await;
    assert_eq!(refused["code"], "NOT_FOUND");
    let refused = mcp.refused("hire_agent", json!({"name": "helper"})).await;
    assert_eq!(refused["code"], "PERMISSION_DENIED");
    let credits = mcp.done("get_credits", json!({})).await;
    assert!(credits["balance"].is_object() && credits.get("usages").is_none(), "{credits}");
}

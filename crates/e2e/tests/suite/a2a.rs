//! The Agent2Agent protocol as agents of elsewhere meet it, against the real binary.

mod grpc;
mod sdk;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures::StreamExt;
use http::Method;
use http_body_util::BodyExt;
use mi_e2e::{LIMIT, World};
use mi_testkit::{Arrangement, Backend, on_both, until};
use ring::signature::{ED25519, UnparsedPublicKey};
use serde_json::{Value, json};

use crate::rest::{client::Rest, office};

on_both! {
    a_message_becomes_a_task_whichever_way_it_comes,
    a_stream_tells_of_a_task_until_it_is_finished,
}

const CARD: &str = "/.well-known/agent-card.json";

/// An office of an account with these agents.
async fn hired(world: &World, account: &str, agents: &[&str]) -> (Rest, String) {
    let rest = Rest::of_account(world, account).await;
    let id = office(&rest, "Company").await;
    for name in agents {
        rest.json(Method::POST, &format!("/v1/offices/{id}/agents"), &json!({"name": name, "skills": ["sums"]}))
            .await
            .ok();
    }
    (rest, id)
}

fn script(id: &str, script: &str) -> Value {
    json!({"messageId": id, "role": "ROLE_USER", "parts": [{"text": script}], "metadata": {"mi.kind": "command"}})
}

/// What JSON-RPC answers: the result, or the error.
async fn ask(rest: &Rest, path: &str, method: &str, params: &Value) -> Value {
    let request = json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params});
    let answer = rest.json(Method::POST, path, &request).await.ok();
    assert_eq!((&answer["jsonrpc"], &answer["id"]), (&json!("2.0"), &json!(7)));
    if answer["error"].is_null() { answer["result"].clone() } else { answer["error"].clone() }
}

/// The events of a stream, until it ends.
async fn events(rest: &Rest, path: &str, body: &Value) -> Vec<Value> {
    let headers = [("content-type", "application/json"), ("a2a-version", "1.0")];
    let answer = rest.open(Method::POST, path, &headers, body.to_string().as_bytes()).await;
    assert_eq!(answer.headers()["content-type"], "text/event-stream");
    let whole = answer.into_body().collect().await.expect("it ends").to_bytes();
    let text = String::from_utf8(whole.to_vec()).expect("text");
    let data = text.split("\n\n").filter_map(|event| event.strip_prefix("data: "));
    data.map(|data| serde_json::from_str(data).expect("JSON")).collect()
}

async fn a_message_becomes_a_task_whichever_way_it_comes(backend: Backend) {
    let arrangement = match backend {
        Backend::Sqlite => Arrangement::OneProcess,
        Backend::Postgres => Arrangement::ProcessPerRole,
    };
    let world = World::start(backend, arrangement).await;
    let (rest, id) = hired(&world, "north", &["ann", "bob"]).await;
    let ann = format!("{id}/ann");

    // JSON-RPC: whom it is for is in the request, or in the path.
    let message = script("m1", "echo 'one\ntwo' | tee out.txt");
    let sent = ask(&rest, "/a2a", "SendMessage", &json!({"tenant": ann, "message": message})).await;
    let task = &sent["task"];
    assert_eq!(task["status"]["state"], "TASK_STATE_COMPLETED", "{sent}");
    assert_eq!(task["artifacts"][0]["parts"][0]["text"], "exit code: 0\n--- stdout\none\ntwo\n");
    assert_eq!((&task["metadata"]["worker"], &task["contextId"]), (&json!("ann"), &task["id"]));
    assert_eq!(task["history"][0]["parts"][0]["text"], "echo 'one\ntwo' | tee out.txt");
    let path = format!("/a2a/{id}/ann");
    let again = ask(&rest, &path, "SendMessage", &json!({"message": message})).await;
    assert_eq!(again["task"]["id"], task["id"], "sent again, it is the same task");
    let task_id = task["id"].as_str().expect("an id");
    let made = rest.get(&format!("/v1/offices/{id}/tasks/{task_id}")).await.ok();
    assert_eq!((&made["title"], &made["assigned_agent"]), (&json!("echo 'one"), &json!("ann")));
    let metadata = &task["metadata"]["receipt"];
    assert!(metadata.as_str().is_some_and(|receipt| *receipt == made["receipt"] && !receipt.is_empty()), "{task}");

    // REST, in the same conversation; fields that are not known are passed over.
    let mut message = script("m2", "echo three");
    message["contextId"] = task["contextId"].clone();
    let asked = json!({"message": message, "configuration": {"historyLength": 0}, "later": {"field": 1}});
    let sent = rest.json(Method::POST, &format!("{path}/message:send"), &asked).await.ok();
    assert_eq!((&sent["task"]["contextId"], &sent["task"]["history"]), (&task["contextId"], &Value::Null));
    let second = sent["task"]["id"].as_str().expect("an id").to_owned();
    let got = rest.get(&format!("{path}/tasks/{second}?historyLength=1")).await.ok();
    assert_eq!(got["history"][0]["parts"][0]["text"], "echo three");
    let context = task["contextId"].as_str().expect("one");
    let listed = rest.get(&format!("{path}/tasks?contextId={context}&pageSize=1&includeArtifacts=true")).await.ok();
    assert_eq!((&listed["tasks"][0]["id"], &listed["totalSize"]), (&json!(second), &json!(2)));
    assert_eq!(listed["tasks"][0]["artifacts"][0]["name"], "result");
    let token = listed["nextPageToken"].as_str().expect("more").to_owned();
    let listed = rest.get(&format!("{path}/tasks?context_id={context}&pageSize=1&pageToken={token}")).await.ok();
    assert_eq!((&listed["tasks"][0]["id"], &listed["nextPageToken"]), (&json!(task_id), &json!("")));
    assert_eq!(listed["tasks"][0]["artifacts"], Value::Null);

    // gRPC, for the office: whoever takes it.
    let task = grpc::send(&world, &id, "m3", "echo four").await;
    assert_eq!((task.state(), task.result().as_str()), (grpc::COMPLETED, "exit code: 0\n--- stdout\nfour\n"));

    // The files of a task are on the drive.
    let put = format!("/v1/offices/{id}/files/r%C3%A9port/a%20b.txt");
    rest.send(Method::PUT, &put, &[], b"made").await.ok();
    let later = json!({"message": script("m4", "sleep 600"), "configuration": {"returnImmediately": true}});
    let begun = ask(&rest, &path, "SendMessage", &later).await["task"]["id"].clone();
    let done = json!({"result": "done", "artifacts": ["réport/a b.txt"]});
    rest.json(Method::POST, &format!("/v1/offices/{id}/tasks/{}:complete", begun.as_str().expect("id")), &done)
        .await
        .ok();
    let got = ask(&rest, &path, "GetTask", &json!({"id": begun})).await;
    let part = &got["artifacts"][1]["parts"][0];
    assert_eq!(
        (&part["url"], &part["filename"]),
        (&json!(format!("{}{put}", world.platform.endpoint())), &json!("a b.txt"))
    );
    assert_eq!(rest.get(&put).await.body, b"made");

    // What is whose.
    for (method, params, code) in [
        ("GetTask", json!({"id": second, "tenant": format!("{id}/bob")}), -32001),
        ("GetTask", json!({"id": "nonsense", "tenant": ann}), -32001),
        ("CancelTask", json!({"id": second, "tenant": ann}), -32002),
        ("ListTaskPushNotificationConfigs", json!({"taskId": second, "tenant": ann}), -32003),
        (
            "SendMessage",
            json!({"tenant": ann, "message": {"messageId": "x", "parts": [{"text": "x"}], "taskId": second}}),
            -32004,
        ),
        ("SubscribeToTask", json!({"id": second, "tenant": ann}), -32004),
        ("SendMessage", json!({"tenant": ann, "message": {"messageId": "x", "parts": [{"raw": "/w=="}]}}), -32005),
        ("GetExtendedAgentCard", json!({"tenant": ann}), -32007),
        ("SendMessage", json!({"tenant": ann}), -32602),
        ("SendMessage", json!({"tenant": format!("{id}/nobody"), "message": script("n", "x")}), -32602),
        ("SendMessage", json!({"message": script("n", "x")}), -32602),
        ("SendMessage", json!({"tenant": ann, "message": script("m1", "another")}), -32602),
        ("ListTasks", json!({"tenant": ann, "pageSize": 101}), -32602),
        ("GetTask", json!({"id": 7}), -32602),
        ("message/send", json!({"tenant": ann}), -32601),
    ] {
        let error = ask(&rest, "/a2a", method, &params).await;
        assert_eq!(error["code"], code, "{method} {params}: {error}");
    }
}

async fn a_stream_tells_of_a_task_until_it_is_finished(backend: Backend) {
    let world = World::start(backend, Arrangement::OneProcess).await;
    let (rest, id) = hired(&world, "north", &["ann"]).await;
    let path = format!("/a2a/{id}/ann");
    // One that nobody takes before its message is complete: the agent is asked for something else meanwhile.
    let blocked = rest.json(Method::POST, &format!("/v1/offices/{id}/tasks"), &json!({"title": "first"})).await.ok();
    rest.json(Method::POST, &format!("/v1/offices/{id}/agents/ann:stop"), &json!({})).await.ok();
    let asked = json!({"message": script("m1", "echo out"), "configuration": {"returnImmediately": true}});
    let task = rest.json(Method::POST, &format!("{path}/message:send"), &asked).await.ok()["task"].clone();
    assert_eq!(task["status"]["state"], "TASK_STATE_SUBMITTED");
    let task_id = task["id"].as_str().expect("an id");
    // More is said about it while nobody has begun.
    let more = json!({"message": {"messageId": "m2", "taskId": task_id, "parts": [{"text": "be quick"}]},
        "configuration": {"returnImmediately": true}});
    assert_eq!(ask(&rest, &path, "SendMessage", &more).await["task"]["id"], task["id"]);
    let notes = rest.get(&format!("/v1/offices/{id}/tasks/{task_id}/notes")).await.ok();
    assert_eq!(notes["notes"][0]["body"], "be quick");
    let subscribed = {
        let (rest, path) = (rest.clone(), format!("{path}/tasks/{task_id}:subscribe"));
        tokio::spawn(async move { events(&rest, &path, &json!({})).await })
    };
    // Its first event is there before the agent is back.
    let stream = json!({"jsonrpc": "2.0", "id": "s", "method": "SubscribeToTask", "params": {"id": task_id}});
    let headers = [("content-type", "application/json")];
    let mut body =
        rest.open(Method::POST, &path, &headers, stream.to_string().as_bytes()).await.into_body().into_data_stream();
    let first = body.next().await.expect("an event").expect("whole");
    let first: Value = serde_json::from_slice(&first["data: ".len()..]).expect("JSON");
    assert_eq!(
        (&first["id"], &first["result"]["task"]["status"]["state"]),
        (&json!("s"), &json!("TASK_STATE_SUBMITTED"))
    );
    drop(body);
    rest.json(Method::POST, &format!("/v1/offices/{id}/agents/ann:start"), &json!({})).await.ok();

    let told = subscribed.await.expect("told");
    let states: Vec<&Value> = told.iter().filter_map(|event| event.pointer("/statusUpdate/status/state")).collect();
    assert_eq!(states.last(), Some(&&json!("TASK_STATE_COMPLETED")), "{told:?}");
    assert_eq!(told[0]["task"]["id"], task["id"]);
    let artifact = told.iter().rev().nth(1).expect("before the last");
    assert_eq!(artifact["artifactUpdate"]["artifact"]["parts"][0]["text"], "exit code: 0\n--- stdout\nout\n");
    assert_eq!(artifact["artifactUpdate"]["taskId"], task["id"]);

    // A streamed message that fails ends its stream with the reason.
    let told = events(&rest, &format!("{path}/message:stream"), &json!({"message": script("m3", "exit 3")})).await;
    let last = &told.last().expect("an end")["statusUpdate"]["status"];
    assert_eq!(last["state"], "TASK_STATE_FAILED", "{told:?}");
    assert!(last["message"]["parts"][0]["text"].as_str().is_some_and(|text| text.contains("exit code: 3")), "{last}");
    let cancelled = format!("/v1/offices/{id}/tasks/{}:cancel", blocked["id"].as_str().expect("an id"));
    rest.json(Method::POST, &cancelled, &json!({})).await.ok();
}

/// Work that waits until somebody changes something says so instead of being waited for.
#[tokio::test]
async fn what_no_model_is_there_for_is_answered_at_once() {
    let world = World::start(Backend::Sqlite, Arrangement::OneProcess).await;
    let (rest, id) = hired(&world, "north", &["ann"]).await;
    until("ann runs, without a model", LIMIT, async || {
        let agent = rest.get(&format!("/v1/offices/{id}/agents/ann")).await.ok();
        let runs = agent["status"]["phase"] == "AGENT_PHASE_RUNNING";
        if runs { Ok(Some(())) } else { Err(agent["status"].to_string()) }
    })
    .await;
    for (agent, message) in [("/ann", "m1"), ("", "m2")] {
        let message =
            json!({"messageId": message, "role": "ROLE_USER", "parts": [{"text": "What is the meaning of life?"}]});
        let sent =
            rest.json(Method::POST, &format!("/a2a/{id}{agent}/message:send"), &json!({"message": message})).await.ok();
        let status = &sent["task"]["status"];
        assert_eq!(status["state"], "TASK_STATE_SUBMITTED", "{sent}");
        let said = status["message"]["parts"][0]["text"].as_str().expect("why");
        assert!(said.starts_with("NO_MODEL: ") && said.contains("mi integrations set-secret"), "{said}");
    }
    let listed = rest.get(&format!("/v1/offices/{id}/tasks")).await.ok();
    let tasks = listed["tasks"].as_array().expect("tasks");
    assert!(
        tasks.iter().all(|task| task["error"].as_str().is_some_and(|why| why.starts_with("NO_MODEL: "))),
        "{listed}"
    );
    rest.json(Method::POST, &format!("/v1/offices/{id}/agents/ann:stop"), &json!({})).await.ok();
    until("ann is stopped", LIMIT, async || {
        let task = rest.get(&format!("/v1/offices/{id}/tasks/{}", tasks[1]["id"].as_str().expect("an id"))).await.ok();
        let why = task["error"].as_str().unwrap_or_default();
        if why.starts_with("AGENT_NOT_WORKING: agent \"ann\"") { Ok(Some(())) } else { Err(why.to_owned()) }
    })
    .await;
}

#[tokio::test]
async fn a_card_is_signed_and_for_those_who_may_ask() {
    let world = World::start(Backend::Sqlite, Arrangement::OneProcess).await;
    let (rest, id) = hired(&world, "north", &["ann"]).await;
    let (other, _) = hired(&world, "south", &[]).await;
    let path = format!("/a2a/{id}/ann{CARD}");
    let mut card = rest.get(&path).await.ok();
    let base = world.platform.endpoint();
    let tenant = format!("{id}/ann");
    let reached = |binding: &str, url: &str| json!({"url": url, "protocolBinding": binding, "tenant": tenant, "protocolVersion": "1.0"});
    let at = format!("{base}/a2a");
    let authority = base.strip_prefix("http://").expect("plain HTTP");
    assert_eq!(
        card["supportedInterfaces"],
        json!([reached("JSONRPC", &at), reached("HTTP+JSON", &at), reached("GRPC", authority)])
    );
    assert_eq!((&card["name"], &card["skills"][1]["id"]), (&json!("ann"), &json!("sums")));
    let agent = rest.get(&format!("/v1/offices/{id}/agents/ann")).await.ok();
    assert_eq!(card["version"], agent["generation"]);

    let keys = rest.unknown().get("/.well-known/jwks.json").await.ok();
    let public = URL_SAFE_NO_PAD.decode(keys["keys"][0]["x"].as_str().expect("text")).expect("base64");
    let signature = card.as_object_mut().expect("an object").remove("signatures").expect("signed")[0].clone();
    let fits = |card: &Value| {
        // Its names and texts are in the canonical order and form as they are written here.
        let payload = URL_SAFE_NO_PAD.encode(sorted(card).to_string());
        let protected = signature["protected"].as_str().expect("text");
        let raw = URL_SAFE_NO_PAD.decode(signature["signature"].as_str().expect("text")).expect("base64");
        UnparsedPublicKey::new(&ED25519, &public).verify(format!("{protected}.{payload}").as_bytes(), &raw).is_ok()
    };
    assert!(fits(&card));
    card["supportedInterfaces"][0]["url"] = "https://elsewhere.example/a2a".into();
    assert!(!fits(&card));

    let office = rest.get(&format!("/a2a/{id}{CARD}")).await.ok();
    assert_eq!((&office["name"], &office["supportedInterfaces"][0]["tenant"]), (&json!("Company"), &json!(id)));

    let at_the_root = rest.unknown().get(CARD).await;
    assert_eq!(at_the_root.refusal().0, 404);
    assert!(at_the_root.text().contains("/a2a/OFFICE_ID/AGENT"), "{}", at_the_root.text());
    assert_eq!(rest.unknown().get(&path).await.status, 401);
    assert_eq!(other.get(&path).await.refusal().0, 404);
    assert_eq!(other.get(&format!("/a2a/{id}{CARD}")).await.refusal().0, 404);
    assert_eq!(rest.get(&format!("/a2a/{id}/nobody{CARD}")).await.refusal().0, 404);
    assert_eq!(rest.get("/a2a/nonsense/ann/.well-known/agent-card.json").await.refusal().0, 400);
    let asked = json!({"message": script("m", "true")});
    let refused = other.json(Method::POST, &format!("/a2a/{id}/ann/message:send"), &asked).await;
    assert_eq!(refused.refusal().0, 404, "{}", refused.text());
    assert_eq!(
        grpc::refused(&world, &id).await,
        [tonic::Code::Unauthenticated, tonic::Code::NotFound, tonic::Code::Unimplemented]
    );
}

/// A value with the names of each object in order.
fn sorted(value: &Value) -> Value {
    match value {
        Value::Array(values) => values.iter().map(sorted).collect(),
        Value::Object(fields) => {
            let mut names: Vec<_> = fields.keys().collect();
            names.sort_unstable();
            Value::Object(names.into_iter().map(|name| (name.clone(), sorted(&fields[name]))).collect())
        }
        other => other.clone(),
    }
}

#[tokio::test]
async fn wrong_requests_are_refused_in_the_form_of_the_binding() {
    let world = World::start(Backend::Sqlite, Arrangement::OneProcess).await;
    let (rest, id) = hired(&world, "north", &["ann"]).await;
    let json_type = [("content-type", "application/json")];
    let deep = format!("{}{}", "[".repeat(1000), "]".repeat(1000));
    for (body, code) in [
        ("{", -32700),
        ("{\"id\":1,\"id\":2}", -32700),
        (&deep, -32700),
        ("[]", -32600),
        ("7", -32600),
        ("{}", -32600),
        (r#"{"jsonrpc":"2.0","method":"GetTask"}"#, -32600),
        (r#"{"jsonrpc":"1.0","id":1,"method":"GetTask"}"#, -32600),
        (r#"{"jsonrpc":"2.0","id":1,"method":"Nothing"}"#, -32601),
        (r#"{"jsonrpc":"2.0","id":1,"method":"GetTask","params":[]}"#, -32602),
        (r#"{"jsonrpc":"2.0","id":1,"method":"GetTask","params":{"tenant":"x/y/z","id":"1"}}"#, -32602),
    ] {
        let answer = rest.send(Method::POST, "/a2a", &json_type, body.as_bytes()).await;
        let answer = answer.ok();
        assert_eq!((&answer["jsonrpc"], &answer["error"]["code"]), (&json!("2.0"), &json!(code)), "{body}: {answer}");
    }
    let version = [("content-type", "application/json"), ("a2a-version", "0.3")];
    let answer =
        rest.send(Method::POST, "/a2a", &version, br#"{"jsonrpc":"2.0","id":1,"method":"GetTask"}"#).await.ok();
    assert_eq!(answer["error"]["code"], -32009, "{answer}");
    let path = format!("/a2a/{id}/ann");
    let refused = rest.send(Method::GET, &format!("{path}/tasks"), &version, b"").await;
    assert_eq!(refused.refusal(), (400, "FAILED_PRECONDITION".into(), "VERSION_NOT_SUPPORTED".into()));
    for (method, rest_of, status) in [
        (Method::GET, "", 405),
        (Method::DELETE, "/tasks", 405),
        (Method::POST, CARD, 405),
        (Method::GET, "/nothing", 404),
        (Method::GET, "/tasks/x/y/z", 404),
        (Method::GET, "/tasks/../tasks", 404),
        (Method::GET, "/tasks?nonsense=1", 400),
        (Method::GET, "/tasks?status=NONSENSE", 400),
        (Method::GET, "/tasks?pageSize=0", 400),
        (Method::GET, "/tasks/nonsense", 404),
        (Method::GET, "/tasks?access_token=mi_secret", 401),
    ] {
        let answer = rest.empty(method.clone(), &format!("{path}{rest_of}")).await;
        assert_eq!(answer.refusal().0, status, "{method} {rest_of}: {}", answer.text());
    }
    let elsewhere = json!({"tenant": format!("{id}/bob"), "message": script("m", "true")});
    let refused = rest.json(Method::POST, &format!("{path}/message:send"), &elsewhere).await;
    assert_eq!((refused.refusal().2, refused.fields()), ("INVALID_PARAMS".into(), vec!["tenant".to_owned()]));
    let text = rest.send(Method::POST, &format!("{path}/message:send"), &[("content-type", "text/plain")], b"x").await;
    assert_eq!(text.refusal().2, "CONTENT_TYPE_NOT_SUPPORTED");
    // Nobody who is not known is told what is wrong with a request.
    let nobody = rest.unknown();
    assert_eq!(nobody.send(Method::POST, "/a2a", &json_type, b"{").await.status, 401);
    assert_eq!(nobody.send(Method::POST, &format!("{path}/message:send"), &json_type, b"{").await.status, 401);
}

//! The relay: what programs of the agent reach through it, and what nobody does.

use std::{collections::BTreeMap, fs, net::TcpListener as StdListener, sync::Arc};

use mi_agent::AgentError;
use mi_testkit::{
    model::{FakeModel, sdk},
    until,
};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
};

use crate::{
    commands::written,
    platform::{LONG, Platform, Running, config, limited, working},
};

/// An agent with a script that runs until it is told to end, and the script's environment.
struct Harness {
    platform: Arc<Platform>,
    agent: Running,
    dir: tempfile::TempDir,
    task: String,
    env: BTreeMap<String, String>,
    http: Client,
}

impl Harness {
    async fn new() -> Self {
        let (platform, agent, dir) = working(|_| {}).await;
        let script = "env > env; echo > ready; while [ ! -e end ]; do sleep 0.02; done";
        let task = platform.command(script);
        written(dir.path(), "ready").await;
        let text = fs::read_to_string(dir.path().join("workspace/env")).expect("written");
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        let env = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        let http = Client::builder().no_proxy().build().expect("a client");
        Self { platform, agent, dir, task, env, http }
    }

    fn key(&self) -> &str {
        &self.env["OPENAI_API_KEY"]
    }

    fn root(&self) -> &str {
        self.env["ANTHROPIC_BASE_URL"].strip_suffix("/llm/anthropic").expect("the vendor's")
    }

    async fn get(&self, path: &str, key: &str) -> Response {
        let request = self.http.get(format!("{}{path}", self.root())).bearer_auth(key);
        limited(request.send()).await.expect("answers")
    }

    /// Sends these bytes as they are; the answer's first line.
    async fn raw(&self, target: &str) -> String {
        let mut stream = self.connection().await;
        let request =
            format!("GET {target} HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\nconnection: close\r\n\r\n", self.key());
        stream.write_all(request.as_bytes()).await.expect("sent");
        let mut answer = String::new();
        limited(stream.read_to_string(&mut answer)).await.expect("answers");
        answer.lines().next().expect("a line").to_owned()
    }

    async fn connection(&self) -> TcpStream {
        TcpStream::connect(self.root().strip_prefix("http://").expect("plain")).await.expect("connects")
    }

    /// Path and query of what reached the platform, and the tasks that it was for.
    fn asked(&self) -> Vec<(String, Option<String>)> {
        self.platform.proxies.asked.lock().expect("lock").clone()
    }

    /// Waits until so much is under way at the platform.
    async fn open(&self, count: usize) {
        let mut open = self.platform.proxies.open.subscribe();
        limited(open.wait_for(|open| *open == count)).await.expect("kept");
    }

    async fn end_script(&self) {
        fs::write(self.dir.path().join("workspace/end"), "").expect("written");
        self.platform.completion(&self.task).await;
    }

    async fn end(self) {
        self.end_script().await;
        self.agent.stop().await;
    }
}

async fn json(response: Response) -> Value {
    serde_json::from_str(&response.text().await.expect("whole")).expect("JSON")
}

fn error(body: &Value) -> &str {
    body["error"]["message"].as_str().expect("a message")
}

#[tokio::test]
async fn a_program_reaches_the_proxies_under_the_name_of_its_agent() {
    let harness = Harness::new().await;
    let (url, key) = (format!("{}/llm/echo/v1/x?a=1", harness.root()), harness.key());
    let post = |url: &str| harness.http.post(url);
    for request in [
        post(&url).bearer_auth(key),
        post(&url).header("x-api-key", key),
        post(&url).header("x-goog-api-key", key),
        post(&format!("{url}&key={key}")),
    ] {
        let request = request.header("mi-task-id", "another").header("anthropic-beta", "b").body("{\"x\": 1}");
        let response = limited(request.send()).await.expect("answers");
        assert_eq!(response.status(), StatusCode::CREATED);
        assert_eq!(response.headers()["x-of-the-vendor"], "kept");
        let mut echo = json(response).await;
        let headers = json!({
            "accept": "*/*", "anthropic-beta": "b", "content-length": "8", "mi-task-id": harness.task,
        });
        assert_eq!(echo["headers"].take(), headers);
        let expected = json!({
            "method": "POST", "path": "/llm/echo/v1/x?a=1", "headers": null, "body": "{\"x\": 1}",
        });
        assert_eq!(echo, expected);
    }
    let broker = json(harness.get("/proxy/github/user", key).await).await;
    assert_eq!((&broker["method"], &broker["path"]), (&json!("GET"), &json!("/proxy/github/user")));
    // The platform's tools, by the word and the address that MCP clients are told.
    let tools = json(harness.get("/mcp", &harness.env["MI_MCP_TOKEN"]).await).await;
    assert_eq!((&tools["method"], &tools["path"]), (&json!("GET"), &json!("/mcp")));
    harness.end().await;
}

#[tokio::test]
async fn nobody_without_a_key_of_a_running_program_gets_through() {
    let harness = Harness::new().await;
    let other = Harness::new().await;
    for key in ["", "relay-x", "token", other.key()] {
        let response = harness.get("/llm/echo", key).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED, "{key}");
        let body = json(response).await;
        assert!(error(&body).starts_with("the key is not one of a program of this agent that runs: "), "{body}");
    }
    assert_eq!(harness.get("/llm/echo", harness.key()).await.status(), StatusCode::CREATED);
    harness.end_script().await;
    assert_eq!(harness.get("/llm/echo", harness.key()).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(harness.asked().len(), 1);
    harness.agent.stop().await;
    other.end().await;
}

#[tokio::test]
async fn only_the_proxies_are_reached_however_the_path_is_written() {
    let harness = Harness::new().await;
    for path in [
        "/",
        "/llm",
        "/llmx/a",
        "/mcp/",
        "/mcpx",
        "/mi.v1.TaskService/ClaimTasks",
        "/v1/offices",
        "//llm/x",
        "/%6clm/x",
    ] {
        assert_eq!(harness.raw(path).await, "HTTP/1.1 404 Not Found", "{path}");
    }
    let ways = ["/llm/../v1/offices", "/llm/%2e%2E/v1/offices", "/llm/.%2e/x", "/llm/./x", "/llm/\\..\\x"];
    for path in ways {
        assert_eq!(harness.raw(path).await, "HTTP/1.1 400 Bad Request", "{path}");
    }
    for path in ["http://elsewhere.test/llm/x", "http://127.0.0.1:1/llm/x"] {
        assert_eq!(harness.raw(path).await, "HTTP/1.1 404 Not Found", "{path}");
    }
    assert_eq!(harness.asked(), []);
    harness.end().await;
}

#[tokio::test]
async fn an_answer_comes_through_part_by_part() {
    let harness = Harness::new().await;
    let (parts, pieces) = mpsc::channel(1);
    *harness.platform.proxies.parts.lock().expect("lock") = Some(pieces);
    parts.send("first").await.expect("sent");
    let mut response = harness.get("/llm/slow", harness.key()).await;
    // The second part is not there before the first has come.
    assert_eq!(limited(response.chunk()).await.expect("comes").as_deref(), Some(b"first".as_slice()));
    parts.send("second").await.expect("sent");
    assert_eq!(limited(response.chunk()).await.expect("comes").as_deref(), Some(b"second".as_slice()));
    drop(parts);
    assert_eq!(limited(response.chunk()).await.expect("ends"), None);
    harness.end().await;
}

#[tokio::test]
async fn what_a_program_gives_up_is_given_up_at_the_platform() {
    let harness = Harness::new().await;
    let (parts, pieces) = mpsc::channel(1);
    *harness.platform.proxies.parts.lock().expect("lock") = Some(pieces);
    parts.send("first").await.expect("sent");
    let response = harness.get("/llm/slow", harness.key()).await;
    harness.open(1).await;
    drop(response);
    harness.open(0).await;

    let mut waits = harness.connection().await;
    let request = format!("GET /llm/hang HTTP/1.1\r\nhost: x\r\nx-api-key: {}\r\n\r\n", harness.key());
    waits.write_all(request.as_bytes()).await.expect("sent");
    harness.open(1).await;
    drop(waits);
    harness.open(0).await;
    harness.end().await;
}

/// Where `MI_TEST_SDK` names a directory for their packages, which come from PyPI and npm.
#[tokio::test]
async fn vendors_libraries_work_as_they_are() {
    let Ok(packages) = std::env::var("MI_TEST_SDK") else { return };
    let harness = Harness::new().await;
    let model = FakeModel::scripted("127.0.0.1:0".parse().expect("an address"), sdk::reply).await;
    *harness.platform.proxies.model.lock().expect("lock") = Some(model.address());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../e2e/sdk/run.py");
    let mut command = tokio::process::Command::new("python3");
    command.args([script, "--packages", &packages]).envs(&harness.env).env_remove("MI_ENDPOINT");
    let ran = command.output().await.expect("runs");
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}{}", String::from_utf8_lossy(&ran.stderr));
    let asked = harness.asked();
    assert!(asked.iter().all(|(_, task)| task.as_deref() == Some(&harness.task)), "{asked:?}");
    assert_eq!(said.lines().last(), Some(&*format!("{} calls, 0 failures", asked.len())));
    harness.end().await;
}

#[tokio::test]
async fn connections_are_counted() {
    let harness = Harness::new().await;
    let mut idle = Vec::new();
    for _ in 0..64 {
        let mut stream = harness.connection().await;
        // Has been taken, since it was answered.
        stream.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
        assert_eq!(limited(stream.read_u8()).await.expect("answers"), b'H');
        idle.push(stream);
    }
    let mut waits = Box::pin(harness.get("/llm/echo", harness.key()));
    let early = tokio::time::timeout(std::time::Duration::from_millis(200), &mut waits).await;
    assert!(early.is_err(), "{early:?}");
    idle.pop();
    assert_eq!(waits.as_mut().await.status(), StatusCode::CREATED);
    drop(waits);
    harness.end().await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_the_end_and_is_named() {
    let taken = StdListener::bind("127.0.0.1:0").expect("free");
    let port = taken.local_addr().expect("bound").port();
    let platform = Arc::new(Platform::default());
    let dir = tempfile::tempdir().expect("temp dir");
    let mut config = config(platform.serve().await, &dir);
    config.relay_port = port;
    let error = limited(mi_agent::run(config, std::future::pending())).await.expect_err("taken");
    assert!(matches!(error, AgentError::Relay { .. }));
    let text = format!("the relay for programs cannot listen on port {port} of 127.0.0.1: ");
    assert!(error.to_string().starts_with(&text), "{error}");
}

#[tokio::test]
async fn a_program_is_told_where_its_vendors_are_and_holds_no_secret_but_its_word() {
    let harness = Harness::new().await;
    let root = harness.root().to_owned();
    let expected = [
        ("ANTHROPIC_BASE_URL", format!("{root}/llm/anthropic")),
        ("OPENAI_BASE_URL", format!("{root}/llm/openai/v1")),
        ("GOOGLE_GEMINI_BASE_URL", format!("{root}/llm/gemini")),
        ("ANTHROPIC_API_KEY", harness.key().to_owned()),
        ("GEMINI_API_KEY", harness.key().to_owned()),
        ("MI_MCP_URL", format!("{root}/mcp")),
        ("MI_MCP_TOKEN", harness.key().to_owned()),
    ];
    for (name, value) in expected {
        assert_eq!(harness.env[name], value, "{name}");
    }
    // What this test's own environment has not.
    let own: BTreeMap<_, _> = std::env::vars().collect();
    let added = harness.env.iter().filter(|(name, value)| own.get(*name) != Some(value)).map(|(name, _)| &**name);
    let mut added: Vec<_> = added.filter(|name| !["PATH", "PWD", "OLDPWD", "_", "SHLVL"].contains(name)).collect();
    added.retain(|name| !name.ends_with("_BASE_URL"));
    assert_eq!(
        added,
        [
            "ANTHROPIC_API_KEY",
            "GEMINI_API_KEY",
            "MI_ARTIFACTS",
            "MI_ATTEMPT",
            "MI_MCP_CONFIG",
            "MI_MCP_TOKEN",
            "MI_MCP_URL",
            "MI_OFFICE_ID",
            "MI_TASK_ID",
            "OPENAI_API_KEY"
        ]
    );
    let id = harness.platform.command("echo $OPENAI_API_KEY");
    let result = harness.platform.completion(&id).await.0.result;
    let word = result.lines().nth(2).expect("printed");
    assert!(word.starts_with("relay-") && word != harness.key(), "a word of its own: {word}");
    until("it is good for nothing any more", LONG, async || {
        let status = harness.get("/llm/echo", word).await.status();
        if status == StatusCode::UNAUTHORIZED { Ok(Some(())) } else { Err(status.to_string()) }
    })
    .await;
    harness.end().await;
}

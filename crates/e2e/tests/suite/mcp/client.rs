//! A client of MCP that sends what it is told, message by message.

use std::collections::BTreeMap;

use mi_e2e::World;
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};

/// The revision that has no `initialize`.
pub(super) const NEWER: &str = "2026-07-28";

/// Somebody with a credential, or without.
#[derive(Clone)]
pub(super) struct Mcp {
    pub(super) http: Client,
    pub(super) url: String,
    pub(super) key: Option<String>,
}

impl Mcp {
    pub(super) fn new(url: String, key: Option<&str>) -> Self {
        // Another test of this process may have done so.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = Client::builder().no_proxy().build().expect("a client");
        Self { http, url, key: key.map(str::to_owned) }
    }

    pub(super) fn administrator(world: &World) -> Self {
        Self::new(format!("{}/mcp", world.platform.endpoint()), Some(world.platform.admin_key()))
    }

    /// An operator of a new account.
    pub(super) async fn of_account(world: &World, name: &str) -> Self {
        let request = mi_proto::v1::CreateAccountRequest { name: name.into() };
        let made = world.admin.access().create_account(request).await.expect("created").into_inner();
        Self { key: Some(made.secret), ..Self::administrator(world) }
    }

    pub(super) fn post(&self, body: impl Into<reqwest::Body>) -> RequestBuilder {
        let request = self
            .http
            .post(&self.url)
            .header("content-type", "application/json")
            .header("accept", "application/json, text/event-stream")
            .body(body);
        match &self.key {
            Some(key) => request.bearer_auth(key),
            None => request,
        }
    }

    pub(super) fn get(&self) -> RequestBuilder {
        let request = self.http.get(&self.url).header("accept", "text/event-stream");
        request.bearer_auth(self.key.as_deref().unwrap_or_default())
    }

    /// What a body is answered with.
    pub(super) async fn raw(&self, body: impl Into<reqwest::Body>) -> (StatusCode, Value) {
        answer(self.post(body).send().await.expect("answered")).await
    }

    /// A request in the revisions that begin with `initialize`: its result, or its error.
    pub(super) async fn request(&self, method: &str, params: Value) -> Result<Value, Value> {
        let message = json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params});
        let (status, answer) = self.raw(message.to_string()).await;
        assert_eq!((status, &answer["id"]), (StatusCode::OK, &json!(7)), "{answer}");
        outcome(answer)
    }

    /// The same in the revision without: each request says it all.
    pub(super) async fn newer(&self, method: &str, mut params: Value, capabilities: Value) -> (StatusCode, Value) {
        params["_meta"] = json!({
            "io.modelcontextprotocol/protocolVersion": NEWER,
            "io.modelcontextprotocol/clientInfo": {"name": "e2e", "version": "1"},
            "io.modelcontextprotocol/clientCapabilities": capabilities,
        });
        let message = json!({"jsonrpc": "2.0", "id": "a", "method": method, "params": params}).to_string();
        let mut request = self.post(message).header("mcp-protocol-version", NEWER).header("mcp-method", method);
        for name in ["name", "uri", "taskId"] {
            if let Some(name) = params[name].as_str() {
                request = request.header("mcp-name", name);
            }
        }
        answer(request.send().await.expect("answered")).await
    }

    /// Uses a tool: whether it was refused, and what it said.
    pub(super) async fn tool(&self, name: &str, arguments: Value) -> (bool, Value) {
        let result = self.request("tools/call", json!({"name": name, "arguments": arguments})).await;
        let result = result.unwrap_or_else(|error| panic!("{name}: {error}"));
        // What is for programs is there for models, too.
        let text = result["content"][0]["text"].as_str().expect("a text");
        assert!(!text.is_empty(), "{result}");
        (result["isError"] == true, result["structuredContent"].clone())
    }

    /// What a tool said that was not refused.
    pub(super) async fn done(&self, name: &str, arguments: Value) -> Value {
        let (is_error, said) = self.tool(name, arguments).await;
        assert!(!is_error, "{name}: {said}");
        said
    }

    /// Why a tool was refused.
    pub(super) async fn refused(&self, name: &str, arguments: Value) -> Value {
        let (is_error, said) = self.tool(name, arguments).await;
        assert!(is_error, "{name}: {said}");
        said["error"].clone()
    }

    /// The names of the tools, and whether each changes nothing.
    pub(super) async fn tools(&self) -> BTreeMap<String, bool> {
        let listed = self.request("tools/list", json!({})).await.expect("listed");
        let tools = listed["tools"].as_array().expect("a list").iter();
        tools
            .map(|tool| {
                let name = tool["name"].as_str().expect("a name").to_owned();
                (name, tool["annotations"]["readOnlyHint"] == true)
            })
            .collect()
    }
}

/// A result, or an error.
pub(super) fn outcome(mut answer: Value) -> Result<Value, Value> {
    match answer.get("error") {
        Some(error) => Err(error.clone()),
        None => Ok(answer["result"].take()),
    }
}

/// Status and body; of a stream, the last message.
async fn answer(response: Response) -> (StatusCode, Value) {
    let status = response.status();
    let text = response.text().await.expect("whole");
    let last = text.lines().filter_map(|line| line.strip_prefix("data: ")).next_back();
    (status, serde_json::from_str(last.unwrap_or(&text)).unwrap_or(Value::String(text)))
}

//! A model server without a model: it speaks all wire formats, streamed and whole, says what a test wants, and remembers
//! what it was asked.

mod anthropic;
mod gemini;
mod openai;
mod responses;
pub mod sdk;
pub mod team;

use std::{
    collections::VecDeque,
    fmt,
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode, Uri, header},
    response::{IntoResponse, Response},
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, task::JoinHandle};
use tokio_stream::StreamExt;

/// The wire formats of model servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ModelApi {
    /// `POST /v1/chat/completions`.
    OpenAi,
    /// `POST /v1/messages`.
    Anthropic,
    /// `POST /v1beta/models/...:generateContent` and `:streamGenerateContent`, also below `/v1`.
    Gemini,
    /// `POST /v1/responses`.
    Responses,
    /// `POST /v1/embeddings`, which is always answered alike.
    Embeddings,
}

impl ModelApi {
    /// Of a request for this path.
    fn of(path: &str) -> Option<Self> {
        Some(match path {
            "/v1/chat/completions" => Self::OpenAi,
            "/v1/messages" => Self::Anthropic,
            "/v1/responses" => Self::Responses,
            "/v1/embeddings" => Self::Embeddings,
            // Google's libraries do not agree on the version.
            path if ["/v1beta/models/", "/v1/models/"].iter().any(|start| path.starts_with(start))
                && path.ends_with("enerateContent") =>
            {
                Self::Gemini
            }
            _ => return None,
        })
    }
}

/// What the model does with a request.
#[derive(Clone)]
pub enum Reply {
    /// Says something and calls tools, each with the text of its arguments; both may be empty.
    Answer {
        /// What it says.
        text: String,
        /// Name and arguments of each tool.
        calls: Vec<(String, String)>,
    },
    /// The same, as far as it came before the limit of an answer.
    AtLimit {
        /// What it says.
        text: String,
        /// Name and arguments of each tool.
        calls: Vec<(String, String)>,
    },
    /// Refuses with this status.
    Refuse {
        /// The HTTP status.
        status: u16,
        /// What `retry-after` says, in seconds.
        retry_after: Option<u64>,
    },
    /// Refuses as the platform's proxy does: the status, and what `mi-reason` and the message say. Not to be repeated.
    Proxy(u16, &'static str, &'static str),
    /// Breaks the stream off in the middle of an answer.
    Cut,
    /// Says in the middle of the stream that it is overloaded.
    Overloaded,
    /// Answers with this and nothing else, whatever it is.
    Raw(&'static str),
    /// The server never answers.
    Hang,
}

impl Reply {
    /// An answer that is a text.
    pub fn text(text: &str) -> Self {
        Self::Answer { text: text.to_owned(), calls: Vec::new() }
    }

    /// An answer that calls a tool.
    pub fn call(name: &str, arguments: Value) -> Self {
        Self::calls(&[(name, arguments)])
    }

    /// Calls several tools at once.
    pub fn calls(calls: &[(&str, Value)]) -> Self {
        let calls = calls.iter().map(|(name, arguments)| ((*name).to_owned(), arguments.to_string())).collect();
        Self::Answer { text: String::new(), calls }
    }
}

/// A request as the server got it.
#[derive(Debug, Clone)]
pub struct ModelRequest {
    /// The format that it came in.
    pub api: ModelApi,
    /// `authorization`, `x-api-key` or `x-goog-api-key`, as it came.
    pub key: Option<String>,
    /// What `mi-task-id` says.
    pub task: Option<String>,
    /// The body.
    pub body: Value,
    /// When it arrived.
    pub at: Instant,
}

impl ModelRequest {
    /// All that the conversation says, oldest first: prompts, what the model said, and what its tools answered.
    pub fn texts(&self) -> Vec<String> {
        match self.api {
            ModelApi::Gemini => return gemini::texts(&self.body),
            ModelApi::Responses => return responses::texts(&self.body),
            ModelApi::OpenAi | ModelApi::Anthropic | ModelApi::Embeddings => {}
        }
        let system = self.body["system"].as_str().map(str::to_owned);
        let messages = self.body["messages"].as_array().cloned().unwrap_or_default();
        let mut texts: Vec<String> = system.into_iter().collect();
        for message in messages {
            match &message["content"] {
                Value::String(text) => texts.push(text.clone()),
                Value::Array(blocks) => texts.extend(blocks.iter().filter_map(|block| {
                    let text = if block["type"] == "tool_result" { &block["content"] } else { &block["text"] };
                    text.as_str().map(str::to_owned)
                })),
                _ => {}
            }
        }
        texts
    }

    /// The last of [`texts`](Self::texts).
    pub fn last(&self) -> String {
        self.texts().pop().unwrap_or_default()
    }

    /// The names of the tools on offer.
    pub fn tools(&self) -> Vec<String> {
        let mut tools = self.body["tools"].as_array().cloned().unwrap_or_default();
        if self.api == ModelApi::Gemini {
            tools = tools.iter().flat_map(|tool| tool["functionDeclarations"].as_array().cloned()).flatten().collect();
        }
        let name =
            |tool: &Value| tool["name"].as_str().or_else(|| tool["function"]["name"].as_str()).map(str::to_owned);
        tools.iter().filter_map(name).collect()
    }
}

type Script = Box<dyn Fn(&ModelRequest) -> Reply + Send + Sync>;

/// The server; it ends when it is dropped.
pub struct FakeModel {
    address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

struct Shared {
    replies: Mutex<VecDeque<Reply>>,
    script: Option<Script>,
    requests: Mutex<Vec<ModelRequest>>,
}

impl fmt::Debug for FakeModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FakeModel").field("address", &self.address).finish_non_exhaustive()
    }
}

impl FakeModel {
    /// Serves these replies in order, then refuses.
    ///
    /// # Panics
    /// When no port is free.
    pub async fn start(replies: impl IntoIterator<Item = Reply>) -> Self {
        Self::listen((Ipv4Addr::LOCALHOST, 0).into(), replies.into_iter().collect(), None).await
    }

    /// Answers every request by the script.
    ///
    /// # Panics
    /// When nobody may listen there.
    pub async fn scripted(listen: SocketAddr, script: impl Fn(&ModelRequest) -> Reply + Send + Sync + 'static) -> Self {
        Self::listen(listen, VecDeque::new(), Some(Box::new(script))).await
    }

    async fn listen(listen: SocketAddr, replies: VecDeque<Reply>, script: Option<Script>) -> Self {
        let listener = TcpListener::bind(listen).await.expect("the address is free");
        let address = listener.local_addr().expect("a listener has an address");
        let shared = Arc::new(Shared { replies: Mutex::new(replies), script, requests: Mutex::default() });
        let routes = Router::new().fallback(answer).with_state(shared.clone());
        #[expect(clippy::disallowed_methods, reason = "it is aborted when the server is dropped")]
        let server = tokio::spawn(async move { axum::serve(listener, routes).await.expect("serves") });
        Self { address, shared, server }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The base URL for clients of one format.
    pub fn url(&self, api: ModelApi) -> String {
        match api {
            ModelApi::OpenAi | ModelApi::Responses | ModelApi::Embeddings => format!("http://{}/v1", self.address),
            ModelApi::Anthropic | ModelApi::Gemini => format!("http://{}", self.address),
        }
    }

    /// What it was asked, first to last.
    pub fn requests(&self) -> Vec<ModelRequest> {
        self.shared.requests.lock().expect("lock").clone()
    }

    /// Serves until the process ends.
    pub async fn run(mut self) {
        let _ = (&mut self.server).await;
    }
}

impl Drop for FakeModel {
    fn drop(&mut self) {
        self.server.abort();
    }
}

async fn answer(State(shared): State<Arc<Shared>>, uri: Uri, headers: HeaderMap, body: Bytes) -> Response {
    let Some(api) = ModelApi::of(uri.path()) else { return StatusCode::NOT_FOUND.into_response() };
    let Ok(body) = serde_json::from_slice::<Value>(&body) else { return refuse(400, None) };
    let key = match api {
        ModelApi::OpenAi | ModelApi::Responses | ModelApi::Embeddings => "authorization",
        ModelApi::Anthropic => "x-api-key",
        ModelApi::Gemini => "x-goog-api-key",
    };
    let said = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let streamed = body["stream"] == true || uri.path().ends_with(":streamGenerateContent");
    let request = ModelRequest { api, key: said(key), task: said("mi-task-id"), body, at: Instant::now() };
    if api == ModelApi::Embeddings {
        let answer = responses::embeddings(&request.body).to_string();
        shared.requests.lock().expect("lock").push(request);
        return ([(header::CONTENT_TYPE, "application/json")], answer).into_response();
    }
    let scripted = || shared.script.as_ref().map(|script| script(&request));
    let reply = shared.replies.lock().expect("lock").pop_front().or_else(scripted);
    let index = {
        let mut requests = shared.requests.lock().expect("lock");
        requests.push(request);
        requests.len()
    };
    let reply = reply.unwrap_or(Reply::Refuse { status: 400, retry_after: None });
    let (text, calls) = match reply {
        Reply::Answer { ref text, ref calls } | Reply::AtLimit { ref text, ref calls } => (text.clone(), calls.clone()),
        Reply::Cut | Reply::Overloaded => ("half of a sent".to_owned(), Vec::new()),
        Reply::Refuse { status, retry_after } => return refuse(status, retry_after),
        Reply::Proxy(status, reason, message) => {
            let body = json!({ "error": { "message": message } }).to_string();
            let headers = [("mi-reason", reason), ("x-should-retry", "false")];
            return (StatusCode::from_u16(status).expect("a status"), headers, body).into_response();
        }
        Reply::Raw(text) => return ([(header::CONTENT_TYPE, "text/event-stream")], text).into_response(),
        Reply::Hang => std::future::pending().await,
    };
    let at_limit = matches!(reply, Reply::AtLimit { .. });
    let answer = Answer { id: format!("answer-{index}"), text, calls, at_limit };
    if !streamed {
        let whole = match api {
            ModelApi::OpenAi | ModelApi::Embeddings => openai::whole(&answer),
            ModelApi::Anthropic => anthropic::whole(&answer),
            ModelApi::Gemini => gemini::whole(&answer),
            ModelApi::Responses => responses::whole(&answer),
        };
        return ([(header::CONTENT_TYPE, "application/json")], whole.to_string()).into_response();
    }
    let mut events = match api {
        ModelApi::OpenAi | ModelApi::Embeddings => openai::events(&answer),
        ModelApi::Anthropic => anthropic::events(&answer),
        ModelApi::Gemini => gemini::events(&answer),
        ModelApi::Responses => responses::events(&answer),
    };
    let cut = matches!(reply, Reply::Cut);
    if matches!(reply, Reply::Cut | Reply::Overloaded) {
        events.truncate(events.len() / 2);
    }
    if matches!(reply, Reply::Overloaded) {
        events.push(match api {
            ModelApi::OpenAi | ModelApi::Gemini | ModelApi::Embeddings => {
                "data: {\"error\":{\"message\":\"overloaded\"}}\n\n".to_owned()
            }
            ModelApi::Responses => event("error", &json!({"type": "error", "message": "overloaded"})),
            ModelApi::Anthropic => event("error", &json!({"type": "error", "error": {"message": "overloaded"}})),
        });
    }
    // In pieces that end anywhere, as networks do it.
    let bytes = events.concat().into_bytes();
    let pieces: Vec<_> = bytes.chunks(200).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    let end = cut.then(|| Err(std::io::Error::other("cut")));
    let pieces = tokio_stream::iter(pieces.into_iter().chain(end)).throttle(Duration::from_micros(10));
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::from_stream(pieces)).into_response()
}

/// What all formats carry.
struct Answer {
    id: String,
    text: String,
    calls: Vec<(String, String)>,
    at_limit: bool,
}

impl Answer {
    fn call_id(&self, index: usize) -> String {
        format!("{}-call-{index}", self.id)
    }
}

/// Tokens that every request is said to have taken.
pub const INPUT_TOKENS: u64 = 100;
/// Tokens that every answer is said to have.
pub const OUTPUT_TOKENS: u64 = 10;

/// The text in two parts, as it comes in a stream.
fn halves(text: &str) -> [&str; 2] {
    let (first, second) = text.split_at(text.floor_char_boundary(text.len() / 2));
    [first, second]
}

fn event(name: &str, data: &Value) -> String {
    format!("event: {name}\ndata: {data}\n\n")
}

fn refuse(status: u16, retry_after: Option<u64>) -> Response {
    let status = StatusCode::from_u16(status).expect("a status");
    let body = json!({ "error": { "message": format!("the model refuses with {}", status.as_u16()) } }).to_string();
    let mut response = (status, body).into_response();
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Asks for one answer, streamed or whole; status and body.
    async fn ask(model: &FakeModel, api: ModelApi, stream: bool) -> (u16, String) {
        let path = match api {
            ModelApi::OpenAi => "/chat/completions",
            ModelApi::Anthropic => "/v1/messages",
            ModelApi::Gemini if stream => "/v1beta/models/a-model:streamGenerateContent?alt=sse",
            ModelApi::Gemini => "/v1beta/models/a-model:generateContent",
            ModelApi::Responses => "/responses",
            ModelApi::Embeddings => "/embeddings",
        };
        let body = match api {
            ModelApi::Gemini => json!({ "contents": [{ "role": "user", "parts": [{ "text": "hi" }] }] }),
            ModelApi::Responses | ModelApi::Embeddings => json!({ "stream": stream, "input": "hi" }),
            _ => json!({ "stream": stream, "messages": [{ "role": "user", "content": "hi" }] }),
        };
        let _ = rustls::crypto::ring::default_provider().install_default();
        let http = reqwest::Client::builder().no_proxy().build().expect("a client");
        let request = http.post(model.url(api) + path).body(body.to_string());
        let response = request.send().await.expect("answers");
        (response.status().as_u16(), response.text().await.expect("whole"))
    }

    #[tokio::test]
    async fn all_formats_say_the_same_streamed_and_whole() {
        for api in [ModelApi::OpenAi, ModelApi::Anthropic, ModelApi::Gemini, ModelApi::Responses] {
            let reply =
                || Reply::Answer { text: "Hello.".into(), calls: vec![("look".into(), "{\"at\":\"it\"}".into())] };
            let model = FakeModel::start([reply(), reply()]).await;
            let (status, whole) = ask(&model, api, false).await;
            let whole: Value = serde_json::from_str(&whole).expect("JSON");
            let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            let said = match api {
                ModelApi::OpenAi | ModelApi::Embeddings => {
                    let message = &whole["choices"][0]["message"];
                    let call = &message["tool_calls"][0]["function"];
                    [&message["content"], &call["name"], &call["arguments"]].map(text)
                }
                ModelApi::Anthropic => {
                    let content = &whole["content"];
                    [&content[0]["text"], &content[1]["name"], &content[1]["input"]].map(text)
                }
                ModelApi::Gemini => {
                    let parts = &whole["candidates"][0]["content"]["parts"];
                    let call = &parts[1]["functionCall"];
                    [&parts[0]["text"], &call["name"], &call["args"]].map(text)
                }
                ModelApi::Responses => {
                    let output = &whole["output"];
                    [&output[0]["content"][0]["text"], &output[1]["name"], &output[1]["arguments"]].map(text)
                }
            };
            assert_eq!((status, said), (200, ["Hello.", "look", "{\"at\":\"it\"}"].map(str::to_owned)));

            let (_, streamed) = ask(&model, api, true).await;
            let last = streamed.trim_end().rsplit("data: ").next().expect("an event");
            let end = match api {
                ModelApi::OpenAi | ModelApi::Embeddings => "[DONE]",
                ModelApi::Anthropic => "\"message_stop\"",
                ModelApi::Gemini => "\"finishReason\":\"STOP\"",
                ModelApi::Responses => "\"response.completed\"",
            };
            assert!(last.contains(end), "{streamed}");
            let requests = model.requests();
            assert_eq!((requests.len(), requests[0].last()), (2, "hi".to_owned()));
            // Nothing more is scripted.
            assert_eq!(ask(&model, api, true).await.0, 400);
        }
    }

    #[tokio::test]
    async fn each_input_has_an_embedding() {
        let model = FakeModel::start([]).await;
        let (status, answer) = ask(&model, ModelApi::Embeddings, false).await;
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        assert_eq!((status, &answer["data"][0]["embedding"]), (200, &json!([0.25, 0.5, -0.25])));
    }
}

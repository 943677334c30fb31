//! A door on loopback for the programs that the agent runs and that speak a vendor's API, or MCP: what they send goes to the
//! platform's proxies, and to its tools, under the agent's own name.
//!
//! A program shows a random word as its key, where its vendor's library puts keys. The word is good here alone and only
//! as long as the program runs, and says for which task it runs. The relay puts the agent's token in its place, fresh for
//! each request, and passes everything else through as it comes, in both directions.

use std::{
    collections::HashMap,
    convert::Infallible,
    io,
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::{HeaderMap, HeaderName, Request, Response, StatusCode, header};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use landlock::{
    AccessFs, AccessNet, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreatedAttr,
    RulesetError,
};
use mi_kernel::secret::Secret;
use nix::sys::prctl::get_no_new_privs;
use reqwest::{Body, Url};
use serde_json::json;
use tokio::{net::TcpListener, task::JoinSet};

use crate::{
    error::AgentError,
    proxy::{self, Proxy},
};

/// Connections at once; whoever wants another one waits.
const CONNECTIONS: usize = 64;
/// How long a connection may take to say what it wants.
const HEADER_LIMIT: Duration = Duration::from_secs(30);
/// Headers of one request.
const HEADERS: usize = 100;
/// Bytes of the headers of one request.
const HEADER_BYTES: usize = 64 << 10;
/// Between tries when the system has no room for another connection.
const PAUSE: Duration = Duration::from_millis(100);
/// Below what there is something to be reached through the relay.
const ROOTS: [&str; 2] = ["/llm/", "/proxy/"];
/// Where the platform's tools are reached, by MCP.
pub(crate) const MCP: &str = "/mcp";
/// Headers that are about one connection, or about who asks.
const OWN: [HeaderName; 12] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    header::HOST,
    header::EXPECT,
    HeaderName::from_static(proxy::TASK),
];
/// Headers that vendors' libraries put keys into, beside `authorization`.
const KEYS: [&str; 2] = ["x-api-key", "x-goog-api-key"];

/// The words that open the relay, and the task that each is for.
#[derive(Default)]
pub(crate) struct Keys(Mutex<HashMap<String, Option<String>>>);

/// A word that opens the relay until this is dropped.
pub(crate) struct Key {
    keys: Arc<Keys>,
    word: String,
}

impl Keys {
    /// A new word, for whatever is done on behalf of this task.
    pub(crate) fn key(self: &Arc<Self>, task: Option<&str>) -> Key {
        let word = Secret::random("relay-").expose().to_owned();
        self.lock().insert(word.clone(), task.map(str::to_owned));
        Key { keys: self.clone(), word }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Option<String>>> {
        // Words come and go one by one: after a panic the map is whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Key {
    /// The word.
    pub(crate) fn word(&self) -> &str {
        &self.word
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.keys.lock().remove(&self.word);
    }
}

/// The listener, and those who came.
pub(crate) struct Relay {
    listener: TcpListener,
    port: u16,
    keys: Arc<Keys>,
    running: JoinSet<()>,
}

/// Lets nothing that is started from now on listen on a TCP port: what is outside of a sandbox could connect to it. The
/// sandbox itself has to leave the relay's port open. Nothing where the agent has no sandbox, or the kernel no such rule.
fn forbid_listening() -> Result<(), RulesetError> {
    if !get_no_new_privs().unwrap_or_default() {
        return Ok(());
    }
    let rules = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
    // A ruleset that says nothing of moves between directories forbids them.
    let rules = rules.handle_access(AccessNet::BindTcp)?.handle_access(AccessFs::Refer)?.create()?;
    let rules = match PathFd::new("/") {
        Ok(root) => rules.add_rule(PathBeneath::new(root, AccessFs::Refer))?,
        Err(_) => rules,
    };
    rules.restrict_self().map(drop)
}

impl Relay {
    /// Listens on this port of loopback; 0: on a free one.
    pub(crate) async fn bind(port: u16) -> Result<Self, AgentError> {
        let failed = |source| AgentError::Relay { port, source };
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await.map_err(failed)?;
        let port = listener.local_addr().map_err(failed)?.port();
        forbid_listening().map_err(|error| failed(io::Error::other(error)))?;
        Ok(Self { listener, port, keys: Arc::default(), running: JoinSet::new() })
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    pub(crate) fn keys(&self) -> Arc<Keys> {
        self.keys.clone()
    }

    /// Serves until it is dropped, and all connections with it.
    pub(crate) async fn run(&mut self, proxy: Arc<Proxy>) -> Infallible {
        loop {
            tokio::select! {
                accepted = self.listener.accept(), if self.running.len() < CONNECTIONS => {
                    let Ok((stream, _)) = accepted else {
                        tokio::time::sleep(PAUSE).await;
                        continue;
                    };
                    let (keys, proxy) = (self.keys.clone(), proxy.clone());
                    let answer = move |request| {
                        let (keys, proxy) = (keys.clone(), proxy.clone());
                        async move { Ok::<_, Infallible>(answer(&keys, &proxy, request).await) }
                    };
                    let mut server = http1::Builder::new();
                    server.timer(TokioTimer::new()).header_read_timeout(HEADER_LIMIT);
                    server.max_headers(HEADERS).max_buf_size(HEADER_BYTES);
                    let connection = server.serve_connection(TokioIo::new(stream), service_fn(answer));
                    // A program that hangs up is no concern of anybody else.
                    self.running.spawn(async move { drop(connection.await) });
                }
                Some(_) = self.running.join_next(), if !self.running.is_empty() => {}
            }
        }
    }
}

/// Passes one request on, and its answer back.
async fn answer(keys: &Keys, proxy: &Proxy, request: Request<Incoming>) -> Response<Body> {
    match pass(keys, proxy, request).await {
        Ok(response) => response,
        Err((status, problem)) => refusal(status, &problem),
    }
}

type Refused = (StatusCode, String);

async fn pass(keys: &Keys, proxy: &Proxy, request: Request<Incoming>) -> Result<Response<Body>, Refused> {
    let (mut parts, body) = request.into_parts();
    let Some(task) = shown(&parts.headers, parts.uri.query()).find_map(|word| keys.lock().get(word).cloned()) else {
        let problem = "the key is not one of a program of this agent that runs: take it from ANTHROPIC_API_KEY, \
                       OPENAI_API_KEY, GEMINI_API_KEY or MI_MCP_TOKEN of the program's environment";
        return Err((StatusCode::UNAUTHORIZED, problem.into()));
    };
    let path = parts.uri.path();
    // An absolute URI names another host.
    let is_reached = path == MCP || ROOTS.iter().any(|root| path.starts_with(root));
    if parts.uri.authority().is_some() || !is_reached {
        let problem = format!("the path is neither {MCP} nor below one of {}", ROOTS.join(", "));
        return Err((StatusCode::NOT_FOUND, problem));
    }
    let without_key = |query| without_key(query, |word| keys.lock().contains_key(word));
    let target = match parts.uri.query().map(without_key).filter(|query| !query.is_empty()) {
        Some(query) => format!("{path}?{query}"),
        None => path.to_owned(),
    };
    let failed = |problem: String| (StatusCode::BAD_GATEWAY, format!("the platform cannot be asked: {problem}"));
    let passed = proxy.request(parts.method, &target, task.as_deref()).map_err(|error| failed(error.to_string()))?;
    remove_own(&mut parts.headers);
    parts.headers.remove(header::AUTHORIZATION);
    KEYS.iter().for_each(|name| drop(parts.headers.remove(*name)));
    // Not `headers`, which would put the program's in the place of the token.
    let passed = parts.headers.iter().fold(passed, |passed, (name, value)| passed.header(name, value));
    let (http, passed) = passed.body(Body::wrap(body)).build_split();
    let passed = passed.map_err(|error| failed(proxy::chain(error)))?;
    if !leads_to(passed.url(), path) {
        return Err((
            StatusCode::BAD_REQUEST,
            "the path has parts such as `..`, or characters that it must not".into(),
        ));
    }
    let response = http.execute(passed).await.map_err(|error| failed(proxy::chain(error)))?;
    let mut response = Response::<Body>::from(response);
    *response.version_mut() = http::Version::HTTP_11;
    remove_own(response.headers_mut());
    Ok(response)
}

/// Whether the URL has the very path that was looked at.
fn leads_to(url: &Url, path: &str) -> bool {
    url.path() == path
}

/// All that a request shows as its key.
fn shown<'a>(headers: &'a HeaderMap, query: Option<&'a str>) -> impl Iterator<Item = &'a str> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let bearer = text("authorization").and_then(|value| {
        let (scheme, word) = value.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(word)
    });
    let in_query = query.into_iter().flat_map(|query| query.split('&')).filter_map(|pair| pair.strip_prefix("key="));
    bearer.into_iter().chain(KEYS.into_iter().filter_map(text)).chain(in_query)
}

/// The query without our keys: others' parameters may have the same name.
fn without_key(query: &str, is_ours: impl Fn(&str) -> bool) -> String {
    let is_kept = |pair: &&str| !pair.strip_prefix("key=").is_some_and(&is_ours);
    query.split('&').filter(is_kept).collect::<Vec<_>>().join("&")
}

/// Removes what is about the connection, and what that says is.
fn remove_own(headers: &mut HeaderMap) {
    let named: Vec<String> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|names| names.split(',').map(|name| name.trim().to_owned()))
        .collect();
    for name in named {
        headers.remove(name);
    }
    for name in &OWN {
        headers.remove(name);
    }
}

/// An error as all vendors' libraries read one.
fn refusal(status: StatusCode, problem: &str) -> Response<Body> {
    let body = json!({ "type": "error", "error": { "type": "relay_error", "message": problem } }).to_string();
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

//! `models`: model calls through the proxy against the same calls made directly of a model server that answers at once, in
//! the same run and in alternating rounds, and of LiteLLM's proxy where it is asked for; then a thousand streams at once.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::StreamExt;
use http::{Method, Request, Response, Uri, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Bytes, Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioIo},
};
use mi_client::AgentKey;
use mi_kernel::{AgentId, Clock, SystemClock};
use mi_testkit::{Backend, Platform};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_stream::wrappers::IntervalStream;

use crate::{
    Result,
    customer::Customer,
    latency::Latency,
    litellm::{self, LiteLlm},
    proc,
    queue::name_of,
    report::{Goal, Table},
};

const ROUNDS: usize = 5;
/// Calls of a round, one after the other.
const CALLS: usize = 300;
/// Clients that call without a pause, and for how long.
const CLIENTS: usize = 64;
const SPAN: Duration = Duration::from_secs(2);
/// Agents that share the load: each may call only so often.
const AGENTS: usize = 8;
/// Streams that are open at once, and how often each brings something.
const STREAMS: usize = 1000;
const TICK: Duration = Duration::from_secs(1);
/// Of LiteLLM's proxy, as its makers published it for one process: where it is not measured.
const PUBLISHED: f64 = 175.0;

type Body = BoxBody<Bytes, Infallible>;
type Http = Client<HttpConnector, Full<Bytes>>;

/// Where calls go, and as whom.
#[derive(Clone)]
struct Side {
    http: Http,
    url: Uri,
    token: Arc<str>,
}

pub(crate) async fn run() -> Result<Table> {
    let mut table = Table::new("models");
    let upstream = serve().await?;
    for backend in [Backend::Sqlite, Backend::Postgres] {
        let url = format!("http://{upstream}/v1");
        let builder = Platform::builder().backend(backend).arg("--model-api").arg("openai").arg("--model-url").arg(url);
        let platform = builder.start().await;
        let customer = Customer::open(platform.endpoint(), platform.admin_key(), 100).await?;
        grant(&platform, &customer).await?;
        let keys = tempfile::tempdir()?;
        let mut agents = Vec::new();
        for number in 0..AGENTS {
            let key_file = keys.path().join(number.to_string());
            let id = customer.join(&format!("caller-{number}"), &key_file).await?;
            agents.push((id, AgentKey::load(&key_file)?.ok_or("no key")?));
        }
        measure(&mut table, backend, &platform, upstream, &agents).await?;
    }
    Ok(table)
}

async fn grant(platform: &Platform, customer: &Customer) -> Result {
    let admin = mi_client::Credential::ApiKey(mi_kernel::secret::Secret::new(platform.admin_key()));
    let request = mi_proto::v1::GrantCreditsRequest {
        office_id: customer.office.clone(),
        amount: 100_000_000_000,
        reason: "bench".into(),
        request_id: String::new(),
    };
    customer.client.with_credential(admin)?.credits().grant_credits(request).await?;
    Ok(())
}

async fn measure(
    table: &mut Table,
    backend: Backend,
    platform: &Platform,
    upstream: SocketAddr,
    agents: &[(AgentId, AgentKey)],
) -> Result {
    let name = name_of(backend);
    let http: Http = Client::builder(TokioExecutor::new()).pool_max_idle_per_host(2 * STREAMS).build_http();
    let direct = Side {
        http: http.clone(),
        url: format!("http://{upstream}/v1/chat/completions").parse()?,
        token: "direct".into(),
    };
    let url: Uri = format!("{}/llm/openai/v1/chat/completions", platform.endpoint()).parse()?;
    let mut proxied = Vec::new();
    for (id, key) in agents {
        let token = key.token(*id, SystemClock.now())?.into();
        proxied.push(Side { http: http.clone(), url: url.clone(), token });
    }
    let litellm = LiteLlm::start(upstream).await?;
    let peer = match &litellm {
        Some(litellm) => Some(Side {
            http: http.clone(),
            url: format!("http://{}/v1/chat/completions", litellm.address).parse()?,
            token: litellm::KEY.into(),
        }),
        None => None,
    };
    let (mut added, mut first, mut bare, mut rate) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut theirs, mut times) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (own, through) = (latency(&direct, false).await?, latency(&proxied[0], false).await?);
        added.push(through.millis(0.5) - own.millis(0.5));
        let (own, through) = (latency(&direct, true).await?, latency(&proxied[0], true).await?);
        first.push(through.millis(0.5) - own.millis(0.5));
        bare.push(throughput(std::slice::from_ref(&direct)).await?);
        rate.push(throughput(&proxied).await?);
        if let Some(peer) = &peer {
            theirs.push(throughput(std::slice::from_ref(peer)).await?);
            times.push(rate[rate.len() - 1] / theirs[theirs.len() - 1]);
        }
    }
    drop((litellm, peer));
    table.goal(&format!("{name}: added to a call, p50"), "ms", &added, Goal::AtMost(1.0));
    table.goal(&format!("{name}: added to the first byte of a stream, p50"), "ms", &first, Goal::AtMost(2.0));
    table.row(&format!("{name}: {CLIENTS} clients, directly"), "calls/s", &bare);
    let through = format!("{name}: {CLIENTS} clients, through the proxy");
    if theirs.is_empty() {
        table.goal(&through, "calls/s", &rate, Goal::AtLeast(5.0 * PUBLISHED));
    } else {
        table.row(&through, "calls/s", &rate);
        table.row(&format!("{name}: {CLIENTS} clients, through LiteLLM's proxy"), "calls/s", &theirs);
        table.goal(&format!("{name}: {CLIENTS} clients, ours / LiteLLM's"), "x", &times, Goal::AtLeast(5.0));
    }
    let (before, most) = streams(&proxied, platform.pid()).await?;
    table.goal(&format!("{name}: memory added by {STREAMS} streams"), "MB", &[most - before], Goal::AtMost(100.0));
    Ok(())
}

/// Times to the first byte of an answer, which of a call without streaming is the whole of it.
async fn latency(side: &Side, streamed: bool) -> Result<Latency> {
    let mut latency = Latency::new()?;
    for _ in 0..CALLS {
        latency.record(side.call(streamed, false).await?);
    }
    Ok(latency)
}

/// Calls a second by clients that do not pause.
async fn throughput(sides: &[Side]) -> Result<f64> {
    let (start, mut working) = (Instant::now(), JoinSet::<Result<usize>>::new());
    for side in sides.iter().cycle().take(CLIENTS) {
        let side = side.clone();
        working.spawn(async move {
            let mut calls = 0;
            while start.elapsed() < SPAN {
                side.call(false, false).await?;
                calls += 1;
            }
            Ok(calls)
        });
    }
    let mut calls = 0;
    while let Some(done) = working.join_next().await {
        calls += done??;
    }
    Ok(calls as f64 / start.elapsed().as_secs_f64())
}

/// What the platform has resident before, and at most while all streams are open; MB.
async fn streams(sides: &[Side], pid: u32) -> Result<(f64, f64)> {
    let before = proc::memory(pid)?.rss;
    proc::forget_peak(pid)?;
    let mut open = JoinSet::<Result>::new();
    for side in sides.iter().cycle().take(STREAMS) {
        let side = side.clone();
        open.spawn(async move { side.call(true, true).await.map(drop) });
    }
    while let Some(done) = open.join_next().await {
        done??;
    }
    Ok((before, proc::peak(pid)?))
}

impl Side {
    /// One call to its end: how long its first byte took.
    async fn call(&self, streamed: bool, slow: bool) -> Result<Duration> {
        let user = if slow { "slowly" } else { "hi" };
        let body = format!(
            r#"{{"model":"claude-sonnet-4-5","max_tokens":16,"stream":{streamed},"messages":[{{"role":"user","content":"{user}"}}]}}"#
        );
        let request = Request::builder()
            .method(Method::POST)
            .uri(self.url.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::AUTHORIZATION, format!("Bearer {}", self.token))
            .body(Full::new(Bytes::from(body)))?;
        let start = Instant::now();
        let mut response = self.http.request(request).await?;
        if !response.status().is_success() {
            let status = response.status();
            let said = response.into_body().collect().await?.to_bytes();
            return Err(format!("{status}: {}", String::from_utf8_lossy(&said)).into());
        }
        let mut first = None;
        while let Some(frame) = response.frame().await {
            frame?;
            first.get_or_insert_with(|| start.elapsed());
        }
        Ok(first.ok_or("an answer without content")?)
    }
}

/// A model server that answers at once, or slowly when it is asked to.
async fn serve() -> Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let _ = socket.set_nodelay(true);
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(socket), service_fn(answer)));
        }
    });
    Ok(address)
}

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, hyper::Error> {
    const WHOLE: &str = r#"{"id":"1","object":"chat.completion","model":"m","choices":[{"index":0,"message":{"role":"assistant","content":"hello"},"finish_reason":"stop"}],"usage":{"prompt_tokens":12,"completion_tokens":3,"total_tokens":15}}"#;
    const CHUNK: &str = "data: {\"id\":\"1\",\"object\":\"chat.completion.chunk\",\"model\":\"m\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"hello\"}}]}\n\n";
    const END: &str = "data: {\"id\":\"1\",\"object\":\"chat.completion.chunk\",\"model\":\"m\",\"choices\":[],\"usage\":{\"prompt_tokens\":12,\"completion_tokens\":3,\"total_tokens\":15}}\n\ndata: [DONE]\n\n";
    let body = request.into_body().collect().await?.to_bytes();
    let said = String::from_utf8_lossy(&body);
    let frame = |text: &'static str| Ok::<_, Infallible>(Frame::data(Bytes::from_static(text.as_bytes())));
    let (kind, body) = if !said.contains("\"stream\":true") {
        ("application/json", Full::new(Bytes::from_static(WHOLE.as_bytes())).boxed())
    } else if said.contains("slowly") {
        let ticks = IntervalStream::new(tokio::time::interval(TICK)).take(10).map(move |_| frame(CHUNK));
        ("text/event-stream", BodyExt::boxed(StreamBody::new(ticks.chain(futures::stream::iter([frame(END)])))))
    } else {
        ("text/event-stream", BodyExt::boxed(StreamBody::new(futures::stream::iter([frame(CHUNK), frame(END)]))))
    };
    let mut response = Response::new(body);
    if let Ok(kind) = kind.parse() {
        response.headers_mut().insert(header::CONTENT_TYPE, kind);
    }
    Ok(response)
}

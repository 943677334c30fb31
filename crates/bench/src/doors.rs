//! `doors`: the same calls in JSON and by gRPC, through the same gateway, in alternating rounds; a large file both ways by
//! both; and a thousand streams on which nothing happens.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use futures::TryStreamExt;
use http::{Request, Response, header};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Bytes, Frame, Incoming};
use hyper_util::{
    client::legacy::{Client as HttpClient, connect::HttpConnector},
    rt::TokioExecutor,
};
use mi_client::Credential;
use mi_proto::v1::GetAgentRequest;
use tokio::task::JoinSet;
use tokio_util::io::ReaderStream;

use crate::{
    Error, Result,
    compare::AGENT,
    customer::Customer,
    daemon::Daemon,
    drive,
    latency::Latency,
    proc,
    report::{Goal, Table},
};

const ROUNDS: usize = 5;
/// Calls of a round, one after the other.
const CALLS: usize = 1000;
/// Clients that call without a pause, and for how long; each has a connection of its own, by both protocols.
const CLIENTS: usize = 32;
const SPAN: Duration = Duration::from_secs(2);
/// Streams on which nothing happens.
const STREAMS: usize = 1000;
/// Accounts that share the load: each may call only so often, and have so many streams.
const ACCOUNTS: usize = 16;
const IDLE: Duration = Duration::from_secs(10);

type Body = BoxBody<Bytes, Error>;

pub(crate) async fn run() -> Result<Table> {
    let dir = tempfile::tempdir()?;
    let daemon = Daemon::start(dir.path()).await?;
    let ready: serde_json::Value = serde_json::from_str(&fs::read_to_string(dir.path().join("ready.json"))?)?;
    let told = |name: &str| ready[name].as_str().ok_or("the ready file lacks an entry");
    let (endpoint, admin) = (told("endpoint")?, told("api_key")?);
    let mut customers = Vec::new();
    for _ in 0..ACCOUNTS {
        customers.push(Customer::open(endpoint, admin, 1).await?);
    }
    futures::future::try_join_all(customers.iter().map(|customer| customer.hire_at_rest(AGENT))).await?;
    let mut table = Table::new("doors");
    let web = Web::new(endpoint, &customers[0]);
    calls(&mut table, endpoint, &customers, &web).await?;
    mcp(&mut table, &web).await?;
    files(&mut table, dir.path(), &customers[0], &web).await?;
    streams(&mut table, endpoint, &customers, daemon.pid()).await?;
    daemon.stop().await?;
    Ok(table)
}

/// A customer's client of HTTP/1.1.
#[derive(Clone)]
pub(crate) struct Web {
    http: HttpClient<HttpConnector, Body>,
    endpoint: String,
    office: String,
    bearer: String,
}

impl Web {
    pub(crate) fn new(endpoint: &str, customer: &Customer) -> Self {
        Self {
            http: HttpClient::builder(TokioExecutor::new()).build_http(),
            endpoint: endpoint.to_owned(),
            office: customer.office.clone(),
            bearer: format!("Bearer {}", customer.key.expose()),
        }
    }

    async fn send(&self, method: &str, path: &str, kind: &str, body: Body) -> Result<Response<Incoming>> {
        let request = Request::builder()
            .method(method)
            .uri(format!("{}{path}", self.endpoint))
            .header(header::AUTHORIZATION, &self.bearer)
            .header(header::CONTENT_TYPE, kind)
            .header(header::ACCEPT, "application/json, text/event-stream")
            .body(body)?;
        let response = self.http.request(request).await?;
        match response.status().is_success() {
            true => Ok(response),
            false => {
                let status = response.status();
                let said = response.into_body().collect().await?.to_bytes();
                Err(format!("{path}: {status}: {}", String::from_utf8_lossy(&said)).into())
            }
        }
    }

    /// Where the large file is.
    fn file(&self) -> String {
        format!("/v1/offices/{}/files/{}", self.office, drive::PATH)
    }

    /// Takes the large file to a file of this machine.
    pub(crate) async fn download(&self, target: &Path) -> Result {
        let mut response = self.send("GET", &self.file(), "application/octet-stream", whole("")).await?;
        let mut file = tokio::fs::File::create(target).await?;
        let mut size = 0;
        while let Some(frame) = response.frame().await {
            if let Ok(data) = frame?.into_data() {
                size += data.len();
                tokio::io::AsyncWriteExt::write_all(&mut file, &data).await?;
            }
        }
        match size {
            drive::SIZE => Ok(()),
            size => Err(Error::from(format!("{size} bytes arrived"))),
        }
    }

    async fn json(&self, path: &str, body: String) -> Result<Bytes> {
        let response = self.send("POST", path, "application/json", whole(body)).await?;
        Ok(response.into_body().collect().await?.to_bytes())
    }

    async fn get_agent(&self) -> Result {
        let body = format!(r#"{{"officeId":"{}","name":"{AGENT}"}}"#, self.office);
        self.json("/mi.v1.AgentService/GetAgent", body).await.map(drop)
    }
}

fn whole(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).map_err(|never| match never {}).boxed()
}

async fn calls(table: &mut Table, endpoint: &str, customers: &[Customer], web: &Web) -> Result {
    let request = |customer: &Customer| GetAgentRequest { office_id: customer.office.clone(), name: AGENT.into() };
    let (mut grpc, mut json, mut added) = (Vec::new(), Vec::new(), Vec::new());
    let (mut grpc_rate, mut json_rate, mut kept) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let mut agents = customers[0].client.agents();
        let own = Latency::of(CALLS, async || Ok(agents.get_agent(request(&customers[0])).await.map(drop)?))
            .await?
            .micros(0.5);
        let through = Latency::of(CALLS, async || web.get_agent().await).await?.micros(0.5);
        grpc.push(own);
        json.push(through);
        added.push(through - own);

        let mut clients = Vec::new();
        for customer in customers.iter().cycle().take(CLIENTS) {
            let client = mi_client::Client::connect(endpoint, Credential::ApiKey(customer.key.clone()))?;
            clients.push((client, request(customer)));
        }
        let own = rate(clients.into_iter().map(|(client, request)| {
            move || {
                let (mut agents, request) = (client.agents(), request.clone());
                async move { Ok(agents.get_agent(request).await.map(drop)?) }
            }
        }))
        .await?;
        let webs = customers.iter().cycle().take(CLIENTS).map(|customer| Web::new(endpoint, customer));
        let through = rate(webs.map(|web| {
            move || {
                let web = web.clone();
                async move { web.get_agent().await }
            }
        }))
        .await?;
        grpc_rate.push(own);
        json_rate.push(through);
        kept.push(100.0 * through / own);
    }
    table.row("GetAgent by gRPC: p50", "us", &grpc);
    table.row("GetAgent in JSON over HTTP/1.1: p50", "us", &json);
    table.goal("added at p50", "us", &added, Goal::AtMost(60.0));
    table.row(&format!("GetAgent by gRPC, {CLIENTS} clients"), "calls/s", &grpc_rate);
    table.row(&format!("GetAgent in JSON, {CLIENTS} clients"), "calls/s", &json_rate);
    table.goal("throughput kept", "%", &kept, Goal::AtLeast(70.0));
    Ok(())
}

/// Calls a second of clients that do not pause.
async fn rate<C, F>(clients: impl Iterator<Item = C>) -> Result<f64>
where
    C: Fn() -> F + Send + 'static,
    F: Future<Output = Result> + Send,
{
    let (start, mut working) = (Instant::now(), JoinSet::<Result<usize>>::new());
    for call in clients {
        working.spawn(async move {
            let mut calls = 0;
            while start.elapsed() < SPAN {
                call().await?;
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

/// What a model's assistant waits for.
async fn mcp(table: &mut Table, web: &Web) -> Result {
    let task = format!(r#"{{"officeId":"{}","title":"measured","assignedAgent":"{AGENT}"}}"#, web.office);
    let created = web.json("/mi.v1.TaskService/CreateTask", task).await?;
    let created: serde_json::Value = serde_json::from_slice(&created)?;
    let id = created["task"]["id"].as_str().ok_or("a task without an id")?;
    let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#.to_owned();
    let call = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"get_task","arguments":{{"office_id":"{}","task_id":"{id}"}}}}}}"#,
        web.office
    );
    for (what, request) in [("MCP tools/list: p50", list), ("MCP tools/call get_task: p50", call)] {
        let mut rounds = Vec::new();
        for _ in 0..ROUNDS {
            let latency = Latency::of(CALLS / 10, async || {
                let answer = web.json("/mcp", request.clone()).await?;
                let text = String::from_utf8_lossy(&answer);
                match text.contains("\"error\":{\"code\"") || text.contains("\"isError\":true") {
                    true => Err(format!("MCP: {text}").into()),
                    false => Ok(()),
                }
            });
            rounds.push(latency.await?.millis(0.5));
        }
        table.goal(what, "ms", &rounds, Goal::AtMost(2.0));
    }
    Ok(())
}

async fn files(table: &mut Table, dir: &Path, customer: &Customer, web: &Web) -> Result {
    let (source, target) = (dir.join("source"), dir.join("copy"));
    drive::write_random(&source)?;
    let path = web.file();
    let up = async || {
        let file = tokio::fs::File::open(&source).await?;
        let frames = ReaderStream::with_capacity(file, drive::CHUNK).map_ok(Frame::data).map_err(Error::from);
        let body = BodyExt::boxed(StreamBody::new(frames));
        web.send("PUT", &format!("{path}?force=true"), "application/octet-stream", body).await.map(drop)
    };
    // The first one warms up; the content is the same each time, so that the disk holds it once.
    drive::upload(customer, &source).await?;
    let (mut sent, mut taken) = ([Vec::new(), Vec::new()], [Vec::new(), Vec::new()]);
    for _ in 0..ROUNDS {
        sent[0].push(drive::speed(async || drive::upload(customer, &source).await).await?);
        sent[1].push(drive::speed(&up).await?);
        taken[0].push(drive::speed(async || drive::download(customer, &target).await).await?);
        fs::remove_file(&target)?;
        taken[1].push(drive::speed(async || web.download(&target).await).await?);
        fs::remove_file(&target)?;
    }
    for (what, [grpc, rest]) in [("upload", sent), ("download", taken)] {
        let shares: Vec<f64> = rest.iter().zip(&grpc).map(|(rest, grpc)| 100.0 * rest / grpc).collect();
        table.row(&format!("{what} of 1 GiB by gRPC"), "MB/s", &grpc);
        table.row(&format!("{what} of 1 GiB by REST"), "MB/s", &rest);
        table.goal("the same, of gRPC", "%", &shares, Goal::AtLeast(90.0));
    }
    Ok(())
}

/// Watches of tasks in which nothing happens.
async fn streams(table: &mut Table, endpoint: &str, customers: &[Customer], pid: u32) -> Result {
    let webs: Vec<Web> = customers.iter().map(|customer| Web::new(endpoint, customer)).collect();
    let resting = cpu_share(pid).await?;
    let before = proc::memory(pid)?.rss;
    let mut open = Vec::new();
    for web in webs.iter().cycle().take(STREAMS) {
        let body = format!(r#"{{"officeId":"{}"}}"#, web.office);
        let length = u32::try_from(body.len())?.to_be_bytes();
        let body = whole([&[0][..], &length, body.as_bytes()].concat());
        open.push(web.send("POST", "/mi.v1.TaskService/WatchTasks", "application/connect+json", body).await?);
    }
    let busy = cpu_share(pid).await?;
    let each = (proc::memory(pid)?.rss - before) * 1e3 / STREAMS as f64;
    // They are open to the end.
    drop(open);
    table.goal(&format!("memory of each of {STREAMS} idle Connect streams"), "kB", &[each], Goal::AtMost(20.0));
    table.goal("processor of all of them", "% of a core", &[(busy - resting).max(0.0)], Goal::AtMost(1.0));
    Ok(())
}

/// How much of a core the process takes while nothing is asked of it, in percent.
async fn cpu_share(pid: u32) -> Result<f64> {
    let before = proc::cpu_seconds(pid)?;
    tokio::time::sleep(IDLE).await;
    Ok(100.0 * (proc::cpu_seconds(pid)? - before) / IDLE.as_secs_f64())
}

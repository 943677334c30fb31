//! `logs`: lines that one agent appends, durable when acknowledged, and how soon a reader who follows sees one.

use std::{
    sync::Arc,
    thread,
    time::{Duration, Instant},
};

use mi_activity::ActivityConfig;
use mi_base::Tasks;
use mi_kernel::{AccountId, Actor, AgentActor, AgentId, OfficeId, SystemClock};
use mi_proto::{
    internal::v1::{ApplyOfficeRequest, office_replica_service_client::OfficeReplicaServiceClient},
    rules,
    v1::{AppendLogsRequest, LogLine, LogStream, OfficeStatus, TailLogsRequest, log_service_client::LogServiceClient},
};
use mi_rpc::Caller;
use mi_store::DbTarget;
use nix::sys::resource::UsageWho;
use object_store::local::LocalFileSystem;
use tokio::{runtime::Builder, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Channel, Endpoint};

use crate::{
    Result,
    compose::{serve_bare, stop},
    latency::Latency,
    proc::own_cpu_seconds,
    report::{Goal, Table},
};

/// Rounds of appending: 256 MiB together.
const ROUNDS: usize = 8;
/// Batches of a round, of one MiB each.
const BATCHES: usize = 32;
/// Bytes of a line, its end included.
const LINE: usize = 200;
/// Lines of a batch, within the 1 MiB that the platform takes.
const LINES: usize = (1 << 20) / LINE;
/// Rounds of following.
const FOLLOWED_ROUNDS: usize = 5;
/// Lines of a round, each sent when the one before was seen.
const FOLLOWED: usize = 300;
const AGENT: &str = "writer";
/// How long a line may take to be seen.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) async fn run() -> Result<Table> {
    let dir = tempfile::tempdir()?;
    let tasks = Tasks::new();
    let database = DbTarget::Sqlite { path: dir.path().join("activity.db") };
    let objects = Arc::new(LocalFileSystem::new_with_prefix(dir.path())?);
    let role = mi_activity::build(ActivityConfig::new(database, objects), SystemClock::shared(), &tasks).await?;
    let office_id = OfficeId::new();
    let caller = Caller {
        actor: Actor::Agent(AgentActor { office_id, agent_id: AgentId::new(), name: AGENT.into() }),
        rule: rules::rule("/mi.v1.LogService/AppendLogs").ok_or("AppendLogs has no rule")?,
        trace_id: "4bf92f3577b34da6a3ce929d0e0e4736".into(),
        refusals: Default::default(),
    };
    let endpoint = serve_bare(&tasks, role.routes, caller).await?;

    // The load has a thread of its own, so that its share of the processor time can be told apart.
    let (done, measured) = tokio::sync::oneshot::channel();
    thread::spawn(move || done.send(load(endpoint, office_id.to_string())));
    let (appended, followed) = measured.await??;
    stop(&tasks).await?;

    let per =
        |pick: fn(&Appended) -> f64| appended.iter().map(|round| round.megabytes / pick(round)).collect::<Vec<_>>();
    let quantiles = |share| followed.iter().map(|latency| latency.millis(share)).collect::<Vec<_>>();
    let mut table = Table::new("logs");
    table.row("appended, durable when acknowledged", "MB/s", &per(|round| round.seconds));
    let per_core = per(|round| round.cpu);
    table.goal("a second of processor, the load's included", "MB", &per_core, Goal::AtLeast(50.0));
    table.row("a second of processor, the platform's alone", "MB", &per(|round| round.cpu - round.cpu_of_load));
    table.row("a followed line is seen, p50", "ms", &quantiles(0.5));
    table.goal("a followed line is seen, p99", "ms", &quantiles(0.99), Goal::AtMost(100.0));
    Ok(table)
}

/// What one round of appending took.
struct Appended {
    megabytes: f64,
    seconds: f64,
    /// Processor time of this process, and of the load within it.
    cpu: f64,
    cpu_of_load: f64,
}

type Measured = (Vec<Appended>, Vec<Latency>);

fn load(endpoint: String, office_id: String) -> Result<Measured> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let channel = Endpoint::from_shared(endpoint)?.tcp_nodelay(true).connect().await?;
        let request = ApplyOfficeRequest {
            office_id: office_id.clone(),
            account_id: AccountId::new().to_string(),
            version: 1,
            status: OfficeStatus::Active.into(),
            settings: None,
        };
        OfficeReplicaServiceClient::new(channel.clone()).apply_office(request).await?;
        let mut writer = Writer { logs: LogServiceClient::new(channel), office_id, next: 1 };
        // The first round warms up.
        writer.append().await?;
        let (mut appended, mut followed) = (Vec::new(), Vec::new());
        for _ in 0..ROUNDS {
            appended.push(writer.append().await?);
        }
        for round in 0..FOLLOWED_ROUNDS {
            followed.push(writer.follow(round).await?);
        }
        Ok((appended, followed))
    })
}

/// The agent that appends, and reads its own log.
struct Writer {
    logs: LogServiceClient<Channel>,
    office_id: String,
    /// Index of the next line.
    next: i64,
}

impl Writer {
    fn batch(&mut self, texts: impl Iterator<Item = String>) -> Result<AppendLogsRequest> {
        let line = |text| LogLine { stream: LogStream::Agent.into(), text, ..Default::default() };
        let lines: Vec<LogLine> = texts.map(line).collect();
        let first_index = self.next;
        self.next += i64::try_from(lines.len())?;
        Ok(AppendLogsRequest { office_id: self.office_id.clone(), source: "bench".into(), first_index, lines })
    }

    /// Appends the batches of a round on one stream and waits until the last one is durable.
    async fn append(&mut self) -> Result<Appended> {
        let batches = (0..BATCHES).map(|_| self.batch((0..LINES).map(|_| text())));
        let batches = batches.collect::<Result<Vec<_>>>()?;
        let cpu = || {
            Ok::<_, crate::Error>((own_cpu_seconds(UsageWho::RUSAGE_SELF)?, own_cpu_seconds(UsageWho::RUSAGE_THREAD)?))
        };
        let (before, start) = (cpu()?, Instant::now());
        let mut answers = self.logs.append_logs(tokio_stream::iter(batches)).await?.into_inner();
        let mut durable = 0;
        while let Some(answer) = answers.message().await? {
            durable = answer.durable_index;
        }
        let (seconds, after) = (start.elapsed().as_secs_f64(), cpu()?);
        if durable + 1 != self.next {
            return Err(format!("durable up to line {durable}, sent up to {}", self.next - 1).into());
        }
        Ok(Appended {
            megabytes: (BATCHES * LINES * LINE) as f64 / 1e6,
            seconds,
            cpu: after.0 - before.0,
            cpu_of_load: after.1 - before.1,
        })
    }

    /// Times lines from when they are sent to when a reader who follows has them.
    async fn follow(&mut self, round: usize) -> Result<Latency> {
        let request = TailLogsRequest {
            office_id: self.office_id.clone(),
            agent: AGENT.into(),
            after_sequence: None,
            limit: Some(0),
        };
        let mut seen = self.logs.tail_logs(request).await?.into_inner();
        let (sender, batches) = mpsc::channel(1);
        let mut answers = self.logs.append_logs(ReceiverStream::new(batches)).await?.into_inner();
        let mut number = 0;
        Latency::of(FOLLOWED, async || {
            let text = format!("line {number} of round {round}");
            number += 1;
            sender.send(self.batch(std::iter::once(text.clone()))?).await?;
            let line = tokio::time::timeout(PATIENCE, seen.message()).await??;
            if line.and_then(|answer| answer.line).is_none_or(|line| line.text != text) {
                return Err("the reader sees another line".into());
            }
            // Nothing is left open when the next one is sent.
            answers.message().await?.ok_or("AppendLogs ended")?;
            Ok(())
        })
        .await
    }
}

/// A line as programs write them: it compresses, but not to nothing.
fn text() -> String {
    let mut line = format!(
        "2026-01-01T00:00:00.{:06}Z INFO worker{{task={:016x}}}: step finished status=ok took_ms={} digest=",
        fastrand::u32(..1_000_000),
        fastrand::u64(..),
        fastrand::u32(..5000),
    );
    while line.len() < LINE - 1 {
        line.push(fastrand::alphanumeric());
        line.push_str(" retried");
    }
    line.truncate(LINE - 1);
    line
}

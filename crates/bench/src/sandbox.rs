//! `sandbox`: what the sandbox adds to the start of an instance, until its program runs.

use std::{collections::BTreeMap, path::Path};

use mi_base::Tasks;
use mi_kernel::{AgentId, InstanceId, OfficeId, SystemClock};
use mi_runtime::{Launch, Limits, Place, Runtime};
use mi_runtime_process::{ProcessConfig, ProcessRuntime, Program, SandboxMode};
use tokio::sync::mpsc;

use crate::{
    ROUNDS, Result,
    latency::Latency,
    report::{Goal, Table},
};

/// Starts a round.
const STARTS: usize = 100;

pub(crate) async fn run() -> Result<Table> {
    let dir = tempfile::tempdir()?;
    let (bare, sandboxed) = (open(dir.path(), SandboxMode::Off)?, open(dir.path(), SandboxMode::Required)?);
    let (mut without, mut with, mut added) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let (off, on) = (starts(&bare).await?, starts(&sandboxed).await?);
        without.push(off);
        with.push(on);
        added.push(on - off);
    }
    let mut table = Table::new("sandbox");
    table.row("start without, p50", "ms", &without);
    table.row("start within, p50", "ms", &with);
    table.goal("what the sandbox adds, p50", "ms", &added, Goal::AtMost(10.0));
    Ok(table)
}

fn open(dir: &Path, mode: SandboxMode) -> Result<ProcessRuntime> {
    // What instances print is not read; this program prints nothing.
    let (lines, _) = mpsc::channel(1);
    let mut config = ProcessConfig::new(dir.join(format!("{mode:?}")), mode);
    config.program = Program { path: "/bin/true".into(), arguments: vec!["true".into()] };
    Ok(ProcessRuntime::open(config, lines, SystemClock::shared(), &Tasks::new())?)
}

/// Milliseconds until the program of an instance runs.
async fn starts(runtime: &ProcessRuntime) -> Result<f64> {
    let place = Place { office_id: OfficeId::new(), agent_id: AgentId::new() };
    runtime.prepare(place, None).await?;
    let mut latency = Latency::new()?;
    for _ in 0..STARTS {
        let launch = Launch {
            place,
            name: "analyst".into(),
            instance: InstanceId::new(),
            env: BTreeMap::from([("MI_ENDPOINT".to_owned(), "http://127.0.0.1:7400".to_owned())]),
            limits: Limits::default(),
        };
        let start = std::time::Instant::now();
        runtime.start(launch).await?;
        latency.record(start.elapsed());
        // It ends by itself; the next start wants its place.
        runtime.ended().await;
        let _ = runtime.stop(place).await?;
    }
    Ok(latency.millis(0.5))
}

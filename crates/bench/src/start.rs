//! `start`: how soon `mi up` serves over a data directory it knows, and what it costs when nobody calls.

use std::time::{Duration, Instant};

use crate::{
    ROUNDS, Result,
    daemon::Daemon,
    proc,
    report::{Goal, Table},
};

const STARTS: usize = 20;
/// How long nobody has called when the memory is looked at.
const SETTLED: Duration = Duration::from_secs(2);
/// How long the processor time is watched.
const IDLE: Duration = Duration::from_secs(10);

pub(crate) async fn run() -> Result<Table> {
    let dir = tempfile::tempdir()?;
    // The first start makes the databases.
    Daemon::start(dir.path()).await?.stop().await?;

    let mut took = Vec::new();
    for _ in 0..STARTS {
        let daemon = Daemon::start(dir.path()).await?;
        took.push(daemon.took.as_secs_f64() * 1e3);
        daemon.stop().await?;
    }

    let (mut rss, mut anon, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let daemon = Daemon::start(dir.path()).await?;
        tokio::time::sleep(SETTLED).await;
        let memory = proc::memory(daemon.pid())?;
        rss.push(memory.rss);
        anon.push(memory.anon);
        let (before, start) = (proc::cpu_seconds(daemon.pid())?, Instant::now());
        tokio::time::sleep(IDLE).await;
        let used = proc::cpu_seconds(daemon.pid())? - before;
        cpu.push(used / start.elapsed().as_secs_f64() * 100.0);
        daemon.stop().await?;
    }

    let mut table = Table::new("start");
    table.goal("spawn to ready file", "ms", &took, Goal::AtMost(300.0));
    table.goal("VmRSS after 2 s idle", "MB", &rss, Goal::AtMost(40.0));
    table.row("RssAnon after 2 s idle", "MB", &anon);
    table.goal("processor over 10 s idle", "% of a core", &cpu, Goal::AtMost(1.0));
    Ok(table)
}

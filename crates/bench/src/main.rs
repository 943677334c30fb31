//! Dev only: measures the platform against its goals. `mi-bench [NAME]...` prints Markdown; no name: all benchmarks.

#![expect(clippy::disallowed_methods, reason = "load that a benchmark joins, or that ends with it")]

mod compare;
mod compose;
mod credits;
mod customer;
mod daemon;
mod doors;
mod drive;
mod gateway;
mod gateway_process;
mod hire;
mod history;
mod idle;
mod kills;
mod kubernetes;
mod latency;
mod list;
mod litellm;
mod load;
mod logs;
mod metrics;
mod models;
mod offices;
mod proc;
mod proxy;
mod queue;
mod report;
mod rls;
mod sandbox;
mod start;
mod writes;

use std::{env, fs, process::ExitCode, thread, time::Duration};

use futures::{FutureExt, future::LocalBoxFuture};
use mi_base::telemetry::{self, TelemetryConfig};
use mimalloc::MiMalloc;
use tokio::runtime::{Builder, Runtime};

use crate::report::Table;

/// As `mi` has it: parts of the platform run in this process, and its clients.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// What went wrong, as a sentence for people.
type Error = Box<dyn std::error::Error + Send + Sync>;

/// What a benchmark answers.
type Result<T = (), E = Error> = std::result::Result<T, E>;

type Benchmark = fn() -> LocalBoxFuture<'static, Result<Table>>;

/// Every benchmark, in the order of a whole run.
const BENCHMARKS: &[(&str, Benchmark)] = &[
    ("start", || start::run().boxed_local()),
    ("hire", || hire::run().boxed_local()),
    ("gateway", || gateway::run().boxed_local()),
    ("gateway-process", || gateway_process::run().boxed_local()),
    ("logs", || logs::run().boxed_local()),
    ("list", || list::run().boxed_local()),
    ("rls", || rls::run().boxed_local()),
    ("sandbox", || sandbox::run().boxed_local()),
    ("queue", || queue::run().boxed_local()),
    ("load", || load::run().boxed_local()),
    ("offices", || offices::run().boxed_local()),
    ("kills", || kills::run().boxed_local()),
    ("history", || history::run().boxed_local()),
    ("idle", || idle::run().boxed_local()),
    ("drive", || drive::run().boxed_local()),
    ("credits", || credits::run().boxed_local()),
    ("doors", || doors::run().boxed_local()),
    ("models", || models::run().boxed_local()),
    ("kubernetes", || kubernetes::run().boxed_local()),
];
/// How often a measurement is repeated; tables show the median of the rounds, and their spread as the noise.
const ROUNDS: usize = 7;
/// The longest that one benchmark may take.
const LIMIT: Duration = Duration::from_secs(15 * 60);
/// Threads of the proxy: as many as `mi serve` has.
const PROXY_THREADS: usize = 2;

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let done = match args.split_first() {
        Some((name, args)) if name == "proxy" => {
            runtime(PROXY_THREADS).and_then(|runtime| runtime.block_on(proxy::run(args)))
        }
        Some((name, args)) if name == kills::WORKER => {
            runtime(1).and_then(|runtime| runtime.block_on(kills::work(args)))
        }
        Some((name, args)) if name == kubernetes::WATCHER => {
            runtime(PROXY_THREADS).and_then(|runtime| runtime.block_on(kubernetes::watch(args)))
        }
        _ => bench(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

fn runtime(threads: usize) -> Result<Runtime> {
    Ok(Builder::new_multi_thread().worker_threads(threads).enable_all().build()?)
}

fn bench(args: &[String]) -> Result {
    let names: Vec<&str> = BENCHMARKS.iter().map(|(name, _)| *name).collect();
    if let Some(unknown) = args.iter().find(|name| !names.contains(&name.as_str())) {
        return Err(format!("no benchmark `{unknown}`; there are {}", names.join(", ")).into());
    }
    // As the platform has it: spans cost what they cost there.
    let _telemetry = telemetry::init(&TelemetryConfig::default())?;
    let cores = thread::available_parallelism()?.get();
    println!("{}\n", machine(cores));
    let mut failed = Vec::new();
    for (name, run) in BENCHMARKS.iter().filter(|(name, _)| args.is_empty() || args.iter().any(|arg| arg == name)) {
        eprintln!("{name} ...");
        // A runtime each: what one leaves running cannot be measured by the next.
        let runtime = runtime(cores)?;
        match runtime.block_on(async { tokio::time::timeout(LIMIT, run()).await }) {
            Ok(Ok(table)) => println!("{table}"),
            Ok(Err(error)) => failed.push(format!("{name}: {error}")),
            Err(_) => failed.push(format!("{name}: not done after {} minutes", LIMIT.as_secs() / 60)),
        }
        runtime.shutdown_background();
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(failed.join("\nerror: ").into()),
    }
}

/// What it was measured on.
fn machine(cores: usize) -> String {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let cpu = cpus.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let debug = if cfg!(debug_assertions) { "; **a debug build, worth nothing**" } else { "" };
    format!(
        "{cores} cores, {}, Linux {}, load before {}{debug}",
        cpu.trim_start_matches([':', '\t', ' ']),
        kernel.trim(),
        load.split(' ').next().unwrap_or_default(),
    )
}

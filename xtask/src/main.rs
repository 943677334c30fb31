//! Project tasks, run as `cargo xtask TASK`.

mod bench;
mod chart;
mod deps;
mod example;
mod fuzz;
mod k8s;
mod lint;
mod openapi;
mod peers;
mod platform;
mod postgres;
mod prices;
mod process;
mod slowest;
mod test;
mod tidy;
mod up;

use std::{
    env,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// What a task answers; the error is a sentence for people.
type Result<T = (), E = String> = std::result::Result<T, E>;

const USAGE: &str = "\
Usage: cargo xtask TASK [ARGS]

  up [--once] [ARGS of mi up]        Build a release, serve, and show a working colony; --once stops after the show
  example NAME [--debug]             Build a release and show an example office at work: build-farm, pipeline, research-team
  test [--slowest N] [ARGS of cargo nextest run] Run all tests, with a Postgres of their own unless MI_TEST_POSTGRES names one; --slowest: name the N slowest
  lint                               Format, clippy, buf, tidy, check-deps, and what else is installed
  tidy                               Check the rules of the sources that no compiler knows
  check-deps                         Check which crate may depend on which
  bench [NAME]... [--peers[=ROUNDS]] Build releases and run benchmarks: start, hire, gateway, gateway-process, logs, list, rls, sandbox, queue, load, offices, kills, history, idle, drive; all unless named; --peers: job queues of others, alone or after those named
  prices [--check]                   Bring the prices of the built-in catalogue to what a public list says, or tell what differs
  chart                              Render the Helm chart with several sets of values, lint it and check what comes of it; needs Python
  k8s-test [--kubeconfig FILE] [--image REF] Test what the platform does in a cluster: in memory, or scenarios on a real one
  openapi [--check]                  Write docs/openapi.json, the description of REST, or tell that it is out of date
  fuzz [SECONDS] [TARGET]...         Try strange input on the parsers that face strangers, 10 s for each; needs a C++ compiler
";

type Task = fn(&[String]) -> Result<ExitCode>;

const TASKS: &[(&str, Task)] = &[
    ("up", up::run),
    ("example", example::run),
    ("test", test::run),
    ("lint", |args| alone(args, lint::run)),
    ("tidy", |args| alone(args, tidy::run)),
    ("check-deps", |args| alone(args, deps::run)),
    ("bench", bench::run),
    ("prices", prices::run),
    ("chart", |args| alone(args, chart::run)),
    ("openapi", openapi::run),
    ("k8s-test", k8s::run),
    ("fuzz", fuzz::run),
];

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let Some((name, rest)) = args.split_first() else {
        eprint!("{USAGE}");
        return ExitCode::from(2);
    };
    if matches!(name.as_str(), "help" | "-h" | "--help") {
        print!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    let Some((_, task)) = TASKS.iter().find(|(task, _)| task == name) else {
        eprint!("error: no task `{name}`\n\n{USAGE}");
        return ExitCode::from(2);
    };
    match process::catch_signals().and_then(|()| task(rest)) {
        Ok(code) => code,
        Err(message) => {
            eprintln!("error: {message}");
            ExitCode::FAILURE
        }
    }
}

/// Runs a task that takes no arguments.
fn alone(args: &[String], task: fn() -> Result) -> Result<ExitCode> {
    match args.first() {
        Some(arg) => Err(format!("unexpected argument `{arg}`")),
        None => task().map(|()| ExitCode::SUCCESS),
    }
}

/// The root of the workspace.
fn root() -> &'static Path {
    // The folder of the build is the folder of the run: `cargo xtask` builds, then runs.
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in a folder of the workspace")
}

/// What `cargo metadata` says; with `deps` about the whole resolved graph, else about the workspace alone.
fn metadata(deps: bool) -> Result<serde_json::Value> {
    let mut command = process::cargo(&["metadata", "--format-version", "1", "--locked"]);
    if !deps {
        command.arg("--no-deps");
    }
    let text = process::output(&mut command)?;
    serde_json::from_str(&text).map_err(|error| format!("cargo metadata: {error}"))
}

/// Where cargo builds.
fn target_directory() -> Result<PathBuf> {
    let metadata = metadata(false)?;
    let target = metadata["target_directory"].as_str();
    target.map(PathBuf::from).ok_or_else(|| "cargo metadata names no target directory".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn usage_names_every_task() {
        for (task, _) in TASKS {
            assert!(USAGE.contains(&format!("  {task}")), "{USAGE}");
        }
    }

    #[test]
    fn a_task_without_arguments_refuses_them() {
        assert_eq!(alone(&["--fast".to_owned()], || Ok(())).expect_err("refused"), "unexpected argument `--fast`");
    }
}

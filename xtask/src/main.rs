//! Project tasks, run as `cargo xtask TASK`.

mod bench;
mod deps;
mod example;
mod fuzz;
mod lint;
mod peers;
mod platform;
mod postgres;
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

/// A task of the project.
struct Task {
    name: &'static str,
    /// What follows the name on the command line.
    args: &'static str,
    about: &'static str,
    run: fn(&[String]) -> Result<ExitCode>,
}

const TASKS: &[Task] = &[
    Task {
        name: "up",
        args: "[--once] [ARGS of mi up]",
        about: "Build a release, serve, and show a working colony; --once stops after the show",
        run: up::run,
    },
    Task {
        name: "example",
        args: "NAME [--debug]",
        about: "Build a release and show an example office at work: build-farm, pipeline, research-team",
        run: example::run,
    },
    Task {
        name: "test",
        args: "[--slowest N] [ARGS of cargo nextest run]",
        about: "Run all tests, with a Postgres of their own unless MI_TEST_POSTGRES names one; --slowest: name the N slowest",
        run: test::run,
    },
    Task {
        name: "lint",
        args: "",
        about: "Format, clippy, buf, tidy, check-deps, and what else is installed",
        run: |args| alone(args, lint::run),
    },
    Task {
        name: "tidy",
        args: "",
        about: "Check the rules of the sources that no compiler knows",
        run: |args| alone(args, tidy::run),
    },
    Task {
        name: "check-deps",
        args: "",
        about: "Check which crate may depend on which",
        run: |args| alone(args, deps::run),
    },
    Task {
        name: "bench",
        args: "[NAME]... [--peers[=ROUNDS]]",
        about: "Build releases and run benchmarks: start, hire, gateway, gateway-process, logs, list, rls, sandbox, queue, kills, history, idle, drive; all unless named; --peers: job queues of others, alone or after those named",
        run: bench::run,
    },
    Task {
        name: "fuzz",
        args: "[SECONDS] [TARGET]...",
        about: "Try strange input on the parsers that face strangers, 10 s for each; needs a C++ compiler",
        run: fuzz::run,
    },
];

fn main() -> ExitCode {
    let args: Vec<String> = env::args().skip(1).collect();
    let Some((name, rest)) = args.split_first() else {
        eprint!("{}", usage());
        return ExitCode::from(2);
    };
    if matches!(name.as_str(), "help" | "-h" | "--help") {
        print!("{}", usage());
        return ExitCode::SUCCESS;
    }
    let Some(task) = TASKS.iter().find(|task| task.name == name) else {
        eprint!("error: no task `{name}`\n\n{}", usage());
        return ExitCode::from(2);
    };
    match process::catch_signals().and_then(|()| (task.run)(rest)) {
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

fn usage() -> String {
    let mut text = "Usage: cargo xtask TASK [ARGS]\n\n".to_owned();
    for task in TASKS {
        let head = format!("{} {}", task.name, task.args);
        text.push_str(&format!("  {:<34} {}\n", head.trim_end(), task.about));
    }
    text
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
        let usage = usage();
        for task in TASKS {
            assert!(usage.contains(&format!("  {}", task.name)), "{usage}");
        }
    }

    #[test]
    fn a_task_without_arguments_refuses_them() {
        assert_eq!(alone(&["--fast".to_owned()], || Ok(())).expect_err("refused"), "unexpected argument `--fast`");
    }
}

//! `cargo xtask test`: all tests, with a database server.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use crate::{Result, postgres, process, slowest};

pub(crate) fn run(args: &[String]) -> Result<ExitCode> {
    let (slow, args) = slowest::take(args)?;
    if !process::works(&mut process::cargo(&["nextest", "--version"])) {
        process::run(&mut process::cargo(&["install", "cargo-nextest", "--locked"]))?;
    }

    // The tests of whole platforms run the binary, and nextest does not build another package's.
    let start = Instant::now();
    process::run(&mut process::cargo(&["build", "--locked", "--bin", "mi"]))?;
    let build = start.elapsed();

    let (server, url) = postgres::given_or_started()?;
    slowest::forget()?;

    let start = Instant::now();
    let mut nextest = process::cargo(&["nextest", "run", "--locked"]);
    if !names_packages(&args) {
        nextest.arg("--workspace");
    }
    let status = process::status(nextest.args(args).env(postgres::SETTING, url))?;
    let run = start.elapsed();
    drop(server);
    if let Some(most) = slow {
        slowest::print(most)?;
    }

    eprintln!("mi built in {}, tests built and run in {}", seconds(build), seconds(run));
    Ok(process::exit_code(status))
}

/// Whether the arguments for nextest say which packages to test.
fn names_packages(args: &[String]) -> bool {
    args.iter()
        // What follows is for the test binaries.
        .take_while(|arg| *arg != "--")
        .any(|arg| {
            let long = arg.starts_with("--package") || arg == "--workspace" || arg == "--all";
            long || (arg.starts_with("-p") && !arg.starts_with("--"))
        })
}

fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_are_named_in_every_way_that_cargo_knows() {
        let names = |line: &str| names_packages(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        for line in ["-p mi-kernel", "-pmi-kernel", "x --package mi-kernel", "--package=mi-kernel", "--workspace"] {
            assert!(names(line), "{line}");
        }
        for line in ["", "backoff", "--profile ci", "backoff -- -p", "--no-capture"] {
            assert!(!names(line), "{line}");
        }
    }
}

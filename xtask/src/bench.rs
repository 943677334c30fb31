//! `cargo xtask bench`: the platform's benchmarks, in release builds.

use std::process::ExitCode;

use crate::{Result, process, target_directory};

pub(crate) fn run(args: &[String]) -> Result<ExitCode> {
    process::run(&mut process::cargo(&["build", "--release", "--locked", "--bin", "mi"]))?;
    let mi = target_directory()?.join("release/mi");
    let mut bench = process::cargo(&["run", "--release", "--locked", "-p", "mi-bench", "--"]);
    process::status(bench.args(args).env("MI_BIN", mi)).map(process::exit_code)
}

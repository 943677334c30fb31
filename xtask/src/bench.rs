//! `cargo xtask bench`: the platform's benchmarks, in release builds.

use std::process::ExitCode;

use crate::{
    Result,
    postgres::{self, Postgres},
    process, target_directory,
};

pub(crate) fn run(args: &[String]) -> Result<ExitCode> {
    process::run(&mut process::cargo(&["build", "--release", "--locked", "--bin", "mi"]))?;
    let mi = target_directory()?.join("release/mi");
    let mut bench = process::cargo(&["run", "--release", "--locked", "-p", "mi-bench", "--"]);
    // Only one of them needs a database server.
    let (server, url) = match args.is_empty() || args.iter().any(|name| name == "rls") {
        true => Postgres::given_or_started()?,
        false => (None, String::new()),
    };
    let status = process::status(bench.args(args).env("MI_BIN", mi).env(postgres::SETTING, url))?;
    drop(server);
    Ok(process::exit_code(status))
}

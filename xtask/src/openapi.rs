//! `cargo xtask openapi`: the description of REST, kept where people and generators find it without a platform.

use std::{fs, process::ExitCode};

use crate::{Result, process, root};

const FILE: &str = "docs/openapi.json";

pub(crate) fn run(args: &[String]) -> Result<ExitCode> {
    match args {
        [] => {
            fs::write(root().join(FILE), text()?).map_err(|error| format!("{FILE}: {error}"))?;
        }
        [flag] if flag == "--check" => check()?,
        _ => return Err("usage: cargo xtask openapi [--check]".to_owned()),
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether what is kept is what the platform would answer.
pub(crate) fn check() -> Result {
    let kept = fs::read_to_string(root().join(FILE)).unwrap_or_default();
    if kept == text()? {
        return Ok(());
    }
    Err(format!("{FILE} is out of date: run `cargo xtask openapi`"))
}

/// What the platform answers at `/openapi.json`.
fn text() -> Result<String> {
    process::output(&mut process::cargo(&["run", "--quiet", "--locked", "-p", "mi-http", "--example", "openapi"]))
}

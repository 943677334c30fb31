//! `cargo xtask lint`: everything that can be said about the sources without running them.

use std::{path::PathBuf, process::Command};

use crate::{Result, chart, deps, openapi, process, target_directory, tidy};

/// Tools that not everybody has: checked with where installed.
const OPTIONAL: &[(&str, &[&str])] =
    &[("cargo-deny", &["deny", "check", "licenses", "bans", "sources"]), ("cargo-machete", &["machete"])];

pub(crate) fn run() -> Result {
    let mut failures = Vec::new();
    // All of them, whatever fails: one run tells everything that is to be mended.
    let mut note = |result: Result| {
        if let Err(error) = result {
            eprintln!("{error}");
            failures.push(error);
        }
    };

    note(process::run(&mut process::cargo(&["fmt", "--all", "--check"])));
    note(process::run(&mut process::cargo(&[
        "clippy",
        "--workspace",
        "--all-targets",
        "--locked",
        "--",
        "-D",
        "warnings",
    ])));
    match buf() {
        Ok(buf) => {
            note(process::run(process::at_root(&buf).arg("lint")));
            note(process::run(process::at_root(&buf).args(["format", "--diff", "--exit-code"])));
        }
        Err(error) => note(Err(error)),
    }
    note(openapi::check());
    note(tidy::run());
    note(deps::run());
    match chart::run_if_installed() {
        Ok(true) => {}
        Ok(false) => eprintln!("skipped the chart: its tools are not installed (`cargo xtask chart`)"),
        Err(error) => note(Err(error)),
    }
    for (tool, args) in OPTIONAL {
        // The tool itself, not `cargo TOOL --version`: some take that as a folder to check.
        if process::works(Command::new(tool).arg("--version")) {
            note(process::run(&mut process::cargo(args)));
        } else {
            eprintln!("skipped {tool}: not installed (`cargo install {tool} --locked`)");
        }
    }

    match failures.len() {
        0 => Ok(()),
        count => Err(format!("{count} checks failed")),
    }
}

/// `buf`: the one on the path, else one in a virtual environment of its own under the target directory.
fn buf() -> Result<PathBuf> {
    let installed = PathBuf::from("buf");
    if process::works(Command::new(&installed).arg("--version")) {
        return Ok(installed);
    }
    let dir = target_directory()?.join("tools/buf");
    let own = dir.join("bin/buf");
    if !process::works(Command::new(&own).arg("--version")) {
        process::run(Command::new("python3").args(["-m", "venv"]).arg(&dir))?;
        process::run(Command::new(dir.join("bin/pip")).args(["install", "--quiet", "buf-bin"]))?;
    }
    Ok(own)
}

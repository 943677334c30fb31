//! `cargo xtask fuzz`: strange input for every parser that faces strangers, for a short while.

use std::{
    fs,
    path::Path,
    process::{Command, ExitCode, Stdio},
};

use crate::{Result, process, root, target_directory, tidy::entries};

/// The package of the targets.
const PACKAGE: &str = "crates/fuzz";
const DEFAULT_SECONDS: u32 = 10;
/// Coverage as libFuzzer wants it, which the stable compiler makes with LLVM's own pass.
const COVERAGE: &str = "-Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares";

pub(crate) fn run(args: &[String]) -> Result<ExitCode> {
    let known = targets()?;
    let (seconds, chosen) = arguments(args, &known)?;
    let host = host()?;
    // Apart from all other builds, which know nothing of these flags.
    let dir = target_directory()?.join("fuzz");
    let mut build = process::cargo(&["build", "--locked", "-p", "mi-fuzz", "--features", "libfuzzer"]);
    build.args(["--profile", "fuzz", "--target-dir"]).arg(&dir);
    // Named, though it is the host: the flags are not for build scripts then.
    build.args(["--target", &host]).env("RUSTFLAGS", COVERAGE);
    for target in &chosen {
        build.args(["--bin", target]);
    }
    process::run(&mut build)?;

    let mut failures = Vec::new();
    for target in &chosen {
        let program = dir.join(&host).join("fuzz").join(target);
        match fuzz(&program, &dir, target, seconds) {
            Ok(executions) => println!("{target}: {executions} executions, nothing found"),
            // An interrupted run is no finding.
            Err(error) if process::interrupted() => return Err(error),
            Err(error) => failures.push(error),
        }
    }
    match failures.is_empty() {
        true => Ok(ExitCode::SUCCESS),
        false => Err(failures.join("\n")),
    }
}

/// Runs one target; answers how many inputs it tried.
fn fuzz(program: &Path, dir: &Path, target: &str, seconds: u32) -> Result<String> {
    // What it learns is kept for the next run.
    let (corpus, found) = (dir.join("corpus").join(target), dir.join("found").join(target));
    for folder in [&corpus, &found] {
        fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    let log = dir.join(format!("{target}.log"));
    let unwritable = |error| format!("{}: {error}", log.display());
    let file = fs::File::create(&log).map_err(unwritable)?;
    let mut command = Command::new(program);
    command
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-artifact_prefix={}/", found.display()))
        .args(["-timeout=10", "-print_final_stats=1"])
        .arg(&corpus)
        .arg(root().join(PACKAGE).join("seeds").join(target))
        .stdout(Stdio::null())
        .stderr(file);
    let status = process::status(&mut command)?;
    let said = String::from_utf8_lossy(&fs::read(&log).map_err(unwritable)?).into_owned();
    match status.success() {
        true => after(&said, "stat::number_of_executed_units:")
            .map(str::to_owned)
            .ok_or_else(|| format!("{target}: {} has no count of executions", log.display())),
        false => {
            eprintln!("{}", ending(&said));
            let input = after(&said, "Test unit written to").unwrap_or("in no file");
            Err(format!("{target}: {status}; the input is {input}, all that was said in {}", log.display()))
        }
    }
}

/// The seconds for each target and the targets: all of them unless some are named.
fn arguments(args: &[String], known: &[String]) -> Result<(u32, Vec<String>)> {
    let (seconds, named) = match args.split_first().map(|(first, rest)| (first.parse(), rest)) {
        Some((Ok(0), _)) => return Err("SECONDS must be at least 1".to_owned()),
        Some((Ok(seconds), rest)) => (seconds, rest),
        _ => (DEFAULT_SECONDS, args),
    };
    if let Some(unknown) = named.iter().find(|name| !known.contains(name)) {
        return Err(format!("no target `{unknown}`; there are {}", known.join(", ")));
    }
    Ok((seconds, if named.is_empty() { known } else { named }.to_vec()))
}

/// The names of the targets, which are those of their programs.
fn targets() -> Result<Vec<String>> {
    let programs = entries(&root().join(PACKAGE).join("fuzz_targets"))?;
    Ok(programs.iter().filter_map(|path| path.file_stem()).map(|stem| stem.to_string_lossy().into_owned()).collect())
}

/// The platform that the compiler runs on.
fn host() -> Result<String> {
    let said = process::output(process::at_root("rustc").arg("-vV"))?;
    after(&said, "host:").map(str::to_owned).ok_or_else(|| "rustc names no host".to_owned())
}

/// What follows these words on the last line that has them.
fn after<'a>(text: &'a str, words: &str) -> Option<&'a str> {
    text.lines().rev().find_map(|line| line.split_once(words)).map(|(_, rest)| rest.trim())
}

/// The last lines, which say what went wrong.
fn ending(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_and_targets_may_be_named() {
        let known = ["names", "token"].map(str::to_owned);
        let arguments = |line: &str| {
            let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            arguments(&args, &known)
        };
        assert_eq!(arguments(""), Ok((10, known.to_vec())));
        assert_eq!(arguments("60"), Ok((60, known.to_vec())));
        assert_eq!(arguments("token"), Ok((10, vec!["token".to_owned()])));
        assert_eq!(arguments("3 token"), Ok((3, vec!["token".to_owned()])));
        assert_eq!(arguments("0"), Err("SECONDS must be at least 1".to_owned()));
        assert_eq!(arguments("3 path"), Err("no target `path`; there are names, token".to_owned()));
    }

    #[test]
    fn every_target_has_seeds() {
        let targets = targets().expect("a folder of targets");
        assert!(targets.contains(&"token".to_owned()), "{targets:?}");
        for target in targets {
            assert!(root().join(PACKAGE).join("seeds").join(&target).is_dir(), "{target}");
        }
    }

    #[test]
    fn a_run_is_told_by_what_libfuzzer_says() {
        let said =
            "stat::number_of_executed_units: 12\nartifact_prefix='/f/'; Test unit written to /f/crash-1\nBase64: AA\n";
        assert_eq!(after(said, "stat::number_of_executed_units:"), Some("12"));
        assert_eq!(after(said, "Test unit written to"), Some("/f/crash-1"));
        assert_eq!(after(said, "host:"), None);
    }
}

//! `cargo xtask example`: one of the example offices at work, on a platform of its own that is gone afterwards.

use std::{
    io::{BufRead, BufReader},
    path::PathBuf,
    process::{Child, Command, ExitCode, Stdio},
};

use crate::{
    Result,
    platform::{self, Platform},
    process, root, target_directory,
    tidy::{entries, name},
};

const FOLDER: &str = "deploy/examples";
const DEBUG: &str = "--debug";
/// What an example is run by that has no office of its own as a file.
const SCRIPT: &str = "run.sh";
/// The example whose agents have a model.
const MODELLED: &str = "research-team";

pub(crate) fn run(args: &[String]) -> Result<ExitCode> {
    let known = names()?;
    let (name, release) = arguments(args, &known)?;
    let mi = platform::build(release)?;
    let script = root().join(FOLDER).join(name).join(SCRIPT);
    if script.is_file() {
        return process::status(Command::new("sh").arg(script).env("MI", mi)).map(process::exit_code);
    }
    let dir = tempfile::tempdir().map_err(|error| format!("no temporary directory: {error}"))?;
    let mut up: Vec<String> = ["--listen", "127.0.0.1:0", "--metrics-listen", "127.0.0.1:0"].map(str::to_owned).into();
    for (flag, folder) in [("--data-dir", "data"), ("--config-dir", "config")] {
        up.extend([flag.to_owned(), dir.path().join(folder).display().to_string()]);
    }
    // Dropped last: whoever works asks it to the end.
    let model = (name == MODELLED).then(Model::start).transpose()?;
    up.extend(model.iter().flat_map(|model| model.flags.clone()));
    let (platform, client) = Platform::start(&mi, &up)?;
    client.run(&["apply", "-f", &office_file(name), "--wait"])?;
    platform.stop().map(process::exit_code)
}

/// A server that speaks as a model does, stopped when dropped.
struct Model {
    child: Child,
    /// What tells a platform of it.
    flags: Vec<String>,
}

impl Model {
    fn start() -> Result<Self> {
        process::run(&mut process::cargo(&["build", "--locked", "-p", "mi-testkit", "--bin", "fake-model"]))?;
        let mut command = Command::new(target_directory()?.join("debug/fake-model"));
        let mut child = process::spawn(command.arg("127.0.0.1:0").stdin(Stdio::null()).stdout(Stdio::piped()))?;
        let mut line = String::new();
        let said = child.stdout.take().map(|out| BufReader::new(out).read_line(&mut line));
        let model = Self { child, flags: line.split_whitespace().map(str::to_owned).collect() };
        match (said, model.flags.is_empty()) {
            (Some(Ok(_)), false) => Ok(model),
            _ => Err("the fake model does not say where it serves".to_owned()),
        }
    }
}

impl Drop for Model {
    fn drop(&mut self) {
        // Errors mean that it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The file of an example.
pub(crate) fn office_file(name: &str) -> String {
    root().join(FOLDER).join(name).join("office.yaml").display().to_string()
}

/// Which example, and whether as a release build.
fn arguments<'a>(args: &'a [String], known: &[String]) -> Result<(&'a str, bool)> {
    let names: Vec<&String> = args.iter().filter(|arg| *arg != DEBUG).collect();
    match names.as_slice() {
        [name] if known.contains(name) => Ok((name.as_str(), names.len() == args.len())),
        [name] => Err(format!("no example `{name}`; there are {}", known.join(", "))),
        _ => Err(format!("name one example: {}", known.join(", "))),
    }
}

/// The examples that there are.
fn names() -> Result<Vec<String>> {
    let is_one = |path: &PathBuf| path.join("office.yaml").is_file() || path.join(SCRIPT).is_file();
    let folders = entries(&root().join(FOLDER))?.into_iter().filter(is_one);
    Ok(folders.map(|path| name(&path)).collect())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn an_example_is_named() {
        let known = ["build-farm", "pipeline"].map(str::to_owned);
        let given = |line: &str| {
            let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            arguments(&args, &known).map(|(name, release)| (name.to_owned(), release))
        };
        assert_eq!(given("pipeline"), Ok(("pipeline".to_owned(), true)));
        assert_eq!(given("--debug build-farm"), Ok(("build-farm".to_owned(), false)));
        assert_eq!(given("nothing"), Err("no example `nothing`; there are build-farm, pipeline".to_owned()));
        assert_eq!(given(""), Err("name one example: build-farm, pipeline".to_owned()));
        assert_eq!(given("pipeline build-farm"), given(""));
    }

    #[test]
    fn every_example_says_what_it_is() {
        let names = names().expect("a folder of examples");
        assert!(names.contains(&"pipeline".to_owned()), "{names:?}");
        for name in names {
            assert!(Path::new(&office_file(&name)).with_file_name("README.md").is_file(), "{name}");
        }
    }
}

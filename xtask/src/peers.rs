//! The job queues of others, measured beside the platform's own on the same Postgres.

#[cfg_attr(not(test), expect(dead_code, reason = "nobody sets goals for others"))]
#[path = "../../crates/bench/src/report.rs"]
mod report;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

use self::report::Table;
use crate::{Result, postgres, process, root, target_directory};

const SCRIPTS: &str = "crates/bench/peers";
/// Each runs one round: a program of the environment, and what follows on its command line.
const PEERS: &[(&str, &[&str])] = &[
    ("node", &["graphile.mjs"]),
    ("node", &["pgboss.mjs"]),
    // Isolated: the script has the name of the package.
    ("python", &["-I", "pgqueuer.py"]),
    ("node", &["bare.mjs"]),
];
/// Jobs of a round, as many as of the platform's own: one after the other, and in heaps.
const JOBS: &[(&str, &str)] = &[("PEER_LATENCIES", "300"), ("PEER_SINGLE", "4000"), ("PEER_BATCHED", "20000")];
pub(crate) const ROUNDS: u32 = 3;

/// The peers, installed with all that they need.
pub(crate) struct Peers {
    dir: PathBuf,
}

impl Peers {
    /// Installs them under the build directory. Python's package index has Node as well, so Python is all that must be
    /// there, and everybody measures with the same version.
    pub(crate) fn install() -> Result<Self> {
        let dir = target_directory()?.join("bench-peers");
        copy(&root().join(SCRIPTS), &dir)?;
        let peers = Self { dir };
        let mut python = Command::new("python3");
        process::run(python.args(["-m", "venv"]).arg(peers.dir.join("venv"))).map_err(|error| {
            format!("{error}\nthe peers need Python 3.10 or newer with venv (Debian: `apt-get install python3-venv`)")
        })?;
        process::run(peers.program("python").args(["-m", "pip", "install", "--quiet", "-r", "requirements.txt"]))?;
        // Nothing of a package runs while it is installed.
        process::run(peers.program("npm").args(["ci", "--ignore-scripts", "--silent"]))?;
        Ok(peers)
    }

    /// Runs the rounds, those of the peers in turns: what disturbs one of them disturbs all.
    pub(crate) fn measure(&self, url: &str, rounds: u32) -> Result<Table> {
        let mut rows = Vec::new();
        for round in 1..=rounds {
            for (program, args) in PEERS {
                let mut script = self.program(program);
                script.args(*args).env(postgres::SETTING, url).envs(JOBS.iter().copied());
                eprintln!("{}, round {round} ...", process::line(&script));
                add(&mut rows, &process::output(&mut script)?)?;
            }
        }
        let mut table = Table::new("peers of the queue");
        for Row { what, unit, values } in &rows {
            table.row(what, unit, values);
        }
        Ok(table)
    }

    /// A program of the environment, in its folder.
    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(self.dir.join("venv/bin").join(name));
        // `npm` looks for `node` there.
        command.current_dir(&self.dir);
        command
    }
}

/// A line of the table to be.
#[derive(Debug, PartialEq)]
struct Row {
    what: String,
    unit: String,
    /// One a round.
    values: Vec<f64>,
}

/// Adds what a script printed, an object a line, to the rows of the rounds before.
fn add(rows: &mut Vec<Row>, printed: &str) -> Result {
    for line in printed.lines() {
        let object: Value = serde_json::from_str(line).map_err(|error| format!("a peer printed `{line}`: {error}"))?;
        let text = |field: &str| object[field].as_str().ok_or_else(|| format!("no `{field}` in `{line}`"));
        let value = object["value"].as_f64().ok_or_else(|| format!("no number `value` in `{line}`"))?;
        let (what, unit) = (format!("{}: {}", text("peer")?, text("what")?), text("unit")?);
        match rows.iter_mut().find(|row| row.what == what) {
            Some(row) => row.values.push(value),
            None => rows.push(Row { what, unit: unit.to_owned(), values: vec![value] }),
        }
    }
    Ok(())
}

/// Copies the files of a folder into another.
fn copy(from: &Path, to: &Path) -> Result {
    let failed = |path: &Path, error| format!("{}: {error}", path.display());
    fs::create_dir_all(to).map_err(|error| failed(to, error))?;
    for entry in fs::read_dir(from).map_err(|error| failed(from, error))? {
        let entry = entry.map_err(|error| failed(from, error))?;
        fs::copy(entry.path(), to.join(entry.file_name())).map_err(|error| failed(&entry.path(), error))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_come_together_by_peer_and_measurement() {
        let mut rows = Vec::new();
        let line =
            |peer: &str, value: f64| format!(r#"{{"peer": "{peer}", "what": "w", "unit": "ms", "value": {value}}}"#);
        add(&mut rows, &format!("{}\n{}\n", line("a", 1.5), line("b", 2.0))).expect("added");
        add(&mut rows, &line("a", 3.0)).expect("added");
        let row = |what: &str, values: &[f64]| Row { what: what.into(), unit: "ms".into(), values: values.to_vec() };
        assert_eq!(rows, [row("a: w", &[1.5, 3.0]), row("b: w", &[2.0])]);

        let refused =
            add(&mut rows, r#"{"peer": "a", "what": "w", "unit": "ms", "value": null}"#).expect_err("refused");
        assert_eq!(refused, r#"no number `value` in `{"peer": "a", "what": "w", "unit": "ms", "value": null}`"#);
        let refused = add(&mut rows, "oh").expect_err("refused");
        assert!(refused.starts_with("a peer printed `oh`: "), "{refused}");
    }
}

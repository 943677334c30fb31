//! The protocol's own libraries, from PyPI and npm, as they are.
//!
//! The packages come from the network, so this does something only where `MI_TEST_SDK` names a directory for them.

use std::{env, fs, path::PathBuf, process::Command};

use mi_e2e::World;
use mi_testkit::{Arrangement, Backend};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::{Mcp, office};

const PROGRAMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/sdk");

fn ran(command: &mut Command) -> String {
    let ran = command.output().expect("it runs");
    assert!(ran.status.success(), "{command:?}: {ran:?}");
    String::from_utf8(ran.stdout).expect("text")
}

/// The programs, ready to run, after their packages were installed.
fn programs(packages: &str) -> [Command; 2] {
    let directory = PathBuf::from(packages).join("mcp");
    fs::create_dir_all(&directory).expect("made");
    let directory = fs::canonicalize(directory).expect("there");
    let python = directory.join("venv/bin/python");
    if !python.exists() {
        ran(Command::new("python3").args(["-m", "venv"]).arg(directory.join("venv")));
        ran(Command::new(&python).args(["-m", "pip", "install", "--quiet", "mcp"]));
    }
    if !directory.join("node_modules").exists() {
        let mut npm = Command::new("npm");
        npm.args(["install", "--silent", "--no-fund", "--no-audit", "--prefix"]).arg(&directory);
        ran(npm.arg("@modelcontextprotocol/sdk"));
    }
    // Programs in JavaScript find packages beside themselves only.
    let script = directory.join("mcp_client.mjs");
    fs::copy(format!("{PROGRAMS}/mcp_client.mjs"), &script).expect("copied");
    let (mut one, mut other) = (Command::new(python), Command::new("node"));
    one.arg(format!("{PROGRAMS}/mcp_client.py")).args(["legacy", super::NEWER]);
    other.arg(script);
    [one, other]
}

#[tokio::test]
async fn the_protocols_own_clients_work_as_they_are() {
    let Ok(packages) = env::var("MI_TEST_SDK") else { return };
    let world = World::start(Backend::Sqlite, Arrangement::OneProcess).await;
    let mcp = Mcp::of_account(&world, "acme").await;
    let id = office(&mcp, "Clients").await;
    let (url, key) = (mcp.url.clone(), mcp.key.clone().expect("a key"));
    let said = spawn_blocking(move || {
        let told = programs(&packages)
            .map(|mut program| ran(program.env("MI_MCP_URL", &url).env("MI_MCP_TOKEN", &key).env("MI_OFFICE_ID", &id)));
        told.concat()
    });
    let said = said.await.expect("they ran");
    let said: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let expected = json!({
        "tools": 25, "status": "TASK_STATUS_DONE", "greeted": true, "noted": true, "read": "héllo", "listed": true,
        "refused": [true, "NOT_FOUND"]});
    // Python in both eras, and JavaScript.
    assert_eq!(said, vec![expected; 3]);
}

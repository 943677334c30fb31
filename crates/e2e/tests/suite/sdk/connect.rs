//! The libraries of the Connect protocol, as they come from PyPI and npm: every public RPC, by every transport they have.

use std::{path::PathBuf, process::Command};

use mi_e2e::World;
use mi_proto::rules;
use mi_testkit::{Arrangement, Backend};
use serde_json::Value;

use super::packages;

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/sdk/connect/run.py");
const PROTOS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../proto");
/// RPCs that would end the office or take long for nothing: they are not called.
const LEFT_OUT: usize = 3;

#[tokio::test]
async fn connect_libraries_work_as_they_are() {
    let Some(packages) = packages() else { return };
    let world = World::start(Backend::Sqlite, Arrangement::ProcessPerRole).await;
    let public =
        |streaming| rules::all().filter(|rule| rule.path.starts_with("/mi.v1.") && rule.streaming == streaming).count();
    let directory: PathBuf = packages.join("connect");
    let mut command = Command::new("python3");
    command.arg(SCRIPT).arg("--packages").arg(directory).args(["--protos", PROTOS]);
    command.env("MI_ENDPOINT", world.platform.endpoint()).env("MI_API_KEY", world.platform.admin_key());
    let ran = tokio::task::spawn_blocking(move || command.output()).await.expect("joined").expect("runs");
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}{}", String::from_utf8_lossy(&ran.stderr));
    let told: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(told.len(), 8, "{said}");
    for told in &told {
        assert_eq!(told["strange"], serde_json::json!([]), "{told}");
        assert_eq!(told["unary"], public(false) - LEFT_OUT, "{told}");
    }
    let most = told.iter().filter_map(|told| told["streams"].as_u64()).max();
    assert_eq!(most, Some(public(true) as u64), "some transport carries every stream: {said}");
}

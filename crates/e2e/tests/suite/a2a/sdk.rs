//! The protocol's own library, from PyPI, as it is.
//!
//! The package comes from the network, so this does something only where `MI_TEST_SDK` names a directory for it.

use std::{env, fs, path::PathBuf, process::Command};

use mi_e2e::World;
use mi_testkit::{Arrangement, Backend};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;

use super::hired;

const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/sdk/a2a_client.py");

fn ran(command: &mut Command) -> String {
    let ran = command.output().expect("it runs");
    assert!(ran.status.success(), "{command:?}: {ran:?}");
    String::from_utf8(ran.stdout).expect("text")
}

/// The interpreter that finds the package, after it was installed.
fn python(packages: &str) -> PathBuf {
    let directory = PathBuf::from(packages).join("a2a");
    fs::create_dir_all(&directory).expect("made");
    let directory = fs::canonicalize(directory).expect("there");
    let python = directory.join("venv/bin/python");
    if !python.exists() {
        ran(Command::new("python3").args(["-m", "venv"]).arg(directory.join("venv")));
        ran(Command::new(&python).args(["-m", "pip", "install", "--quiet", "a2a-sdk[grpc,http-server,signing]"]));
    }
    python
}

#[tokio::test]
async fn the_protocols_own_client_works_as_it_is() {
    let Ok(packages) = env::var("MI_TEST_SDK") else { return };
    let world = World::start(Backend::Sqlite, Arrangement::OneProcess).await;
    let (_, office) = hired(&world, "acme", &["ann", "bob"]).await;
    let (url, key) = (world.platform.endpoint().to_owned(), world.platform.admin_key().to_owned());
    let said = spawn_blocking(move || {
        let mut program = Command::new(python(&packages));
        ran(program.arg(PROGRAM).env("MI_ENDPOINT", &url).env("MI_API_KEY", &key).env("MI_OFFICE_ID", &office))
    });
    let said = said.await.expect("it ran");
    let said: Vec<Value> = said.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let expected = json!({
        "card": ["ann", true, "InvalidSignaturesError"],
        "blocking": ["TASK_STATE_COMPLETED", "exit code: 0\n--- stdout\nhello\n"],
        "history": [0, "echo hello"],
        "streamed": ["task", "artifact_update", "TASK_STATE_COMPLETED"],
        "cancelled": ["TASK_STATE_CANCELED", ["task", "status_update"]],
        "listed": [1, true, 2, true],
        "conversation": 1,
        "refused": [
            "TaskNotCancelableError", "TaskNotFoundError", "TaskNotFoundError", "PushNotificationNotSupportedError",
            "PushNotificationNotSupportedError", "PushNotificationNotSupportedError", "UnsupportedOperationError",
            "UnsupportedOperationError", "ContentTypeNotSupportedError", "InvalidParamsError", "InvalidParamsError",
        ],
    });
    // JSON-RPC, REST and gRPC.
    assert_eq!(said, vec![expected; 3]);
}

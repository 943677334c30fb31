//! Our own clients in other languages, whose tests run with the runner of their language.

use std::process::Command;

use mi_testkit::platform::binary;

use super::packages;

const TYPESCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../sdk/typescript");

#[tokio::test]
async fn the_typescript_client_passes_its_tests() {
    if packages().is_none() {
        return;
    }
    for arguments in [&["ci", "--silent", "--no-fund", "--no-audit"][..], &["test"]] {
        let mut npm = Command::new("npm");
        npm.args(arguments).current_dir(TYPESCRIPT).env("MI_BIN", binary());
        let ran = tokio::task::spawn_blocking(move || npm.output()).await.expect("joined").expect("npm runs");
        let (said, told) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
        assert!(ran.status.success(), "npm {arguments:?}\n{said}{told}");
    }
}

//! Completion as the shells ask for it.

use std::process::Stdio;

use mi_e2e::{LIMIT, World};
use mi_testkit::{Arrangement, Backend, Platform};

/// What is offered for the last of these words.
async fn completed(platform: &Platform, words: &[&str]) -> Vec<String> {
    let output = asked(platform.endpoint(), words).env("MI_CONFIG_DIR", platform.config_dir()).output().await;
    let output = output.expect("ran");
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    String::from_utf8(output.stdout).expect("text").lines().map(str::to_owned).collect()
}

/// `mi` as the script for bash calls it.
fn asked(endpoint: &str, words: &[&str]) -> tokio::process::Command {
    let mut command = tokio::process::Command::new(mi_testkit::platform::binary());
    command
        .args(["--", "mi", "--endpoint", endpoint])
        .args(words)
        .env("MI_COMPLETE", "bash")
        .env("_CLAP_IFS", "\n")
        .env("_CLAP_COMPLETE_INDEX", (words.len() + 2).to_string())
        .env_remove("MI_COLONY")
        .env_remove("MI_API_KEY")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

#[tokio::test]
async fn what_the_platform_has_is_completed() {
    let world = World::start(Backend::Sqlite, Arrangement::OneProcess).await;
    let platform = &world.platform;
    let mi = async |args: &[&str]| {
        let mut command = tokio::process::Command::new(mi_testkit::platform::binary());
        command.args(args).arg("-q").env("MI_CONFIG_DIR", platform.config_dir()).env_remove("MI_COLONY");
        let output = command.output().await.expect("ran");
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    };
    mi(&["colonies", "create", "home"]).await;
    mi(&["agents", "hire", "analyst"]).await;
    mi(&["agents", "hire", "archivist"]).await;
    let task = mi(&["tasks", "create", "--title", "Think"]).await;
    for path in ["reports/a.md", "reports/b.md", "readme.md", "$(id).md"] {
        mi(&["files", "put", "/dev/null", path]).await;
    }
    assert_eq!(completed(platform, &["agents", "get", "an"]).await, ["analyst"]);
    assert_eq!(completed(platform, &["agents", "logs", "home", "a"]).await, ["analyst", "archivist"]);
    assert_eq!(completed(platform, &["agents", "list", "--colony", "h"]).await, ["home"]);
    assert_eq!(completed(platform, &["agents", "fire", "h"]).await, ["home"]);
    assert_eq!(completed(platform, &["tasks", "get", &task[..9]]).await, [task.as_str()]);
    assert_eq!(completed(platform, &["files", "get", "re"]).await, ["readme.md", "reports/"]);
    assert_eq!(completed(platform, &["files", "get", "reports/"]).await, ["reports/a.md", "reports/b.md"]);
    // Its name would be run by the shell.
    assert_eq!(completed(platform, &["files", "get", "$"]).await, [""; 0]);
    assert_eq!(completed(platform, &["agents", "hire", "--model", "op"]).await, ["opus"]);
    assert_eq!(completed(platform, &["colonies", "settings", "home", "max_a"]).await, ["max_agents="]);
    // A name of two words is no word for a shell; its id is.
    let away = mi(&["colonies", "create", "Far away"]).await;
    assert_eq!(completed(platform, &["use", ""]).await[..2], ["home", away.as_str()]);
    assert_eq!(completed(platform, &["use", "nothing"]).await, [""; 0]);
}

#[tokio::test]
async fn nothing_is_said_about_a_platform_that_does_not_answer() {
    let config = tempfile::tempdir().expect("made");
    // It takes connections, and nothing more.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let endpoint = format!("http://{}", silent.local_addr().expect("bound"));
    let mut shell = asked(&endpoint, &["agents", "get", "a"]);
    let output = tokio::time::timeout(LIMIT, shell.env("MI_CONFIG_DIR", config.path()).output()).await;
    let output = output.expect("ends by itself").expect("ran");
    assert_eq!((output.stdout.as_slice(), output.stderr.as_slice()), (&b""[..], &b""[..]));
}

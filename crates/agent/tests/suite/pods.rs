//! What an agent needs where a cluster runs it: a token that comes later, probes, and a workspace that it moves itself.

use std::{fs, net::SocketAddr, path::Path, sync::Arc};

use mi_agent::{AgentConfig, EnrolToken, SaveConfig};
use mi_testkit::until;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};
use tonic::Code;

use crate::platform::{LONG, Platform, Running, config, limited};

fn calls(platform: &Platform, name: &str) -> usize {
    platform.calls.lock().expect("lock").iter().filter(|call| *call == name).count()
}

async fn in_session(platform: &Platform, sessions: usize) {
    until("it has its session", LONG, async || {
        Ok::<_, String>((platform.sessions.lock().expect("lock").len() == sessions).then_some(()))
    })
    .await;
}

/// The same agent, started once more.
fn pod(endpoint: &str, dir: &tempfile::TempDir, like: Option<&AgentConfig>) -> AgentConfig {
    let mut config = config(endpoint.to_owned(), dir);
    config.agent_id = like.map_or(config.agent_id, |like| like.agent_id);
    config.enrol_token = EnrolToken::File(dir.path().join("token"));
    config
}

async fn asked(address: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("listens");
    stream.write_all(format!("GET {path} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes()).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    answer.lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_token_may_come_late_or_be_wrong_first_and_an_enrolled_key_needs_none() {
    let (platform, dir) = (Arc::new(Platform::default()), tempfile::tempdir().expect("temp dir"));
    let endpoint = platform.serve().await;
    let (file, free) = (dir.path().join("token"), std::net::TcpListener::bind("127.0.0.1:0").expect("bound"));
    let address = free.local_addr().expect("bound");
    drop(free);
    let config = AgentConfig { health: Some(address), ..pod(&endpoint, &dir, None) };
    let again = pod(&endpoint, &dir, Some(&config));
    let agent = Running::start(config);
    until("it listens", LONG, async || Ok::<_, String>(TcpStream::connect(address).await.ok().map(drop))).await;
    assert_eq!(asked(address, "/livez").await, "HTTP/1.1 200 OK");
    assert_eq!(asked(address, "/readyz").await, "HTTP/1.1 503 Service Unavailable");
    assert_eq!(asked(address, "/").await, "HTTP/1.1 404 Not Found");

    fs::write(&file, "an old one\n").expect("written");
    until("it is refused", LONG, async || Ok::<_, String>((calls(&platform, "EnrolAgent") == 1).then_some(()))).await;
    fs::write(&file, "token\n").expect("written");
    in_session(&platform, 1).await;
    assert_eq!(calls(&platform, "EnrolAgent"), 2);
    until("it is ready", LONG, async || {
        Ok::<_, String>((asked(address, "/readyz").await == "HTTP/1.1 200 OK").then_some(()))
    })
    .await;
    agent.stop().await;
    TcpStream::connect(address).await.expect_err("nothing listens any more");

    fs::remove_file(&file).expect("removed");
    let agent = Running::start(again);
    in_session(&platform, 2).await;
    agent.stop().await;
    assert_eq!(calls(&platform, "EnrolAgent"), 2);
}

fn packed(directory: &Path) -> Vec<u8> {
    let output = tempfile::NamedTempFile::new().expect("made");
    mi_archive::pack(directory, Box::new(output.reopen().expect("opened"))).expect("packed");
    fs::read(output.path()).expect("read")
}

#[tokio::test]
async fn a_workspace_is_restored_whole_and_once_however_often_its_stream_breaks() {
    let old = tempfile::tempdir().expect("made");
    fs::create_dir(old.path().join("reports")).expect("made");
    let noise: Vec<u8> = (0..200_000_u32).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    fs::write(old.path().join("reports/a.md"), &noise).expect("written");
    fs::write(old.path().join(".hidden"), "hidden").expect("written");
    let platform = Arc::new(Platform { loads_broken: 2.into(), ..Platform::default() });
    *platform.backup.lock().expect("lock") = packed(old.path());
    let (endpoint, dir) = (platform.serve().await, tempfile::tempdir().expect("temp dir"));
    fs::write(dir.path().join("token"), "token").expect("written");
    let config = AgentConfig { restore: true, ..pod(&endpoint, &dir, None) };
    let again = AgentConfig { restore: true, ..pod(&endpoint, &dir, Some(&config)) };
    let workspace = config.work.workspace.clone();
    // What a process left that died while it moved.
    fs::create_dir_all(workspace.join("reports/half")).expect("made");
    let agent = Running::start(config);
    in_session(&platform, 1).await;
    agent.stop().await;
    assert_eq!(calls(&platform, "LoadWorkspace"), 3);
    let mut names: Vec<_> =
        fs::read_dir(&workspace).expect("there").map(|entry| entry.expect("read").file_name()).collect();
    names.sort();
    assert_eq!(names, [".hidden", "reports"]);
    assert_eq!(fs::read(workspace.join("reports/a.md")).expect("there"), noise);
    assert!(!workspace.join("reports/half").exists());

    fs::write(workspace.join("reports/a.md"), "changed since").expect("written");
    let agent = Running::start(again);
    in_session(&platform, 2).await;
    agent.stop().await;
    assert_eq!(calls(&platform, "LoadWorkspace"), 3);
    assert_eq!(fs::read_to_string(workspace.join("reports/a.md")).expect("there"), "changed since");
}

#[tokio::test]
async fn without_a_backup_the_agent_says_why_it_cannot_start() {
    let (platform, dir) = (Arc::new(Platform::default()), tempfile::tempdir().expect("temp dir"));
    platform.refuse("LoadWorkspace", Code::FailedPrecondition, "it was not hired from a backup");
    fs::write(dir.path().join("token"), "token").expect("written");
    let config = AgentConfig { restore: true, ..pod(&platform.serve().await, &dir, None) };
    let error = limited(mi_agent::run(config, std::future::pending())).await.expect_err("ends");
    assert_eq!(error.to_string(), "the workspace could not be restored: it was not hired from a backup");
}

#[tokio::test]
async fn a_workspace_is_saved_until_it_is_taken_and_a_refusal_is_told() {
    let (platform, dir) = (Arc::new(Platform::default()), tempfile::tempdir().expect("temp dir"));
    let (endpoint, token_file) = (platform.serve().await, dir.path().join("save-token"));
    fs::write(&token_file, "save\n").expect("written");
    let workspace = dir.path().join("workspace");
    fs::create_dir(&workspace).expect("made");
    fs::write(workspace.join("file"), vec![b'x'; 1_000_000]).expect("written");
    let save = |workspace: &Path| {
        let config = SaveConfig {
            endpoint: endpoint.clone(),
            ca: None,
            office_id: "office".into(),
            agent_id: "agent".into(),
            workspace: workspace.to_owned(),
            token_file: token_file.clone(),
        };
        limited(mi_agent::save(config))
    };
    for code in [Code::Unavailable, Code::Aborted] {
        platform.refuse("SaveWorkspace", code, "the answer is lost");
    }
    save(&workspace).await.expect("saved");
    let saved = std::mem::take(&mut *platform.saved.lock().expect("lock"));
    assert_eq!(saved.len(), 3);
    for (header, archive) in saved {
        assert_eq!((&*header.office_id, &*header.agent_id), ("office", "agent"));
        let new = tempfile::tempdir().expect("made");
        mi_archive::unpack(Box::new(std::io::Cursor::new(archive)), new.path()).expect("whole");
        assert_eq!(fs::read(new.path().join("file")).expect("there"), vec![b'x'; 1_000_000]);
    }
    let error = save(&dir.path().join("nothing")).await.expect_err("nothing there").to_string();
    assert!(error.starts_with("the workspace could not be saved: ") && error.contains("/nothing: "), "{error}");
    fs::write(&token_file, "another").expect("written");
    let error = save(&workspace).await.expect_err("refused").to_string();
    assert_eq!(error, "the workspace could not be saved: the token is not valid");
    assert_eq!(platform.saved.lock().expect("lock").len(), 0, "what cannot be read is no archive");
}

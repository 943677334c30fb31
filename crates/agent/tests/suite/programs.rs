//! The program that an agent runs instead of doing tasks.

use mi_proto::v1::LogStream;
use mi_testkit::until;

use crate::{
    commands::{dead, written},
    platform::{LONG, Platform, working},
};

/// Waits until a line of the log begins like this; the streams and texts of all of them.
async fn said(platform: &Platform, start: &str) -> Vec<(LogStream, String)> {
    until(&format!("{start:?} is logged"), LONG, async || {
        let batches = platform.batches.lock().expect("lock");
        let lines = batches.iter().flat_map(|(_, lines)| lines).map(|line| (line.stream(), line.text.clone()));
        let lines: Vec<_> = lines.collect();
        if lines.iter().any(|(_, text)| text.starts_with(start)) { Ok(Some(lines)) } else { Err(format!("{lines:?}")) }
    })
    .await
}

#[tokio::test]
async fn a_program_is_started_again_until_it_ends_well() {
    let command = "echo run >> runs; echo out; echo err >&2; [ $(wc -l < runs) -ge 2 ] || exit 3";
    let (platform, agent, dir) = working(|config| config.command = Some(command.into())).await;
    platform.command("echo never");
    let lines = said(&platform, "the command has ended; it runs again when the agent is started or restarted").await;
    agent.stop().await;
    for (stream, text) in [(LogStream::Stdout, "out"), (LogStream::Stderr, "err")] {
        let count = lines.iter().filter(|line| **line == (stream, text.to_owned())).count();
        assert_eq!(count, 2, "{lines:?}");
    }
    let again = |text: &str| text.starts_with("the command ended with exit code 3; it is started again in ");
    assert_eq!(
        lines.iter().filter(|(stream, text)| *stream == LogStream::Agent && again(text)).count(),
        1,
        "{lines:?}"
    );
    assert_eq!(std::fs::read_to_string(dir.path().join("workspace/runs")).expect("written"), "run\nrun\n");
    assert_eq!(platform.claims.lock().expect("lock").len(), 0, "it does no tasks");
}

#[tokio::test]
async fn a_program_has_a_key_of_no_task_and_ends_with_its_agent() {
    let command = "sleep 1000 & echo $! > child; echo $ANTHROPIC_BASE_URL $ANTHROPIC_API_KEY > env; wait";
    let (platform, agent, dir) = working(|config| config.command = Some(command.into())).await;
    let (child, env) = (written(dir.path(), "child").await, written(dir.path(), "env").await);
    let (url, key) = env.trim().split_once(' ').expect("both");
    let http = reqwest::Client::builder().no_proxy().build().expect("a client");
    let url = url.replace("/anthropic", "/echo");
    let response = http.get(url).header("x-api-key", key).send().await.expect("answers");
    assert_eq!(response.status(), 201);
    assert_eq!(*platform.proxies.asked.lock().expect("lock"), [("/llm/echo".to_owned(), None)]);
    agent.stop().await;
    dead(&child).await;
}

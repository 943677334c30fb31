//! The session, the log and the end.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use mi_agent::AgentError;
use mi_proto::v1::ConnectAgentRequest;
use mi_testkit::until;
use tonic::Code;

use crate::platform::{LONG, Platform, config, limited};

const READY: &str = "ready: analyst generation 7, model sonnet";

#[tokio::test]
async fn survives_lost_calls_on_one_connection_and_leaves_when_it_is_no_longer_wanted() {
    let platform = Arc::new(Platform {
        enrolments_refused: AtomicUsize::new(2),
        session_ends: Mutex::new(vec![Code::Unavailable, Code::Aborted]),
        log_streams_broken: AtomicUsize::new(1),
        ..Platform::default()
    });
    let dir = tempfile::tempdir().expect("temp dir");
    let config = config(platform.serve().await, &dir);
    limited(mi_agent::run(config, std::future::pending())).await.expect("no longer wanted is no error");

    let sessions = platform.sessions.lock().expect("lock").clone();
    let hello = ConnectAgentRequest {
        office_id: "office".into(),
        generation: 7,
        instance_id: "instance".into(),
        idle_for: None,
    };
    assert_eq!(sessions, [hello.clone(), hello]);
    // The batch whose answer was lost came again under its own number, with nothing before or after it changed.
    let texts = platform.texts();
    assert_eq!(texts.iter().filter(|line| **line == (1, READY.to_owned())).count(), 2, "{texts:?}");
    assert_eq!(texts.last(), Some(&(2, "stopping".to_owned())));
    assert_eq!(platform.connections.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn stops_when_told_and_says_so() {
    let platform = Arc::new(Platform::default());
    let dir = tempfile::tempdir().expect("temp dir");
    let config = config(platform.serve().await, &dir);
    let seen = platform.clone();
    let stop = async move {
        until("the agent says something", LONG, async || Ok::<_, String>(seen.texts().first().cloned())).await;
    };
    limited(mi_agent::run(config, stop)).await.expect("stopped");
    assert_eq!(platform.texts(), [(1, READY.to_owned()), (2, "stopping".to_owned())]);
}

#[tokio::test]
async fn a_refused_token_is_fatal() {
    let platform = Arc::new(Platform { enrolment_code: Some(Code::Unauthenticated), ..Platform::default() });
    let dir = tempfile::tempdir().expect("temp dir");
    let config = config(platform.serve().await, &dir);
    let error = limited(mi_agent::run(config, std::future::pending())).await.expect_err("fatal");
    assert!(matches!(error, AgentError::Enrolment(_)));
    assert_eq!(error.to_string(), "enrolment was refused: the token is not valid");
}

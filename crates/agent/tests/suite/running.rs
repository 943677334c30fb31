//! An agent that runs against the platform of a test.

use std::{sync::Arc, time::Duration};

use mi_agent::{AgentConfig, AgentError, EnrolToken, WorkConfig};
use mi_kernel::{AgentId, secret::Secret};
use tokio::sync::{oneshot, watch};

use crate::platform::{LONG, Platform};

/// A running agent, on a thread of its own as in a process of its own.
pub(crate) struct Running {
    stop: watch::Sender<bool>,
    ended: oneshot::Receiver<Result<(), AgentError>>,
}

impl Running {
    pub(crate) fn start(config: AgentConfig) -> Self {
        // As the program does it; fails only when it is done already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let (stop, mut stopped) = watch::channel(false);
        let (end, ended) = oneshot::channel();
        std::thread::spawn(move || {
            let stopped = async move { drop(stopped.wait_for(|stop| *stop).await) };
            let runtime = mi_agent::runtime().expect("a runtime");
            let _ = end.send(runtime.block_on(mi_agent::run(config, stopped)));
        });
        Self { stop, ended }
    }

    /// Tells it to stop, and waits until it has.
    pub(crate) async fn stop(self) {
        self.stop.send_replace(true);
        limited(self.ended).await.expect("no panic").expect("stopped");
    }
}

/// A platform with an agent that works; what the agent has on disk.
pub(crate) async fn working(change: impl FnOnce(&mut WorkConfig)) -> (Arc<Platform>, Running, tempfile::TempDir) {
    let (platform, dir) = (Arc::new(Platform::default()), tempfile::tempdir().expect("temp dir"));
    let mut config = config(platform.serve().await, &dir);
    change(&mut config.work);
    (platform, Running::start(config), dir)
}

pub(crate) fn config(endpoint: String, dir: &tempfile::TempDir) -> AgentConfig {
    let workspace = dir.path().join("workspace");
    std::fs::create_dir_all(&workspace).expect("made");
    AgentConfig {
        ca: None,
        endpoint,
        office_id: "office".into(),
        agent_id: AgentId::new(),
        agent_name: "analyst".into(),
        generation: 7,
        instance_id: "instance".into(),
        enrol_token: EnrolToken::Given(Secret::new("token")),
        identity_dir: dir.path().to_owned(),
        new_identity: false,
        relay_port: 0,
        health: None,
        restore: false,
        work: WorkConfig {
            workspace,
            temporary: dir.path().to_owned(),
            slots: 2,
            lease: Duration::from_secs(15),
            command_limit: Duration::from_secs(60),
            command: None,
            model: None,
        },
    }
}

pub(crate) async fn limited<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, work).await.expect("ends in time")
}

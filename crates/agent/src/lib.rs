//! The worker that runs beside an agent's workspace: it enrols, keeps its session, works, and ships what it has to say.
//!
//! It is small on purpose: a machine runs thousands of these. One connection, one thread, and nothing that wakes up by
//! itself but the heartbeat.

mod blocking;
pub mod check;
pub mod config;
mod error;
mod health;
mod identity;
mod idle;
pub mod init;
mod logs;
mod proxy;
mod relay;
mod restore;
mod retry;
mod save;
mod session;
mod work;

use std::{sync::atomic::Ordering, time::Duration};

use mi_client::{Client, Credential};
use mi_proto::v1::Agent;
use tokio::sync::oneshot;

pub use blocking::runtime;
pub use config::{AgentConfig, EnrolToken, ModelApi, ModelConfig, WorkConfig};
pub use error::AgentError;
pub use save::{SaveConfig, save};

use crate::{
    health::Health,
    logs::{Log, complain},
    relay::Relay,
    work::Worker,
};

/// How long the last log lines may take at the end.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// Works until `stop` resolves or the platform no longer wants this instance.
///
/// # Errors
/// When the agent cannot become what its environment says it is: a broken key, a refused token, a port that is taken.
pub async fn run(config: AgentConfig, stop: impl Future<Output = ()>) -> Result<(), AgentError> {
    // First: before the relay gives up listening anywhere else.
    let health = Health::bind(config.health).await?;
    tokio::select! {
        ended = live(config, stop, &health) => ended,
        never = health.serve() => match never {},
    }
}

async fn live(config: AgentConfig, stop: impl Future<Output = ()>, health: &Health) -> Result<(), AgentError> {
    tokio::pin!(stop);
    let mut relay = Relay::bind(config.relay_port).await?;
    let anonymous = Client::connect_trusting(&config.endpoint, config.ca.as_deref(), Credential::None)?;
    let (agent, client, key) = tokio::select! {
        biased;
        () = &mut stop => return Ok(()),
        enrolled = async {
            let enrolled = identity::enrol(&config, &anonymous).await?;
            restore::restore(&config, &enrolled.1).await?;
            Ok::<_, AgentError>(enrolled)
        } => enrolled?,
    };
    let (log, shipper) = logs::start(client.clone(), &config);
    let ready = ready_line(&config, &agent);
    let mut worker = Worker::new(&config, agent, client.clone(), key.clone(), log.clone(), &relay);
    let proxy = worker.proxy();
    let (mut execs, commands) = worker.execs();
    let idle = worker.idle();
    let (taken_in, start) = oneshot::channel();
    let on_ready = || {
        let _ = taken_in.send(());
        health.ready().store(true, Ordering::Relaxed);
        log.say(ready);
    };
    let ended = tokio::select! {
        biased;
        () = &mut stop => Ok(()),
        ended = async {
            check::run(&config, &anonymous, &log).await;
            let renew = async || identity::renew(&config, &anonymous, &key).await;
            session::keep(&client, &config, &idle, on_ready, &commands, renew).await
        } => ended,
        never = async {
            // Without a session there is no work, and the session's end is the end of both.
            match start.await {
                Ok(()) => tokio::select! {
                    never = worker.run() => never,
                    never = execs.run() => never,
                    never = relay.run(proxy) => never,
                },
                Err(_) => std::future::pending().await,
            }
        } => match never {},
    };
    health.ready().store(false, Ordering::Relaxed);
    log.say("stopping".into());
    tokio::join!(worker.stop(), execs.stop());
    finish(log, shipper).await;
    ended
}

fn ready_line(config: &AgentConfig, agent: &Agent) -> String {
    format!("ready: {} generation {}, model {}", config.agent_name, config.generation, agent.model_tier)
}

async fn finish(log: Log, shipper: tokio::task::JoinHandle<()>) {
    // The shipper ends once the last handle is gone and everything is durable.
    drop(log);
    if tokio::time::timeout(FLUSH_LIMIT, shipper).await.is_err() {
        complain("the last log lines did not reach the platform in time");
    }
}

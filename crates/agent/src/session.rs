//! The session: one stream that says which generation runs here, then heartbeats.

use std::time::Duration;

use mi_client::{Client, jittered};
use mi_proto::v1::ConnectAgentRequest;
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior, interval_at},
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

use crate::{
    config::AgentConfig,
    error::AgentError,
    idle::Idle,
    retry::{BACKOFF, passes},
};

/// What the platform expects between two messages.
const HEARTBEAT: Duration = Duration::from_secs(10);

/// What a status on the session means for this instance.
#[derive(Debug, PartialEq, Eq)]
enum Meaning {
    /// The platform is away for a moment.
    Reconnect,
    /// The key is dead: there may be a new one to make, or this instance is no longer wanted.
    Revoked,
    /// This instance is no longer the wanted one.
    Unwanted,
    /// Something is wrong that trying again does not cure.
    Refused,
}

/// Keeps the session up, whatever happens to the connection, until the platform ends it. `on_ready` runs once, when the
/// platform has taken the agent in; `renew` when its key is refused, and says whether there is a new one. What the platform
/// tells of commands goes to `commands`.
pub(crate) async fn keep(
    client: &Client,
    config: &AgentConfig,
    idle: &Idle,
    on_ready: impl FnOnce(),
    commands: &mpsc::Sender<String>,
    renew: impl AsyncFn() -> Result<bool, AgentError>,
) -> Result<(), AgentError> {
    let hello = ConnectAgentRequest {
        office_id: config.office_id.clone(),
        generation: config.generation,
        instance_id: config.instance_id.clone(),
        idle_for: None,
    };
    let mut on_ready = Some(on_ready);
    let mut failures = 0;
    loop {
        let answered = || {
            failures = 0;
            if let Some(on_ready) = on_ready.take() {
                on_ready();
            }
        };
        let Err(status) = once(client, &hello, idle, commands, answered).await else {
            return Ok(());
        };
        match meaning(status.code()) {
            Meaning::Unwanted => return Ok(()),
            Meaning::Revoked if renew().await? => failures = 0,
            Meaning::Revoked => return Ok(()),
            Meaning::Refused => return Err(AgentError::Session(status.into())),
            Meaning::Reconnect => {
                failures += 1;
                tokio::time::sleep(jittered(BACKOFF.after(failures))).await;
            }
        }
    }
}

fn meaning(code: Code) -> Meaning {
    match code {
        code if passes(code) => Meaning::Reconnect,
        Code::Unauthenticated => Meaning::Revoked,
        Code::Ok | Code::Aborted | Code::NotFound => Meaning::Unwanted,
        _ => Meaning::Refused,
    }
}

/// One stream, to its end.
async fn once(
    client: &Client,
    hello: &ConnectAgentRequest,
    idle: &Idle,
    commands: &mpsc::Sender<String>,
    mut answered: impl FnMut(),
) -> Result<(), Status> {
    let (send, messages) = mpsc::channel(1);
    // Queued before the call, since the platform answers the call only once it has seen the first message.
    // The channel is empty and its receiver is alive: this cannot fail.
    let _ = send.try_send(hello.clone());
    let mut answers = client.agents().connect_agent(ReceiverStream::new(messages)).await?.into_inner();
    let mut heartbeat = interval_at(Instant::now() + HEARTBEAT, HEARTBEAT);
    // After a pause of the whole machine one message is enough.
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            answer = answers.message() => match answer? {
                // The platform tells of no more at once than there is room for, and gives up on what is not taken.
                Some(answer) if !answer.exec_id.is_empty() => drop(commands.try_send(answer.exec_id)),
                Some(_) => answered(),
                None => return Ok(()),
            },
            _ = heartbeat.tick() => {
                // Full: the last one is not sent yet, and says the same. Closed: `answers` is about to say why.
                let idle_for = idle.lasts().and_then(|lasts| lasts.try_into().ok());
                let _ = send.try_send(ConnectAgentRequest { idle_for, ..hello.clone() });
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lost_connection_is_told_apart_from_a_lost_job() {
        for code in [Code::Unavailable, Code::Unknown, Code::Cancelled] {
            assert_eq!(meaning(code), Meaning::Reconnect);
        }
        assert_eq!(meaning(Code::Aborted), Meaning::Unwanted);
        assert_eq!(meaning(Code::Unauthenticated), Meaning::Revoked);
        assert_eq!(meaning(Code::InvalidArgument), Meaning::Refused);
    }
}

//! Commands that operators run inside agents: who may, how many at a time, and which session of an agent is told.
//!
//! A command lives in this process alone: the agent is told of it over its session here, takes it by a stream of its own,
//! and [`relay`] carries what goes in and comes out. Nothing of it is in the database but its two events.

mod grpc;
mod relay;
mod rules;

pub(crate) use grpc::{Answers, exec, serve};
#[cfg(test)]
pub(crate) use {
    grpc::see_through,
    rules::{End, Recorded},
};

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mi_kernel::{AgentId, Error, ExecId, InstanceId, OfficeId, Result};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::agents::Agent;

/// Commands at a time in one agent, in one office, and in this process.
const OF_AGENT: usize = 8;
const OF_OFFICE: usize = 32;
const OF_PROCESS: usize = 1024;
/// When to ask again for room.
const RETRY: Duration = Duration::from_secs(5);

/// The sessions of this process's agents, and the commands in them.
#[derive(Default)]
pub(crate) struct Execs(Mutex<State>);

#[derive(Default)]
struct State {
    /// Of each instance of an agent: a late call of one that was replaced takes nothing from the one that replaced it.
    sessions: HashMap<AgentId, HashMap<InstanceId, Session>>,
    commands: HashMap<ExecId, Command>,
}

/// How an agent is told of commands.
#[derive(Clone)]
struct Session {
    told: mpsc::Sender<ExecId>,
    /// The session is over, and so is whatever was told by it.
    over: CancellationToken,
}

/// A command from its admission to its end.
struct Command {
    office: OfficeId,
    agent: AgentId,
    /// Gone when the agent has taken it.
    taken: Option<oneshot::Sender<grpc::Taken>>,
}

/// An open session; over when this is dropped.
pub(crate) struct Open {
    execs: Arc<Execs>,
    agent: AgentId,
    over: CancellationToken,
}

/// A place among the commands, until it is dropped.
struct Place {
    execs: Arc<Execs>,
    id: ExecId,
}

impl Execs {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The newest session of an instance; also what it is told.
    pub(crate) fn open(self: &Arc<Self>, agent: AgentId, instance: InstanceId) -> (Open, mpsc::Receiver<ExecId>) {
        let (told, orders) = mpsc::channel(OF_AGENT);
        let over = CancellationToken::new();
        let session = Session { told, over: over.clone() };
        if let Some(before) = self.state().sessions.entry(agent).or_default().insert(instance, session) {
            before.over.cancel();
        }
        (Open { execs: self.clone(), agent, over }, orders)
    }

    /// Ends what runs in instances of this agent that are not the wanted one any more.
    pub(crate) fn keep(&self, agent: &Agent) {
        if let Some(sessions) = self.state().sessions.get_mut(&agent.id) {
            for (_, session) in sessions.extract_if(|instance, _| !agent.wants(*instance)) {
                session.over.cancel();
            }
        }
    }

    /// Tells the agent's instance of a command; answers what comes of that.
    pub(crate) fn tell(self: &Arc<Self>, agent: &Agent, instance: InstanceId) -> Result<Told> {
        let mut state = self.state();
        let session = state.sessions.get(&agent.id).and_then(|sessions| sessions.get(&instance));
        // Another process of the scheduler has it, or it is coming back from a lost connection.
        let session = session.cloned().ok_or_else(|| unreachable_agent(&agent.name))?;
        let count = |counts: &dyn Fn(&Command) -> bool| state.commands.values().filter(|it| counts(it)).count();
        let full = [
            (count(&|it| it.agent == agent.id), OF_AGENT, "agent"),
            (count(&|it| it.office == agent.office_id), OF_OFFICE, "office"),
            (state.commands.len(), OF_PROCESS, "platform"),
        ];
        if let Some((_, most, whose)) = full.into_iter().find(|(running, most, _)| running >= most) {
            let text = format!("{most} commands run in this {whose} already; end one, or try again later");
            return Err(Error::exhausted("TOO_MANY_EXECS", text, RETRY));
        }
        let (id, (taken, takes)) = (ExecId::new(), oneshot::channel());
        session.told.try_send(id).map_err(|_| unreachable_agent(&agent.name))?;
        state.commands.insert(id, Command { office: agent.office_id, agent: agent.id, taken: Some(taken) });
        let place = Place { execs: self.clone(), id };
        Ok(Told { place, takes, over: session.over })
    }

    /// The way to whoever waits for this agent to take the command.
    pub(crate) fn take(&self, agent: AgentId, id: ExecId) -> Result<oneshot::Sender<grpc::Taken>> {
        let mut state = self.state();
        let command = state.commands.get_mut(&id).filter(|command| command.agent == agent);
        command.and_then(|command| command.taken.take()).ok_or_else(|| Error::not_found("exec", id))
    }
}

/// A command that the agent was told of.
pub(crate) struct Told {
    place: Place,
    takes: oneshot::Receiver<grpc::Taken>,
    over: CancellationToken,
}

#[cfg(test)]
impl Told {
    pub(crate) fn id(&self) -> ExecId {
        self.place.id
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }
}

fn unreachable_agent(name: &str) -> Error {
    Error::unavailable(format!("agent {name:?} cannot be reached at the moment, and nothing was run; try again"))
}

impl Drop for Open {
    fn drop(&mut self) {
        self.over.cancel();
        let mut state = self.execs.state();
        let Some(sessions) = state.sessions.get_mut(&self.agent) else { return };
        // A newer one may be there.
        sessions.retain(|_, session| !session.over.is_cancelled());
        if sessions.is_empty() {
            state.sessions.remove(&self.agent);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.execs.state().commands.remove(&self.id);
    }
}

//! Work: the agent claims tasks as long as it has hands free, does them side by side, and says what came of each.
//!
//! It waits for work in one call that the platform answers when there is some. What it holds when it dies runs out there
//! by itself; what it holds when it is stopped it gives back.

mod artifacts;
mod command;
mod drive;
mod exec;
mod lease;
mod model;
mod outcome;
mod output;
mod paid;
mod processes;
mod program;
mod script;
mod shared;
mod surroundings;
mod terminal;
mod vendors;

use std::{
    convert::Infallible,
    pin::pin,
    sync::Arc,
    time::{Duration, Instant},
};

use mi_client::{Client, KeyRing, jittered, reason};
use mi_kernel::backoff::Backoff;
use mi_proto::v1::{Agent, ClaimTasksRequest, Task, TaskKind};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};
use tonic::{Request, Status};

pub(crate) use self::exec::Execs;
use self::{
    lease::Lease,
    outcome::{Ended, Outcome},
    paid::Paid,
    shared::{Shared, duration, is_private},
    vendors::Vendors,
};
use crate::{
    config::AgentConfig,
    idle::Idle,
    logs::Log,
    proxy::Proxy,
    relay::Relay,
    retry::{BACKOFF, soon},
};

/// How long one call waits for work; the platform takes up to 5 minutes.
const WAIT: Duration = Duration::from_secs(240);
/// How much longer its answer may take.
const MARGIN: Duration = Duration::from_secs(15);
/// A call without work that ends sooner than this has not waited: the next one does.
const TOO_SOON: Duration = Duration::from_secs(1);
/// Waits while the office lets nobody work, or nobody pays for it, before jitter.
const SLOW: Backoff = Backoff { first: Duration::from_secs(5), most: Duration::from_secs(30) };
/// How long it may take at the end to give back what is under way.
const RELEASE_LIMIT: Duration = Duration::from_secs(2);

/// Claims tasks and does them.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    /// What is under way. Each ends with the tasks that came with its report.
    running: JoinSet<Vec<Task>>,
    stop: watch::Sender<bool>,
}

impl Worker {
    pub(crate) fn new(
        config: &AgentConfig,
        agent: Agent,
        client: Client,
        key: Arc<KeyRing>,
        log: Log,
        relay: &Relay,
    ) -> Self {
        let shared = Shared {
            client,
            office_id: config.office_id.clone(),
            agent_id: config.agent_id,
            proxy: Arc::new(Proxy::new(config, key.clone())),
            key,
            log,
            config: config.work.clone(),
            agent,
            idle: Idle::new(),
            paid: Paid::default(),
            vendors: Vendors::new(relay.port(), relay.keys(), config.work.model.as_ref()),
        };
        Self { shared: Arc::new(shared), running: JoinSet::new(), stop: watch::Sender::new(false) }
    }

    /// What runs commands of operators beside the work; also where to tell it of one, by its id.
    pub(crate) fn execs(&self) -> (Execs, mpsc::Sender<String>) {
        Execs::new(self.shared.clone())
    }

    /// For how long there was nothing to do.
    pub(crate) fn idle(&self) -> Idle {
        self.shared.idle.clone()
    }

    /// The way to the platform's proxies, for the relay.
    pub(crate) fn proxy(&self) -> Arc<Proxy> {
        self.shared.proxy.clone()
    }

    /// Works until it is dropped; what is under way then goes on until [`stop`](Self::stop).
    pub(crate) async fn run(&mut self) -> Infallible {
        if let Some(command) = &self.shared.config.command {
            return program::run(&self.shared, command).await;
        }
        let mut failures = 0;
        let mut refusals = self.shared.paid.refusals();
        loop {
            while let Some(ended) = self.running.try_join_next() {
                self.start(ended.unwrap_or_default());
            }
            if self.running.len() >= self.shared.config.slots {
                if let Some(ended) = self.running.join_next().await {
                    self.start(ended.unwrap_or_default());
                }
                continue;
            }
            let (free, asked) = (self.shared.config.slots - self.running.len(), Instant::now());
            let shared = self.shared.clone();
            let claimed = {
                let mut claim = pin!(shared.claim(free));
                loop {
                    tokio::select! {
                        biased;
                        // A call that waits for work would be given back what was given up for want of credits.
                        pause = refusals.next() => break Err(pause),
                        claimed = &mut claim => break Ok(claimed),
                        // What came with its report takes its place.
                        Some(ended) = self.running.join_next() => self.start(ended.unwrap_or_default()),
                    }
                }
            };
            let claimed = match claimed {
                Ok(claimed) => claimed,
                Err(pause) => {
                    tokio::time::sleep(jittered(pause)).await;
                    continue;
                }
            };
            let pause = match claimed {
                Ok(tasks) if tasks.is_empty() && asked.elapsed() < TOO_SOON => {
                    failures += 1;
                    BACKOFF.after(failures)
                }
                Ok(tasks) => {
                    failures = 0;
                    self.start(tasks);
                    continue;
                }
                Err(status) => {
                    failures += 1;
                    if failures == 1 && !is_soon(&status) {
                        self.shared.log.say(format!("no work can be claimed: {}", status.message()));
                    }
                    pause(&status, failures)
                }
            };
            tokio::time::sleep(jittered(pause)).await;
        }
    }

    fn start(&mut self, tasks: Vec<Task>) {
        for task in tasks {
            self.running.spawn(work(self.shared.clone(), task, self.stop.subscribe()));
        }
    }

    /// Kills what is under way and gives it back.
    pub(crate) async fn stop(mut self) {
        self.stop.send_replace(true);
        let ended = async {
            while let Some(ended) = self.running.join_next().await {
                // What came with a report is given back without being begun.
                self.start(ended.unwrap_or_default());
            }
        };
        // What is not given back in time comes back when its lease runs out.
        let _ = tokio::time::timeout(RELEASE_LIMIT, ended).await;
        self.running.shutdown().await;
        processes::cleared().await;
    }
}

/// How long not to ask for work after so many refusals.
fn pause(status: &Status, failures: u32) -> Duration {
    if is_soon(status) { BACKOFF.after(failures) } else { SLOW.after(failures) }
}

/// Whether there may be work in a moment. An office without credits waits for somebody who grants some.
fn is_soon(status: &Status) -> bool {
    soon(status.code()) && reason(status) != "OUT_OF_CREDITS"
}

impl Shared {
    /// Waits for work, at most this many tasks.
    async fn claim(&self, free: usize) -> Result<Vec<Task>, Status> {
        let mut request = Request::new(ClaimTasksRequest { wait: duration(WAIT), ..self.wanted(free) });
        request.set_timeout(WAIT + MARGIN);
        // What a connection that hangs does to the deadline is no business of the platform's.
        let answer = tokio::time::timeout(WAIT + MARGIN, async { self.client.tasks().claim_tasks(request).await });
        match answer.await {
            Ok(answer) => Ok(answer?.into_inner().tasks),
            Err(_) => Err(Status::deadline_exceeded("the call for work was not answered")),
        }
    }

    /// What it takes, at most this many tasks.
    fn wanted(&self, most: usize) -> ClaimTasksRequest {
        ClaimTasksRequest {
            office_id: self.office_id.clone(),
            kinds: self.kinds(),
            max_tasks: i32::try_from(most).ok(),
            wait: None,
            lease: duration(self.config.lease),
        }
    }

    /// What it can do: without a model, scripts only.
    fn kinds(&self) -> Vec<i32> {
        let mut kinds = vec![TaskKind::Command];
        if self.config.model.is_some() {
            kinds.extend([TaskKind::General, TaskKind::Code, TaskKind::Research, TaskKind::Review]);
        }
        kinds.into_iter().map(Into::into).collect()
    }
}

/// Does one task, as long as its lease is good; the tasks that came with the report.
async fn work(shared: Arc<Shared>, task: Task, mut stop: watch::Receiver<bool>) -> Vec<Task> {
    let _busy = shared.idle.busy();
    shared.log.say(format!("task {}: attempt {}, {:?}", task.id, task.attempt, task.title));
    let lease = Lease::new(&shared, &task);
    let done = async {
        let outcome = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => Outcome::Released,
            outcome = perform(&shared, &task, &lease) => outcome,
        };
        processes::cleared().await;
        lease.report(outcome).await
    };
    let ended = tokio::select! {
        biased;
        // Whatever it is doing ends with the future that does it.
        reason = lease.keep() => Ended { how: "stopped", why: reason },
        ended = done => ended,
    };
    processes::cleared().await;
    shared.log.say(format!("task {}: {}", task.id, ended.line(is_private(&task))));
    lease.next()
}

async fn perform(shared: &Shared, task: &Task, lease: &Lease<'_>) -> Outcome {
    match task.kind() {
        TaskKind::Command => command::run(shared, task).await,
        _ => model::run(shared, task, lease).await,
    }
}

#[cfg(test)]
mod tests {
    use tonic::Code;
    use tonic_types::{ErrorDetails, StatusExt};

    use super::*;

    #[test]
    fn an_office_that_lets_nobody_work_is_asked_seldom() {
        let waits = |status: &Status| (1..=5).map(|failures| pause(status, failures).as_secs_f64()).collect::<Vec<_>>();
        let seconds = |code| waits(&Status::new(code, ""));
        assert_eq!(seconds(Code::FailedPrecondition), [5.0, 10.0, 20.0, 30.0, 30.0]);
        assert_eq!(seconds(Code::Unavailable), [0.1, 0.2, 0.4, 0.8, 1.6]);
        assert_eq!(seconds(Code::Unauthenticated), seconds(Code::Unavailable));
        // What passes by itself is not what somebody has to pay for.
        let exhausted = |reason| {
            let details = ErrorDetails::with_error_info(reason, "mi", []);
            Status::with_error_details(Code::ResourceExhausted, "", details)
        };
        assert_eq!(waits(&exhausted("QUEUE_BUSY")), seconds(Code::Unavailable));
        assert_eq!(waits(&exhausted("OUT_OF_CREDITS")), seconds(Code::FailedPrecondition));
    }
}

//! Work: the agent claims tasks as long as it has hands free, does them side by side, and says what came of each.
//!
//! Work comes on one stream, on which reports go back, each of which brings the next task. What the agent holds when it dies runs
//! out at the platform by itself; what it holds when it is stopped it gives back.

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
mod stream;
mod surroundings;
mod terminal;
mod vendors;

use std::{
    convert::Infallible,
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
use tonic::Status;

pub(crate) use self::exec::Execs;
use self::{
    lease::Lease,
    outcome::{Ended, Outcome},
    paid::{Paid, Refusals},
    shared::{Shared, duration, is_private},
    stream::{Line, Stream},
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

/// A stream that ends sooner than this, and brought nothing, is opened again more and more seldom.
const TOO_SOON: Duration = Duration::from_secs(1);
/// Waits while the office lets nobody work, or nobody pays for it, before jitter.
const SLOW: Backoff = Backoff { first: Duration::from_secs(5), most: Duration::from_secs(30) };
/// How long it may take at the end to give back what is under way.
const RELEASE_LIMIT: Duration = Duration::from_secs(2);

/// Claims tasks and does them.
pub(crate) struct Worker {
    shared: Arc<Shared>,
    /// Where work comes from, while it is asked for.
    stream: Option<Stream>,
    /// What is under way. Each ends with the way back that it came with.
    running: JoinSet<Arc<Line>>,
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
        Self { shared: Arc::new(shared), stream: None, running: JoinSet::new(), stop: watch::Sender::new(false) }
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
            while self.running.len() >= self.shared.config.slots {
                self.running.join_next().await;
            }
            let (asked, mut brought) = (Instant::now(), false);
            let ended = self.ask(&mut refusals, &mut brought).await;
            self.stream = None;
            failures = if brought || asked.elapsed() >= TOO_SOON { 0 } else { failures };
            let pause = match ended {
                Ok(Some(pause)) => pause,
                Ok(None) if brought => continue,
                Ok(None) => {
                    failures += 1;
                    BACKOFF.after(failures)
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

    /// Asks for as much work as there are hands for, and begins what is `brought`, until the stream ends: for how long then to ask
    /// for none, because nobody pays.
    async fn ask(&mut self, refusals: &mut Refusals, brought: &mut bool) -> Result<Option<Duration>, Status> {
        let free = self.shared.config.slots - self.running.len();
        let opened = tokio::select! {
            biased;
            pause = refusals.next() => return Ok(Some(pause)),
            opened = Stream::open(&self.shared, free) => opened?,
        };
        let line = opened.line().clone();
        let stream = self.stream.insert(opened);
        let mut pause = None;
        loop {
            tokio::select! {
                biased;
                // The stream would bring back what was given up for want of credits.
                refused = refusals.next() => {
                    pause = Some(refused);
                    line.close();
                }
                Some(ended) = self.running.join_next() => {
                    // What came otherwise leaves room that this stream was not opened for.
                    if !ended.is_ok_and(|its| Arc::ptr_eq(&its, &line)) {
                        line.close();
                    }
                }
                tasks = stream.next() => match tasks? {
                    Some(tasks) => {
                        *brought = true;
                        start(&self.shared, &mut self.running, tasks, &line, &self.stop);
                    }
                    None => return Ok(pause),
                },
            }
        }
    }

    /// Kills what is under way and gives it back.
    pub(crate) async fn stop(mut self) {
        self.stop.send_replace(true);
        let ended = async {
            if let Some(stream) = &mut self.stream {
                let line = stream.line().clone();
                line.close();
                while let Ok(Some(tasks)) = stream.next().await {
                    // What comes yet is given back without being begun.
                    start(&self.shared, &mut self.running, tasks, &line, &self.stop);
                }
            }
            while self.running.join_next().await.is_some() {}
        };
        // What is not given back in time comes back when its lease runs out.
        let _ = tokio::time::timeout(RELEASE_LIMIT, ended).await;
        self.running.shutdown().await;
        processes::cleared().await;
    }
}

/// Begins these tasks.
fn start(
    shared: &Arc<Shared>,
    running: &mut JoinSet<Arc<Line>>,
    tasks: Vec<Task>,
    line: &Arc<Line>,
    stop: &watch::Sender<bool>,
) {
    for task in tasks {
        running.spawn(work(shared.clone(), task, line.clone(), stop.subscribe()));
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

/// Does one task, as long as its lease is good.
async fn work(shared: Arc<Shared>, task: Task, line: Arc<Line>, mut stop: watch::Receiver<bool>) -> Arc<Line> {
    let _busy = shared.idle.busy();
    shared.log.say(format!("task {}: attempt {}, {:?}", task.id, task.attempt, task.title));
    let lease = Lease::new(&shared, &task, &line);
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
    line
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

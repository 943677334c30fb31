//! Work as one stream: a worker says how many tasks it holds at most and is sent that many, as they are there; its reports go the
//! other way, and each that ends a task claims the next one in the same transaction.

use std::collections::{HashMap, VecDeque};

use futures::{Stream, StreamExt, stream};
use mi_kernel::{Error, Result, TaskId};
use mi_proto::v1::{self, work_tasks_request::Message, work_tasks_response::Answer as Sent};
use mi_rpc::{Access, status};
use tokio::{sync::oneshot, task::JoinSet, time::Instant};
use tonic::Status;

use super::{
    Tasks,
    group_commit::{Answer, Patience, TaskCommand},
    model::{ReportKind, State, Task},
    rules, wire,
    work::not_working,
};

/// Reports that are not answered yet, before more are read.
const REPORTS: usize = 128;

/// A worker's side of the stream.
struct Worker<S> {
    tasks: Tasks,
    access: Access,
    /// What it takes; `max_tasks` is how many it holds at most.
    wanted: v1::ClaimTasksRequest,
    window: usize,
    messages: S,
    /// What it was sent and has not ended, under which lease, and until when that is its own as far as is known here.
    held: HashMap<TaskId, (String, Instant)>,
    /// The claim that waits for work.
    claim: Option<oneshot::Receiver<Answer>>,
    /// In tasks of their own: what others wait for, such as the question who works there, must not lie in a future that is
    /// left alone while this waits for the same, or for a client that does not read.
    reports: JoinSet<Taken>,
    answers: VecDeque<Sent>,
    /// It says nothing more: it is told what became of its reports, and gets nothing new.
    closed: bool,
    failed: bool,
}

/// What became of a report.
struct Taken {
    task_id: String,
    lease_id: String,
    ends: bool,
    outcome: Result<(Task, Vec<Task>)>,
}

/// A report as it came.
struct Said {
    office_id: String,
    task_id: String,
    lease_id: String,
    what: Result<ReportKind>,
}

impl Tasks {
    /// Sends work to a worker, and takes its reports, until it has said all and heard all.
    ///
    /// # Errors
    /// `Invalid` when what it starts with is.
    pub(super) fn work_for<S>(
        &self,
        access: Access,
        wanted: v1::ClaimTasksRequest,
        messages: S,
    ) -> Result<impl Stream<Item = Result<v1::WorkTasksResponse, Status>> + Send + use<S>>
    where
        S: Stream<Item = Result<v1::WorkTasksRequest, Status>> + Send + Unpin + 'static,
    {
        if wanted.wait.is_some() {
            return Err(Error::invalid("start.wait", "cannot be given: the stream waits for as long as it is open"));
        }
        let window = rules::most(wanted.max_tasks)?;
        rules::lease(wanted.lease.as_ref())?;
        for kind in &wanted.kinds {
            rules::kind("start.kinds", *kind)?;
        }
        let worker = Worker {
            tasks: self.clone(),
            access,
            wanted,
            window,
            messages,
            held: HashMap::new(),
            claim: None,
            reports: JoinSet::new(),
            answers: VecDeque::new(),
            closed: false,
            failed: false,
        };
        Ok(stream::unfold(worker, |mut worker| async move { Some((worker.next().await?, worker)) }))
    }
}

impl<S: Stream<Item = Result<v1::WorkTasksRequest, Status>> + Unpin> Worker<S> {
    /// The next message for the worker; none: the end.
    async fn next(&mut self) -> Option<Result<v1::WorkTasksResponse, Status>> {
        if self.failed {
            return None;
        }
        let next = self.advance().await.transpose();
        self.failed = matches!(next, Some(Err(_)));
        next.map(|next| next.map(|answer| v1::WorkTasksResponse { answer: Some(answer) }))
    }

    async fn advance(&mut self) -> Result<Option<Sent>, Status> {
        loop {
            if let Some(answer) = self.answers.pop_front() {
                return Ok(Some(answer));
            }
            if self.closed && self.reports.is_empty() {
                return Ok(None);
            }
            let now = Instant::now();
            self.held.retain(|_, (_, until)| *until > now);
            self.ask().await.map_err(status)?;
            // What it holds may be lost to it without a word, and makes room then.
            let lapse = self.held.values().map(|(_, until)| *until).min();
            let lapse = lapse.filter(|_| self.held.len() >= self.window && !self.closed);
            tokio::select! {
                biased;
                Some(taken) = self.reports.join_next() => {
                    self.told(taken.map_err(|error| status(Error::internal(error)))?);
                }
                answer = heard(&mut self.claim), if self.claim.is_some() => {
                    self.claim = None;
                    let claimed = self.tasks.heard(answer).map_err(status)?;
                    self.send(claimed);
                }
                message = self.messages.next(), if !self.closed && self.reports.len() < REPORTS => match message {
                    Some(message) => self.hear(message?),
                    None => self.close(),
                },
                () = tokio::time::sleep_until(lapse.unwrap_or(now)), if lapse.is_some() => {}
            }
        }
    }

    /// Has a claim wait for as many tasks as there is room for.
    async fn ask(&mut self) -> Result<()> {
        let free = self.window.saturating_sub(self.held.len());
        if self.claim.is_some() || self.closed || free == 0 {
            return Ok(());
        }
        let (roster, claim) = self.tasks.claimed_by(&self.access, &self.wanting(free)).await?;
        let claim = TaskCommand::Claim(claim.ok_or_else(not_working)?, Patience::Waits);
        let (office_id, trace_id) = (self.access.office_id(), self.access.trace_id());
        self.claim = self.tasks.enqueue(office_id, vec![claim], roster.as_ref(), trace_id)?.pop();
        Ok(())
    }

    /// Hears nothing more, and gives up the claim. What that has been given already is sent.
    fn close(&mut self) {
        self.closed = true;
        let given = self.claim.take().map(given).unwrap_or_default();
        self.send(given);
    }

    fn wanting(&self, most: usize) -> v1::ClaimTasksRequest {
        v1::ClaimTasksRequest { max_tasks: i32::try_from(most).ok(), ..self.wanted.clone() }
    }

    /// Takes what the worker says.
    fn hear(&mut self, message: v1::WorkTasksRequest) {
        let Some(Said { office_id, task_id, lease_id, what }) = message.message.and_then(said) else {
            let error = Error::invalid("message", "must be a report: the stream has started already");
            self.answers.push_back(refusal(String::new(), String::new(), error));
            return;
        };
        let ends = !matches!(what, Ok(ReportKind::Renewed { .. }));
        // Its place is taken by what comes next, unless a claim waits already because there is nothing.
        let next = (ends && self.claim.is_none() && !self.closed).then(|| self.wanting(1));
        let (tasks, access) = (self.tasks.clone(), self.access.clone());
        let office = self.wanted.office_id.clone();
        self.reports.spawn(async move {
            let report = async {
                if !office_id.is_empty() && office_id != office {
                    return Err(Error::invalid("office_id", "of a report differs from that of the stream"));
                }
                let reported = (TaskId::parse(&task_id)?, rules::lease_id(&lease_id)?, what?);
                let next = match next {
                    Some(next) => tasks.claimed_by(&access, &next).await?,
                    None => (None, None),
                };
                tasks.report_and_claim(&access, reported, next).await
            };
            let outcome = report.await;
            Taken { task_id, lease_id, ends, outcome }
        });
    }

    /// Passes on what became of a report.
    fn told(&mut self, taken: Taken) {
        let Taken { task_id, lease_id, ends, outcome } = taken;
        match outcome {
            Ok((task, claimed)) => {
                match ends {
                    true => drop(self.held.remove(&task.id)),
                    false => self.hold(&task),
                }
                let task = Some(wire::task(task, &self.access));
                self.answers.push_back(Sent::Reported(v1::ReportOutcome {
                    task_id,
                    lease_id,
                    task,
                    ..Default::default()
                }));
                self.send(claimed);
            }
            Err(error) => {
                if error.reason == "LEASE_LOST" {
                    self.held.retain(|id, (lease, _)| *lease != lease_id || id.to_string() != task_id);
                }
                self.answers.push_back(refusal(task_id, lease_id, error));
            }
        }
    }

    fn hold(&mut self, task: &Task) {
        if let State::Running(lease) = task.state() {
            self.held.insert(task.id, (lease.id.to_string(), Instant::now() + lease.length));
        }
    }

    fn send(&mut self, claimed: Vec<Task>) {
        if claimed.is_empty() {
            return;
        }
        claimed.iter().for_each(|task| self.hold(task));
        let tasks = claimed.into_iter().map(|task| wire::task(task, &self.access)).collect();
        self.answers.push_back(Sent::Claimed(v1::ClaimTasksResponse { tasks }));
    }
}

async fn heard(claim: &mut Option<oneshot::Receiver<Answer>>) -> Result<Answer, oneshot::error::RecvError> {
    match claim {
        Some(claim) => claim.await,
        None => std::future::pending().await,
    }
}

/// What came of a claim that is given up; what comes later is given back.
fn given<T>(mut claim: oneshot::Receiver<Result<Vec<T>>>) -> Vec<T> {
    claim.close();
    claim.try_recv().ok().and_then(Result::ok).unwrap_or_default()
}

fn refusal(task_id: String, lease_id: String, error: Error) -> Sent {
    let (reason, message) = (error.reason.to_owned(), error.message);
    Sent::Reported(v1::ReportOutcome { task_id, lease_id, task: None, reason, message })
}

/// What a report says; none: it is none.
fn said(message: Message) -> Option<Said> {
    let claims = |next: Option<v1::ClaimTasksRequest>| match next {
        Some(_) => Err(Error::invalid("claim_next", "cannot be given: the stream sends what comes next by itself")),
        None => Ok(()),
    };
    Some(match message {
        Message::Start(_) => return None,
        Message::Complete(mut report) => {
            let what = claims(report.claim_next.take())
                .and_then(|()| rules::work(&report))
                .map(|work| ReportKind::Completed { work });
            Said { office_id: report.office_id, task_id: report.task_id, lease_id: report.lease_id, what }
        }
        Message::Fail(report) => {
            let what = claims(report.claim_next).and_then(|()| rules::note("error", &report.error)).map(|error| {
                ReportKind::Failed { error, retryable: report.retryable, loop_detected: report.loop_detected }
            });
            Said { office_id: report.office_id, task_id: report.task_id, lease_id: report.lease_id, what }
        }
        Message::Renew(report) => {
            let what = rules::lease(report.lease.as_ref()).map(|lease| ReportKind::Renewed { lease });
            Said { office_id: report.office_id, task_id: report.task_id, lease_id: report.lease_id, what }
        }
        Message::Release(report) => Said {
            office_id: report.office_id,
            task_id: report.task_id,
            lease_id: report.lease_id,
            what: Ok(ReportKind::Released),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_that_is_given_up_has_either_been_answered_or_tells_so() {
        let (answer, claim) = oneshot::channel::<Result<Vec<i32>>>();
        answer.send(Ok(vec![1, 2])).expect("somebody listens");
        assert_eq!(given(claim), [1, 2]);

        let (answer, claim) = oneshot::channel::<Result<Vec<i32>>>();
        assert!(given(claim).is_empty());
        assert!(answer.send(Ok(vec![3])).is_err(), "it is known that nobody hears of it");
    }
}

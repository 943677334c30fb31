//! Agents that work over streams, and sometimes do not read for a while.

use std::{pin::Pin, task::Poll, time::Duration};

use chrono::TimeDelta;
use futures::{FutureExt, Stream, StreamExt, TryFutureExt, channel::mpsc};
use mi_kernel::{Clock, Time};
use mi_proto::v1::{self, work_tasks_request::Message, work_tasks_response::Answer};
use mi_rpc::{Caller, status};
use tonic::Status;

use super::{
    Simulation,
    calls::{Ask, Call, request, seconds},
    clients::named,
    rows::Book,
};

type Answers = Pin<Box<dyn Stream<Item = Result<v1::WorkTasksResponse, Status>>>>;
type Heard = Option<Result<v1::WorkTasksResponse, Status>>;

/// One agent's stream.
pub(super) struct Line {
    agent: usize,
    process: usize,
    start: v1::ClaimTasksRequest,
    /// None: it says nothing more.
    send: Option<mpsc::UnboundedSender<Result<v1::WorkTasksRequest, Status>>>,
    answers: Answers,
    reports: Vec<Report>,
    /// When it reads on.
    reads_at: Time,
}

/// What an agent was not told the outcome of yet.
struct Report {
    call: Call,
    sent: Time,
    /// It was sent when nothing went wrong.
    calm: bool,
}

/// The streams there are, at most one an agent.
#[derive(Default)]
pub(super) struct Streams(Vec<Line>);

impl Streams {
    /// What comes next on which of them.
    pub(super) async fn next(&mut self, now: Time) -> (usize, Heard) {
        std::future::poll_fn(|context| {
            for (place, line) in self.0.iter_mut().enumerate().filter(|(_, line)| line.reads_at <= now) {
                if let Poll::Ready(message) = line.answers.poll_next_unpin(context) {
                    return Poll::Ready((place, message));
                }
            }
            Poll::Pending
        })
        .await
    }

    pub(super) fn heard(&mut self, (place, message): (usize, Heard), book: &mut Book, calm: bool) {
        let line = &mut self.0[place];
        let (by, process) = (line.agent, line.process);
        let answer = match message {
            Some(Ok(message)) => message.answer.expect("always there"),
            ended => {
                if let Some(Err(status)) = ended {
                    book.tell(&format!("a{by}: its stream at p{process} broke: {:?}", status.code()));
                    if matches!(status.code(), tonic::Code::Internal | tonic::Code::Unknown) {
                        book.fault(format!("a stream ended by a fault of the platform: {}", status.message()));
                    }
                }
                return self.end(place, book);
            }
        };
        *book.clients.acknowledged.entry("over a stream").or_default() += 1;
        match answer {
            Answer::Claimed(claimed) => {
                let ask = Ask::Claim(v1::ClaimTasksRequest { wait: seconds(Duration::ZERO), ..line.start.clone() });
                book.heard(Call { ask, by, process, again: false }, Some(Ok(claimed.tasks)), calm);
            }
            Answer::Reported(outcome) => {
                let is_it =
                    |report: &Report| {
                        report.call.ask.lease().is_some_and(|(task, lease)| {
                            task == outcome.task_id && lease.to_string() == outcome.lease_id
                        })
                    };
                let Some(report) = line.reports.iter().position(is_it) else {
                    return book.fault(format!("a{by} is told of a report that it did not make"));
                };
                let report = line.reports.swap_remove(report);
                let answer = match outcome.reason.as_str() {
                    "" => Ok(outcome.task.into_iter().collect()),
                    "LEASE_LOST" => Err(Status::aborted(outcome.message)),
                    "UNAVAILABLE" => Err(Status::unavailable(outcome.message)),
                    "INTERNAL" => Err(Status::internal(outcome.message)),
                    _ => Err(Status::failed_precondition(outcome.message)),
                };
                book.heard(report.call, Some(answer), report.calm && calm);
            }
        }
    }

    /// One of them is over: of what was not told nobody knows whether it is done.
    fn end(&mut self, place: usize, book: &mut Book) {
        let Line { reports, .. } = self.0.swap_remove(place);
        reports.into_iter().for_each(|report| book.heard(report.call, None, false));
    }

    pub(super) fn end_all(&mut self, book: &mut Book) {
        while !self.0.is_empty() {
            self.end(0, book);
        }
    }

    /// Whoever reads is told of its reports.
    pub(super) fn late(&self, book: &mut Book, now: Time, margin: TimeDelta) {
        for line in &self.0 {
            for report in &line.reports {
                if now > line.reads_at.max(report.sent) + margin {
                    let name = named(&report.call.ask);
                    book.fault(format!("{name} of a{} over its stream is not answered", line.agent));
                }
            }
        }
    }

    /// Everybody reads again.
    pub(super) fn read_all(&mut self, now: Time) {
        self.0.iter_mut().for_each(|line| line.reads_at = line.reads_at.min(now));
    }

    fn of(&mut self, agent: usize) -> Option<&mut Line> {
        self.0.iter_mut().find(|line| line.agent == agent)
    }
}

impl Simulation<'_> {
    /// An agent opens a stream; or it ends its own, loses it, or does not read for a while.
    pub(super) fn stream_step(&mut self, agent: usize) {
        let now = self.world.clock.now();
        let what = self.random.u32(..4);
        let pause = TimeDelta::milliseconds(self.random.i64(100..3000));
        let Some(place) = self.streams.0.iter().position(|line| line.agent == agent) else {
            return self.open(agent);
        };
        match what {
            0 => self.streams.0[place].send = None,
            1 => self.streams.end(place, &mut self.world.book()),
            _ => self.streams.0[place].reads_at = now + pause,
        }
    }

    fn open(&mut self, agent: usize) {
        let start = v1::ClaimTasksRequest { wait: None, ..self.claim_request() };
        let place = self.random.usize(..self.world.processes.len());
        let Some(process) = &self.world.processes[place] else { return };
        let (send, messages) = mpsc::unbounded();
        let tasks = process.tasks.clone();
        let caller = Caller::of(&request((), &self.world.actor(agent), "WorkTasks")).expect("one is given");
        let (wanted, ends) = (start.clone(), process.background.shutdown().cancelled_owned());
        let opened = async move {
            let access = tasks.offices.enter(&caller, &wanted.office_id).await.map_err(status)?;
            tasks.work_for(access, wanted, messages).map_err(status)
        };
        let answers = opened.boxed().try_flatten_stream().take_until(ends).boxed_local();
        let reads_at = self.world.clock.now();
        self.world.book().tell(&format!("a{agent} opens a stream at p{place}"));
        let (send, reports) = (Some(send), Vec::new());
        self.streams.0.push(Line { agent, process: place, start, send, answers, reports, reads_at });
    }

    /// Sends a report on its agent's stream, if it has one; else gives it back.
    pub(super) fn send_on_stream(&mut self, ask: Ask, by: usize) -> Option<Ask> {
        let Some((_, lease)) = ask.lease() else { return Some(ask) };
        let Some(line) = self.streams.of(by) else { return Some(ask) };
        // An outcome says which lease it is about, and not which report.
        let is_told = line.reports.iter().all(|report| report.call.ask.lease().is_none_or(|(_, other)| other != lease));
        let Some(send) = line.send.as_ref().filter(|_| is_told) else { return Some(ask) };
        let message = match ask.clone() {
            Ask::Complete(report) => Message::Complete(v1::CompleteTaskRequest { claim_next: None, ..report }),
            Ask::Fail(report) => Message::Fail(v1::FailTaskRequest { claim_next: None, ..report }),
            Ask::Renew(report) => Message::Renew(report),
            Ask::Release(report) => Message::Release(report),
            _ => return Some(ask),
        };
        let ask = match &message {
            Message::Complete(report) => Ask::Complete(report.clone()),
            Message::Fail(report) => Ask::Fail(report.clone()),
            _ => ask,
        };
        // Its end is heard of with the next message.
        let _ = send.unbounded_send(Ok(v1::WorkTasksRequest { message: Some(message) }));
        let call = Call { ask, by, process: line.process, again: false };
        let mut book = self.world.book();
        book.clients.sends(&call);
        book.tell(&format!("a{by}: {} over its stream at p{}", named(&call.ask), line.process));
        line.reports.push(Report { call, sent: self.world.clock.now(), calm: self.world.is_calm() });
        None
    }
}

//! The stream on which tasks come and what becomes of them goes back.
//!
//! The platform sends as many tasks as it was told that there is room for, and each report makes room for the next. A report that
//! is not taken here is sent as a call of its own, which says why; the platform counts otherwise than the agent then, so the
//! stream is closed, and another one is opened.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use mi_proto::v1::{
    Task, WorkTasksRequest, WorkTasksResponse, work_tasks_request::Message, work_tasks_response::Answer,
};
use tokio::sync::{mpsc, oneshot, watch};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Status, Streaming};

use super::shared::Shared;

/// How long it may take to open a stream, and to end one.
const LIMIT: Duration = Duration::from_secs(15);

/// Where tasks come from.
pub(super) struct Stream {
    line: Arc<Line>,
    answers: Streaming<WorkTasksResponse>,
}

impl Stream {
    /// Asks for at most so many tasks at a time.
    pub(super) async fn open(shared: &Shared, most: usize) -> Result<Self, Status> {
        let (send, messages) = mpsc::unbounded_channel();
        // Before the call, which the platform answers once it has seen the first message. The receiver is alive.
        let _ = send.send(WorkTasksRequest { message: Some(Message::Start(shared.wanted(most))) });
        let open = async { shared.client.tasks().work_tasks(UnboundedReceiverStream::new(messages)).await };
        let late = |_| Err(Status::deadline_exceeded("the call for work was not answered"));
        let answers = tokio::time::timeout(LIMIT, open).await.unwrap_or_else(late)?.into_inner();
        let line = Line { send: watch::Sender::new(Some(send)), reports: Mutex::default() };
        Ok(Self { line: Arc::new(line), answers })
    }

    /// Where the tasks that came here are reported.
    pub(super) fn line(&self) -> &Arc<Line> {
        &self.line
    }

    /// The next tasks; none: it has ended.
    pub(super) async fn next(&mut self) -> Result<Option<Vec<Task>>, Status> {
        let mut open = self.line.send.subscribe();
        let hangs = async {
            let _ = open.wait_for(Option::is_none).await;
            tokio::time::sleep(LIMIT).await;
        };
        tokio::pin!(hangs);
        loop {
            let answer = tokio::select! {
                answer = self.answers.message() => answer?,
                () = &mut hangs => return Err(Status::deadline_exceeded("the stream of work does not end")),
            };
            match answer.map(|answer| answer.answer) {
                None => return Ok(None),
                Some(Some(Answer::Claimed(claimed))) => return Ok(Some(claimed.tasks)),
                Some(Some(Answer::Reported(outcome))) => {
                    if let Some(tell) = self.line.reports().remove(&outcome.lease_id) {
                        // Who asked may have given up.
                        let _ = tell.send(outcome.task.is_some());
                    }
                }
                Some(None) => {}
            }
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.line.close();
        // Nothing more is answered.
        drop(mem::take(&mut *self.line.reports()));
    }
}

/// The way back.
pub(super) struct Line {
    /// None: nothing more is said.
    send: watch::Sender<Option<mpsc::UnboundedSender<WorkTasksRequest>>>,
    /// Whoever waits to hear whether a report was taken, by the lease.
    reports: Mutex<HashMap<String, oneshot::Sender<bool>>>,
}

impl Line {
    fn reports(&self) -> MutexGuard<'_, HashMap<String, oneshot::Sender<bool>>> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reports, and waits for as long as given; whether it was taken. Of each lease there is to be one report at a time.
    pub(super) async fn told(&self, lease_id: &str, message: Message, limit: Duration) -> bool {
        let (tell, taken) = oneshot::channel();
        {
            let send = self.send.borrow();
            let Some(send) = &*send else { return false };
            self.reports().insert(lease_id.to_owned(), tell);
            // Nobody takes it when the stream is lost; its end is about to tell.
            let _ = send.send(WorkTasksRequest { message: Some(message) });
        }
        let taken = matches!(tokio::time::timeout(limit, taken).await, Ok(Ok(true)));
        if !taken {
            self.close();
        }
        taken
    }

    /// Says nothing more. The platform then answers what was said, and ends the stream.
    pub(super) fn close(&self) {
        self.send.send_replace(None);
    }
}

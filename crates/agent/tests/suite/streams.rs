//! The platform's side of a stream of work.

use std::sync::Arc;

use mi_proto::v1::{
    ClaimTasksRequest, ClaimTasksResponse, ReportOutcome, Task, WorkTasksRequest, WorkTasksResponse,
    work_tasks_request::Message, work_tasks_response::Answer,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::platform::{Answers, Platform};

fn claimed(tasks: Vec<Task>) -> Result<WorkTasksResponse, Status> {
    Ok(WorkTasksResponse { answer: Some(Answer::Claimed(ClaimTasksResponse { tasks })) })
}

impl Platform {
    /// Sends as many tasks as there is room for, until the agent says no more.
    pub(crate) async fn work(
        self: Arc<Self>,
        request: Request<Streaming<WorkTasksRequest>>,
    ) -> Result<Response<Answers<WorkTasksResponse>>, Status> {
        self.authenticate(&request)?;
        let mut messages = request.into_inner();
        let Some(Message::Start(start)) = messages.message().await?.and_then(|first| first.message) else {
            return Err(Status::invalid_argument("no start"));
        };
        let ClaimTasksRequest { kinds, max_tasks, .. } = start.clone();
        self.claims.lock().expect("lock").push(start);
        self.refusal("WorkTasks")?;
        let (send, answers) = mpsc::channel(16);
        tokio::spawn(async move {
            let mut free = max_tasks.expect("says how many");
            loop {
                let (queued, broken) = (self.queued.notified(), self.broken.notified());
                let tasks = self.take(&kinds, free);
                if !tasks.is_empty() {
                    free -= i32::try_from(tasks.len()).expect("few");
                    send.send(claimed(tasks)).await.expect("open");
                    continue;
                }
                tokio::select! {
                    message = messages.message() => match message {
                        Ok(Some(message)) => {
                            let message = message.message.expect("something");
                            free += i32::from(!matches!(message, Message::Renew(_)));
                            if let Some(outcome) = self.reported(message) {
                                let answer = Some(Answer::Reported(outcome));
                                send.send(Ok(WorkTasksResponse { answer })).await.expect("open");
                            }
                        }
                        Ok(None) => {
                            let late = std::mem::take(&mut *self.late.lock().expect("lock"));
                            return drop(send.send(claimed(late)).await);
                        }
                        Err(_) => return,
                    },
                    () = queued => {}
                    () = broken => return drop(send.send(Err(Status::unavailable("broken"))).await),
                }
            }
        });
        Ok(Response::new(ReceiverStream::new(answers)))
    }

    /// Takes a report as a call would be taken; none: it says nothing of it.
    fn reported(&self, message: Message) -> Option<ReportOutcome> {
        let (call, task_id, lease_id) = match message {
            Message::Complete(report) => {
                let told = ("CompleteTask", report.task_id.clone(), report.lease_id.clone());
                self.completions.lock().expect("lock").push(report);
                told
            }
            Message::Fail(report) => {
                let told = ("FailTask", report.task_id.clone(), report.lease_id.clone());
                self.failures.lock().expect("lock").push(report);
                told
            }
            Message::Release(report) => {
                let told = ("ReleaseTask", report.task_id.clone(), report.lease_id.clone());
                self.releases.lock().expect("lock").push(report);
                told
            }
            Message::Renew(report) => ("RenewLease", report.task_id, report.lease_id),
            Message::Start(_) => panic!("it has started"),
        };
        self.streamed.lock().expect("lock").push(call);
        if self.refusal(&format!("answer to {call}")).is_err() {
            return None;
        }
        let outcome = ReportOutcome { task_id: task_id.clone(), lease_id, ..ReportOutcome::default() };
        Some(match self.refusal(call) {
            Ok(()) => ReportOutcome { task: Some(Task { id: task_id, ..Task::default() }), ..outcome },
            Err(status) => ReportOutcome { reason: "REFUSED".into(), message: status.message().into(), ..outcome },
        })
    }
}

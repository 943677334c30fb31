//! The lease on a task: kept as long as the work goes on, and given up with a report.

use std::time::Duration;

use mi_client::{ClientError, Tasks, jittered};
use mi_kernel::{
    Clock, SystemClock,
    receipt::{Command, Receipt, sha256_hex},
};
use mi_proto::v1::{
    CompleteTaskRequest, FailTaskRequest, ReleaseTaskRequest, RenewLeaseRequest, Task, work_tasks_request::Message,
};
use tokio::sync::Mutex;
use tonic::{Code, Response, Status};

use super::{
    outcome::{Done, Ended, Failed, Outcome},
    shared::{Shared, duration},
    stream::Line,
};
use crate::retry::{BACKOFF, soon};

/// Longest error, a rule of the platform.
const MAX_ERROR: usize = 64 << 10;

/// A task that this agent holds.
pub(super) struct Lease<'a> {
    shared: &'a Shared,
    task: &'a Task,
    line: &'a Line,
    /// Held while something is said of it on the line.
    turn: Mutex<()>,
}

impl<'a> Lease<'a> {
    pub(super) fn new(shared: &'a Shared, task: &'a Task, line: &'a Line) -> Self {
        Self { shared, task, line, turn: Mutex::default() }
    }

    /// Says it on the line; whether it was taken. Who could not pay looks again by itself, later, and takes nothing in its place.
    async fn told(&self, message: Message, limit: Duration) -> bool {
        let _turn = self.turn.lock().await;
        if !self.shared.paid.pays() {
            self.line.close();
        }
        self.line.told(&self.task.lease_id, message, limit).await
    }

    /// Renews it for as long as the platform agrees; answers why it is lost. While the platform is away it is asked again
    /// and again, past the lease's end, too: time in which it is away does not count there, and whether somebody else has
    /// the task nobody but the platform knows.
    pub(super) async fn keep(&self) -> String {
        let length = self.shared.config.lease;
        let mut pause = length / 3;
        let mut failures = 0;
        loop {
            tokio::time::sleep(pause).await;
            let request = RenewLeaseRequest {
                office_id: self.shared.office_id.clone(),
                task_id: self.task.id.clone(),
                lease_id: self.task.lease_id.clone(),
                lease: duration(length),
            };
            let renewal = async {
                if self.told(Message::Renew(request.clone()), length / 6).await {
                    return Ok(());
                }
                self.shared.client.tasks().renew_lease(request).await.map(drop)
            };
            match limited(length / 3, renewal).await {
                Ok(()) => (failures, pause) = (0, length / 3),
                Err(status) if soon(status.code()) => {
                    failures += 1;
                    // When the platform is back, the lease is good for its length from then.
                    pause = jittered(BACKOFF.after(failures)).min(length / 3);
                }
                Err(status) => return status.message().to_owned(),
            }
        }
    }

    /// Reports until the platform answers; what it answered. To be run beside [`keep`](Self::keep), which says when it is
    /// no use any more.
    pub(super) async fn report(&self, outcome: Outcome) -> Ended {
        match outcome {
            Outcome::Done(done) => match self.complete(&done).await {
                Ok(()) => Ended::done(),
                Err(status) if lost(status.code()) => Ended::too_late(&status),
                Err(status) => {
                    self.failed(Failed::retryable(format!("the completion was refused: {}", status.message()))).await
                }
            },
            Outcome::Failed(failed) => self.failed(failed).await,
            Outcome::Reported(ended) => ended,
            Outcome::Released => match self.release().await {
                Ok(()) => Ended { how: "given back", why: String::new() },
                Err(status) => Ended { how: "could not be given back", why: status.message().into() },
            },
        }
    }

    /// Completes it, with a receipt.
    pub(super) async fn complete(&self, done: &Done) -> Result<(), Status> {
        let receipt = Receipt {
            iss: self.shared.agent_id.to_string(),
            task_id: self.task.id.clone(),
            attempt: self.task.attempt,
            result_sha256: sha256_hex(done.result.as_bytes()),
            artifacts: done.artifacts.clone(),
            commands: done.commands.clone(),
            iat: SystemClock.now().timestamp(),
        };
        let request = || {
            // Here, because a key that was replaced between two tries is not believed any more.
            let receipt = self.shared.key.current().receipt(&receipt);
            Ok(CompleteTaskRequest {
                office_id: self.shared.office_id.clone(),
                task_id: self.task.id.clone(),
                lease_id: self.task.lease_id.clone(),
                result: done.result.clone(),
                artifacts: done.artifacts.iter().map(|artifact| artifact.path.clone()).collect(),
                receipt: receipt.map_err(|error: ClientError| Status::failed_precondition(error.to_string()))?,
                claim_next: None,
            })
        };
        let call = |mut tasks: Tasks, request| async move { tasks.complete_task(request).await };
        self.until_answered(request, Message::Complete, call).await
    }

    async fn failed(&self, failed: Failed) -> Ended {
        let mut error = failed.error;
        error.truncate(error.floor_char_boundary(MAX_ERROR));
        let first = error.lines().next().unwrap_or_default().to_owned();
        let request = FailTaskRequest {
            office_id: self.shared.office_id.clone(),
            task_id: self.task.id.clone(),
            lease_id: self.task.lease_id.clone(),
            error,
            retryable: failed.retryable,
            loop_detected: failed.loop_detected,
            claim_next: None,
        };
        if request.loop_detected {
            // It is about to be paused: it takes nothing in its place.
            self.line.close();
        }
        let call = |mut tasks: Tasks, request| async move { tasks.fail_task(request).await };
        match self.until_answered(|| Ok(request.clone()), Message::Fail, call).await {
            Ok(()) => Ended { how: "failed", why: first },
            Err(status) => {
                Ended { how: "failed, which was refused", why: format!("{} (it failed: {first})", status.message()) }
            }
        }
    }

    /// Gives it back unfinished.
    async fn release(&self) -> Result<(), Status> {
        let request = ReleaseTaskRequest {
            office_id: self.shared.office_id.clone(),
            task_id: self.task.id.clone(),
            lease_id: self.task.lease_id.clone(),
        };
        let call = |mut tasks: Tasks, request| async move { tasks.release_task(request).await };
        self.until_answered(|| Ok(request.clone()), Message::Release, call).await
    }

    /// The lease makes every report one that may be sent again: on the line, and where it is not taken there, in calls.
    async fn until_answered<R, A, F>(
        &self,
        request: impl Fn() -> Result<R, Status>,
        said: fn(R) -> Message,
        call: impl Fn(Tasks, R) -> F,
    ) -> Result<(), Status>
    where
        F: Future<Output = Result<Response<A>, Status>>,
    {
        let limit = self.shared.config.lease;
        if self.told(said(request()?), limit / 3).await {
            return Ok(());
        }
        let mut failures = 0;
        loop {
            match limited(limit, call(self.shared.client.tasks(), request()?)).await {
                Ok(_) => return Ok(()),
                Err(status) if soon(status.code()) => {
                    failures += 1;
                    tokio::time::sleep(jittered(BACKOFF.after(failures))).await;
                }
                Err(status) => return Err(status),
            }
        }
    }
}

async fn limited<T>(limit: Duration, call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let late = |_| Err(Status::deadline_exceeded("no answer in time"));
    tokio::time::timeout(limit, call).await.unwrap_or_else(late)
}

/// Whether the task is no longer this agent's.
pub(super) fn lost(code: Code) -> bool {
    matches!(code, Code::Aborted | Code::NotFound)
}

/// What a receipt says of a script.
pub(super) fn command(script: &str, exit_code: i32) -> Command {
    Command { sha256: sha256_hex(script.as_bytes()), exit_code }
}

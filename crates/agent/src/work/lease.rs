//! The lease on a task: kept as long as the work goes on, and given up with a report.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use mi_client::{ClientError, jittered};
use mi_kernel::{
    Clock, SystemClock,
    receipt::{Command, Receipt, sha256_hex},
};
use mi_proto::v1::{
    ClaimTasksRequest, CompleteTaskRequest, FailTaskRequest, ReleaseTaskRequest, RenewLeaseRequest, Task,
};
use tonic::{Code, Response, Status};

use super::{
    outcome::{Done, Ended, Failed, Outcome},
    shared::{Shared, duration},
};
use crate::retry::{BACKOFF, soon};

/// Longest error, a rule of the platform.
const MAX_ERROR: usize = 64 << 10;

/// A task that this agent holds.
pub(super) struct Lease<'a> {
    shared: &'a Shared,
    task: &'a Task,
    /// What the platform handed out with the answer to the report.
    next: Mutex<Vec<Task>>,
}

impl<'a> Lease<'a> {
    pub(super) fn new(shared: &'a Shared, task: &'a Task) -> Self {
        Self { shared, task, next: Mutex::default() }
    }

    /// The tasks that came with the report.
    pub(super) fn next(self) -> Vec<Task> {
        self.next.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep_next(&self, claimed: Vec<Task>) {
        self.next.lock().unwrap_or_else(PoisonError::into_inner).extend(claimed);
    }

    /// What a report claims: the task that takes the place of this one. A report that is sent again claims nothing, since the first
    /// one may have; and whoever could not pay looks again by itself, later.
    fn claims(&self, tries: u32) -> Option<ClaimTasksRequest> {
        (tries == 0 && self.shared.paid.pays()).then(|| self.shared.wanted(1))
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
            let renewal = async { self.shared.client.tasks().renew_lease(request).await };
            match limited(length / 3, renewal).await {
                Ok(_) => (failures, pause) = (0, length / 3),
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
        let answer = self.until_answered(|tries| {
            // Here, because a key that was replaced between two tries is not believed any more.
            let signed = self.shared.key.current().receipt(&receipt);
            let request = signed.map(|receipt| CompleteTaskRequest {
                office_id: self.shared.office_id.clone(),
                task_id: self.task.id.clone(),
                lease_id: self.task.lease_id.clone(),
                result: done.result.clone(),
                artifacts: done.artifacts.iter().map(|artifact| artifact.path.clone()).collect(),
                receipt,
                claim_next: self.claims(tries),
            });
            let mut tasks = self.shared.client.tasks();
            async move {
                let unsigned = |error: ClientError| Status::failed_precondition(error.to_string());
                tasks.complete_task(request.map_err(unsigned)?).await
            }
        });
        self.keep_next(answer.await?.claimed);
        Ok(())
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
        let answer = self.until_answered(|tries| {
            let claim_next = self.claims(tries).filter(|_| !failed.loop_detected);
            let (mut tasks, request) = (self.shared.client.tasks(), FailTaskRequest { claim_next, ..request.clone() });
            async move { tasks.fail_task(request).await }
        });
        match answer.await {
            Ok(answer) => {
                self.keep_next(answer.claimed);
                Ended { how: "failed", why: first }
            }
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
        let answer = self.until_answered(|_| {
            let (mut tasks, request) = (self.shared.client.tasks(), request.clone());
            async move { tasks.release_task(request).await }
        });
        answer.await.map(drop)
    }

    /// The lease makes every report one that may be sent again; each hears how often it was sent before.
    async fn until_answered<T, F>(&self, call: impl Fn(u32) -> F) -> Result<T, Status>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let mut failures = 0;
        loop {
            match limited(self.shared.config.lease, call(failures)).await {
                Ok(answer) => return Ok(answer.into_inner()),
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

//! What clients ask of a process, as its handlers get it.

use std::time::Duration;

use mi_kernel::{Actor, LeaseId};
use mi_proto::{
    rules,
    v1::{self, task_service_server::TaskService},
};
use mi_rpc::Caller;
use tonic::{Request, Status};

use crate::{
    Tasks,
    model::{ReportKind, Work},
};

/// What is asked.
#[derive(Debug, Clone)]
pub(super) enum Ask {
    Create(Vec<v1::CreateTaskRequest>),
    Claim(v1::ClaimTasksRequest),
    Renew(v1::RenewLeaseRequest),
    Release(v1::ReleaseTaskRequest),
    Complete(v1::CompleteTaskRequest),
    Fail(v1::FailTaskRequest),
    Cancel(v1::CancelTaskRequest),
    Retry(v1::RetryTaskRequest),
    Verify(v1::VerifyTaskRequest),
    Assign(v1::AssignTaskRequest),
}

/// Of whom.
pub(super) const OWNER: usize = usize::MAX;

/// A call, until it is answered.
#[derive(Debug, Clone)]
pub(super) struct Call {
    pub(super) ask: Ask,
    /// Which agent, or [`OWNER`].
    pub(super) by: usize,
    /// Which process.
    pub(super) process: usize,
    /// Whether the same was asked before, and the answer lost.
    pub(super) again: bool,
}

pub(super) fn seconds(duration: Duration) -> Option<prost_types::Duration> {
    Some(prost_types::Duration {
        seconds: duration.as_secs().cast_signed(),
        nanos: duration.subsec_nanos().cast_signed(),
    })
}

impl Ask {
    /// The task and the lease that a report is about.
    pub(super) fn lease(&self) -> Option<(&str, LeaseId)> {
        let (task, lease) = match self {
            Self::Renew(ask) => (&ask.task_id, &ask.lease_id),
            Self::Release(ask) => (&ask.task_id, &ask.lease_id),
            Self::Complete(ask) => (&ask.task_id, &ask.lease_id),
            Self::Fail(ask) => (&ask.task_id, &ask.lease_id),
            _ => return None,
        };
        Some((task, LeaseId::parse(lease).ok()?))
    }

    /// What is claimed with a report. It is answered after the task that was reported.
    pub(super) fn claim_next(&self) -> Option<&v1::ClaimTasksRequest> {
        match self {
            Self::Complete(ask) => ask.claim_next.as_ref(),
            Self::Fail(ask) => ask.claim_next.as_ref(),
            _ => None,
        }
    }

    /// What the queue keeps of a report that ends a lease.
    pub(super) fn digest(&self) -> Option<String> {
        let kind = match self {
            Self::Release(_) => ReportKind::Released,
            Self::Complete(ask) => {
                let (result, artifacts) = (ask.result.clone(), ask.artifacts.clone());
                let work = Work { result, artifacts, receipt: String::new(), public_key: String::new() };
                ReportKind::Completed { work }
            }
            Self::Fail(ask) => {
                ReportKind::Failed { error: ask.error.clone(), retryable: ask.retryable, loop_detected: false }
            }
            _ => return None,
        };
        Some(kind.digest())
    }

    /// How long it may take by itself.
    pub(super) fn waits(&self) -> Duration {
        let wait = match self {
            Self::Claim(ask) => ask.wait,
            _ => None,
        };
        wait.and_then(|wait| wait.try_into().ok()).unwrap_or_default()
    }
}

pub(crate) fn request<T>(body: T, actor: &Actor, method: &str) -> Request<T> {
    let rule = rules::rule(&format!("/mi.v1.TaskService/{method}")).expect("a method of the service");
    let caller = Caller { actor: actor.clone(), rule, trace_id: String::new(), refusals: Default::default() };
    let mut request = Request::new(body);
    request.extensions_mut().insert(caller);
    request
}

/// Asks this process; the tasks that it answers, of a report the reported one first.
pub(super) async fn ask(tasks: Tasks, by: Actor, ask: Ask) -> Result<Vec<v1::Task>, Status> {
    let one = |task: Option<v1::Task>| Ok(task.into_iter().collect());
    match ask {
        Ask::Create(mut requests) if requests.len() == 1 => {
            one(tasks.create_task(request(requests.remove(0), &by, "CreateTask")).await?.into_inner().task)
        }
        Ask::Create(requests) => {
            let batch = v1::BatchCreateTasksRequest { office_id: requests[0].office_id.clone(), requests };
            Ok(tasks.batch_create_tasks(request(batch, &by, "BatchCreateTasks")).await?.into_inner().tasks)
        }
        Ask::Claim(ask) => Ok(tasks.claim_tasks(request(ask, &by, "ClaimTasks")).await?.into_inner().tasks),
        Ask::Renew(ask) => one(tasks.renew_lease(request(ask, &by, "RenewLease")).await?.into_inner().task),
        Ask::Release(ask) => one(tasks.release_task(request(ask, &by, "ReleaseTask")).await?.into_inner().task),
        Ask::Complete(ask) => {
            let answer = tasks.complete_task(request(ask, &by, "CompleteTask")).await?.into_inner();
            Ok(answer.task.into_iter().chain(answer.claimed).collect())
        }
        Ask::Fail(ask) => {
            let answer = tasks.fail_task(request(ask, &by, "FailTask")).await?.into_inner();
            Ok(answer.task.into_iter().chain(answer.claimed).collect())
        }
        Ask::Cancel(ask) => one(tasks.cancel_task(request(ask, &by, "CancelTask")).await?.into_inner().task),
        Ask::Retry(ask) => one(tasks.retry_task(request(ask, &by, "RetryTask")).await?.into_inner().task),
        Ask::Verify(ask) => one(tasks.verify_task(request(ask, &by, "VerifyTask")).await?.into_inner().task),
        Ask::Assign(ask) => one(tasks.assign_task(request(ask, &by, "AssignTask")).await?.into_inner().task),
    }
}

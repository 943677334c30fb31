//! `mi.v1.TaskService`.

use std::time::Duration;

use futures::TryStreamExt;
use mi_kernel::{Error, Result, TaskId, page::MAX_PAGE_BYTES};
use mi_proto::v1::{self, task_service_server::TaskService};
use mi_rpc::{Access, Caller, Reply, deadline, handle, outgoing, status};
use prost::Message;
use tonic::{Request, Response, codegen::BoxStream};

use super::{
    Tasks,
    decide::Verdict,
    group_commit::{Answer, Patience, TaskCommand, unanswered},
    model::{ReportKind, Task},
    repo, rules,
    status_counts::StatusCounts,
    wire,
};

/// A claim answers this much before the call's time is up.
const MARGIN: Duration = Duration::from_millis(250);
/// Tasks that wait for a client.
const BUFFER: usize = 1;

impl Tasks {
    /// Lets the caller into an office by its owner alone: the queue's transaction tells whether the office is still there.
    async fn enter(&self, caller: &Caller, office: &str) -> Result<Access> {
        self.offices.enter(caller, office).await
    }

    /// Lets the caller into an office that is there now, to read.
    async fn enter_to_read(&self, caller: &Caller, office: &str) -> Result<Access> {
        let (access, _) = self.offices.get(caller, office).await?;
        Ok(access)
    }

    /// A report on one task, and what is claimed with it.
    async fn report_one(
        &self,
        caller: &Caller,
        [office, task, lease]: [&str; 3],
        what: Result<ReportKind>,
        next: Option<&v1::ClaimTasksRequest>,
    ) -> Result<(Option<v1::Task>, Vec<v1::Task>)> {
        let access = self.enter(caller, office).await?;
        let reported = (TaskId::parse(task)?, rules::lease_id(lease)?, what?);
        let next = self.next(&access, office, next).await?;
        let (task, claimed) = self.report_and_claim(&access, reported, next).await?;
        Ok((Some(wire::task(task, &access)), shown(claimed, &access)))
    }

    async fn decide_one(&self, caller: &Caller, [office, task]: [&str; 2], what: Result<Verdict>) -> Result<v1::Task> {
        let access = self.enter(caller, office).await?;
        let task = self.decide(&access, task, what?).await?;
        Ok(wire::task(task, &access))
    }
}

fn the_one(answer: Answer) -> Result<Task> {
    answer?.pop().ok_or_else(unanswered)
}

/// All of these, as their claimer sees them.
fn shown(tasks: Vec<Task>, access: &Access) -> Vec<v1::Task> {
    tasks.into_iter().map(|task| wire::task(task, access)).collect()
}

#[tonic::async_trait]
impl TaskService for Tasks {
    async fn create_task(&self, request: Request<v1::CreateTaskRequest>) -> Reply<v1::CreateTaskResponse> {
        handle!(request, |caller, body| {
            let access = self.enter(&caller, &body.office_id).await?;
            let task = the_one(self.create(&access, &body.office_id, std::slice::from_ref(&body)).await)?;
            let task = wire::task(task, &access);
            v1::CreateTaskResponse { task: Some(task) }
        })
    }

    async fn batch_create_tasks(
        &self,
        request: Request<v1::BatchCreateTasksRequest>,
    ) -> Reply<v1::BatchCreateTasksResponse> {
        handle!(request, |caller, body| {
            let access = self.enter(&caller, &body.office_id).await?;
            rules::batch(&body.requests)?;
            let tasks = shown(self.create(&access, &body.office_id, &body.requests).await?, &access);
            v1::BatchCreateTasksResponse { tasks }
        })
    }

    async fn get_task(&self, request: Request<v1::GetTaskRequest>) -> Reply<v1::GetTaskResponse> {
        handle!(request, |caller, body| {
            let access = self.enter_to_read(&caller, &body.office_id).await?;
            let task = self.get(&access, &body.task_id).await?;
            v1::GetTaskResponse { task: Some(self.show(&access, task).await?) }
        })
    }

    async fn list_tasks(&self, request: Request<v1::ListTasksRequest>) -> Reply<v1::ListTasksResponse> {
        handle!(request, |caller, body| {
            let access = self.enter_to_read(&caller, &body.office_id).await?;
            let (tasks, next_page_token) = self.list(&access, &body).await?;
            v1::ListTasksResponse { tasks, next_page_token }
        })
    }

    type WatchTasksStream = BoxStream<v1::WatchTasksResponse>;

    async fn watch_tasks(&self, request: Request<v1::WatchTasksRequest>) -> Reply<Self::WatchTasksStream> {
        handle!(request, |caller, body| {
            let access = self.enter_to_read(&caller, &body.office_id).await?;
            outgoing(&self.background, BUFFER, self.watch(access, &body).await?.map_err(status))
        })
    }

    async fn claim_tasks(&self, request: Request<v1::ClaimTasksRequest>) -> Reply<v1::ClaimTasksResponse> {
        let caller = Caller::of(&request)?;
        // Every call has a deadline here; a claim answers before it.
        let left = deadline::parse(request.metadata().as_ref()).ok().flatten();
        let patience = left.map_or(Duration::MAX, |left| left.saturating_sub(MARGIN.max(left / 10).min(left / 2)));
        let body = request.into_inner();
        let access = self.enter(&caller, &body.office_id).await.map_err(status)?;
        let tasks = self.claim(&access, &body, patience).await.map_err(status)?;
        Ok(Response::new(v1::ClaimTasksResponse { tasks: shown(tasks, &access) }))
    }

    type WorkTasksStream = BoxStream<v1::WorkTasksResponse>;

    async fn work_tasks(
        &self,
        request: Request<tonic::Streaming<v1::WorkTasksRequest>>,
    ) -> Reply<Self::WorkTasksStream> {
        let caller = Caller::of(&request)?;
        let mut messages = request.into_inner();
        let first = messages.message().await?.and_then(|first| first.message);
        let opened = async {
            let Some(v1::work_tasks_request::Message::Start(start)) = first else {
                return Err(Error::invalid("start", "is required: the first message says what work is taken"));
            };
            let access = self.enter(&caller, &start.office_id).await?;
            Ok(outgoing(&self.background, BUFFER, self.work_for(access, start, messages)?))
        };
        opened.await.map(Response::new).map_err(status)
    }

    async fn renew_lease(&self, request: Request<v1::RenewLeaseRequest>) -> Reply<v1::RenewLeaseResponse> {
        handle!(request, |caller, body| {
            let what = rules::lease(body.lease.as_ref()).map(|lease| ReportKind::Renewed { lease });
            let of = [&*body.office_id, &body.task_id, &body.lease_id];
            let (task, _) = self.report_one(&caller, of, what, None).await?;
            v1::RenewLeaseResponse { task }
        })
    }

    async fn release_task(&self, request: Request<v1::ReleaseTaskRequest>) -> Reply<v1::ReleaseTaskResponse> {
        handle!(request, |caller, body| {
            let what = Ok(ReportKind::Released);
            let of = [&*body.office_id, &body.task_id, &body.lease_id];
            let (task, _) = self.report_one(&caller, of, what, None).await?;
            v1::ReleaseTaskResponse { task }
        })
    }

    async fn complete_task(&self, request: Request<v1::CompleteTaskRequest>) -> Reply<v1::CompleteTaskResponse> {
        handle!(request, |caller, body| {
            let what = rules::work(&body).map(|work| ReportKind::Completed { work });
            let of = [&*body.office_id, &body.task_id, &body.lease_id];
            let (task, claimed) = self.report_one(&caller, of, what, body.claim_next.as_ref()).await?;
            v1::CompleteTaskResponse { task, claimed }
        })
    }

    async fn batch_complete_tasks(
        &self,
        request: Request<v1::BatchCompleteTasksRequest>,
    ) -> Reply<v1::BatchCompleteTasksResponse> {
        handle!(request, |caller, body| {
            let access = self.enter(&caller, &body.office_id).await?;
            self.complete_all(&access, body).await?
        })
    }

    async fn fail_task(&self, request: Request<v1::FailTaskRequest>) -> Reply<v1::FailTaskResponse> {
        handle!(request, |caller, body| {
            let what = rules::note("error", &body.error).map(|error| ReportKind::Failed {
                error,
                retryable: body.retryable,
                loop_detected: body.loop_detected,
            });
            let of = [&*body.office_id, &body.task_id, &body.lease_id];
            let (task, claimed) = self.report_one(&caller, of, what, body.claim_next.as_ref()).await?;
            v1::FailTaskResponse { task, claimed }
        })
    }

    async fn cancel_task(&self, request: Request<v1::CancelTaskRequest>) -> Reply<v1::CancelTaskResponse> {
        handle!(request, |caller, body| {
            let what = rules::reason("reason", &body.reason).map(|reason| match reason.as_str() {
                "" => Verdict::Cancel("cancelled".into()),
                _ => Verdict::Cancel(reason),
            });
            let task = self.decide_one(&caller, [&body.office_id, &body.task_id], what).await?;
            v1::CancelTaskResponse { task: Some(task) }
        })
    }

    async fn retry_task(&self, request: Request<v1::RetryTaskRequest>) -> Reply<v1::RetryTaskResponse> {
        handle!(request, |caller, body| {
            let what = Ok(Verdict::Retry);
            let task = self.decide_one(&caller, [&body.office_id, &body.task_id], what).await?;
            v1::RetryTaskResponse { task: Some(task) }
        })
    }

    async fn assign_task(&self, request: Request<v1::AssignTaskRequest>) -> Reply<v1::AssignTaskResponse> {
        handle!(request, |caller, body| {
            let access = self.enter(&caller, &body.office_id).await?;
            let assigned = match body.assigned_agent.as_str() {
                "" => None,
                name => Some(self.assignee(access.office_id(), name).await?),
            };
            let task = self.decide(&access, &body.task_id, Verdict::Assign(assigned)).await?;
            v1::AssignTaskResponse { task: Some(wire::task(task, &access)) }
        })
    }

    async fn verify_task(&self, request: Request<v1::VerifyTaskRequest>) -> Reply<v1::VerifyTaskResponse> {
        handle!(request, |caller, body| {
            let what = match body.approve {
                true => rules::reason("note", &body.note).map(|_| Verdict::Accept(body.attempt)),
                false => rules::note("note", &body.note).map(|note| Verdict::Reject(note, body.attempt)),
            };
            let task = self.decide_one(&caller, [&body.office_id, &body.task_id], what).await?;
            v1::VerifyTaskResponse { task: Some(task) }
        })
    }

    async fn add_task_note(&self, request: Request<v1::AddTaskNoteRequest>) -> Reply<v1::AddTaskNoteResponse> {
        handle!(request, |caller, body| {
            let access = self.enter_to_read(&caller, &body.office_id).await?;
            let note = self.add_note(&access, &body).await?;
            v1::AddTaskNoteResponse { note: Some(note.into()) }
        })
    }

    async fn list_task_notes(&self, request: Request<v1::ListTaskNotesRequest>) -> Reply<v1::ListTaskNotesResponse> {
        handle!(request, |caller, body| {
            let access = self.enter_to_read(&caller, &body.office_id).await?;
            let (notes, next_page_token) = self.list_notes(&access, &body).await?;
            v1::ListTaskNotesResponse { notes: notes.into_iter().map(Into::into).collect(), next_page_token }
        })
    }

    async fn get_task_stats(&self, request: Request<v1::GetTaskStatsRequest>) -> Reply<v1::GetTaskStatsResponse> {
        handle!(request, |caller, body| {
            let access = self.enter_to_read(&caller, &body.office_id).await?;
            let counts = wire::counts(&self.status_counts(&access).await?);
            let stats = v1::TaskStats { total: counts.iter().map(|count| count.count).sum(), counts };
            v1::GetTaskStatsResponse { stats: Some(stats) }
        })
    }
}

impl Tasks {
    async fn status_counts(&self, access: &Access) -> Result<StatusCounts> {
        Ok(repo::queue_status_counts(&mut self.db.office(access.office_id()).read().await?).await?)
    }

    /// Completes several tasks: one that is refused does not keep the others.
    async fn complete_all(
        &self,
        access: &Access,
        body: v1::BatchCompleteTasksRequest,
    ) -> Result<v1::BatchCompleteTasksResponse> {
        if body.requests.is_empty() || body.requests.len() > rules::MAX_BATCH {
            return Err(Error::invalid("requests", format!("must hold 1 to {} completions", rules::MAX_BATCH)));
        }
        let mut results: Vec<Option<Answer>> = Vec::with_capacity(body.requests.len());
        let mut reports = Vec::new();
        for request in &body.requests {
            if !request.office_id.is_empty() && request.office_id != body.office_id {
                return Err(Error::invalid("office_id", "of a completion differs from the batch's"));
            }
            if request.claim_next.is_some() {
                return Err(Error::invalid("claim_next", "of a completion cannot be given: a batch has one for all"));
            }
            let read =
                || Ok((TaskId::parse(&request.task_id)?, rules::lease_id(&request.lease_id)?, rules::work(request)?));
            results.push(match read() {
                Ok((task, lease, work)) => {
                    reports.push((task, lease, ReportKind::Completed { work }));
                    None
                }
                Err(error) => Some(Err(error)),
            });
        }
        let (members, next) = self.next(access, &body.office_id, body.claim_next.as_ref()).await?;
        let (signers, mut ops) = self.reports(access, reports).await?;
        ops.extend(next.map(|claim| TaskCommand::Claim(claim, Patience::None)));
        let roster = signers.or(members);
        let answers = self.submit(access.office_id(), ops, roster.as_ref(), access.trace_id()).await?;
        let mut answers = answers.into_iter();
        let mut own = || answers.next().unwrap_or_else(|| Err(unanswered()));
        let results: Vec<Answer> = results.into_iter().map(|refused| refused.unwrap_or_else(&mut own)).collect();
        // Refused, it claims nothing, and the reports have their answers all the same.
        let claimed = answers.next().and_then(Result::ok).unwrap_or_default();
        let mut size = 0;
        let result = |answer| match the_one(answer) {
            Ok(task) => {
                let mut task = wire::task(task, access);
                size += task.encoded_len();
                // What the caller has anyway would make the answer more than clients take.
                if size > MAX_PAGE_BYTES {
                    (task.description, task.result) = Default::default();
                }
                v1::CompleteTaskResult { task: Some(task), ..Default::default() }
            }
            Err(error) => {
                v1::CompleteTaskResult { task: None, reason: error.reason.to_owned(), message: error.message }
            }
        };
        let results = results.into_iter().map(result).collect();
        Ok(v1::BatchCompleteTasksResponse { results, claimed: shown(claimed, access) })
    }
}

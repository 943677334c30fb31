//! Tasks, as their callers see them.

mod life;
mod queue;
mod receipts;

use mi_kernel::Actor;
use mi_proto::v1::{
    BatchCreateTasksRequest, ClaimTasksRequest, CompleteTaskRequest, CreateTaskRequest, FailTaskRequest,
    GetTaskRequest, Task, TaskStatus,
};
use prost_types::Duration;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::stage::Stage;

fn seconds(seconds: i64) -> Option<Duration> {
    Some(Duration { seconds, nanos: 0 })
}

fn request(office: &str, title: &str) -> CreateTaskRequest {
    CreateTaskRequest { office_id: office.into(), title: title.into(), ..Default::default() }
}

/// The reason of a refusal.
fn reason(status: &Status) -> String {
    status.get_details_error_info().map(|info| info.reason).unwrap_or_default()
}

impl Stage {
    async fn create_task(&self, by: &Actor, request: CreateTaskRequest) -> Result<Task, Status> {
        Ok(self.tasks(by).create_task(request).await?.into_inner().task.expect("always there"))
    }

    async fn new_task(&self, office: &str, title: &str) -> Task {
        self.create_task(&self.owner, request(office, title)).await.expect("creates")
    }

    async fn task(&self, office: &str, id: &str) -> Task {
        let request = GetTaskRequest { office_id: office.into(), task_id: id.into() };
        self.tasks(&self.owner).get_task(request).await.expect("there").into_inner().task.expect("always there")
    }

    async fn status_of(&self, office: &str, id: &str) -> TaskStatus {
        self.task(office, id).await.status()
    }

    pub(super) async fn claim_with(&self, by: &Actor, request: ClaimTasksRequest) -> Result<Vec<Task>, Status> {
        Ok(self.tasks(by).claim_tasks(request).await?.into_inner().tasks)
    }

    pub(super) async fn claim(&self, by: &Actor, office: &str) -> Option<Task> {
        let request = ClaimTasksRequest { office_id: office.into(), ..Default::default() };
        self.claim_with(by, request).await.expect("claims").pop()
    }

    pub(super) async fn complete(&self, by: &Actor, office: &str, task: &Task, result: &str) -> Result<Task, Status> {
        let request = CompleteTaskRequest {
            office_id: office.into(),
            task_id: task.id.clone(),
            lease_id: task.lease_id.clone(),
            result: result.into(),
            ..Default::default()
        };
        Ok(self.tasks(by).complete_task(request).await?.into_inner().task.expect("always there"))
    }

    async fn fail(&self, by: &Actor, office: &str, task: &Task, retryable: bool) -> Result<Task, Status> {
        let request = FailTaskRequest {
            office_id: office.into(),
            task_id: task.id.clone(),
            lease_id: task.lease_id.clone(),
            error: "it broke".into(),
            retryable,
            ..Default::default()
        };
        Ok(self.tasks(by).fail_task(request).await?.into_inner().task.expect("always there"))
    }

    /// An office in use.
    pub(super) async fn active(&self, name: &str) -> String {
        let office = self.create(name).await;
        self.until_status(&office.id, Some(mi_proto::v1::OfficeStatus::Active)).await;
        office.id
    }
}

/// So many tasks in one call.
fn many(office: &str, count: usize) -> BatchCreateTasksRequest {
    let requests = (0..count).map(|n| request("", &format!("task {n}"))).collect();
    BatchCreateTasksRequest { office_id: office.into(), requests }
}

fn assert_refused<T: std::fmt::Debug>(answer: Result<T, Status>, code: Code, why: &str) {
    let status = answer.expect_err("is refused");
    assert_eq!((status.code(), reason(&status).as_str()), (code, why), "{status:?}");
}

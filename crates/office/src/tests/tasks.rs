//! Tasks, as their callers see them.

mod assigning;
mod attempts;
mod away;
mod bad_input;
mod by_chance;
mod contexts;
mod dependencies;
mod effort;
mod faults;
mod keys;
mod life;
mod lists;
mod look;
mod loops;
mod messages;
mod next;
mod notes;
mod parents;
mod processes;
mod queue;
mod receipts;
mod replays;
mod retention;
mod roster;
mod suspension;
mod verification;
mod waiting;
mod watch;

use mi_kernel::{Actor, Clock};
use mi_proto::v1::{
    BatchCreateTasksRequest, CancelTaskRequest, ClaimTasksRequest, CompleteTaskRequest, CreateTaskRequest,
    FailTaskRequest, GetTaskRequest, ReleaseTaskRequest, RenewLeaseRequest, RetryTaskRequest, Task, TaskStatus,
    VerifyTaskRequest,
};
use mi_testkit::until;
use prost_types::Duration;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::harness::{Harness, LONG};
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

impl Harness {
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

    async fn release(&self, by: &Actor, office: &str, task: &Task) -> Result<Task, Status> {
        let (task_id, lease_id) = (task.id.clone(), task.lease_id.clone());
        let request = ReleaseTaskRequest { office_id: office.into(), task_id, lease_id };
        Ok(self.tasks(by).release_task(request).await?.into_inner().task.expect("always there"))
    }

    async fn renew(&self, by: &Actor, office: &str, task: &Task) -> Result<Task, Status> {
        let (task_id, lease_id) = (task.id.clone(), task.lease_id.clone());
        let request = RenewLeaseRequest { office_id: office.into(), task_id, lease_id, lease: None };
        Ok(self.tasks(by).renew_lease(request).await?.into_inner().task.expect("always there"))
    }

    async fn cancel(&self, by: &Actor, office: &str, id: &str) -> Result<Task, Status> {
        let request = CancelTaskRequest { office_id: office.into(), task_id: id.into(), reason: "no use".into() };
        Ok(self.tasks(by).cancel_task(request).await?.into_inner().task.expect("always there"))
    }

    async fn retry(&self, by: &Actor, office: &str, id: &str) -> Result<Task, Status> {
        let request = RetryTaskRequest { office_id: office.into(), task_id: id.into() };
        Ok(self.tasks(by).retry_task(request).await?.into_inner().task.expect("always there"))
    }

    async fn verify(&self, by: &Actor, office: &str, id: &str, approve: bool) -> Result<Task, Status> {
        let note = if approve { String::new() } else { "not good".into() };
        let request = VerifyTaskRequest { office_id: office.into(), task_id: id.into(), approve, note, attempt: None };
        Ok(self.tasks(by).verify_task(request).await?.into_inner().task.expect("always there"))
    }

    /// As the owner, without a lease.
    async fn done(&self, office: &str, id: &str) -> Task {
        let task = Task { id: id.into(), ..Task::default() };
        self.complete(&self.owner, office, &task, "done").await.expect("completes")
    }

    async fn batch(&self, office: &str, requests: Vec<CreateTaskRequest>) -> Result<Vec<Task>, Status> {
        let request = BatchCreateTasksRequest { office_id: office.into(), requests };
        Ok(self.tasks(&self.owner).batch_create_tasks(request).await?.into_inner().tasks)
    }

    async fn until_task(&self, office: &str, id: &str, expected: TaskStatus) -> Task {
        until("the task has the status", LONG, async || {
            let task = self.task(office, id).await;
            if task.status() == expected { Ok(Some(task)) } else { Err(format!("{task:?}")) }
        })
        .await
    }

    /// Titles of everything that there is to claim, in order.
    async fn claim_all(&self, by: &Actor, office: &str) -> Vec<String> {
        let request = ClaimTasksRequest { office_id: office.into(), max_tasks: Some(100), ..Default::default() };
        let tasks = self.claim_with(by, request).await.expect("claims");
        tasks.into_iter().map(|task| task.title).collect()
    }

    /// Time passes in which the platform is there: somebody looks at deadlines all along.
    async fn pass(&self, by: std::time::Duration) {
        let mut tx = self.tables().await.platform().begin().await.expect("begins");
        let (sql, then) = ("UPDATE task_sweeps SET swept_at = $1 WHERE id = 1", Clock::now(&self.clock) + by);
        mi_store::on!(tx, |c| sqlx::query(sql).bind(then).execute(&mut *c).await.map(drop)).expect("writes");
        self.clock.advance(by);
        tx.commit().await.expect("commits");
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

/// Random choices; a failed test shows the seed, and `MI_TEST_SEED` makes it choose the same again.
fn chance() -> fastrand::Rng {
    let given = std::env::var("MI_TEST_SEED").ok().map(|seed| seed.parse().expect("MI_TEST_SEED is a number"));
    let seed = given.unwrap_or_else(|| fastrand::u64(..));
    println!("seed {seed}");
    fastrand::Rng::with_seed(seed)
}

/// The field that a refusal is about.
fn field<T: std::fmt::Debug>(answer: Result<T, Status>) -> String {
    let status = answer.expect_err("is refused");
    assert_eq!(status.code(), Code::InvalidArgument, "{status:?}");
    status.get_details_bad_request().expect("says which").field_violations[0].field.clone()
}

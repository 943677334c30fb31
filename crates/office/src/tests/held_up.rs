//! A process that is frozen with rows locked, and the others over the same Postgres.

use std::time::{Duration, Instant};

use mi_proto::v1::{CreateTaskRequest, Task};
use mi_testkit::{Backend, TestDb};
use sqlx::{AssertSqlSafe, Executor};
use tonic::{Code, Status};

use super::harness::Harness;

async fn create_task(harness: &Harness, office: &str, title: &str) -> Result<Task, Status> {
    let request = CreateTaskRequest { office_id: office.into(), title: title.into(), ..Default::default() };
    Ok(harness.tasks(&harness.owner).create_task(request).await?.into_inner().task.expect("always there"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_process_holds_up_one_office_and_that_one_says_so() {
    let harness = Harness::over(TestDb::plain(Backend::Postgres).await.set("lock_timeout", "500ms")).await;
    let (held, free) = (harness.active("Held").await, harness.active("Free").await);
    let mut frozen = harness.postgres().await;
    frozen.execute("SET search_path = mi_test; SET mi.scope = 'platform'; BEGIN").await.expect("begins");
    let lock = format!("SELECT cursor FROM task_queues WHERE office_id = '{held}' FOR UPDATE");
    frozen.execute(AssertSqlSafe(lock)).await.expect("locks");

    let started = Instant::now();
    let refused = create_task(&harness, &held, "waits").await.expect_err("held up");
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(create_task(&harness, &free, "goes on").await.expect("creates").title, "goes on");

    frozen.execute("ROLLBACK").await.expect("wakes");
    assert_eq!(create_task(&harness, &held, "at last").await.expect("creates").title, "at last");
}

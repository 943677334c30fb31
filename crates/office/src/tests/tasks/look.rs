//! What is written after a look at a queue, or by what is remembered of it, goes by its being as it was: what others change in
//! between is heeded.

use mi_kernel::Actor;
use mi_proto::v1::{ClaimTasksRequest, CompleteTaskRequest, CreateTaskRequest, Task, TaskKind, TaskStatus};
use mi_testkit::{Backend, TestDb, until};
use sqlx::{AssertSqlSafe, Executor};
use tonic::{Code, Status};

use super::{assert_refused, request};
use crate::tests::harness::{Harness, LONG};

impl Harness {
    /// A claim that has looked, and writes when another process has done this to the office's queue.
    async fn claims_while(&self, office: &str, changes: &str) -> Result<Vec<Task>, Status> {
        let worker = self.agent(office, "worker", false, &[]);
        // What comes of its being new is done.
        self.claim_with(&worker, claim_nothing(office)).await.expect("claims");
        let lock = "SELECT cursor FROM task_queues WHERE office_id = OFFICE FOR UPDATE";
        self.claims_during(&worker, office, lock, "SELECT queue_write%", changes).await
    }

    /// A claim of which such a statement waits for this lock, until another process has done that.
    async fn claims_during(
        &self,
        worker: &Actor,
        office: &str,
        lock: &str,
        statement: &'static str,
        changes: &str,
    ) -> Result<Vec<Task>, Status> {
        let (mut holder, mut watching) = (self.other_process().await, self.postgres().await);
        holder.execute("BEGIN").await.expect("begins");
        let of_office = |sql: &str| AssertSqlSafe(sql.replace("OFFICE", &format!("'{office}'")));
        holder.execute(of_office(lock)).await.expect("locks");
        let mut client = self.tasks(worker);
        let asked = claim(office);
        let claiming = tokio::spawn(async move { Ok(client.claim_tasks(asked).await?.into_inner().tasks) });
        until("the statement waits", LONG, async || {
            let sql = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()
                 AND wait_event_type = 'Lock' AND query LIKE $1";
            let count: i64 = sqlx::query_scalar(sql).bind(statement).fetch_one(&mut watching).await.expect("counts");
            if count == 1 { Ok(Some(())) } else { Err(count) }
        })
        .await;
        holder.execute(of_office(changes)).await.expect("changes");
        holder.execute("COMMIT").await.expect("commits");
        claiming.await.expect("no panic")
    }

    /// The position and the counts of a queue, and where its tasks stand.
    async fn queue_rows(&self, office: &str) -> (i64, serde_json::Value, Vec<(i64, String)>) {
        let mut conn = self.other_process().await;
        let sql = format!("SELECT cursor, counts FROM task_queues WHERE office_id = '{office}'");
        let (cursor, counts) = sqlx::query_as(AssertSqlSafe(sql)).fetch_one(&mut conn).await.expect("a queue");
        let sql = format!("SELECT cursor, status FROM tasks WHERE office_id = '{office}' ORDER BY cursor");
        let tasks = sqlx::query_as(AssertSqlSafe(sql)).fetch_all(&mut conn).await.expect("tasks");
        (cursor, counts, tasks)
    }
}

/// Of a kind that there is no task of.
fn claim_nothing(office: &str) -> ClaimTasksRequest {
    ClaimTasksRequest { kinds: vec![TaskKind::Review.into()], ..claim(office) }
}

fn claim(office: &str) -> ClaimTasksRequest {
    ClaimTasksRequest { office_id: office.into(), max_tasks: Some(10), ..Default::default() }
}

/// Another process cancels the task, and counts as this one would: what is compared is the text.
const CANCELS: &str = "UPDATE task_queues SET cursor = 2, counts = '{\"cancelled\":1}' WHERE office_id = OFFICE;
     UPDATE tasks SET status = 'cancelled', cursor = 2, progress = jsonb_set(progress::jsonb, '{state}', '{\"is\": \"cancelled\"}')::json
     WHERE office_id = OFFICE";

async fn office_with_a_task() -> (Harness, String) {
    let harness = Harness::over(TestDb::plain(Backend::Postgres).await).await;
    let office = harness.active("Work").await;
    harness.new_task(&office, "task").await;
    (harness, office)
}

fn titles(tasks: &[Task]) -> Vec<(&str, TaskStatus)> {
    tasks.iter().map(|task| (task.title.as_str(), task.status())).collect()
}

#[tokio::test]
async fn what_nobody_changed_is_written() {
    let (harness, office) = office_with_a_task().await;
    let claimed = harness.claims_while(&office, "SELECT 1").await.expect("claims");
    assert_eq!(titles(&claimed), [("task", TaskStatus::Running)]);
    let counts = serde_json::json!({"queued": 0, "running": 1});
    assert_eq!(harness.queue_rows(&office).await, (2, counts, vec![(2, "running".to_owned())]));
}

#[tokio::test]
async fn positions_go_on_after_those_of_another_process() {
    let (harness, office) = office_with_a_task().await;
    let changes = "UPDATE task_queues SET cursor = 100 WHERE office_id = OFFICE";
    let claimed = harness.claims_while(&office, changes).await.expect("claims");
    assert_eq!(titles(&claimed), [("task", TaskStatus::Running)]);
    let counts = serde_json::json!({"queued": 0, "running": 1});
    assert_eq!(harness.queue_rows(&office).await, (101, counts, vec![(101, "running".to_owned())]));
}

#[tokio::test]
async fn what_another_process_counted_stays_counted() {
    let (harness, office) = office_with_a_task().await;
    let changes = r#"UPDATE task_queues SET counts = '{"done": 7, "queued": 1}' WHERE office_id = OFFICE"#;
    harness.claims_while(&office, changes).await.expect("claims");
    let counts = serde_json::json!({"done": 7, "queued": 0, "running": 1});
    assert_eq!(harness.queue_rows(&office).await.1, counts);
}

#[tokio::test]
async fn a_task_that_another_process_took_is_not_handed_out() {
    let (harness, office) = office_with_a_task().await;
    assert_eq!(harness.claims_while(&office, CANCELS).await.expect("claims"), []);
    let counts = serde_json::json!({"cancelled": 1});
    assert_eq!(harness.queue_rows(&office).await, (2, counts, vec![(2, "cancelled".to_owned())]));
}

#[tokio::test]
async fn a_look_does_not_take_the_position_of_a_change_that_it_did_not_see() {
    let (harness, office) = office_with_a_task().await;
    let worker = harness.agent(&office, "worker", false, &[]);
    for _ in 0..2 {
        harness.claim_with(&worker, claim_nothing(&office)).await.expect("claims");
    }
    // What was remembered is lost, and the next transaction looks.
    let mut other = harness.other_process().await;
    other.execute("UPDATE task_queues SET cursor = cursor + 1").await.expect("changes");
    harness.new_task(&office, "other").await;
    let (lock, changes) = ("LOCK TABLE task_queues", CANCELS.replace("= 2", "= 9").replace(":1", ":2"));
    let claimed = harness.claims_during(&worker, &office, lock, "%FROM queue_look(%", &changes).await;
    assert_eq!(claimed.expect("claims"), []);
    let rows = vec![(9, "cancelled".to_owned()), (9, "cancelled".to_owned())];
    assert_eq!(harness.queue_rows(&office).await, (9, serde_json::json!({"cancelled": 2}), rows));
}

#[tokio::test]
async fn no_work_is_handed_out_in_an_office_that_was_suspended_meanwhile() {
    let (harness, office) = office_with_a_task().await;
    let changes = "UPDATE offices SET state = 'suspended', version = version + 1 WHERE id = OFFICE";
    assert_refused(harness.claims_while(&office, changes).await, Code::FailedPrecondition, "OFFICE_NOT_ACTIVE");
    let counts = serde_json::json!({"queued": 1});
    assert_eq!(harness.queue_rows(&office).await, (1, counts, vec![(1, "queued".to_owned())]));
}

#[tokio::test]
async fn no_work_is_handed_out_in_an_office_that_spent_all_it_had_meanwhile() {
    let (harness, office) = office_with_a_task().await;
    let changes = "UPDATE balances SET reserved = balance WHERE office_id = OFFICE";
    assert_refused(harness.claims_while(&office, changes).await, Code::ResourceExhausted, "OUT_OF_CREDITS");
    let counts = serde_json::json!({"queued": 1});
    assert_eq!(harness.queue_rows(&office).await, (1, counts, vec![(1, "queued".to_owned())]));
}

#[tokio::test]
async fn time_in_which_the_platform_was_away_counts_from_the_write() {
    let (harness, office) = office_with_a_task().await;
    let changes = "UPDATE task_sweeps SET away = away + 5000000";
    harness.claims_while(&office, changes).await.expect("claims");
    let mut conn = harness.other_process().await;
    let sql = format!(
        "SELECT (progress ->> 'away')::bigint, away FROM tasks CROSS JOIN task_sweeps WHERE office_id = '{office}'"
    );
    let (at_write, in_all): (i64, i64) = sqlx::query_as(AssertSqlSafe(sql)).fetch_one(&mut conn).await.expect("a task");
    assert!(at_write >= 5_000_000, "{at_write} us");
    assert_eq!(at_write, in_all);
}

#[tokio::test]
async fn nothing_is_handed_out_before_what_is_to_be_cancelled() {
    let (harness, office) = office_with_a_task().await;
    // A parent that another process has just cancelled: its part is still queued.
    let parent = harness.new_task(&office, "parent").await;
    let part = CreateTaskRequest { parent_id: parent.id.clone(), ..request(&office, "part") };
    harness.create_task(&harness.owner, part).await.expect("creates");
    let changes = format!(
        "UPDATE tasks SET status = 'cancelled', progress = jsonb_set(progress::jsonb, '{{state}}', '{{\"is\": \"cancelled\"}}')::json
         WHERE office_id = OFFICE AND id = '{0}';
         INSERT INTO task_consequences (office_id, task_id, root_id) VALUES (OFFICE, '{0}', '{0}')",
        parent.id
    );
    let claimed = harness.claims_while(&office, &changes).await.expect("claims");
    // Whether before or after the cancellation.
    assert!(claimed.iter().all(|task| task.title == "task"), "{claimed:?}");
}

/// The functions with which a queue is read, or locked, are there no more.
async fn take_reading_away(harness: &Harness) {
    let mut conn = harness.postgres().await;
    conn.execute("SET search_path = mi_test").await.expect("sets");
    for function in ["queue_look", "queue_open"] {
        conn.execute(AssertSqlSafe(format!("ALTER FUNCTION {function} RENAME TO {function}_gone")))
            .await
            .expect("renames");
    }
}

#[tokio::test]
async fn a_queue_that_is_remembered_is_not_read() {
    let (harness, office) = office_with_a_task().await;
    let worker = harness.agent(&office, "worker", false, &[]);
    // The first claim has the queue look at its new agent, under its lock.
    for _ in 0..2 {
        harness.claim_with(&worker, claim_nothing(&office)).await.expect("claims");
    }
    take_reading_away(&harness).await;
    let claimed = harness.claim_with(&worker, claim(&office)).await.expect("claims");
    assert_eq!(titles(&claimed), [("task", TaskStatus::Running)]);
    harness.new_task(&office, "next").await;
    let report = CompleteTaskRequest {
        office_id: office.clone(),
        task_id: claimed[0].id.clone(),
        lease_id: claimed[0].lease_id.clone(),
        result: "done".into(),
        claim_next: Some(claim(&office)),
        ..Default::default()
    };
    let answer = harness.tasks(&worker).complete_task(report).await.expect("completes").into_inner();
    assert_eq!(titles(&answer.task.into_iter().collect::<Vec<_>>()), [("task", TaskStatus::Done)]);
    assert_eq!(titles(&answer.claimed), [("next", TaskStatus::Running)]);
    let failed = harness.fail(&worker, &office, &answer.claimed[0], true).await.expect("fails");
    assert_eq!(titles(&[failed]), [("next", TaskStatus::Queued)]);
    let counts = serde_json::json!({"done": 1, "queued": 1, "running": 0});
    let rows = vec![(4, "done".to_owned()), (6, "queued".to_owned())];
    assert_eq!(harness.queue_rows(&office).await, (6, counts, rows));
}

#[tokio::test]
async fn what_another_process_changed_is_read_again() {
    let (harness, office) = office_with_a_task().await;
    let worker = harness.agent(&office, "worker", false, &[]);
    harness.claim_with(&worker, claim_nothing(&office)).await.expect("claims");
    let mut other = harness.other_process().await;
    other.execute(AssertSqlSafe(CANCELS.replace("OFFICE", &format!("'{office}'")))).await.expect("changes");
    assert_eq!(harness.claim_with(&worker, claim(&office)).await.expect("claims"), []);
    harness.new_task(&office, "next").await;
    let claimed = harness.claim_with(&worker, claim(&office)).await.expect("claims");
    assert_eq!(titles(&claimed), [("next", TaskStatus::Running)]);
    let counts = serde_json::json!({"cancelled": 1, "queued": 0, "running": 1});
    let rows = vec![(2, "cancelled".to_owned()), (4, "running".to_owned())];
    assert_eq!(harness.queue_rows(&office).await, (4, counts, rows));
}

#[tokio::test]
async fn a_time_that_is_not_the_databases_is_not_written() {
    let (harness, office) = office_with_a_task().await;
    let mut conn = harness.other_process().await;
    for (ahead, is_written) in [("-2 seconds", false), ("2 seconds", false), ("0 seconds", true)] {
        let sql = format!(
            "SELECT queue_write(q.office_id, q.cursor + 1, q.counts::text, '[]', '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', '{{}}',
                 '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', '{{}}', q.cursor, q.counts::text,
                 o.version, s.away, NULL, clock_timestamp() + '{ahead}') IS NOT NULL
             FROM task_queues AS q JOIN offices AS o ON o.id = q.office_id CROSS JOIN task_sweeps AS s
             WHERE q.office_id = '{office}'"
        );
        let written: bool = sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(&mut conn).await.expect("answers");
        assert_eq!(written, is_written, "{ahead}");
    }
}

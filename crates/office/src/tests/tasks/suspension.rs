//! Offices that stop and go.

use mi_proto::v1::{
    ClaimTasksRequest, CreateTaskRequest, DeleteOfficeRequest, OfficeStatus, ResumeOfficeRequest, SuspendOfficeRequest,
    TaskStatus, WatchTasksRequest,
};
use mi_store::on;
use mi_testkit::on_both;
use tonic::Code;

use super::{assert_refused, many, request};
use crate::tests::harness::Harness;

on_both! {
    a_suspended_office_gives_everything_back,
    a_deleted_office_leaves_nothing,
    the_first_claim_and_the_end_of_an_office_do_not_wait_for_each_other,
}

async fn a_suspended_office_gives_everything_back(harness: Harness) {
    let office = harness.active("Work").await;
    let worker = harness.agent(&office, "worker", false, &[]);
    harness.batch(&office, many("", 30).requests).await.expect("creates");
    let held = harness.claim(&worker, &office).await.expect("one");
    let whole = CreateTaskRequest { parent_id: held.id.clone(), ..request(&office, "part") };
    let part = harness.create_task(&worker, whole).await.expect("creates");
    let mut all: Vec<String> = harness.claim_all(&worker, &office).await;
    assert_eq!((all.len(), all.last().map(String::as_str)), (30, Some("part")));
    let suspend = SuspendOfficeRequest { office_id: office.clone() };
    harness.offices(&harness.owner).suspend_office(suspend).await.expect("suspends");
    let waiting = harness.task(&office, &held.id).await;
    assert_eq!(
        (waiting.status(), waiting.attempt, waiting.assigned_agent.as_str(), waiting.lease_expires_at),
        (TaskStatus::Blocked, 1, "worker", None)
    );
    assert_eq!(harness.status_of(&office, &part.id).await, TaskStatus::Queued);
    assert_refused(harness.renew(&worker, &office, &held).await, Code::Aborted, "LEASE_LOST");
    // Operators go on to decide and to plan.
    harness.done(&office, &part.id).await;
    assert_eq!(harness.status_of(&office, &held.id).await, TaskStatus::Queued);
    harness.until_status(&office, Some(OfficeStatus::Suspended)).await;
    let resume = ResumeOfficeRequest { office_id: office.clone() };
    harness.offices(&harness.owner).resume_office(resume).await.expect("resumes");
    all.pop();
    all.insert(0, held.title);
    assert_eq!(harness.claim_all(&worker, &office).await, all);
}

async fn a_deleted_office_leaves_nothing(harness: Harness) {
    let (office, kept) = (harness.active("Work").await, harness.active("Kept").await);
    let worker = harness.agent(&office, "worker", false, &[]);
    let survivor = harness.new_task(&kept, "survivor").await;
    let first = harness.new_task(&office, "first").await;
    let second = CreateTaskRequest { depends_on: vec![first.id.clone()], ..request(&office, "second") };
    harness.create_task(&harness.owner, second).await.expect("creates");
    let note = mi_proto::v1::AddTaskNoteRequest {
        office_id: office.clone(),
        task_id: first.id.clone(),
        body: "a note".into(),
        ..Default::default()
    };
    harness.tasks(&harness.owner).add_task_note(note.clone()).await.expect("adds");
    harness.claim(&worker, &office).await.expect("one");
    let watch = WatchTasksRequest { office_id: office.clone(), ..Default::default() };
    let mut watching = harness.tasks(&harness.owner).watch_tasks(watch).await.expect("opens").into_inner();
    let delete = DeleteOfficeRequest { office_id: office.clone() };
    harness.offices(&harness.owner).delete_office(delete).await.expect("begins");
    harness.until_status(&office, None).await;
    let ended = tokio::time::timeout(crate::tests::harness::LONG, async {
        loop {
            match watching.message().await {
                Ok(Some(_)) => {}
                ended => return ended,
            }
        }
    });
    assert_eq!(ended.await.expect("ends").expect_err("as not found").code(), Code::NotFound);
    let db = harness.db().await;
    let mut conn = db.platform().read().await.expect("connects");
    let mut left = Vec::new();
    for sql in [
        "SELECT count(*) FROM task_queues",
        "SELECT count(*) FROM tasks",
        "SELECT count(*) FROM task_dependencies",
        "SELECT count(*) FROM task_notes",
    ] {
        let count: i64 = on!(conn, |c| sqlx::query_scalar(sql).fetch_one(&mut *c).await).expect("reads");
        left.push(count);
    }
    assert_eq!(left, [1, 1, 0, 0]);
    assert_eq!(harness.task(&kept, &survivor.id).await, survivor);
    assert_refused(harness.create_task(&harness.owner, request(&office, "x")).await, Code::NotFound, "NOT_FOUND");
    assert_refused(harness.tasks(&harness.owner).add_task_note(note).await, Code::NotFound, "NOT_FOUND");
}

async fn the_first_claim_and_the_end_of_an_office_do_not_wait_for_each_other(harness: Harness) {
    for round in 0..30 {
        let office = harness.active("Work").await;
        let worker = harness.agent(&office, "worker", false, &[]);
        let (claimed, ()) = tokio::join!(
            harness.claim_with(&worker, ClaimTasksRequest { office_id: office.clone(), ..Default::default() }),
            harness.delete(&office),
        );
        let refusal = claimed.map_or_else(
            |status| status.code(),
            |tasks| {
                assert_eq!(tasks, []);
                Code::Ok
            },
        );
        let answers = [Code::Ok, Code::FailedPrecondition, Code::NotFound];
        assert!(answers.contains(&refusal), "round {round}: {refusal:?}");
    }
}

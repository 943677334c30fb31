//! Deletion goes role by role, and goes on after a crash at any step.

use mi_kernel::{OfficeId, TaskId};
use mi_proto::v1::{CreateTaskRequest, OfficeStatus, ResumeOfficeRequest, SuspendOfficeRequest};
use mi_store::on;
use mi_tenancy::OfficePart;
use mi_testkit::on_both;
use sqlx::AssertSqlSafe;
use tonic::Code;

use super::{
    harness::Harness,
    peer::{Mood, Peer},
};
on_both! {
    a_deleted_office_is_removed_everywhere_and_others_stay,
    the_feed_goes_last,
    a_deletion_goes_on_after_a_crash_at_any_step,
    a_provisioning_office_can_be_deleted,
    a_large_office_goes_in_parts_between_which_others_work,
}

/// Tables with rows of offices, beside the office's own.
const TABLES: [&str; 17] = [
    "task_notes",
    "task_dependencies",
    "tasks",
    "task_queues",
    "drive_files",
    "drive_changes",
    "drive_blobs",
    "drive_uploads",
    "drive_trash",
    "drive_usage",
    "messages",
    "balances",
    "ledger_entries",
    "reservations",
    "agent_accounts",
    "task_costs",
    "usages",
];

impl Harness {
    /// How many rows of the office each table has.
    async fn left(&self, office: OfficeId) -> Vec<i64> {
        let db = self.db().await;
        let mut conn = db.platform().read().await.expect("connects");
        let mut rows = Vec::new();
        for table in TABLES {
            let sql = || AssertSqlSafe(format!("SELECT count(*) FROM {table} WHERE office_id = $1"));
            let count = on!(conn, |c| sqlx::query_scalar(sql()).bind(office.0).fetch_one(&mut *c).await);
            rows.push(count.expect("counts"));
        }
        rows
    }

    /// Writes what many tasks and files leave behind: 2,500 rows of each kind.
    async fn fill(&self, office: OfficeId) {
        let db = self.db().await;
        let mut tx = db.office(office).begin().await.expect("begins");
        let tasks: Vec<TaskId> = (0..2500).map(|_| TaskId::new()).collect();
        for (n, id) in tasks.iter().enumerate() {
            let (content, at, path) = (format!("{n:064}"), mi_kernel::Clock::now(&self.clock), format!("f{n}"));
            let statements: [&'static str; 6] = [
                "INSERT INTO tasks (office_id, id, cursor, kind, priority, status, assigned_agent, tools, spec, progress)
                 VALUES ($1, $2, $3, 'work', 0, 'completed', '', '[]', '{}', '{}')",
                "INSERT INTO task_dependencies (office_id, task_id, depends_on) VALUES ($1, $2, $2)",
                "INSERT INTO task_notes (office_id, task_id, id, author, body, created_at)
                 VALUES ($1, $2, $2, 'ann', 'a note', $4)",
                "INSERT INTO drive_blobs (office_id, sha256, object) VALUES ($1, $5, $2)",
                "INSERT INTO drive_files (office_id, path, size, sha256, revision, content_type, modified_at, modified_by)
                 VALUES ($1, $6, 1, $5, $3, 'text/plain', $4, 'ann')",
                "INSERT INTO drive_changes (office_id, revision, kind, path, size, sha256, content_type, modified_at, modified_by)
                 VALUES ($1, $3, 'created', $6, 1, $5, 'text/plain', $4, 'ann')",
            ];
            for sql in statements {
                let row = i64::try_from(n).expect("small");
                on!(tx, |c| {
                    sqlx::query(sql)
                        .bind(office.0)
                        .bind(id.0)
                        .bind(row)
                        .bind(at)
                        .bind(&content)
                        .bind(&path)
                        .execute(&mut *c)
                        .await
                        .map(drop)
                })
                .expect("writes");
            }
        }
        tx.commit().await.expect("commits");
    }

    fn assert_removed(&self, office: &str) {
        for peer in [&self.scheduler, &self.activity] {
            let known = peer.known();
            assert!(!known.offices.contains_key(office));
            assert!(known.removals.iter().any(|removed| removed == office));
        }
    }

    fn assert_kept(&self, office: &str) {
        for peer in [&self.scheduler, &self.activity] {
            let known = peer.known();
            assert!(known.offices.contains_key(office));
            assert!(known.removals.iter().all(|removed| removed != office));
        }
    }
}

async fn a_deleted_office_is_removed_everywhere_and_others_stay(harness: Harness) {
    let (office, other) = (harness.create("Gone").await.id, harness.create("Kept").await.id);
    harness.delete(&office).await;
    harness.until_status(&office, None).await;
    harness.assert_removed(&office);
    harness.assert_kept(&other);
    assert_eq!(harness.get(&other).await.expect("kept").status(), OfficeStatus::Active);
    let again = harness.offices(&harness.owner);
    let request = mi_proto::v1::DeleteOfficeRequest { office_id: office.clone() };
    assert_eq!(again.clone().delete_office(request).await.expect_err("gone").code(), Code::NotFound);
}

async fn the_feed_goes_last(harness: Harness) {
    let office = harness.create("Slow").await.id;
    harness.scheduler.be(Mood::NotDone);
    harness.delete(&office).await;
    harness.until_refused(&harness.scheduler, 2).await;
    // While agents are being fired the office is there, takes no change, and keeps its feed.
    assert_eq!(harness.get(&office).await.expect("still there").status(), OfficeStatus::Deleting);
    harness.delete(&office).await;
    let mut client = harness.offices(&harness.owner);
    for refused in [
        client.suspend_office(SuspendOfficeRequest { office_id: office.clone() }).await.err(),
        client.resume_office(ResumeOfficeRequest { office_id: office.clone() }).await.err(),
    ] {
        assert_eq!(refused.expect("being deleted").code(), Code::FailedPrecondition);
    }
    assert_eq!(harness.activity.known().removals, Vec::<String>::new());
    harness
        .until_events(&office, &["office.created", "credit.granted", "office.activated", "office.deletion_requested"])
        .await;
    harness.scheduler.be(Mood::Works);
    harness.until_status(&office, None).await;
    harness.assert_removed(&office);
}

async fn a_deletion_goes_on_after_a_crash_at_any_step(mut harness: Harness) {
    let other = harness.create("Kept").await.id;
    let peers: [fn(&Harness) -> &Peer; 2] = [|harness| &harness.scheduler, |harness| &harness.activity];
    for peer in peers {
        for mood in [Mood::Fails, Mood::Hangs, Mood::NotDone] {
            let office = harness.create("Gone").await.id;
            harness.until_events(&office, &["office.created", "credit.granted", "office.activated"]).await;
            let before = peer(&harness).known().refused;
            peer(&harness).be(mood);
            if mood == Mood::Hangs {
                // The answer would come when the patience ends; the process dies before.
                let (client, request) =
                    (harness.offices(&harness.owner), mi_proto::v1::DeleteOfficeRequest { office_id: office.clone() });
                let asking = tokio::spawn(async move { client.clone().delete_office(request).await.map(drop) });
                harness.until_refused(peer(&harness), before).await;
                asking.abort();
            } else {
                harness.delete(&office).await;
                harness.until_refused(peer(&harness), before).await;
            }
            assert_eq!(harness.get(&office).await.expect("still there").status(), OfficeStatus::Deleting);
            harness.crash().await;
            assert_eq!(harness.get(&office).await.expect("still there").status(), OfficeStatus::Deleting, "{mood:?}");
            peer(&harness).be(Mood::Works);
            if mood == Mood::Hangs {
                // The new process may have asked before the peer came back; another crash frees it.
                harness.crash().await;
            }
            harness.until_status(&office, None).await;
            harness.assert_removed(&office);
        }
    }
    harness.assert_kept(&other);
    assert_eq!(harness.get(&other).await.expect("kept").status(), OfficeStatus::Active);
}

async fn a_provisioning_office_can_be_deleted(harness: Harness) {
    harness.activity.be(Mood::Fails);
    let office = harness.create("Stillborn").await;
    assert_eq!(office.status(), OfficeStatus::Provisioning);
    harness.delete(&office.id).await;
    assert_eq!(harness.get(&office.id).await.expect("still there").status(), OfficeStatus::Deleting);
    harness.activity.be(Mood::Works);
    harness.until_status(&office.id, None).await;
    harness.assert_removed(&office.id);
}

async fn a_large_office_goes_in_parts_between_which_others_work(mut harness: Harness) {
    let (office, kept) = (harness.create("Large").await.id, harness.create("Kept").await.id);
    let (id, kept_id) = (OfficeId::parse(&office).expect("an id"), OfficeId::parse(&kept).expect("an id"));
    harness.fill(id).await;
    harness.fill(kept_id).await;
    let full = vec![2500, 2500, 2500, 1, 2500, 2500, 2500, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0];
    assert_eq!(harness.left(id).await, full);
    harness.activity.be(Mood::Fails);
    harness.delete(&office).await;
    harness.end().await;
    // A process that dies after some parts.
    let resources = harness.resources().await;
    for _ in 0..2 {
        assert!(resources.tasks.empty_some(id).await.expect("deletes"));
        assert!(resources.drive.empty_some(id).await.expect("deletes"));
    }
    assert_eq!(harness.left(id).await, [500, 2500, 2500, 1, 500, 2500, 2500, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0]);
    harness.activity.be(Mood::Works);
    harness.start_again().await;
    let mut created = 0;
    while harness.get(&office).await.is_ok() {
        let request = CreateTaskRequest { office_id: kept.clone(), title: "goes on".into(), ..Default::default() };
        harness.tasks(&harness.owner).create_task(request).await.expect("others go on");
        created += 1;
    }
    assert_eq!(harness.left(id).await, [0; 17]);
    assert_eq!(
        harness.left(kept_id).await,
        [2500, 2500, 2500 + created, 1, 2500, 2500, 2500, 0, 0, 0, 0, 1, 1, 0, 0, 0, 0]
    );
}

//! Which offices' agents changed, for whoever remembers them.

use mi_kernel::OfficeId;
use mi_proto::internal::v1::{
    ListChangedRostersRequest, ListChangedRostersResponse, agent_registry_service_server::AgentRegistryService,
};
use mi_store::on;
use mi_testkit::on_both;
use tonic::Request;

use super::harness::{Harness, LONG, actor_of, free_hiring, instance_of};
use crate::agents::roster_changes::forget_old;

on_both! {
    whatever_changes_an_agent_is_told_of_its_office,
    what_changes_nothing_that_a_queue_knows_is_not_told,
    what_became_visible_late_is_told,
    too_many_offices_and_times_of_long_ago_are_all,
    old_changes_are_forgotten,
}

const KEY: [u8; 32] = [7; 32];

impl Harness {
    /// What changed since that answer; it is the next one's.
    async fn changes(&self, since: &mut ListChangedRostersResponse) -> ListChangedRostersResponse {
        let request = ListChangedRostersRequest { since_ms: since.now_ms, position: since.position.clone() };
        let told = self.registry().list_changed_rosters(Request::new(request)).await.expect("answers").into_inner();
        assert!(told.now_ms >= since.now_ms);
        since.clone_from(&told);
        told
    }

    /// What was told until now.
    async fn so_far(&self) -> ListChangedRostersResponse {
        self.changes(&mut ListChangedRostersResponse::default()).await
    }

    /// The offices that changed since then, of which there are few.
    async fn changed(&self, since: &mut ListChangedRostersResponse) -> Vec<String> {
        let told = self.changes(since).await;
        assert!(!told.all);
        told.office_ids
    }

    /// Notes that these offices changed.
    async fn note(&self, offices: &[OfficeId]) {
        let mut tx = self.scheduler.db.platform().begin().await.expect("begins");
        for office in offices {
            let sql = "INSERT INTO roster_changes (office_id, changed_ms) VALUES ($1, 1)";
            on!(tx, |c| sqlx::query(sql).bind(office).execute(c).await.map(drop)).expect("inserts");
        }
        tx.commit().await.expect("commits");
    }

    /// What changed until now is as if it were long ago.
    async fn age_changes(&self) {
        let mut tx = self.scheduler.db.platform().begin().await.expect("begins");
        let sql = "UPDATE roster_changes SET changed_ms = changed_ms - 300000";
        on!(tx, |c| sqlx::query(sql).execute(c).await.map(drop)).expect("updates");
        tx.commit().await.expect("commits");
    }
}

async fn whatever_changes_an_agent_is_told_of_its_office(harness: Harness) {
    let (office, here) = (harness.office, [harness.office.to_string()]);
    harness.open_office(1).await;
    let mut since = harness.so_far().await;
    assert!(since.all, "nobody knows what was before");
    assert!(harness.changed(&mut since).await.is_empty());
    let agent = harness.running("a").await;
    assert_eq!(harness.changed(&mut since).await, here, "hired");
    harness.enrol(office, &harness.token(&agent), KEY).await.expect("enrols");
    assert_eq!(harness.changed(&mut since).await, here, "has a key");
    let name = office.to_string();
    harness.scheduler.stop(&harness.owner("StopAgent"), &name, "a").await.expect("stops");
    assert_eq!(harness.changed(&mut since).await, here, "stopped");
    harness.settle(agent.id).await;
    assert_eq!(harness.changed(&mut since).await, here, "has ended");
    harness.fire("a", false).await;
    assert_eq!(harness.changed(&mut since).await, here, "fired");
    harness.settle(agent.id).await;
    assert_eq!(harness.find(agent.id).await, None);
    assert_eq!(harness.changed(&mut since).await, here, "gone");
    assert!(harness.changed(&mut since).await.is_empty(), "each change is told once");
}

async fn what_changes_nothing_that_a_queue_knows_is_not_told(harness: Harness) {
    let agent = harness.running("a").await;
    let mut since = harness.so_far().await;
    harness.scheduler.heartbeat(&actor_of(&agent), instance_of(&agent)).await.expect("wanted");
    harness.scheduler.flush().await;
    harness.apply(harness.office, 2, true, free_hiring()).await;
    harness.clock.advance(LONG);
    harness.settle(agent.id).await;
    assert!(harness.changed(&mut since).await.is_empty());
}

async fn what_became_visible_late_is_told(harness: Harness) {
    let mut since = harness.so_far().await;
    let mut open = harness.scheduler.db.platform().begin().await.expect("begins");
    // Of the database's beginning, by its time.
    let sql = "INSERT INTO roster_changes (office_id, changed_ms) VALUES ($1, 1)";
    let late = OfficeId::new();
    on!(open, |c| sqlx::query(sql).bind(late).execute(c).await.map(drop)).expect("inserts");
    assert!(harness.changed(&mut since).await.is_empty());
    open.commit().await.expect("commits");
    assert_eq!(harness.changed(&mut since).await, [late.to_string()]);
}

async fn too_many_offices_and_times_of_long_ago_are_all(harness: Harness) {
    let now = harness.so_far().await;
    let is_all = async |now_ms, position: &str| {
        let mut since = ListChangedRostersResponse { now_ms, position: position.into(), ..now.clone() };
        harness.changes(&mut since).await.all
    };
    assert!(!is_all(now.now_ms, &now.position).await);
    assert!(is_all(now.now_ms - 11 * 60 * 1000, &now.position).await, "it may be forgotten already");
    assert!(is_all(now.now_ms, "").await, "a process of before says only when it was");
    let later = if now.position.contains(':') { "9000000000:9000000000:" } else { "9000000000" };
    assert!(is_all(now.now_ms, later).await, "the database was restored since");
    harness.note(&[(); 1001].map(|()| OfficeId::new())).await;
    let told = harness.changes(&mut now.clone()).await;
    assert_eq!((told.all, told.office_ids), (true, vec![]));
}

async fn old_changes_are_forgotten(harness: Harness) {
    harness.running("a").await;
    let rows = harness.rows("roster_changes").await;
    assert!(rows > 0);
    forget_old(&harness.scheduler.db).await.expect("looks");
    assert_eq!(harness.rows("roster_changes").await, rows);
    for _ in 0..5 {
        harness.age_changes().await;
    }
    forget_old(&harness.scheduler.db).await.expect("forgets");
    assert_eq!(harness.rows("roster_changes").await, 0);
}

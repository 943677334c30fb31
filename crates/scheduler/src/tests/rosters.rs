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
    async fn changed_since(&self, since_ms: i64) -> ListChangedRostersResponse {
        let request = Request::new(ListChangedRostersRequest { since_ms });
        self.registry().list_changed_rosters(request).await.expect("answers").into_inner()
    }

    /// Notes that these offices changed at a time.
    async fn note(&self, offices: &[OfficeId], changed_ms: i64) {
        let mut tx = self.scheduler.db.platform().begin().await.expect("begins");
        for office in offices {
            let sql = "INSERT INTO roster_changes (office_id, changed_ms) VALUES ($1, $2)";
            on!(tx, |c| sqlx::query(sql).bind(office).bind(changed_ms).execute(c).await.map(drop)).expect("inserts");
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

    /// Whether the office was told of since then.
    async fn is_told(&self, office: OfficeId, since_ms: i64) -> bool {
        let told = self.changed_since(since_ms).await;
        assert!(!told.all && told.now_ms >= since_ms);
        let is_told = told.office_ids.contains(&office.to_string());
        self.age_changes().await;
        is_told
    }
}

async fn whatever_changes_an_agent_is_told_of_its_office(harness: Harness) {
    let (office, other) = (harness.office, harness.open_office(1).await);
    let first = harness.changed_since(0).await;
    assert!(first.all, "nobody knows what was before");
    let since = first.now_ms;
    assert!(!harness.is_told(office, since).await);
    let agent = harness.running("a").await;
    assert!(harness.is_told(office, since).await, "hired");
    harness.enrol(office, &harness.token(&agent), KEY).await.expect("enrols");
    assert!(harness.is_told(office, since).await, "has a key");
    let name = office.to_string();
    harness.scheduler.stop(&harness.owner("StopAgent"), &name, "a").await.expect("stops");
    assert!(harness.is_told(office, since).await, "stopped");
    harness.settle(agent.id).await;
    assert!(harness.is_told(office, since).await, "has ended");
    harness.fire("a", false).await;
    assert!(harness.is_told(office, since).await, "fired");
    harness.settle(agent.id).await;
    assert_eq!(harness.find(agent.id).await, None);
    assert!(harness.is_told(office, since).await, "gone");
    assert!(!harness.is_told(office, since).await && !harness.is_told(other, since).await);
}

async fn what_changes_nothing_that_a_queue_knows_is_not_told(harness: Harness) {
    let agent = harness.running("a").await;
    let since = harness.changed_since(0).await.now_ms;
    harness.age_changes().await;
    harness.scheduler.heartbeat(&actor_of(&agent), instance_of(&agent)).await.expect("wanted");
    harness.scheduler.flush().await;
    harness.apply(harness.office, 2, true, free_hiring()).await;
    harness.clock.advance(LONG);
    harness.settle(agent.id).await;
    assert!(!harness.is_told(harness.office, since).await);
}

async fn what_became_visible_late_is_told(harness: Harness) {
    let (now, late, before) = (harness.changed_since(0).await.now_ms, OfficeId::new(), OfficeId::new());
    // A transaction that lasted as long as one can, after one of its office that was noted for both.
    harness.note(&[late], now - 99_000).await;
    harness.note(&[before], now - 300_000).await;
    assert_eq!(harness.changed_since(now).await.office_ids, [late.to_string()]);
}

async fn too_many_offices_and_times_of_long_ago_are_all(harness: Harness) {
    let now = harness.changed_since(0).await.now_ms;
    let is_all = async |since| harness.changed_since(since).await.all;
    assert!(!is_all(now).await);
    assert!(is_all(now - 11 * 60 * 1000).await, "it may be forgotten already");
    assert!(is_all(now + 60 * 1000).await, "the clock was set back");
    harness.note(&[(); 1001].map(|()| OfficeId::new()), now).await;
    let told = harness.changed_since(now).await;
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

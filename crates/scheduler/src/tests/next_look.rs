//! Who is looked at when: what changed at once, what waits at its time, and nobody who is well; heartbeats read no row.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use mi_kernel::{AgentId, ErrorKind, InviteId, Time};
use mi_store::on;
use mi_testkit::on_both;

use super::harness::{Harness, actor_of, free_hiring, instance_of};
use crate::{
    agents::{
        Agent, Phase,
        next_look::{self, Due},
    },
    plan::{OFFLINE_AFTER, SILENCE_LIMIT},
};

on_both! {
    what_changed_is_due_at_once_and_what_rests_never,
    signs_of_life_put_off_only_looks_that_listen_for_them,
    an_agent_of_which_a_step_fails_is_tried_later_and_later,
    a_pass_finds_who_was_forgotten,
    a_plan_from_before_its_office_turned_is_not_written,
    a_heartbeat_reads_no_row,
    a_change_by_another_process_shows_with_the_next_batch,
}

impl Harness {
    /// What is due now, and when there is more.
    async fn due(&self) -> Due {
        let mut conn = self.scheduler.db.platform().read().await.expect("reads");
        next_look::look_due(&mut conn, self.now(), 100).await.expect("reads")
    }

    /// Nobody is due before this time.
    async fn assert_next(&self, next: Option<Time>) {
        assert_eq!(self.due().await, Due { agents: Vec::new(), next });
    }

    async fn due_now(&self) -> BTreeSet<AgentId> {
        self.due().await.agents.into_iter().collect()
    }
}

async fn what_changed_is_due_at_once_and_what_rests_never(mut harness: Harness) {
    let (agent, other) = (harness.hire("analyst").await, harness.hire("other").await);
    assert_eq!(harness.due_now().await, BTreeSet::from([agent.id, other.id]));
    for id in [agent.id, other.id] {
        harness.settle(id).await;
    }
    // A start is given a minute.
    harness.assert_next(Some(harness.now() + Duration::from_secs(60))).await;
    harness.ready(agent.id).await;
    assert_eq!(harness.due_now().await, BTreeSet::from([agent.id]));
    harness.settle(agent.id).await;

    let office = harness.office.to_string();
    for (name, id) in [("analyst", agent.id), ("other", other.id)] {
        harness.scheduler.stop(&harness.owner("StopAgent"), &office, name).await.expect("stops");
        // No signal is needed: the process dies, and the next one finds it.
        harness.crash().await;
        assert_eq!(harness.due_now().await, BTreeSet::from([id]));
        harness.settle(id).await;
    }
    harness.assert_next(None).await;

    harness.scheduler.start(&harness.owner("StartAgent"), &office, "other").await.expect("starts");
    harness.settle(other.id).await;
    harness.ready(other.id).await;
    harness.settle(other.id).await;
    // The office's turn is everybody's.
    for (version, active, phase) in [(2, false, Phase::Suspended), (3, true, Phase::Restarting)] {
        harness.apply(harness.office, version, active, free_hiring()).await;
        assert_eq!(harness.due_now().await, BTreeSet::from([agent.id, other.id]));
        for id in [agent.id, other.id] {
            harness.settle(id).await;
        }
        assert_eq!(harness.phase(other.id).await, Some(phase));
        assert_eq!(harness.due_now().await, BTreeSet::new());
    }

    // An end is waited out.
    harness.ready(other.id).await;
    harness.settle(other.id).await;
    harness.runtime.crash(other.id, "exited with code 1");
    let retry_at = harness.settle(other.id).await;
    harness.assert_next(retry_at).await;
    assert_eq!(retry_at, Some(harness.now() + Duration::from_secs(1)));
}

async fn signs_of_life_put_off_only_looks_that_listen_for_them(harness: Harness) {
    let start = harness.now();
    let (well, starting) = (harness.running("well").await, harness.hire("starting").await);
    let elsewhere = harness.admit(harness.office, InviteId::new(), "elsewhere", [1; 32]).await.expect("admitted");
    for id in [well.id, starting.id, elsewhere.id] {
        harness.settle(id).await;
    }
    harness.assert_next(Some(start + SILENCE_LIMIT)).await;
    harness.clock.advance(Duration::from_secs(50));
    harness.scheduler.heartbeat(&actor_of(&well), instance_of(&well)).await.expect("wanted");
    harness.beat(elsewhere.id).await.expect("taken");
    harness.scheduler.seen.record(harness.office, starting.id, harness.now());
    harness.scheduler.flush().await;
    let heard_at = harness.now();

    // Only the one that has not reported ready is due then.
    harness.clock.set(start + SILENCE_LIMIT);
    assert_eq!(harness.due().await, Due { agents: vec![starting.id], next: Some(heard_at + SILENCE_LIMIT) });
    harness.clock.set(heard_at + SILENCE_LIMIT);
    let due = harness.due().await;
    assert_eq!(due.agents.iter().copied().collect::<BTreeSet<_>>(), BTreeSet::from([starting.id, well.id]));
    assert_eq!(due.next, Some(heard_at + OFFLINE_AFTER));

    // A change stays due, whoever is heard of.
    harness.scheduler.stop(&harness.owner("StopAgent"), &harness.office.to_string(), "well").await.expect("stops");
    harness.scheduler.seen.record(harness.office, well.id, harness.now());
    harness.scheduler.flush().await;
    assert!(harness.due_now().await.contains(&well.id));
    harness.settle(well.id).await;
    assert_eq!(harness.phase(well.id).await, Some(Phase::Stopped));
}

async fn an_agent_of_which_a_step_fails_is_tried_later_and_later(mut harness: Harness) {
    let (broken, well) = (harness.hire("broken").await, harness.hire("well").await);
    let spoil = async |harness: &Harness, spec: &str| {
        let mut tx = harness.scheduler.db.platform().begin().await.expect("begins");
        let sql = "UPDATE agents SET spec = $2 WHERE id = $1";
        on!(tx, |c| {
            let value: sqlx::types::Json<serde_json::Value> =
                sqlx::types::Json(serde_json::from_str(spec).expect("JSON"));
            sqlx::query(sql).bind(broken.id.0).bind(value).execute(&mut *c).await.map(drop)
        })
        .expect("writes");
        tx.commit().await.expect("commits");
    };
    spoil(&harness, "[]").await;
    let mut waits = Vec::new();
    for _ in 0..8 {
        let until = harness.settle(broken.id).await.expect("waits");
        waits.push((until - harness.now()).num_seconds());
        assert_eq!(harness.due_now().await, BTreeSet::from([well.id]), "nobody is kept from the others");
        harness.clock.set(until);
        assert!(harness.due_now().await.contains(&broken.id));
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    harness.settle(well.id).await;
    assert_eq!(harness.ready(well.id).await.phase(), Phase::Running);
    // It is nobody's fault any more.
    harness.crash().await;
    spoil(&harness, &serde_json::to_string(&well.spec).expect("JSON")).await;
    harness.settle(broken.id).await;
    assert_eq!(harness.ready(broken.id).await.phase(), Phase::Running);
}

async fn a_pass_finds_who_was_forgotten(mut harness: Harness) {
    let (running, forgotten, idle) =
        (harness.running("running").await, harness.hire("forgotten").await, harness.running("idle").await);
    harness.settle(running.id).await;
    harness.scheduler.stop(&harness.owner("StopAgent"), &harness.office.to_string(), "idle").await.expect("stops");
    harness.settle(idle.id).await;
    let mut tx = harness.scheduler.db.platform().begin().await.expect("begins");
    let sql = "UPDATE agents SET next_look_at = NULL WHERE id = $1";
    on!(tx, |c| sqlx::query(sql).bind(forgotten.id.0).execute(&mut *c).await.map(drop)).expect("writes");
    tx.commit().await.expect("commits");
    assert_eq!(harness.due_now().await, BTreeSet::new());
    harness.scheduler.look_over(false).await.expect("goes over all");
    assert_eq!(harness.due_now().await, BTreeSet::from([forgotten.id]), "whoever is well is left alone");
    // Who begins to lead does not know what became of instances.
    harness.crash().await;
    harness.scheduler.look_over(true).await.expect("goes over all");
    assert_eq!(harness.due_now().await, BTreeSet::from([forgotten.id, running.id]));
}

async fn a_plan_from_before_its_office_turned_is_not_written(harness: Harness) {
    let agent = harness.running("analyst").await;
    harness.settle(agent.id).await;
    let late_plan = async |planned: &Agent| {
        let mut tx = harness.scheduler.db.office(harness.office).begin().await.expect("begins");
        let at = Some(harness.now() + SILENCE_LIMIT);
        next_look::look_set(&mut tx, (planned.id, planned.revision), at, true, "").await.expect("writes");
        tx.commit().await.expect("commits");
    };
    // By another process, which does not hear of either.
    let planned = harness.agent(agent.id).await;
    harness.scheduler.look_over(true).await.expect("goes over all");
    late_plan(&planned).await;
    assert_eq!(harness.due_now().await, BTreeSet::from([agent.id]));
    harness.settle(agent.id).await;
    assert_eq!(harness.due_now().await, BTreeSet::new());

    let planned = harness.agent(agent.id).await;
    harness.apply(harness.office, 2, false, free_hiring()).await;
    late_plan(&planned).await;
    assert_eq!(harness.due_now().await, BTreeSet::from([agent.id]));
    harness.settle(agent.id).await;
    assert_eq!(harness.phase(agent.id).await, Some(Phase::Suspended));
}

async fn a_heartbeat_reads_no_row(harness: Harness) {
    let agent = harness.running("analyst").await;
    let elsewhere = harness.admit(harness.office, InviteId::new(), "elsewhere", [1; 32]).await.expect("admitted");
    for id in [agent.id, elsewhere.id] {
        harness.settle(id).await;
    }
    let beat = async || {
        let hosted = harness.scheduler.heartbeat(&actor_of(&agent), instance_of(&agent)).await;
        (hosted.map_err(|error| error.kind), harness.beat(elsewhere.id).await.map_err(|error| error.kind))
    };
    assert_eq!(beat().await, (Ok(()), Ok(())));
    // Still, when the batch was written in between.
    harness.clock.advance(Duration::from_secs(30));
    assert_eq!(beat().await, (Ok(()), Ok(())));
    harness.scheduler.flush().await;
    assert_eq!(harness.agent(agent.id).await.last_seen_at, Some(harness.now()));
    harness.scheduler.db.close().await;
    assert_eq!(beat().await, (Ok(()), Ok(())));
    // A change has the row read again, and so has a long silence.
    harness.scheduler.seen.doubt(agent.id);
    assert_eq!(beat().await, (Err(ErrorKind::Unavailable), Ok(())));
    harness.clock.advance(OFFLINE_AFTER);
    harness.scheduler.flush().await;
    assert_eq!(beat().await, (Err(ErrorKind::Unavailable), Err(ErrorKind::Unavailable)));
}

async fn a_change_by_another_process_shows_with_the_next_batch(mut harness: Harness) {
    let (replaced, kept) = (harness.running("replaced").await, harness.running("kept").await);
    let gone = harness.admit(harness.office, InviteId::new(), "gone", [1; 32]).await.expect("admitted");
    for id in [replaced.id, kept.id, gone.id] {
        harness.settle(id).await;
    }
    let here = harness.scheduler.clone();
    harness.restart_with(harness.objects.clone()).await;
    assert!(!Arc::ptr_eq(&here, &harness.scheduler));
    let office = harness.office;
    let beat = async || {
        let hosted = async |agent: &Agent| {
            here.heartbeat(&actor_of(agent), instance_of(agent)).await.map_err(|error| error.reason)
        };
        let elsewhere = here.sign_of_life(office, gone.id).await.map_err(|error| error.reason);
        [hosted(&replaced).await, hosted(&kept).await, elsewhere]
    };
    assert_eq!(beat().await, [Ok(()); 3]);
    harness.clock.advance(Duration::from_secs(1));
    harness.scheduler.restart(&harness.owner("RestartAgent"), &office.to_string(), "replaced").await.expect("restarts");
    harness.settle(replaced.id).await;
    harness.fire("gone", false).await;
    harness.settle(gone.id).await;
    // Nothing is read for it: it is not known yet.
    assert_eq!(beat().await, [Ok(()); 3]);
    here.flush().await;
    assert_eq!(beat().await, [Err("INSTANCE_REPLACED"), Ok(()), Err("UNAUTHENTICATED")]);
    assert_eq!(harness.find(gone.id).await, None);
}

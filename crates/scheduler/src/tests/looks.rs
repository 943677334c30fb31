//! Who is looked at when: what changed at once, what waits at its time, and nobody who is well; heartbeats read no row.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use mi_kernel::{AgentId, ErrorKind, InviteId, Time};
use mi_store::on;
use mi_testkit::on_both;

use super::stage::{Stage, actor_of, free_hiring, instance_of};
use crate::{
    agents::{
        Agent, Phase,
        looks::{self, Due},
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

impl Stage {
    /// What is due now, and when there is more.
    async fn due(&self) -> Due {
        let mut conn = self.scheduler.db.platform().read().await.expect("reads");
        looks::look_due(&mut conn, self.now(), 100).await.expect("reads")
    }

    /// Nobody is due before this time.
    async fn assert_next(&self, next: Option<Time>) {
        assert_eq!(self.due().await, Due { agents: Vec::new(), next });
    }

    async fn due_now(&self) -> BTreeSet<AgentId> {
        self.due().await.agents.into_iter().collect()
    }
}

async fn what_changed_is_due_at_once_and_what_rests_never(mut stage: Stage) {
    let (agent, other) = (stage.hire("analyst").await, stage.hire("other").await);
    assert_eq!(stage.due_now().await, BTreeSet::from([agent.id, other.id]));
    for id in [agent.id, other.id] {
        stage.settle(id).await;
    }
    // A start is given a minute.
    stage.assert_next(Some(stage.now() + Duration::from_secs(60))).await;
    stage.ready(agent.id).await;
    assert_eq!(stage.due_now().await, BTreeSet::from([agent.id]));
    stage.settle(agent.id).await;

    let office = stage.office.to_string();
    for (name, id) in [("analyst", agent.id), ("other", other.id)] {
        stage.scheduler.stop(&stage.owner("StopAgent"), &office, name).await.expect("stops");
        // No signal is needed: the process dies, and the next one finds it.
        stage.crash().await;
        assert_eq!(stage.due_now().await, BTreeSet::from([id]));
        stage.settle(id).await;
    }
    stage.assert_next(None).await;

    stage.scheduler.start(&stage.owner("StartAgent"), &office, "other").await.expect("starts");
    stage.settle(other.id).await;
    stage.ready(other.id).await;
    stage.settle(other.id).await;
    // The office's turn is everybody's.
    for (version, active, phase) in [(2, false, Phase::Suspended), (3, true, Phase::Restarting)] {
        stage.apply(stage.office, version, active, free_hiring()).await;
        assert_eq!(stage.due_now().await, BTreeSet::from([agent.id, other.id]));
        for id in [agent.id, other.id] {
            stage.settle(id).await;
        }
        assert_eq!(stage.phase(other.id).await, Some(phase));
        assert_eq!(stage.due_now().await, BTreeSet::new());
    }

    // An end is waited out.
    stage.ready(other.id).await;
    stage.settle(other.id).await;
    stage.runtime.crash(other.id, "exited with code 1");
    let retry_at = stage.settle(other.id).await;
    stage.assert_next(retry_at).await;
    assert_eq!(retry_at, Some(stage.now() + Duration::from_secs(1)));
}

async fn signs_of_life_put_off_only_looks_that_listen_for_them(stage: Stage) {
    let start = stage.now();
    let (well, starting) = (stage.running("well").await, stage.hire("starting").await);
    let elsewhere = stage.admit(stage.office, InviteId::new(), "elsewhere", [1; 32]).await.expect("admitted");
    for id in [well.id, starting.id, elsewhere.id] {
        stage.settle(id).await;
    }
    stage.assert_next(Some(start + SILENCE_LIMIT)).await;
    stage.clock.advance(Duration::from_secs(50));
    stage.scheduler.heartbeat(&actor_of(&well), instance_of(&well)).await.expect("wanted");
    stage.beat(elsewhere.id).await.expect("taken");
    stage.scheduler.seen.record(stage.office, starting.id, stage.now());
    stage.scheduler.flush().await;
    let heard_at = stage.now();

    // Only the one that has not reported ready is due then.
    stage.clock.set(start + SILENCE_LIMIT);
    assert_eq!(stage.due().await, Due { agents: vec![starting.id], next: Some(heard_at + SILENCE_LIMIT) });
    stage.clock.set(heard_at + SILENCE_LIMIT);
    let due = stage.due().await;
    assert_eq!(due.agents.iter().copied().collect::<BTreeSet<_>>(), BTreeSet::from([starting.id, well.id]));
    assert_eq!(due.next, Some(heard_at + OFFLINE_AFTER));

    // A change stays due, whoever is heard of.
    stage.scheduler.stop(&stage.owner("StopAgent"), &stage.office.to_string(), "well").await.expect("stops");
    stage.scheduler.seen.record(stage.office, well.id, stage.now());
    stage.scheduler.flush().await;
    assert!(stage.due_now().await.contains(&well.id));
    stage.settle(well.id).await;
    assert_eq!(stage.phase(well.id).await, Some(Phase::Stopped));
}

async fn an_agent_of_which_a_step_fails_is_tried_later_and_later(mut stage: Stage) {
    let (broken, well) = (stage.hire("broken").await, stage.hire("well").await);
    let spoil = async |stage: &Stage, spec: &str| {
        let mut tx = stage.scheduler.db.platform().begin().await.expect("begins");
        let sql = "UPDATE agents SET spec = $2 WHERE id = $1";
        on!(tx, |c| {
            let value: sqlx::types::Json<serde_json::Value> =
                sqlx::types::Json(serde_json::from_str(spec).expect("JSON"));
            sqlx::query(sql).bind(broken.id.0).bind(value).execute(&mut *c).await.map(drop)
        })
        .expect("writes");
        tx.commit().await.expect("commits");
    };
    spoil(&stage, "[]").await;
    let mut waits = Vec::new();
    for _ in 0..8 {
        let until = stage.settle(broken.id).await.expect("waits");
        waits.push((until - stage.now()).num_seconds());
        assert_eq!(stage.due_now().await, BTreeSet::from([well.id]), "nobody is kept from the others");
        stage.clock.set(until);
        assert!(stage.due_now().await.contains(&broken.id));
    }
    assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
    stage.settle(well.id).await;
    assert_eq!(stage.ready(well.id).await.phase(), Phase::Running);
    // It is nobody's fault any more.
    stage.crash().await;
    spoil(&stage, &serde_json::to_string(&well.spec).expect("JSON")).await;
    stage.settle(broken.id).await;
    assert_eq!(stage.ready(broken.id).await.phase(), Phase::Running);
}

async fn a_pass_finds_who_was_forgotten(mut stage: Stage) {
    let (running, forgotten, idle) =
        (stage.running("running").await, stage.hire("forgotten").await, stage.running("idle").await);
    stage.settle(running.id).await;
    stage.scheduler.stop(&stage.owner("StopAgent"), &stage.office.to_string(), "idle").await.expect("stops");
    stage.settle(idle.id).await;
    let mut tx = stage.scheduler.db.platform().begin().await.expect("begins");
    let sql = "UPDATE agents SET next_look_at = NULL WHERE id = $1";
    on!(tx, |c| sqlx::query(sql).bind(forgotten.id.0).execute(&mut *c).await.map(drop)).expect("writes");
    tx.commit().await.expect("commits");
    assert_eq!(stage.due_now().await, BTreeSet::new());
    stage.scheduler.look_over(false).await.expect("goes over all");
    assert_eq!(stage.due_now().await, BTreeSet::from([forgotten.id]), "whoever is well is left alone");
    // Who begins to lead does not know what became of computes.
    stage.crash().await;
    stage.scheduler.look_over(true).await.expect("goes over all");
    assert_eq!(stage.due_now().await, BTreeSet::from([forgotten.id, running.id]));
}

async fn a_plan_from_before_its_office_turned_is_not_written(stage: Stage) {
    let agent = stage.running("analyst").await;
    stage.settle(agent.id).await;
    let late_plan = async |planned: &Agent| {
        let mut tx = stage.scheduler.db.office(stage.office).begin().await.expect("begins");
        let at = Some(stage.now() + SILENCE_LIMIT);
        looks::look_set(&mut tx, (planned.id, planned.revision), at, true).await.expect("writes");
        tx.commit().await.expect("commits");
    };
    // By another process, which does not hear of either.
    let planned = stage.agent(agent.id).await;
    stage.scheduler.look_over(true).await.expect("goes over all");
    late_plan(&planned).await;
    assert_eq!(stage.due_now().await, BTreeSet::from([agent.id]));
    stage.settle(agent.id).await;
    assert_eq!(stage.due_now().await, BTreeSet::new());

    let planned = stage.agent(agent.id).await;
    stage.apply(stage.office, 2, false, free_hiring()).await;
    late_plan(&planned).await;
    assert_eq!(stage.due_now().await, BTreeSet::from([agent.id]));
    stage.settle(agent.id).await;
    assert_eq!(stage.phase(agent.id).await, Some(Phase::Suspended));
}

async fn a_heartbeat_reads_no_row(stage: Stage) {
    let agent = stage.running("analyst").await;
    let elsewhere = stage.admit(stage.office, InviteId::new(), "elsewhere", [1; 32]).await.expect("admitted");
    for id in [agent.id, elsewhere.id] {
        stage.settle(id).await;
    }
    let beat = async || {
        let hosted = stage.scheduler.heartbeat(&actor_of(&agent), instance_of(&agent)).await;
        (hosted.map_err(|error| error.kind), stage.beat(elsewhere.id).await.map_err(|error| error.kind))
    };
    assert_eq!(beat().await, (Ok(()), Ok(())));
    // Still, when the batch was written in between.
    stage.clock.advance(Duration::from_secs(30));
    assert_eq!(beat().await, (Ok(()), Ok(())));
    stage.scheduler.flush().await;
    assert_eq!(stage.agent(agent.id).await.last_seen_at, Some(stage.now()));
    stage.scheduler.db.close().await;
    assert_eq!(beat().await, (Ok(()), Ok(())));
    // A change has the row read again, and so has a long silence.
    stage.scheduler.seen.doubt(agent.id);
    assert_eq!(beat().await, (Err(ErrorKind::Unavailable), Ok(())));
    stage.clock.advance(OFFLINE_AFTER);
    stage.scheduler.flush().await;
    assert_eq!(beat().await, (Err(ErrorKind::Unavailable), Err(ErrorKind::Unavailable)));
}

async fn a_change_by_another_process_shows_with_the_next_batch(mut stage: Stage) {
    let (replaced, kept) = (stage.running("replaced").await, stage.running("kept").await);
    let gone = stage.admit(stage.office, InviteId::new(), "gone", [1; 32]).await.expect("admitted");
    for id in [replaced.id, kept.id, gone.id] {
        stage.settle(id).await;
    }
    let here = stage.scheduler.clone();
    stage.restart_with(stage.objects.clone()).await;
    assert!(!Arc::ptr_eq(&here, &stage.scheduler));
    let office = stage.office;
    let beat = async || {
        let hosted = async |agent: &Agent| {
            here.heartbeat(&actor_of(agent), instance_of(agent)).await.map_err(|error| error.reason)
        };
        let elsewhere = here.sign_of_life(office, gone.id).await.map_err(|error| error.reason);
        [hosted(&replaced).await, hosted(&kept).await, elsewhere]
    };
    assert_eq!(beat().await, [Ok(()); 3]);
    stage.clock.advance(Duration::from_secs(1));
    stage.scheduler.restart(&stage.owner("RestartAgent"), &office.to_string(), "replaced").await.expect("restarts");
    stage.settle(replaced.id).await;
    stage.fire("gone", false).await;
    stage.settle(gone.id).await;
    // Nothing is read for it: it is not known yet.
    assert_eq!(beat().await, [Ok(()); 3]);
    here.flush().await;
    assert_eq!(beat().await, [Err("INSTANCE_REPLACED"), Ok(()), Err("UNAUTHENTICATED")]);
    assert_eq!(stage.find(gone.id).await, None);
}

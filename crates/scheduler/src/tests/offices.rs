//! The scheduler's copy of offices: applied in order, and removed to the last row.

use std::sync::Arc;

use futures::StreamExt;
use mi_kernel::{ErrorKind, OfficeId};
use mi_proto::{
    internal::v1::{
        CountAgentsRequest, RemoveOfficeRequest, agent_registry_service_server::AgentRegistryService,
        office_replica_service_server::OfficeReplicaService,
    },
    v1::{AgentCount, AgentPhase, OfficeSettings},
};
use mi_testkit::on_both;
use object_store::{ObjectStoreExt, local::LocalFileSystem, path::Path};
use tonic::Request;

use super::harness::{Harness, LONG, place};
use crate::{
    agents::{self, Phase},
    offices, registry,
};

on_both! {
    a_removed_office_leaves_nothing_and_others_stay,
    a_removal_goes_on_after_a_crash_at_any_step,
    agents_are_counted_by_phase,
    an_office_without_backups_is_removed_from_a_directory_too,
    a_push_that_comes_too_late_brings_nothing_back,
}

impl Harness {
    async fn remove(&self, office: OfficeId) -> bool {
        let handler = offices::grpc::Handler::new(self.scheduler.clone());
        let request = RemoveOfficeRequest { office_id: office.to_string() };
        handler.remove_office(Request::new(request)).await.expect("answers").into_inner().done
    }

    /// Agents in every harness of life, a backup, and the traces of a crash while one was made.
    async fn populate(&self) -> Vec<crate::agents::Agent> {
        let office = self.office.to_string();
        let root = self.running("root").await;
        self.runtime.fill(place(&root), b"roots work");
        let hired = self.scheduler.hire(&self.member(&root, "HireAgent"), self.hiring("child")).await.expect("hires");
        self.settle(hired.id).await;
        let gone = self.running("gone").await;
        self.fire("gone", false).await;
        self.settle(gone.id).await;
        let stopped = self.running("stopped").await;
        self.scheduler.stop(&self.owner("StopAgent"), &office, "stopped").await.expect("stops");
        self.settle(stopped.id).await;
        let pending = self.hire("pending").await;
        let orphan = Path::from(format!("backups/{}/{}.tar.zst", self.office, mi_kernel::BackupId::new()));
        self.objects.put(&orphan, "half an archive".into()).await.expect("stored");
        vec![root, hired, stopped, pending]
    }

    async fn assert_nothing_is_left_but(&self, survivor: &crate::agents::Agent) {
        for table in ["offices", "agents"] {
            assert_eq!(self.rows(table).await, 1, "{table}");
        }
        assert_eq!((self.rows("hires").await, self.rows("backups").await), (0, 0));
        assert_eq!(self.objects().await, []);
        assert_eq!(self.phase(survivor.id).await, Some(Phase::Running));
        assert_eq!(self.runtime.content(place(survivor)).as_deref(), Some(&b"stays"[..]));
    }

    /// A running agent of another office.
    async fn survivor(&self) -> crate::agents::Agent {
        let mut request = self.hiring("survivor");
        request.office_id = self.open_office(1).await.to_string();
        let hired = self.scheduler.hire(&self.owner("HireAgent"), request).await.expect("hires");
        self.settle(hired.id).await;
        self.runtime.fill(place(&hired), b"stays");
        self.ready(hired.id).await
    }
}

async fn a_removed_office_leaves_nothing_and_others_stay(harness: Harness) {
    let survivor = harness.survivor().await;
    let agents = harness.populate().await;
    let mut watch = agents::watch::watch(harness.scheduler.clone(), harness.office).boxed();
    for _ in &agents {
        assert!(!watch.next().await.expect("goes on").expect("no error").deleted);
    }
    assert!(!harness.remove(harness.office).await);
    let late = harness.scheduler.hire(&harness.owner("HireAgent"), harness.hiring("late")).await.expect_err("removing");
    assert_eq!(late.reason, "OFFICE_NOT_ACTIVE");
    // A push that was on its way does not bring the office back.
    harness.apply(harness.office, 9, true, super::harness::free_hiring()).await;
    assert!(!harness.remove(harness.office).await);
    for agent in &agents {
        harness.settle(agent.id).await;
        assert_eq!(harness.find(agent.id).await, None, "{}", agent.name);
        assert_eq!(harness.runtime.content(place(agent)), None, "{}", agent.name);
    }
    assert!(harness.remove(harness.office).await);
    harness.assert_nothing_is_left_but(&survivor).await;
    assert!(harness.remove(harness.office).await, "again");
    // Who watched saw each of them go, and then the office.
    let mut gone = Vec::new();
    let end = loop {
        match tokio::time::timeout(LONG, watch.next()).await.expect("in time").expect("goes on") {
            Ok(message) if message.deleted => gone.push(message.agent.expect("the last known").name),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    gone.sort();
    let mut names: Vec<_> = agents.iter().map(|agent| agent.name.clone()).collect();
    names.sort();
    assert_eq!((gone, end.kind), (names, ErrorKind::NotFound));
    for agent in &agents {
        assert_eq!(harness.event_counts(&agent.name).await["agent.fired"], 1, "{}", agent.name);
    }
}

async fn a_removal_goes_on_after_a_crash_at_any_step(mut harness: Harness) {
    let survivor = harness.survivor().await;
    let agents = harness.populate().await;
    assert!(!harness.remove(harness.office).await);
    for agent in &agents {
        harness.crash().await;
        assert!(!harness.remove(harness.office).await);
        harness.settle(agent.id).await;
    }
    // Everybody is gone; the next crash falls between the hiding of the backups and their removal.
    let now = harness.now();
    assert!(crate::backups::repo::backup_hide_some(&harness.scheduler.db, harness.office, now).await.expect("hides"));
    harness.crash().await;
    assert!(harness.remove(harness.office).await);
    harness.settle(survivor.id).await;
    harness.ready(survivor.id).await;
    harness.assert_nothing_is_left_but(&survivor).await;
}

async fn agents_are_counted_by_phase(harness: Harness) {
    harness.survivor().await;
    harness.populate().await;
    let request = CountAgentsRequest { office_id: harness.office.to_string() };
    let answer = registry::Handler::new(harness.scheduler.clone()).count_agents(Request::new(request)).await;
    let mut counts = answer.expect("counts").into_inner().agents;
    counts.sort_by_key(|count| count.phase);
    let count = |phase: AgentPhase, count| AgentCount { phase: phase.into(), count };
    let expected = [count(AgentPhase::Pending, 2), count(AgentPhase::Running, 1), count(AgentPhase::Stopped, 1)];
    assert_eq!(counts, expected);
}

async fn an_office_without_backups_is_removed_from_a_directory_too(mut harness: Harness) {
    let directory = tempfile::tempdir().expect("made");
    let local = LocalFileSystem::new_with_prefix(directory.path()).expect("opens");
    harness.restart_with(Arc::new(local)).await;
    assert!(harness.remove(harness.office).await);
    assert_eq!(harness.rows("offices").await, 0);
}

async fn a_push_that_comes_too_late_brings_nothing_back(harness: Harness) {
    assert!(harness.remove(harness.office).await);
    harness.apply(harness.office, 99, true, OfficeSettings::default()).await;
    // Also when the push was so late that the office was never heard of before its removal.
    let unheard = OfficeId::new();
    assert!(harness.remove(unheard).await);
    harness.apply(unheard, 1, true, OfficeSettings::default()).await;
    assert_eq!(harness.rows("offices").await, 0);
    let refused =
        harness.scheduler.hire(&harness.owner("HireAgent"), harness.hiring("late")).await.expect_err("refused");
    assert_eq!(refused.reason, "NOT_FOUND");
}

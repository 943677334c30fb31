//! Firing: the backup comes first and once, whatever breaks and whenever the process dies.

use std::{sync::Arc, time::Duration};

use mi_kernel::{BackupId, ErrorKind};
use mi_proto::internal::v1::{RemoveOfficeRequest, office_replica_service_server::OfficeReplicaService};
use mi_runtime::Runtime;
use mi_testkit::on_both;
use object_store::{ObjectStore, ObjectStoreExt, path::Path, prefix::PrefixStore};
use ring::digest;
use tonic::Request;

use super::{
    harness::{Harness, counts, place},
    lying::Lying,
};
use crate::{
    agents::{Agent, Desired, Phase, State},
    offices,
};

on_both! {
    a_fired_agent_leaves_one_verified_backup,
    a_crash_after_any_part_of_a_fire_is_finished_by_the_next_start,
    an_agent_that_never_ran_goes_without_a_backup,
    a_fire_that_cannot_back_up_is_given_up_and_keeps_the_agent,
    force_gives_the_workspace_up_instead,
    a_fire_may_become_forced,
    in_an_office_that_is_removed_nothing_keeps_an_agent,
    what_is_being_fired_takes_no_other_change,
    storage_that_answers_nothing_keeps_the_agent,
    an_archive_that_reads_back_differently_is_no_backup,
}

fn backup_of(agent: &Agent) -> BackupId {
    match agent.desired {
        Desired::Fire { backup_id, .. } => backup_id,
        other => panic!("not being fired: {other:?}"),
    }
}

fn sha256(bytes: &[u8]) -> String {
    digest::digest(&digest::SHA256, bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Harness {
    /// The agent is gone and exactly this was kept of it.
    async fn assert_gone_with_backup(&self, agent: &Agent, id: BackupId, content: &[u8]) {
        assert_eq!(self.find(agent.id).await, None);
        assert_eq!(self.runtime.content(place(agent)), None);
        assert_eq!(self.runtime.observe(agent.id), None);
        let kept: Vec<_> = self.backups().await.into_iter().filter(|backup| backup.agent == agent.name).collect();
        let [backup] = &kept[..] else { panic!("{kept:?}") };
        assert_eq!((backup.id, backup.size_bytes), (id, i64::try_from(content.len()).expect("small")));
        assert_eq!(backup.sha256, sha256(content));
        let path = format!("backups/{}/{id}.tar.zst", self.office);
        let object = self.objects().await.into_iter().find(|(name, _)| *name == path);
        assert_eq!(object, Some((path, content.to_vec())));
        let events = self.event_counts(&agent.name).await;
        assert_eq!((events["agent.backed_up"], events["agent.fired"]), (1, 1));
    }
}

async fn a_fired_agent_leaves_one_verified_backup(harness: Harness) {
    let (agent, neighbour) = (harness.running("analyst").await, harness.running("neighbour").await);
    let content: Vec<u8> = (0..700_000u32).map(|n| n.to_le_bytes()[1]).collect();
    harness.runtime.fill(place(&agent), &content);
    harness.runtime.fill(place(&neighbour), b"stays");
    let fired = harness.fire("analyst", false).await;
    assert_eq!((fired.phase(), fired.public_key.clone()), (Phase::Terminating, None));
    for _ in 0..3 {
        assert_eq!(harness.settle(agent.id).await, None);
        harness.assert_gone_with_backup(&agent, backup_of(&fired), &content).await;
    }
    assert_eq!(harness.objects().await.len(), 1);
    assert_eq!(harness.phase(neighbour.id).await, Some(Phase::Running));
    assert_eq!(harness.runtime.content(place(&neighbour)).as_deref(), Some(&b"stays"[..]));
    let again = harness.scheduler.fire(&harness.owner("FireAgent"), harness.firing("analyst", false)).await;
    assert_eq!(again.expect_err("gone").kind, ErrorKind::NotFound);
}

/// What a process may have done of a fire when it dies.
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd)]
enum Part {
    Intent,
    ComputeEnded,
    HalfUploaded,
    BackedUp,
    WorkspaceRemoved,
}

async fn a_crash_after_any_part_of_a_fire_is_finished_by_the_next_start(mut harness: Harness) {
    use Part::{BackedUp, ComputeEnded, HalfUploaded, Intent, WorkspaceRemoved};
    for last in [Intent, ComputeEnded, HalfUploaded, BackedUp, WorkspaceRemoved] {
        let name = format!("{last:?}").to_lowercase();
        let agent = harness.running(&name).await;
        let content = format!("the work of {name}").into_bytes();
        harness.runtime.fill(place(&agent), &content);
        let fired = harness.fire(&name, false).await;
        let id = backup_of(&fired);
        if last >= ComputeEnded {
            let _ = harness.runtime.stop(place(&agent)).await.expect("ends");
        }
        if last >= HalfUploaded {
            let path = Path::from(format!("backups/{}/{id}.tar.zst", harness.office));
            harness.objects.put(&path, "half an arch".into()).await.expect("stored");
        }
        if last >= BackedUp {
            let _ = harness.scheduler.back_up(&fired, id).await.expect("backs up");
            let _ = harness.scheduler.back_up(&fired, id).await.expect("again");
        }
        if last >= WorkspaceRemoved {
            let _ = harness.runtime.remove(place(&agent)).await.expect("removes");
        }
        harness.crash().await;
        assert_eq!(harness.settle(agent.id).await, None, "{last:?}");
        harness.assert_gone_with_backup(&agent, id, &content).await;
    }
    assert_eq!(harness.objects().await.len(), 5);
}

async fn an_agent_that_never_ran_goes_without_a_backup(harness: Harness) {
    let agent = harness.hire("analyst").await;
    harness.fire("analyst", false).await;
    harness.settle(agent.id).await;
    assert_eq!(harness.find(agent.id).await, None);
    assert_eq!((harness.backups().await, harness.objects().await), (vec![], vec![]));
    let expected = counts([
        ("access.granted", 1),
        ("access.revoked", 1),
        ("agent.hired", 1),
        ("agent.fire_requested", 1),
        ("agent.fired", 1),
    ]);
    assert_eq!(harness.event_counts("analyst").await, expected);
}

/// Works on until the agent rests; answers the waits in seconds.
async fn tries(harness: &Harness, agent: &Agent) -> Vec<i64> {
    let mut waits = Vec::new();
    while let Some(until) = harness.settle(agent.id).await {
        waits.push((until - harness.now()).num_seconds());
        harness.clock.set(until);
    }
    waits
}

async fn a_fire_that_cannot_back_up_is_given_up_and_keeps_the_agent(harness: Harness) {
    let agent = harness.running("analyst").await;
    harness.runtime.fill(place(&agent), b"work");
    harness.runtime.break_archives(true);
    harness.fire("analyst", false).await;
    assert_eq!(tries(&harness, &agent).await, [1, 2, 4, 8]);
    let failed = harness.agent(agent.id).await;
    let reason = "the backup failed: the workspace could not be archived: as asked".to_owned();
    assert_eq!((failed.failures, &failed.state), (5, &State::Failed { reason }));
    assert_eq!(harness.runtime.content(place(&agent)).as_deref(), Some(&b"work"[..]));
    assert_eq!((harness.backups().await, harness.objects().await), (vec![], vec![]));
    let events = harness.event_counts("analyst").await;
    assert_eq!((events["agent.fire_failed"], events.get("agent.fired")), (1, None));

    // It can run again, and be fired again once archives work.
    let office = harness.office.to_string();
    harness.scheduler.start(&harness.owner("StartAgent"), &office, "analyst").await.expect("starts");
    harness.settle(agent.id).await;
    assert_eq!(harness.ready(agent.id).await.phase(), Phase::Running);
    harness.runtime.break_archives(false);
    let fired = harness.fire("analyst", false).await;
    harness.settle(agent.id).await;
    harness.assert_gone_with_backup(&agent, backup_of(&fired), b"work").await;
}

async fn force_gives_the_workspace_up_instead(harness: Harness) {
    let agent = harness.running("analyst").await;
    harness.runtime.break_archives(true);
    harness.fire("analyst", true).await;
    assert_eq!(tries(&harness, &agent).await, [1, 2, 4, 8]);
    assert_eq!(harness.find(agent.id).await, None);
    assert_eq!(harness.runtime.content(place(&agent)), None);
    assert_eq!((harness.backups().await, harness.objects().await), (vec![], vec![]));
    let events = harness.event_counts("analyst").await;
    assert_eq!((events["agent.fired"], events.get("agent.backed_up")), (1, None));
}

async fn a_fire_may_become_forced(harness: Harness) {
    let agent = harness.running("analyst").await;
    harness.runtime.break_archives(true);
    let first = harness.fire("analyst", false).await;
    harness.settle(agent.id).await;
    let repeated = harness.fire("analyst", false).await;
    assert_eq!((repeated.generation, repeated.failures), (first.generation, 1));
    let forced = harness.fire("analyst", true).await;
    let backup_id = backup_of(&first);
    assert_eq!(forced.desired, Desired::Fire { force: true, backup_id });
    assert_eq!(harness.fire("analyst", false).await, forced);
    tries(&harness, &agent).await;
    assert_eq!(harness.find(agent.id).await, None);
}

async fn in_an_office_that_is_removed_nothing_keeps_an_agent(harness: Harness) {
    let agent = harness.running("analyst").await;
    harness.runtime.break_archives(true);
    let handler = offices::grpc::Handler::new(harness.scheduler.clone());
    let request = RemoveOfficeRequest { office_id: harness.office.to_string() };
    let answer = handler.remove_office(Request::new(request)).await.expect("begins").into_inner();
    assert!(!answer.done);
    assert_eq!(tries(&harness, &agent).await, [1, 2, 4, 8]);
    assert_eq!(harness.find(agent.id).await, None);
    assert_eq!(harness.runtime.content(place(&agent)), None);
}

async fn what_is_being_fired_takes_no_other_change(harness: Harness) {
    let agent = harness.running("analyst").await;
    let fired = harness.fire("analyst", false).await;
    let office = harness.office.to_string();
    let refusals = [
        harness.scheduler.start(&harness.owner("StartAgent"), &office, "analyst").await,
        harness.scheduler.stop(&harness.owner("StopAgent"), &office, "analyst").await,
        harness.scheduler.restart(&harness.owner("RestartAgent"), &office, "analyst").await,
        harness.scheduler.rotate(&harness.owner("RotateAgentIdentity"), &office, "analyst").await,
    ];
    for refusal in refusals {
        let error = refusal.expect_err("being fired");
        assert_eq!((error.kind, error.reason), (ErrorKind::FailedPrecondition, "AGENT_TERMINATING"));
    }
    assert_eq!(harness.agent(agent.id).await, fired);
}

async fn storage_that_answers_nothing_keeps_the_agent(mut harness: Harness) {
    let agent = harness.running("analyst").await;
    harness.runtime.fill(place(&agent), b"work");
    let file = tempfile::NamedTempFile::new().expect("made");
    let broken = object_store::local::LocalFileSystem::new();
    // A file in place of a directory: nothing can be written below it.
    let below = Path::from_absolute_path(file.path()).expect("absolute");
    let broken: Arc<dyn ObjectStore> = Arc::new(PrefixStore::new(broken, below));
    harness.restart_with(broken).await;
    let fired = harness.fire("analyst", false).await;
    let until = harness.settle(agent.id).await.expect("waits");
    assert_eq!(until, harness.now() + Duration::from_secs(1));
    assert_eq!(harness.phase(agent.id).await, Some(Phase::Terminating));
    assert_eq!(harness.runtime.content(place(&agent)).as_deref(), Some(&b"work"[..]));
    assert_eq!(harness.backups().await, []);

    harness.restart_with(harness.objects.clone()).await;
    harness.clock.set(until);
    harness.settle(agent.id).await;
    harness.assert_gone_with_backup(&agent, backup_of(&fired), b"work").await;
}

async fn an_archive_that_reads_back_differently_is_no_backup(mut harness: Harness) {
    let agent = harness.running("analyst").await;
    harness.runtime.fill(place(&agent), b"work");
    harness.restart_with(Arc::new(Lying(harness.objects.clone()))).await;
    let fired = harness.fire("analyst", false).await;
    assert_eq!(tries(&harness, &agent).await, [1, 2, 4, 8]);
    let failed = harness.agent(agent.id).await;
    assert_eq!(failed.phase(), Phase::Failed);
    let problem = format!("backup {} does not have the checksum it was written with", backup_of(&fired));
    assert_eq!(failed.message(), format!("the backup failed: {problem}"));
    assert_eq!(harness.runtime.content(place(&agent)).as_deref(), Some(&b"work"[..]));
    assert_eq!((harness.backups().await, harness.objects().await), (vec![], vec![]));
    assert_eq!(harness.event_counts("analyst").await.get("agent.backed_up"), None);

    harness.restart_with(harness.objects.clone()).await;
    let again = harness.fire("analyst", false).await;
    harness.settle(agent.id).await;
    harness.assert_gone_with_backup(&agent, backup_of(&again), b"work").await;
}

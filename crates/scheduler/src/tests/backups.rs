//! Backups after the agent is gone: filling another workspace, refusing damaged ones, and going away for good.

use std::{sync::Arc, time::Duration};

use mi_base::sweep::{BACKOFF, Removals};
use mi_kernel::{BackupId, ErrorKind, Time};
use mi_proto::v1::HireAgentRequest;
use mi_testkit::{Stuck, on_both};
use object_store::{ObjectStoreExt, path::Path};

use super::harness::{Harness, place};
use crate::{
    agents::{Agent, Phase, State},
    backups::Backup,
};

on_both! {
    a_backup_fills_the_workspace_of_a_new_agent,
    a_damaged_backup_starts_nobody_and_leaves_no_half_workspace,
    only_an_own_and_present_backup_can_be_restored,
    a_deleted_backup_is_gone_with_its_object,
    a_deletion_that_was_cut_off_is_finished_later,
    an_object_that_cannot_be_deleted_is_the_trouble_of_its_own_office,
}

impl Harness {
    /// A backup of a fired agent with this content.
    async fn backup(&self, name: &str, content: &[u8]) -> Backup {
        let agent = self.running(name).await;
        self.runtime.fill(place(&agent), content);
        self.fire(name, false).await;
        self.settle(agent.id).await;
        self.backups().await.into_iter().find(|backup| backup.agent == name).expect("backed up")
    }

    async fn hire_from(&self, name: &str, backup: BackupId) -> Agent {
        let hired = self.scheduler.hire(&self.owner("HireAgent"), self.restoring(name, backup)).await;
        hired.expect("hires")
    }

    fn restoring(&self, name: &str, backup: BackupId) -> HireAgentRequest {
        HireAgentRequest { restore_from_backup: backup.to_string(), ..self.hiring(name) }
    }

    fn object(&self, backup: &Backup) -> Path {
        Path::from(format!("backups/{}/{}.tar.zst", self.office, backup.id))
    }
}

async fn a_backup_fills_the_workspace_of_a_new_agent(harness: Harness) {
    let backup = harness.backup("old", b"what the old one knew").await;
    let agent = harness.hire_from("new", backup.id).await;
    harness.settle(agent.id).await;
    assert_eq!(harness.runtime.content(place(&agent)).as_deref(), Some(&b"what the old one knew"[..]));
    assert_eq!(harness.ready(agent.id).await.phase(), Phase::Running);

    // Filled once: what the agent writes afterwards is its own.
    harness.runtime.fill(place(&agent), b"and learned");
    let office = harness.office.to_string();
    harness.scheduler.restart(&harness.owner("RestartAgent"), &office, "new").await.expect("restarts");
    harness.settle(agent.id).await;
    assert_eq!(harness.runtime.content(place(&agent)).as_deref(), Some(&b"and learned"[..]));
    assert_eq!(harness.backups().await, [backup]);
}

async fn a_damaged_backup_starts_nobody_and_leaves_no_half_workspace(harness: Harness) {
    let content = vec![7; 300_000];
    let backup = harness.backup("old", &content).await;
    let mut flipped = content.clone();
    flipped[299_999] ^= 1;
    let short = content[..299_999].to_vec();
    for (name, damaged) in [("flipped", flipped), ("short", short)] {
        harness.objects.put(&harness.object(&backup), damaged.into()).await.expect("stored");
        let agent = harness.hire_from(name, backup.id).await;
        let launches = harness.runtime.launches().len();
        let retry_at = harness.settle(agent.id).await.expect("waits");
        let waiting = harness.agent(agent.id).await;
        let reason = format!("backup {} does not have the checksum it was written with", backup.id);
        assert_eq!(waiting.state, State::BackingOff { retry_at, reason });
        assert_eq!(harness.runtime.content(place(&agent)), None);
        assert_eq!(harness.runtime.launches().len(), launches);
        let error = harness.scheduler.verify(&backup).await.expect_err("damaged");
        assert_eq!((error.kind, error.reason), (ErrorKind::FailedPrecondition, "BACKUP_DAMAGED"));

        // Put right, the next try succeeds.
        harness.objects.put(&harness.object(&backup), content.clone().into()).await.expect("stored");
        harness.clock.set(retry_at);
        harness.settle(agent.id).await;
        assert_eq!(harness.runtime.content(place(&agent)).as_ref(), Some(&content));
        assert_eq!(harness.ready(agent.id).await.phase(), Phase::Running);
    }
}

async fn only_an_own_and_present_backup_can_be_restored(harness: Harness) {
    let backup = harness.backup("old", b"work").await;
    let elsewhere = harness.open_office(1).await;
    let foreign = HireAgentRequest { office_id: elsewhere.to_string(), ..harness.restoring("new", backup.id) };
    for request in [foreign, harness.restoring("new", BackupId::new())] {
        let error = harness.scheduler.hire(&harness.owner("HireAgent"), request).await.expect_err("not there");
        assert_eq!((error.kind, error.resource.map(|(kind, _)| kind)), (ErrorKind::NotFound, Some("backup")));
    }
    let mut request = harness.hiring("new");
    request.restore_from_backup = "nonsense".into();
    let error = harness.scheduler.hire(&harness.owner("HireAgent"), request).await.expect_err("no id");
    assert_eq!(error.kind, ErrorKind::Invalid);
    assert_eq!(harness.rows("agents").await, 0);
}

async fn a_deleted_backup_is_gone_with_its_object(harness: Harness) {
    let (gone, kept) = (harness.backup("one", b"one").await, harness.backup("two", b"two").await);
    let (caller, office) = (harness.owner("DeleteBackup"), harness.office.to_string());
    harness.scheduler.delete_backup(&caller, &office, &gone.id.to_string()).await.expect("deletes");
    let again = harness.scheduler.delete_backup(&caller, &office, &gone.id.to_string()).await.expect_err("gone");
    assert_eq!(again.kind, ErrorKind::NotFound);
    assert_eq!(harness.objects().await, [(harness.object(&kept).to_string(), b"two".to_vec())]);
    assert_eq!(harness.rows("backups").await, 1);
    assert_eq!(harness.event_counts("one").await["backup.deleted"], 1);
    assert_eq!(harness.backups().await, [kept]);
}

async fn a_deletion_that_was_cut_off_is_finished_later(mut harness: Harness) {
    let (hidden, kept) = (harness.backup("one", b"one").await, harness.backup("two", b"two").await);
    // The row is hidden, and the process dies before the object goes.
    let mut tx = harness.scheduler.db.office(harness.office).begin().await.expect("begins");
    crate::backups::repo::backup_hide(&mut tx, hidden.id, harness.now()).await.expect("hides");
    tx.commit().await.expect("commits");
    harness.crash().await;
    assert_eq!(harness.backups().await, std::slice::from_ref(&kept));
    assert_eq!(harness.objects().await.len(), 2);
    for _ in 0..2 {
        harness.sweep_backups().await.expect("finishes");
        assert_eq!(harness.objects().await, [(harness.object(&kept).to_string(), b"two".to_vec())]);
        assert_eq!(harness.rows("backups").await, 1);
    }
}

async fn an_object_that_cannot_be_deleted_is_the_trouble_of_its_own_office(mut harness: Harness) {
    let stuck = harness.backup("one", b"one").await;
    let (mine, other) = (harness.office, harness.open_office(1).await);
    let stuck_object = (harness.object(&stuck).to_string(), b"one".to_vec());
    harness.office = other;
    let (gone, hidden, kept) = (
        harness.backup("two", b"two").await,
        harness.backup("three", b"three").await,
        harness.backup("four", b"four").await,
    );
    let kept_object = (harness.object(&kept).to_string(), b"four".to_vec());
    harness.restart_with(Arc::new(Stuck::new(harness.objects.clone(), mine))).await;

    // Deleted is deleted: its office sees it no more, and nobody else hears of it.
    let caller = harness.owner("DeleteBackup");
    for (office, backup) in [(mine, &stuck), (other, &gone)] {
        harness.scheduler.delete_backup(&caller, &office.to_string(), &backup.id.to_string()).await.expect("deletes");
    }
    let mut conn = harness.scheduler.db.office(mine).read().await.expect("reads");
    let found = crate::backups::find(&mut conn, &stuck.id.to_string()).await;
    assert_eq!(found.expect_err("is hidden").kind, ErrorKind::NotFound);
    drop(conn);
    let three = (harness.object(&hidden).to_string(), b"three".to_vec());
    assert_eq!(harness.objects().await, [stuck_object.clone(), three, kept_object.clone()]);

    let mut tx = harness.scheduler.db.office(other).begin().await.expect("begins");
    crate::backups::repo::backup_hide(&mut tx, hidden.id, harness.now()).await.expect("hides");
    tx.commit().await.expect("commits");
    let swept_at = harness.now();
    harness.sweep_backups().await.expect("goes on");
    assert_eq!(harness.objects().await, [stuck_object.clone(), kept_object.clone()]);
    assert_eq!((harness.rows("backups").await, harness.backups().await), (2, vec![kept.clone()]));

    // It is tried again, not all the time.
    harness.restart_with(harness.objects.clone()).await;
    harness.clock.advance(BACKOFF.first - Duration::from_secs(1));
    harness.sweep_backups().await.expect("goes on");
    assert_eq!(harness.objects().await, [stuck_object, kept_object.clone()]);
    harness.clock.advance(Duration::from_secs(1));
    let due = async |at: Time| harness.scheduler.due(at, 10).await.expect("reads").len();
    assert_eq!((due(swept_at).await, due(harness.now()).await), (0, 1), "a sweep that takes so long comes to its end");
    harness.sweep_backups().await.expect("goes on");
    assert_eq!((harness.objects().await, harness.rows("backups").await), (vec![kept_object], 1));
}

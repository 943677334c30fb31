//! Workspaces that come from elsewhere: taken for the token that was given for them, whole, and once.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use mi_kernel::{AgentId, Error, ErrorKind, OfficeId, Result};
use mi_proto::v1::{HireAgentRequest, LoadWorkspaceRequest, Resources, SaveWorkspaceHeader};
use mi_testkit::{on_both, until};
use object_store::ObjectStore;
use ring::digest;
use tonic::Code;

use super::{
    harness::{Harness, replica},
    held::Held,
    lying::Lying,
};
use crate::{
    Scheduler,
    agents::{Agent, Desired, Phase, repo},
    backups::{Backup, tries::LIFE},
    shards::Shards,
};

on_both! {
    a_workspace_that_is_sent_is_the_backup_of_whoever_is_fired,
    a_token_is_for_one_agent_of_one_office_that_is_being_fired,
    a_stream_that_is_cut_leaves_nothing_and_may_be_sent_again,
    what_is_no_archive_or_too_large_a_one_is_refused,
    a_workspace_is_sent_once_at_a_time,
    what_reads_back_differently_is_no_backup,
    of_two_processes_that_take_it_the_second_to_fail_takes_nothing_away,
    of_two_processes_that_take_it_the_first_to_record_it_counts,
    what_a_crash_leaves_of_a_workspace_is_swept,
    an_agent_loads_the_backup_that_it_was_hired_from_and_no_other,
}

const TOKEN: &str = "the token in the job";

/// An archive of a workspace with this in it, which nothing compresses.
fn archive(bytes: usize) -> Vec<u8> {
    let root = tempfile::tempdir().expect("made");
    let noise: Vec<u8> = std::iter::repeat_with(|| uuid::Uuid::new_v4().into_bytes()).flatten().take(bytes).collect();
    std::fs::write(root.path().join("noise"), noise).expect("written");
    let output = tempfile::NamedTempFile::new().expect("made");
    mi_archive::pack(root.path(), Box::new(output.reopen().expect("opened"))).expect("packed");
    std::fs::read(output.path()).expect("read")
}

fn pieces(archive: &[u8]) -> Vec<Result<Bytes>> {
    archive.chunks(100_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect()
}

fn refusal<T>(outcome: Result<T>) -> (ErrorKind, &'static str) {
    outcome.map_or_else(|error| (error.kind, error.reason), |_| panic!("was taken"))
}

const UNKNOWN: (ErrorKind, &str) = (ErrorKind::Unauthenticated, "UNAUTHENTICATED");

impl Harness {
    /// An agent that is being fired, whose workspace is waited for.
    async fn leaving(&self, name: &str, token: &str) -> Agent {
        let agent = self.running(name).await;
        self.fire(name, false).await;
        self.grant(agent.id, token).await
    }

    /// What the reconciler writes when it has the workspace sent.
    async fn grant(&self, id: AgentId, token: &str) -> Agent {
        let mut agent = self.agent(id).await;
        agent.enrol_sha256 = Some(digest::digest(&digest::SHA256, token.as_bytes()).as_ref().to_vec());
        agent.enrol_expires_at = Some(self.now() + Duration::from_secs(300));
        let mut tx = self.scheduler.db.office(agent.office_id).begin().await.expect("begins");
        assert!(repo::agent_update(&mut tx, &mut agent).await.expect("writes"));
        tx.commit().await.expect("commits");
        agent
    }

    async fn send(&self, header: SaveWorkspaceHeader, pieces: Vec<Result<Bytes>>) -> Result<Backup> {
        let caller = self.owner("SaveWorkspace");
        self.scheduler.save_workspace(&caller, header, stream::iter(pieces).boxed()).await
    }

    /// The same, to another process over the same database, which reaches object storage through this.
    async fn other_process(&self, objects: Arc<dyn ObjectStore>) -> Arc<Scheduler> {
        replica(&self.database, &self.clock, &self.runtime, objects, &self.treasury, Shards::alone(), "other").await
    }

    /// Where a workspace that was sent is kept.
    fn object_of(&self, backup: &Backup) -> String {
        format!("backups/{}/{}.tar.zst", self.office, backup.upload.expect("was sent"))
    }

    async fn load(&self, agent: &Agent, name: &str) -> Result<(Backup, Vec<Bytes>)> {
        let request = LoadWorkspaceRequest { office_id: self.office.to_string(), name: name.into() };
        let loaded = self.scheduler.load_workspace(&self.member(agent, "LoadWorkspace"), &request).await?;
        Ok((loaded.0, loaded.1.try_collect().await?))
    }
}

fn header(agent: &Agent, token: &str) -> SaveWorkspaceHeader {
    SaveWorkspaceHeader {
        office_id: agent.office_id.to_string(),
        agent_id: agent.id.to_string(),
        token: token.to_owned(),
    }
}

async fn a_workspace_that_is_sent_is_the_backup_of_whoever_is_fired(harness: Harness) {
    let agent = harness.leaving("analyst", TOKEN).await;
    let content = archive(700_000);
    let saved = harness.send(header(&agent, TOKEN), pieces(&content)).await.expect("taken");
    let Desired::Fire { backup_id, .. } = agent.desired else { panic!("{:?}", agent.desired) };
    assert_eq!((saved.id, &*saved.agent, saved.size_bytes as usize), (backup_id, "analyst", content.len()));
    let object = harness.object_of(&saved);
    assert_eq!(harness.objects().await, [(object.clone(), content.clone())]);
    assert_eq!(harness.backups().await, std::slice::from_ref(&saved));
    assert_eq!(harness.event_counts("analyst").await["agent.backed_up"], 1);

    // The answer may have got lost; what is sent then is not even looked at.
    let again = harness.send(header(&agent, TOKEN), vec![Err(Error::internal("not read"))]).await;
    assert_eq!(again.expect("taken"), saved);
    // The fire goes on without another backup.
    harness.settle(agent.id).await;
    assert_eq!(harness.find(agent.id).await, None);
    assert_eq!((harness.objects().await, harness.backups().await), (vec![(object, content)], vec![saved]));
    assert_eq!(harness.event_counts("analyst").await["agent.backed_up"], 1);
    assert_eq!(refusal(harness.send(header(&agent, TOKEN), vec![]).await), UNKNOWN);
}

async fn a_token_is_for_one_agent_of_one_office_that_is_being_fired(harness: Harness) {
    let agent = harness.leaving("leaving", TOKEN).await;
    let (other, stays) = (harness.leaving("other", "another").await, harness.running("stays").await);
    let elsewhere = harness.open_office(1).await;
    let right = header(&agent, TOKEN);
    let enrolment = harness.token(&stays);
    for wrong in [
        SaveWorkspaceHeader { token: "a guess".into(), ..right.clone() },
        SaveWorkspaceHeader { token: String::new(), ..right.clone() },
        SaveWorkspaceHeader { office_id: elsewhere.to_string(), ..right.clone() },
        SaveWorkspaceHeader { office_id: OfficeId::new().to_string(), ..right.clone() },
        SaveWorkspaceHeader { agent_id: other.id.to_string(), ..right.clone() },
        header(&stays, &enrolment),
    ] {
        assert_eq!(refusal(harness.send(wrong, pieces(&archive(10))).await), UNKNOWN);
    }
    let details: Vec<_> = harness
        .refusals
        .due(harness.now())
        .into_iter()
        .map(|event| (event.office_id, event.metadata["detail"].clone()))
        .collect();
    assert!(details.contains(&(harness.office, "its token, in another office".into())), "{details:?}");
    assert!(details.contains(&(elsewhere, "a token of another office".into())), "{details:?}");
    for (field, bad) in [
        ("office_id", SaveWorkspaceHeader { office_id: "x".into(), ..right.clone() }),
        ("agent_id", SaveWorkspaceHeader { agent_id: "x".into(), ..right.clone() }),
    ] {
        assert_eq!(harness.send(bad, vec![]).await.expect_err("bad").kind, ErrorKind::Invalid, "{field}");
    }
    // It lets nobody in.
    let enrolled = harness.enrol(harness.office, TOKEN, [9; 32]).await.expect_err("is for a backup");
    assert_eq!(enrolled.code(), Code::Unauthenticated);
    assert_eq!(harness.agent(agent.id).await.public_key, None);

    harness.clock.advance(Duration::from_secs(300));
    assert_eq!(refusal(harness.send(right.clone(), pieces(&archive(10))).await), UNKNOWN);
    assert_eq!((harness.backups().await, harness.objects().await), (vec![], vec![]));
    harness.grant(agent.id, "a new one").await;
    assert_eq!(refusal(harness.send(right, pieces(&archive(10))).await), UNKNOWN);
    harness.send(header(&agent, "a new one"), pieces(&archive(10))).await.expect("taken");
}

async fn a_stream_that_is_cut_leaves_nothing_and_may_be_sent_again(harness: Harness) {
    let agent = harness.leaving("analyst", TOKEN).await;
    let content = archive(700_000);
    let mut cut = pieces(&content);
    *cut.last_mut().expect("many") = Err(Error::unavailable("the connection was lost"));
    assert_eq!(refusal(harness.send(header(&agent, TOKEN), cut).await).0, ErrorKind::Unavailable);
    let mut short = pieces(&content);
    short.pop();
    let ended = harness.send(header(&agent, TOKEN), short).await;
    assert_eq!(refusal(ended), (ErrorKind::FailedPrecondition, "NO_ARCHIVE"));
    assert_eq!((harness.backups().await, harness.objects().await), (vec![], vec![]));
    harness.send(header(&agent, TOKEN), pieces(&content)).await.expect("taken");
    assert_eq!(harness.backups().await.len(), 1);
}

async fn what_is_no_archive_or_too_large_a_one_is_refused(harness: Harness) {
    let resources = Some(Resources { disk_bytes: 1 << 20, ..Resources::default() });
    let small = HireAgentRequest { resources, ..harness.hiring("small") };
    let hired = harness.scheduler.hire(&harness.owner("HireAgent"), small).await.expect("hires");
    harness.settle(hired.id).await;
    harness.ready(hired.id).await;
    harness.fire("small", false).await;
    let agent = harness.grant(hired.id, TOKEN).await;
    let too_much: Vec<_> = pieces(&archive(66 << 20));
    let refused = refusal(harness.send(header(&agent, TOKEN), too_much).await);
    assert_eq!(refused, (ErrorKind::FailedPrecondition, "WORKSPACE_TOO_LARGE"));
    for content in [&b"anything"[..], b""] {
        let refused = refusal(harness.send(header(&agent, TOKEN), pieces(content)).await);
        assert_eq!(refused, (ErrorKind::FailedPrecondition, "NO_ARCHIVE"));
    }
    assert_eq!((harness.backups().await, harness.objects().await), (vec![], vec![]));
    assert_eq!(harness.phase(agent.id).await, Some(Phase::Terminating));
}

async fn a_workspace_is_sent_once_at_a_time(harness: Harness) {
    let agent = harness.leaving("analyst", TOKEN).await;
    let content = archive(300_000);
    let (more, rest) = tokio::sync::mpsc::unbounded_channel();
    let caller = harness.owner("SaveWorkspace");
    let slow = tokio_stream::wrappers::UnboundedReceiverStream::new(rest).boxed();
    let mut first = Box::pin(harness.scheduler.save_workspace(&caller, header(&agent, TOKEN), slow));
    while harness.scheduler.saving.is_empty() {
        assert!((&mut first).now_or_never().is_none(), "waits for the rest");
        tokio::task::yield_now().await;
    }
    let second = harness.send(header(&agent, TOKEN), pieces(&content)).await;
    assert_eq!(refusal(second), (ErrorKind::Aborted, "SAVE_UNDER_WAY"));
    pieces(&content).into_iter().for_each(|piece| more.send(piece).expect("is read"));
    // Whoever gave up is not waited for, and takes nobody's turn for ever.
    drop(first);
    drop(more);
    let saved =
        mi_testkit::until("it is saved", super::harness::LONG, async || Ok::<_, Error>(harness.backups().await.pop()));
    assert_eq!(saved.await.size_bytes as usize, content.len());
    assert_eq!(harness.event_counts("analyst").await["agent.backed_up"], 1);
}

async fn what_reads_back_differently_is_no_backup(mut harness: Harness) {
    let agent = harness.leaving("analyst", TOKEN).await;
    harness.restart_with(Arc::new(Lying(harness.objects.clone()))).await;
    let refused = refusal(harness.send(header(&agent, TOKEN), pieces(&archive(1000))).await);
    assert_eq!(refused, (ErrorKind::FailedPrecondition, "BACKUP_DAMAGED"));
    assert_eq!((harness.backups().await, harness.objects().await), (vec![], vec![]));
    harness.restart_with(harness.objects.clone()).await;
    harness.send(header(&agent, TOKEN), pieces(&archive(1000))).await.expect("taken");
}

/// Goes on with a workspace that is being sent until its archive waits to be read back.
async fn until_stored(harness: &Harness, mut saving: Pin<&mut impl Future<Output = Result<Backup>>>) {
    let stored = until("it is stored", super::harness::LONG, async || {
        Ok::<_, Error>((!harness.objects().await.is_empty()).then_some(()))
    });
    tokio::select! {
        saved = &mut saving => panic!("was not read back: {saved:?}"),
        () = stored => {}
    }
}

async fn of_two_processes_that_take_it_the_second_to_fail_takes_nothing_away(mut harness: Harness) {
    let agent = harness.leaving("analyst", TOKEN).await;
    let content = archive(1000);
    let held = Held::new(harness.objects.clone());
    harness.restart_with(Arc::new(held.clone())).await;
    let caller = harness.owner("SaveWorkspace");
    let sent = stream::iter(pieces(&content)).boxed();
    let mut first = pin!(harness.scheduler.save_workspace(&caller, header(&agent, TOKEN), sent));
    until_stored(&harness, first.as_mut()).await;
    let other = harness.other_process(Arc::new(Lying(harness.objects.clone()))).await;
    let sent = stream::iter(pieces(&content)).boxed();
    let second = other.save_workspace(&caller, header(&agent, TOKEN), sent).await;
    assert_eq!(refusal(second), (ErrorKind::FailedPrecondition, "BACKUP_DAMAGED"));
    held.let_go();
    let saved = first.await.expect("taken");
    assert_eq!(harness.objects().await, [(harness.object_of(&saved), content)]);
    assert_eq!((harness.backups().await, harness.rows("backups").await), (vec![saved], 1));
}

async fn of_two_processes_that_take_it_the_first_to_record_it_counts(mut harness: Harness) {
    let agent = harness.leaving("analyst", TOKEN).await;
    let (late, content) = (archive(1000), archive(2000));
    let held = Held::new(harness.objects.clone());
    harness.restart_with(Arc::new(held.clone())).await;
    let caller = harness.owner("SaveWorkspace");
    let sent = stream::iter(pieces(&late)).boxed();
    let mut first = pin!(harness.scheduler.save_workspace(&caller, header(&agent, TOKEN), sent));
    until_stored(&harness, first.as_mut()).await;
    let other = harness.other_process(harness.objects.clone()).await;
    let sent = stream::iter(pieces(&content)).boxed();
    let saved = other.save_workspace(&caller, header(&agent, TOKEN), sent).await.expect("taken");
    held.let_go();
    assert_eq!(refusal(first.await), UNKNOWN);
    assert_eq!(harness.objects().await, [(harness.object_of(&saved), content)]);
    assert_eq!((harness.backups().await, harness.rows("backups").await), (vec![saved], 1));
    assert_eq!(harness.event_counts("analyst").await["agent.backed_up"], 1);
}

async fn what_a_crash_leaves_of_a_workspace_is_swept(mut harness: Harness) {
    let agent = harness.leaving("analyst", TOKEN).await;
    let Desired::Fire { backup_id, .. } = agent.desired else { panic!("{:?}", agent.desired) };
    harness.restart_with(Arc::new(Held::new(harness.objects.clone()))).await;
    {
        let sent = stream::iter(pieces(&archive(1000))).boxed();
        let mut saving = pin!(harness.scheduler.save_archive(agent.clone(), backup_id, sent));
        until_stored(&harness, saving.as_mut()).await;
        // The process dies between storing and recording.
    }
    harness.crash().await;
    assert_eq!((harness.backups().await, harness.objects().await.len()), (vec![], 1));
    let content = archive(2000);
    let saved = harness.send(header(&agent, TOKEN), pieces(&content)).await.expect("may be sent again");
    // As long as somebody may still be at it, it stays.
    harness.clock.advance(LIFE - Duration::from_secs(1));
    harness.sweep_backups().await.expect("swept");
    assert_eq!(harness.objects().await.len(), 2);
    harness.clock.advance(Duration::from_secs(1));
    harness.sweep_backups().await.expect("swept");
    assert_eq!(harness.objects().await, [(harness.object_of(&saved), content)]);
    assert_eq!((harness.backups().await, harness.rows("backups").await), (vec![saved.clone()], 1));
    // Deleted, it goes with its own object.
    let (caller, office) = (harness.owner("DeleteBackup"), harness.office.to_string());
    harness.scheduler.delete_backup(&caller, &office, &saved.id.to_string()).await.expect("deleted");
    assert_eq!((harness.objects().await, harness.rows("backups").await), (vec![], 0));
}

async fn an_agent_loads_the_backup_that_it_was_hired_from_and_no_other(harness: Harness) {
    let old = harness.leaving("old", TOKEN).await;
    let content = archive(3_000_000);
    let saved = harness.send(header(&old, TOKEN), pieces(&content)).await.expect("taken");
    let restoring = |name: &str| HireAgentRequest { restore_from_backup: saved.id.to_string(), ..harness.hiring(name) };
    let hired = harness.scheduler.hire(&harness.owner("HireAgent"), restoring("new")).await.expect("hires");
    let other = harness.hire("other").await;
    let (backup, pieces) = harness.load(&hired, "new").await.expect("loads");
    assert_eq!((backup, pieces.concat()), (saved.clone(), content.clone()));
    assert!(pieces.iter().all(|piece| piece.len() <= 1 << 20), "each fits into a message");
    assert_eq!(refusal(harness.load(&other, "other").await), (ErrorKind::FailedPrecondition, "NO_BACKUP"));
    assert_eq!(refusal(harness.load(&other, "new").await).0, ErrorKind::PermissionDenied);
    let request = LoadWorkspaceRequest { office_id: harness.office.to_string(), name: "new".into() };
    for (caller, kind) in [
        (harness.stranger("LoadWorkspace"), ErrorKind::NotFound),
        (harness.owner("LoadWorkspace"), ErrorKind::PermissionDenied),
    ] {
        assert_eq!(refusal(harness.scheduler.load_workspace(&caller, &request).await.map(drop)).0, kind);
    }
    let object = object_store::path::Path::from(harness.object_of(&saved));
    object_store::ObjectStoreExt::put(&*harness.objects, &object, content[1..].to_vec().into()).await.expect("stored");
    assert_eq!(refusal(harness.load(&hired, "new").await), (ErrorKind::FailedPrecondition, "BACKUP_DAMAGED"));
}

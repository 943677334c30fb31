//! The objects behind the drive: kept once, never deleted while a file has them, never left behind, whatever fails when.

mod sweeps;

use std::{sync::Arc, time::Duration};

use mi_base::{disk_reserve::DiskReserve, sweep::BACKOFF};
use mi_drive::storage::{GRACE, MAX_UPLOADS, Storage};
use mi_kernel::{Clock, OfficeId};
use mi_proto::v1::{
    DownloadFileRequest, SuspendOfficeRequest, UploadFileRequest, UploadHeader, upload_file_request::Part,
};
use mi_testkit::{on_both, until};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

use super::{
    drive::{header, refusal},
    faulty::Fault,
    harness::{Harness, LONG},
};

on_both! {
    the_same_content_is_kept_once_in_an_office_and_never_shared_between_two,
    content_stays_while_a_file_has_it_and_goes_after_the_grace,
    what_is_being_read_is_read_to_its_end,
    an_upload_whose_client_leaves_is_cleared_away,
    an_upload_that_storage_refuses_is_cleared_away,
    an_upload_that_is_refused_at_its_end_is_cleared_away,
    an_upload_whose_process_dies_is_found_by_the_sweep,
    a_deletion_that_fails_at_any_step_is_finished_by_the_sweep,
    the_database_refuses_to_drop_content_that_a_file_has,
    a_deleted_office_leaves_no_object,
    a_deletion_of_an_office_goes_on_when_storage_fails,
    what_is_replaced_and_deleted_counts_until_it_goes_from_storage,
    an_office_sends_so_many_files_at_a_time,
}

/// Names an object before its first byte is written.
const UPLOAD: &str = "INSERT INTO drive_uploads (office_id, object, begun_at) VALUES ($1, $2, $3)";
/// Names an object without counted bytes that may be deleted from a time on.
const TRASH: &str = "INSERT INTO drive_trash (office_id, object, due_at, size) VALUES ($1, $2, $3, 0)";

impl Harness {
    /// Names objects of the office by one of these statements.
    async fn name(&self, office: &str, sql: &'static str, objects: &[uuid::Uuid], at: mi_kernel::Time) {
        let id = OfficeId::parse(office).expect("an id");
        let mut tx = self.db().await.office(id).begin().await.expect("begins");
        for object in objects {
            let named = mi_store::on!(tx, |c| {
                sqlx::query(sql).bind(id.0).bind(*object).bind(at).execute(&mut *c).await.map(drop)
            });
            named.expect("writes");
        }
        tx.commit().await.expect("commits");
    }

    /// What the sweep of any process does.
    async fn sweep(&self) -> mi_kernel::Result<()> {
        Storage::new(self.db().await, self.clock.shared(), Arc::new(self.objects.clone()), DiskReserve::default())
            .sweep()
            .await
    }

    /// Sweeps when everything that may ever be deleted may be.
    async fn sweep_late(&self) {
        self.clock.advance(GRACE + Duration::from_secs(25 * 3600));
        self.sweep().await.expect("sweeps");
        assert_eq!(self.named().await, (0, 0));
    }

    /// Rows among uploads and in the trash, of all offices.
    async fn named(&self) -> (i64, i64) {
        let mut conn = self.db().await.platform().read().await.expect("reads");
        let mut counts = [0; 2];
        for (count, sql) in
            counts.iter_mut().zip(["SELECT count(*) FROM drive_uploads", "SELECT count(*) FROM drive_trash"])
        {
            *count = mi_store::on!(conn, |c| sqlx::query_scalar(sql).fetch_one(&mut *c).await).expect("counts");
        }
        (counts[0], counts[1])
    }

    async fn objects(&self) -> usize {
        self.objects.all().await.len()
    }

    async fn until_objects(&self, expected: usize) {
        until("there are so many objects", LONG, async || {
            let all = self.objects.all().await;
            if all.len() == expected { Ok(Some(())) } else { Err(format!("{all:?}")) }
        })
        .await;
    }

    /// Waits until no upload is open: what an upload leaves is cleared away when its call is over.
    async fn until_no_upload(&self) {
        until("no upload is open", LONG, async || {
            let (uploads, _) = self.named().await;
            if uploads == 0 { Ok(Some(())) } else { Err(uploads) }
        })
        .await;
    }

    async fn until_open(&self) {
        until("the upload is open", LONG, async || {
            let (uploads, _) = self.named().await;
            if uploads == 1 { Ok(Some(())) } else { Err(uploads) }
        })
        .await;
    }

    /// An upload that goes on as long as the sender is there.
    async fn begin(
        &self,
        header: UploadHeader,
    ) -> (mpsc::Sender<UploadFileRequest>, tokio::task::JoinHandle<Result<(), tonic::Status>>) {
        let (sender, messages) = mpsc::channel(1);
        let mut client = self.drive(&self.owner);
        sender.send(UploadFileRequest { part: Some(Part::Header(header)) }).await.expect("taken");
        let call = async move { client.upload_file(ReceiverStream::new(messages)).await.map(drop) };
        (sender, tokio::spawn(call))
    }
}

fn chunk(bytes: usize) -> UploadFileRequest {
    UploadFileRequest { part: Some(Part::Chunk(vec![7; bytes].into())) }
}

async fn the_same_content_is_kept_once_in_an_office_and_never_shared_between_two(harness: Harness) {
    let (one, other) = (harness.create("One").await.id, harness.create("Other").await.id);
    harness.put(&one, "a", b"same").await;
    harness.put(&one, "b", b"same").await;
    harness.put(&one, "b", b"same").await;
    harness.until_objects(1).await;
    harness.put(&other, "a", b"same").await;
    let mut all = harness.objects.all().await;
    all.sort();
    let mut owners: Vec<&str> = all.iter().map(|path| path.split('/').nth(1).expect("an office")).collect();
    owners.sort_unstable();
    let mut offices = [one.as_str(), other.as_str()];
    offices.sort_unstable();
    assert_eq!(owners, offices);
    // What one deletes is the other's still.
    harness.remove(&other, "a").await;
    harness.sweep_late().await;
    assert_eq!(harness.objects().await, 1);
    assert_eq!(harness.content(&one, "a").await.expect("reads"), b"same");
}

async fn content_stays_while_a_file_has_it_and_goes_after_the_grace(harness: Harness) {
    let office = harness.create("Mine").await.id;
    for path in ["a", "b"] {
        harness.put(&office, path, b"shared").await;
    }
    harness.put(&office, "a", b"new").await;
    harness.sweep_late().await;
    assert_eq!(harness.objects().await, 2);
    assert_eq!(harness.content(&office, "b").await.expect("reads"), b"shared");
    harness.remove(&office, "b").await;
    harness.clock.advance(GRACE - Duration::from_secs(1));
    harness.sweep().await.expect("sweeps");
    assert_eq!(harness.objects().await, 2);
    // Back before its end: another object, since that one is given up.
    harness.put(&office, "c", b"shared").await;
    harness.clock.advance(Duration::from_secs(1));
    harness.sweep().await.expect("sweeps");
    assert_eq!((harness.objects().await, harness.named().await), (2, (0, 0)));
    assert_eq!(harness.content(&office, "c").await.expect("reads"), b"shared");
    assert_eq!(harness.content(&office, "a").await.expect("reads"), b"new");
}

async fn what_is_being_read_is_read_to_its_end(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let content = vec![1; 7 << 20];
    let file = harness.put(&office, "a", &content).await;
    let request = DownloadFileRequest { office_id: office.clone(), path: "a".into(), offset: 0, length: 0 };
    let mut stream = harness.drive(&harness.owner).download_file(request).await.expect("opens").into_inner();
    assert_eq!(stream.message().await.expect("open").expect("one").file, Some(file));
    harness.put(&office, "a", b"new").await;
    harness.clock.advance(GRACE - Duration::from_secs(1));
    harness.sweep().await.expect("sweeps");
    let mut read = Vec::new();
    while let Some(next) = stream.message().await.expect("open") {
        read.extend(next.chunk);
    }
    assert!(read == content, "{} bytes", read.len());
}

async fn an_upload_whose_client_leaves_is_cleared_away(harness: Harness) {
    let office = harness.create("Mine").await.id;
    harness.put(&office, "a", b"old").await;
    // Before anything is stored, within the first part, and behind it.
    for chunks in [0, 1, 7] {
        let (sender, call) = harness.begin(UploadHeader { force: true, ..header(&office, "a") }).await;
        for _ in 0..chunks {
            sender.send(chunk(1 << 20)).await.expect("taken");
        }
        harness.until_open().await;
        call.abort();
        harness.until_no_upload().await;
        harness.until_objects(1).await;
    }
    assert_eq!(harness.content(&office, "a").await.expect("reads"), b"old");
    harness.sweep_late().await;
    assert_eq!(harness.objects().await, 1);
}

async fn an_upload_that_storage_refuses_is_cleared_away(harness: Harness) {
    let office = harness.create("Mine").await.id;
    harness.put(&office, "a", b"old").await;
    for (fault, bytes, expected) in [
        (Fault::Write, 1, (Code::Unavailable, "UNAVAILABLE")),
        (Fault::Write, 6 << 20, (Code::Unavailable, "UNAVAILABLE")),
        (Fault::Full, 1, (Code::ResourceExhausted, "STORAGE_FULL")),
        (Fault::Full, 6 << 20, (Code::ResourceExhausted, "STORAGE_FULL")),
        (Fault::Complete, 6 << 20, (Code::Unavailable, "UNAVAILABLE")),
    ] {
        harness.objects.be(fault);
        let refused = harness.upload(UploadHeader { force: true, ..header(&office, "a") }, &vec![1; bytes]).await;
        let (code, reason, message) = refusal(refused);
        assert_eq!((code, reason.as_str()), expected, "{fault:?}: {message}");
        harness.objects.be(Fault::None);
        harness.until_no_upload().await;
        assert_eq!(harness.content(&office, "a").await.expect("reads"), b"old");
    }
    assert_eq!(harness.usage(&office).await, (3, 1));
    harness.sweep_late().await;
    assert_eq!(harness.objects().await, 1);
}

async fn an_upload_that_is_refused_at_its_end_is_cleared_away(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let request = || SuspendOfficeRequest { office_id: office.clone() };
    for large in [false, true] {
        let (sender, call) = harness.begin(UploadHeader { force: large, ..header(&office, "a") }).await;
        for _ in 0..if large { 6 } else { 1 } {
            sender.send(chunk(1 << 20)).await.expect("taken");
        }
        harness.until_open().await;
        // Something changed while it was sent.
        match large {
            false => drop(harness.put(&office, "a", b"faster").await),
            true => drop(harness.offices(&harness.owner).suspend_office(request()).await.expect("suspends")),
        }
        drop(sender);
        let (code, _, _) = refusal(call.await.expect("no panic"));
        assert_eq!(code, Code::FailedPrecondition);
        harness.until_no_upload().await;
        harness.until_objects(1).await;
    }
    assert_eq!(harness.content(&office, "a").await.expect("reads"), b"faster");
}

async fn an_upload_whose_process_dies_is_found_by_the_sweep(mut harness: Harness) {
    let office = harness.create("Mine").await.id;
    harness.put(&office, "a", b"old").await;
    // Nobody tells of the death of a process: an object stays, and the row that names it.
    let object = uuid::Uuid::now_v7();
    harness.name(&office, UPLOAD, &[object], harness.clock.now()).await;
    let path = format!("office/{office}/drive/{object}");
    object_store::ObjectStoreExt::put(&harness.objects, &path.into(), "half".into()).await.expect("writes");
    harness.crash().await;
    harness.clock.advance(Duration::from_secs(24 * 3600));
    harness.sweep().await.expect("sweeps");
    assert_eq!((harness.objects().await, harness.named().await), (2, (1, 0)), "it could go on yet");
    harness.clock.advance(Duration::from_secs(1));
    harness.sweep().await.expect("sweeps");
    assert_eq!((harness.objects().await, harness.named().await), (1, (0, 0)));
    assert_eq!(harness.content(&office, "a").await.expect("reads"), b"old");
}

async fn a_deletion_that_fails_at_any_step_is_finished_by_the_sweep(harness: Harness) {
    let office = harness.create("Mine").await.id;
    harness.put(&office, "kept", b"kept").await;
    for fault in [Fault::Delete, Fault::DeleteAnswer] {
        harness.put(&office, "a", b"one").await;
        harness.objects.be(fault);
        // A duplicate is deleted at once, a replaced one later; neither makes the call fail.
        harness.put(&office, "b", b"kept").await;
        harness.put(&office, "a", b"two").await;
        let left = if fault == Fault::Delete { 4 } else { 3 };
        assert_eq!((harness.objects().await, harness.named().await), (left, (0, 2)), "{fault:?}");
        harness.clock.advance(GRACE);
        harness.sweep().await.expect("goes on");
        assert_eq!(harness.named().await, (0, 2), "{fault:?}");
        harness.objects.be(Fault::None);
        harness.clock.advance(BACKOFF.first);
        harness.sweep().await.expect("sweeps");
        assert_eq!((harness.objects().await, harness.named().await), (2, (0, 0)), "{fault:?}");
        for (path, content) in [("kept", "kept"), ("b", "kept"), ("a", "two")] {
            assert_eq!(harness.content(&office, path).await.expect("reads"), content.as_bytes());
        }
        harness.remove(&office, "a").await;
        harness.sweep_late().await;
    }
}

async fn the_database_refuses_to_drop_content_that_a_file_has(harness: Harness) {
    let office = harness.create("Mine").await.id;
    for path in ["a", "b"] {
        harness.put(&office, path, b"kept").await;
    }
    // Another file has it yet.
    harness.remove(&office, "b").await;
    let (db, id) = (harness.db().await, OfficeId::parse(&office).expect("an id"));
    let mut tx = db.office(id).begin().await.expect("begins");
    let dropped = mi_store::on!(tx, |c| {
        sqlx::query("DELETE FROM drive_blobs WHERE office_id = $1").bind(id.0).execute(&mut *c).await.map(drop)
    });
    let error = dropped.expect_err("a file has it");
    assert!(error.as_database_error().is_some_and(|error| error.is_foreign_key_violation()), "{error}");
    drop(tx);
    harness.sweep_late().await;
    assert_eq!(harness.content(&office, "a").await.expect("reads"), b"kept");
}

async fn a_deleted_office_leaves_no_object(harness: Harness) {
    let (office, other) = (harness.create("Gone").await.id, harness.create("Kept").await.id);
    for (path, content) in [("a", "1"), ("b", "2"), ("c", "2"), ("a", "3")] {
        harness.put(&office, path, content.as_bytes()).await;
    }
    harness.put(&other, "a", b"3").await;
    // One that is open while its office goes.
    let (sender, call) = harness.begin(header(&office, "open")).await;
    sender.send(chunk(5)).await.expect("taken");
    harness.until_open().await;
    harness.delete(&office).await;
    harness.until_status(&office, None).await;
    drop(sender);
    assert_eq!(refusal(call.await.expect("no panic")).0, Code::NotFound);
    // Of the open one an object may be there until the sweep: its office went while it was written.
    harness.sweep_late().await;
    assert_eq!(harness.objects().await, 1);
    assert_eq!(harness.content(&other, "a").await.expect("reads"), b"3");
    assert_eq!(refusal(harness.stat(&office, "a").await).0, Code::NotFound);
}

async fn a_deletion_of_an_office_goes_on_when_storage_fails(mut harness: Harness) {
    let other = harness.create("Kept").await.id;
    harness.put(&other, "a", b"kept").await;
    for fault in [Fault::Delete, Fault::DeleteAnswer] {
        let office = harness.create("Gone").await.id;
        for path in ["a", "b", "c"] {
            harness.put(&office, path, path.as_bytes()).await;
        }
        harness.objects.be(fault);
        harness.delete(&office).await;
        until("its rows are in the trash", LONG, async || {
            let (_, trash) = harness.named().await;
            if trash == 3 { Ok(Some(())) } else { Err(trash) }
        })
        .await;
        harness.crash().await;
        assert!(harness.get(&office).await.is_ok(), "{fault:?}: the office goes last");
        harness.objects.be(Fault::None);
        harness.until_status(&office, None).await;
        assert_eq!((harness.objects().await, harness.named().await), (1, (0, 0)), "{fault:?}");
    }
    assert_eq!(harness.content(&other, "a").await.expect("reads"), b"kept");
}

/// Why something was refused as too much.
fn exhausted<T: std::fmt::Debug>(outcome: Result<T, tonic::Status>) -> String {
    let (code, reason, _) = refusal(outcome);
    assert_eq!(code, Code::ResourceExhausted);
    reason
}

async fn what_is_replaced_and_deleted_counts_until_it_goes_from_storage(harness: Harness) {
    let (office, other) = (harness.create("One").await.id, harness.create("Other").await.id);
    let content = |n: u8| vec![n; 4 << 20];
    let write = async |n: u8| {
        let header = UploadHeader { force: true, ..header(&office, "a") };
        harness.upload(header, &content(n)).await.map(drop)
    };
    // 12 MiB may be in use, and as much again may wait in the trash: six versions of 4 MiB.
    for n in 0..6 {
        write(n).await.expect("fits");
    }
    assert_eq!(exhausted(write(6).await), "DRIVE_FULL");
    harness.remove(&office, "a").await;
    assert_eq!(exhausted(write(6).await), "DRIVE_FULL");
    // Nothing is added by content that the office has, or by whoever is refused; others have their own limit.
    harness.until_no_upload().await;
    harness.put(&other, "a", &content(0)).await;
    harness.clock.advance(GRACE);
    harness.sweep().await.expect("sweeps");
    for n in 0..6 {
        write(n).await.expect("there is room again");
    }
    assert_eq!(exhausted(write(6).await), "DRIVE_FULL");
}

async fn an_office_sends_so_many_files_at_a_time(harness: Harness) {
    let (office, other) = (harness.create("One").await.id, harness.create("Other").await.id);
    let mut open = Vec::new();
    // One after the other: all at once wait for the database longer than they may on a machine that is busy.
    for n in 0..MAX_UPLOADS {
        open.push(harness.begin(header(&office, &format!("f{n}"))).await);
        until("it is open", LONG, async || {
            let (uploads, _) = harness.named().await;
            if usize::try_from(uploads) == Ok(open.len()) { Ok(Some(())) } else { Err(uploads) }
        })
        .await;
    }
    assert_eq!(exhausted(harness.upload(header(&office, "more"), b"x").await), "TOO_MANY_UPLOADS");
    harness.put(&other, "a", b"x").await;
    let (sender, call) = open.pop().expect("one");
    drop(sender);
    call.await.expect("no panic").expect("is there");
    harness.put(&office, "more", b"x").await;
}

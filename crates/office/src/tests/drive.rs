//! The drive as its users meet it.

use mi_kernel::{Actor, AgentActor, AgentId, OfficeId, event::Category, receipt::sha256_hex};
use mi_proto::v1::{
    Change, ChangeType, DeleteFileRequest, DownloadFileRequest, File, GetOfficeStatusRequest, ListChangesRequest,
    ListFilesRequest, ResumeOfficeRequest, StatFileRequest, SuspendOfficeRequest, UploadFileRequest, UploadHeader,
    WatchChangesRequest, upload_file_request::Part,
};
use mi_rpc::convert;
use mi_testkit::on_both;
use serde_json::json;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::harness::Harness;

on_both! {
    files_are_written_read_listed_and_deleted,
    nothing_is_overwritten_by_who_did_not_read_it,
    of_two_writers_one_wins,
    a_request_that_is_sent_again_writes_once,
    parts_are_read_from_any_offset,
    what_is_wrong_is_named,
    what_does_not_fit_is_refused_and_leaves_nothing,
    a_suspended_office_can_be_read_not_written,
    a_file_is_no_directory_and_paths_differ_by_their_bytes,
    lists_go_by_prefix_and_page,
}

pub(super) fn header(office: &str, path: &str) -> UploadHeader {
    UploadHeader { office_id: office.into(), path: path.into(), ..Default::default() }
}

fn message(part: Part) -> UploadFileRequest {
    UploadFileRequest { part: Some(part) }
}

impl Harness {
    pub(super) async fn send(&self, actor: &Actor, messages: Vec<UploadFileRequest>) -> Result<File, Status> {
        let answer = self.drive(actor).upload_file(tokio_stream::iter(messages)).await?.into_inner();
        Ok(answer.file.expect("always there"))
    }

    /// Uploads in pieces of half a MiB.
    pub(super) async fn upload(&self, header: UploadHeader, content: &[u8]) -> Result<File, Status> {
        let chunks = content.chunks(512 << 10).map(|chunk| message(Part::Chunk(chunk.to_vec().into())));
        let messages = std::iter::once(message(Part::Header(header))).chain(chunks).collect();
        self.send(&self.owner, messages).await
    }

    /// Writes a file, whatever is there.
    pub(super) async fn put(&self, office: &str, path: &str, content: &[u8]) -> File {
        let header = UploadHeader { force: true, ..header(office, path) };
        self.upload(header, content).await.expect(path)
    }

    pub(super) async fn remove(&self, office: &str, path: &str) {
        let request = DeleteFileRequest { office_id: office.into(), path: path.into(), if_revision: 0, force: true };
        self.drive(&self.owner).delete_file(request).await.expect(path);
    }

    pub(super) async fn stat(&self, office: &str, path: &str) -> Result<File, Status> {
        let request = StatFileRequest { office_id: office.into(), path: path.into() };
        Ok(self.drive(&self.owner).stat_file(request).await?.into_inner().file.expect("always there"))
    }

    async fn part(&self, office: &str, path: &str, offset: i64, length: i64) -> Result<(File, Vec<u8>), Status> {
        let request = DownloadFileRequest { office_id: office.into(), path: path.into(), offset, length };
        let mut stream = self.drive(&self.owner).download_file(request).await?.into_inner();
        let first = stream.message().await?.expect("always one");
        let mut content = first.chunk.to_vec();
        while let Some(next) = stream.message().await? {
            assert!(next.file.is_none() && !next.chunk.is_empty() && next.chunk.len() <= 1 << 20);
            content.extend(next.chunk);
        }
        Ok((first.file.expect("in the first"), content))
    }

    pub(super) async fn content(&self, office: &str, path: &str) -> Result<Vec<u8>, Status> {
        Ok(self.part(office, path, 0, 0).await?.1)
    }

    async fn paths(&self, office: &str) -> Vec<String> {
        let request = ListFilesRequest { office_id: office.into(), ..Default::default() };
        let files = self.drive(&self.owner).list_files(request).await.expect("lists").into_inner().files;
        files.into_iter().map(|file| file.path).collect()
    }

    async fn changes(&self, office: &str, cursor: i64) -> (Vec<Change>, i64) {
        let request = ListChangesRequest { office_id: office.into(), cursor, page_size: None };
        let answer = self.drive(&self.owner).list_changes(request).await.expect("lists").into_inner();
        (answer.changes, answer.next_cursor)
    }

    /// Bytes and files that the office's status shows.
    pub(super) async fn usage(&self, office: &str) -> (i64, i64) {
        let request = GetOfficeStatusRequest { office_id: office.into() };
        let answer = self.offices(&self.owner).get_office_status(request).await.expect("answers").into_inner();
        let status = answer.status.expect("always there");
        (status.drive_bytes, status.drive_files)
    }
}

/// Code, reason and message of a refusal.
pub(super) fn refusal<T: std::fmt::Debug>(outcome: Result<T, Status>) -> (Code, String, String) {
    let status = outcome.expect_err("refused");
    let reason = status.get_details_error_info().expect("always there").reason;
    (status.code(), reason, status.message().to_owned())
}

async fn files_are_written_read_listed_and_deleted(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let analyst = Actor::Agent(AgentActor {
        office_id: OfficeId::parse(&office).expect("an id"),
        agent_id: AgentId::new(),
        name: "analyst".into(),
    });
    let at = Some(convert::timestamp(mi_kernel::Clock::now(&harness.clock)));
    let written =
        harness.upload(UploadHeader { content_type: "text/plain".into(), ..header(&office, "a/b.txt") }, b"one");
    let first = File {
        path: "a/b.txt".into(),
        size: 3,
        sha256: sha256_hex(b"one"),
        revision: 1,
        content_type: "text/plain".into(),
        modified_at: at,
        modified_by: "operator".into(),
    };
    assert_eq!(written.await.expect("writes"), first);
    assert_eq!(harness.part(&office, "a/b.txt", 0, 0).await.expect("reads"), (first.clone(), b"one".to_vec()));

    let replacing = vec![
        message(Part::Header(UploadHeader { if_revision: 1, ..header(&office, "a/b.txt") })),
        message(Part::Chunk("t".into())),
        message(Part::Chunk("".into())),
        message(Part::Chunk("wo!".into())),
    ];
    let second = File {
        size: 4,
        sha256: sha256_hex(b"two!"),
        revision: 2,
        content_type: "application/octet-stream".into(),
        modified_by: "analyst".into(),
        ..first
    };
    assert_eq!(harness.send(&analyst, replacing).await.expect("writes"), second);
    assert_eq!(harness.stat(&office, "a/b.txt").await.expect("there"), second);
    assert_eq!(harness.content(&office, "a/b.txt").await.expect("reads"), b"two!");
    let empty = harness.put(&office, "empty", b"").await;
    assert_eq!((empty.size, empty.revision, empty.sha256), (0, 3, sha256_hex(b"")));
    assert_eq!(harness.content(&office, "empty").await.expect("reads"), b"");
    assert_eq!(harness.paths(&office).await, ["a/b.txt", "empty"]);
    assert_eq!(harness.usage(&office).await, (4, 2));

    let request = DeleteFileRequest { office_id: office.clone(), path: "a/b.txt".into(), if_revision: 2, force: false };
    harness.drive(&analyst).delete_file(request.clone()).await.expect("deletes");
    assert_eq!(harness.paths(&office).await, ["empty"]);
    assert_eq!(harness.usage(&office).await, (0, 1));
    let gone = (Code::NotFound, "NOT_FOUND".to_owned(), "file \"a/b.txt\" not found".to_owned());
    assert_eq!(refusal(harness.stat(&office, "a/b.txt").await), gone);
    assert_eq!(refusal(harness.content(&office, "a/b.txt").await), gone);
    assert_eq!(refusal(harness.drive(&analyst).delete_file(request).await), gone);

    let change = |kind: ChangeType, path: &str, revision, agent: &str| Change {
        r#type: kind.into(),
        path: path.into(),
        revision,
        time: at,
        agent: agent.into(),
        cursor: revision,
    };
    let all = [
        change(ChangeType::Created, "a/b.txt", 1, "operator"),
        change(ChangeType::Updated, "a/b.txt", 2, "analyst"),
        change(ChangeType::Created, "empty", 3, "operator"),
        change(ChangeType::Deleted, "a/b.txt", 4, "analyst"),
    ];
    assert_eq!(harness.changes(&office, 0).await, (all.to_vec(), 4));
    assert_eq!(harness.changes(&office, 3).await, (all[3..].to_vec(), 4));
    assert_eq!(harness.changes(&office, 9).await, (vec![], 9));

    let kinds = [
        "office.created",
        "credit.granted",
        "office.activated",
        "file.created",
        "file.updated",
        "file.created",
        "file.deleted",
    ];
    harness.until_events(&office, &kinds).await;
    let events = harness.activity.known().events.clone();
    let updated = events.iter().find(|event| event.kind == "file.updated").expect("there");
    assert_eq!((updated.category, updated.agent.as_str()), (Category::File, "analyst"));
    assert_eq!(updated.summary, "File \"a/b.txt\" replaced, 4 bytes");
    let expected = json!({ "path": "a/b.txt", "size": 4, "sha256": sha256_hex(b"two!"), "revision": 2 });
    assert_eq!(updated.metadata, expected);
    let deleted = events.iter().find(|event| event.kind == "file.deleted").expect("there");
    assert_eq!(deleted.metadata["revision"], 4);
}

async fn nothing_is_overwritten_by_who_did_not_read_it(harness: Harness) {
    let office = harness.create("Mine").await.id;
    harness.put(&office, "other", b"x").await;
    let file = harness.put(&office, "a", b"kept").await;
    let upload =
        |path: &str, if_revision| harness.upload(UploadHeader { if_revision, ..header(&office, path) }, b"lost");
    let delete = async |path: &str, if_revision| {
        let request = DeleteFileRequest { office_id: office.clone(), path: path.into(), if_revision, force: false };
        harness.drive(&harness.owner).delete_file(request).await
    };
    for (refused, told) in [
        (upload("a", 0).await.map(drop), "\"a\" is there already, at revision 2"),
        (upload("a", 1).await.map(drop), "\"a\" is at revision 2, not 1"),
        (upload("a", 3).await.map(drop), "\"a\" is at revision 2, not 3"),
        (upload("b", 2).await.map(drop), "(revision 0)"),
        (delete("a", 0).await.map(drop), "\"a\" is there already, at revision 2"),
        (delete("a", 1).await.map(drop), "\"a\" is at revision 2, not 1"),
    ] {
        let (code, reason, message) = refusal(refused);
        assert_eq!((code, reason.as_str()), (Code::FailedPrecondition, "REVISION_CONFLICT"));
        assert!(message.contains(told), "{message}");
    }
    assert_eq!(harness.stat(&office, "a").await.expect("there"), file);
    assert_eq!(harness.content(&office, "a").await.expect("reads"), b"kept");
    assert_eq!(harness.changes(&office, 0).await.1, 2);
    assert_eq!(upload("a", 2).await.expect("read").revision, 3);
}

async fn of_two_writers_one_wins(harness: Harness) {
    let office = harness.create("Mine").await.id;
    for round in 0..10 {
        let current = harness.stat(&office, "a").await.map_or(0, |file| file.revision);
        let write = async |text: String| {
            let header = UploadHeader { if_revision: current, ..header(&office, "a") };
            (harness.upload(header, text.as_bytes()).await, text)
        };
        let outcomes = tokio::join!(write(format!("one {round}")), write(format!("two {round}")));
        let (won, lost) = match outcomes {
            ((Ok(won), text), (lost, _)) | ((lost, _), (Ok(won), text)) => ((won, text), lost),
            both => panic!("{both:?}"),
        };
        let (code, reason, message) = refusal(lost);
        assert_eq!((code, reason.as_str()), (Code::FailedPrecondition, "REVISION_CONFLICT"), "{message}");
        assert_eq!(won.0.revision, current + 1);
        assert_eq!(harness.content(&office, "a").await.expect("reads"), won.1.as_bytes());
    }
    assert_eq!(harness.usage(&office).await, (5, 1));
}

async fn a_request_that_is_sent_again_writes_once(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let once = UploadHeader { request_id: "r1".into(), ..header(&office, "a") };
    let first = harness.upload(once.clone(), b"one").await.expect("writes");
    assert_eq!(harness.upload(once.clone(), b"one").await.expect("answers"), first);
    harness.put(&office, "a", b"later").await;
    assert_eq!(harness.upload(once.clone(), b"one").await.expect("answers"), first);
    harness.remove(&office, "a").await;
    assert_eq!(harness.upload(once.clone(), b"one").await.expect("answers"), first);
    assert_eq!(refusal(harness.stat(&office, "a").await).0, Code::NotFound);

    let other = harness.upload(once.clone(), b"other").await.expect_err("another content");
    let details = other.get_details_bad_request().expect("names the field");
    assert_eq!(details.field_violations[0].field, "request_id");
    let elsewhere = UploadHeader { path: "b".into(), ..once.clone() };
    assert_eq!(refusal(harness.upload(elsewhere, b"one").await).0, Code::InvalidArgument);

    // Sent twice at once, it is written once.
    let twice = UploadHeader { request_id: "r2".into(), ..header(&office, "c") };
    let (one, two) = tokio::join!(harness.upload(twice.clone(), b"c"), harness.upload(twice.clone(), b"c"));
    assert_eq!(one.expect("answers"), two.expect("answers"));
    let kinds = harness.changes(&office, 0).await.0.iter().map(|change| change.r#type()).collect::<Vec<_>>();
    use ChangeType::{Created, Deleted, Updated};
    assert_eq!(kinds, [Created, Updated, Deleted, Created]);
}

async fn parts_are_read_from_any_offset(harness: Harness) {
    let office = harness.create("Mine").await.id;
    // Larger than one write to storage, and no multiple of anything.
    let content: Vec<u8> = (0..6_000_001u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    let file = harness.put(&office, "a", &content).await;
    assert_eq!((file.size, &file.sha256), (6_000_001, &sha256_hex(&content)));
    for (offset, length) in [
        (0, 0),
        (0, 1),
        (0, 6_000_001),
        (0, i64::MAX),
        (1, 0),
        (524_287, 2),
        (524_288, 524_288),
        (5_242_879, 700_000),
        (6_000_000, 0),
        (6_000_000, 9),
        (6_000_001, 0),
        (6_000_001, 5),
    ] {
        let end = if length == 0 {
            content.len()
        } else {
            (offset as usize).saturating_add(length as usize).min(content.len())
        };
        let (of, part) = harness.part(&office, "a", offset, length).await.expect("reads");
        assert!(of == file && part == content[offset as usize..end], "{offset} {length}: {} bytes", part.len());
    }
    for (offset, length, field) in [(6_000_002, 0, "offset"), (-1, 0, "offset"), (0, -1, "length")] {
        let refused = harness.part(&office, "a", offset, length).await.expect_err("no such part");
        let details = refused.get_details_bad_request().expect("names the field");
        assert_eq!((refused.code(), details.field_violations[0].field.as_str()), (Code::InvalidArgument, field));
    }
}

async fn what_is_wrong_is_named(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let good = || header(&office, "a");
    let head = |header| message(Part::Header(header));
    let chunk = |bytes: usize| message(Part::Chunk(vec![7; bytes].into()));
    let empty = UploadFileRequest { part: None };
    for (field, messages) in [
        ("header", vec![]),
        ("header", vec![chunk(1)]),
        ("header", vec![empty.clone()]),
        ("header", vec![head(good()), chunk(1), head(good())]),
        ("chunk", vec![head(good()), empty]),
        ("chunk", vec![head(good()), chunk(5), chunk((1 << 20) + 1)]),
        ("office_id", vec![head(UploadHeader { office_id: "x".into(), ..good() })]),
        ("path", vec![head(header(&office, ""))]),
        ("path", vec![head(header(&office, "../a"))]),
        ("path", vec![head(header(&office, "a\0"))]),
        ("path", vec![head(header(&office, &"a".repeat(2000)))]),
        ("content_type", vec![head(UploadHeader { content_type: "a".repeat(256), ..good() })]),
        ("content_type", vec![head(UploadHeader { content_type: "a\r\nb".into(), ..good() })]),
        ("if_revision", vec![head(UploadHeader { if_revision: -1, ..good() })]),
        ("request_id", vec![head(UploadHeader { request_id: "x".repeat(129), ..good() })]),
    ] {
        let refused = harness.send(&harness.owner, messages).await.expect_err(field);
        let details = refused.get_details_bad_request().unwrap_or_else(|| panic!("{field}: {refused:?}"));
        assert_eq!((refused.code(), details.field_violations[0].field.as_str()), (Code::InvalidArgument, field));
    }
    assert_eq!(harness.paths(&office).await, Vec::<String>::new());
    let mut drive = harness.drive(&harness.owner);
    let office_id = office.clone();
    for (field, refused) in [
        ("path", harness.stat(&office, "a/").await.map(drop)),
        ("path", harness.content(&office, "/a").await.map(drop)),
        ("prefix", {
            let request = ListFilesRequest { office_id, prefix: "a\0".into(), ..Default::default() };
            drive.list_files(request).await.map(drop)
        }),
        ("cursor", {
            let request = ListChangesRequest { office_id: office.clone(), cursor: -1, page_size: None };
            drive.list_changes(request).await.map(drop)
        }),
        ("after_cursor", {
            let request = WatchChangesRequest { office_id: office.clone(), after_cursor: Some(-1) };
            drive.watch_changes(request).await.map(drop)
        }),
        ("path", {
            let request = DeleteFileRequest { office_id: office.clone(), path: "..".into(), ..Default::default() };
            drive.delete_file(request).await.map(drop)
        }),
    ] {
        let refused = refused.expect_err(field);
        let details = refused.get_details_bad_request().expect("names the field");
        assert_eq!((refused.code(), details.field_violations[0].field.as_str()), (Code::InvalidArgument, field));
    }
}

async fn what_does_not_fit_is_refused_and_leaves_nothing(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let (mib, force) = (vec![0; 1 << 20], |path| UploadHeader { force: true, ..header(&office, path) });
    let too_large =
        refusal(harness.upload(force("a"), &mib.repeat(8).iter().chain(&[0]).copied().collect::<Vec<u8>>()).await);
    assert_eq!((too_large.0, too_large.1.as_str()), (Code::ResourceExhausted, "FILE_TOO_LARGE"));
    assert!(too_large.2.contains("8388608 bytes"), "{}", too_large.2);
    assert_eq!(harness.usage(&office).await, (0, 0));
    // Exactly as much as may be.
    harness.put(&office, "a", &mib.repeat(8)).await;
    harness.put(&office, "b", &mib.repeat(4)).await;
    for (path, bytes) in [("c", 1), ("b", (4 << 20) + 1)] {
        let full = refusal(harness.upload(force(path), &vec![0; bytes]).await);
        assert_eq!((full.0, full.1.as_str()), (Code::ResourceExhausted, "DRIVE_FULL"));
        assert!(full.2.contains("12582912 bytes together"), "{}", full.2);
    }
    // The same content again counts again: how much is shared is nobody's business.
    assert_eq!(harness.usage(&office).await, (12 << 20, 2));
    harness.put(&office, "empty", b"").await;
    harness.put(&office, "a", &mib).await;
    harness.put(&office, "c", &mib).await;
    assert_eq!(harness.usage(&office).await, (6 << 20, 4));
    let other = harness.create("Other").await.id;
    assert_eq!(harness.usage(&other).await, (0, 0));
}

async fn a_suspended_office_can_be_read_not_written(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let file = harness.put(&office, "a", b"kept").await;
    let request = SuspendOfficeRequest { office_id: office.clone() };
    harness.offices(&harness.owner).suspend_office(request).await.expect("suspends");
    let delete = DeleteFileRequest { office_id: office.clone(), path: "a".into(), if_revision: 0, force: true };
    for refused in [
        harness.upload(UploadHeader { force: true, ..header(&office, "a") }, b"x").await.map(drop),
        harness.drive(&harness.owner).delete_file(delete).await.map(drop),
    ] {
        let (code, reason, _) = refusal(refused);
        assert_eq!((code, reason.as_str()), (Code::FailedPrecondition, "OFFICE_NOT_ACTIVE"));
    }
    assert_eq!(harness.stat(&office, "a").await.expect("there"), file);
    assert_eq!(harness.content(&office, "a").await.expect("reads"), b"kept");
    assert_eq!(harness.changes(&office, 0).await.1, 1);
    let request = ResumeOfficeRequest { office_id: office.clone() };
    harness.offices(&harness.owner).resume_office(request).await.expect("resumes");
    harness.put(&office, "a", b"new").await;
}

async fn a_file_is_no_directory_and_paths_differ_by_their_bytes(harness: Harness) {
    let office = harness.create("Mine").await.id;
    // Twins but for case, and of one word in the two forms that Unicode has for it.
    let twins = [("Docs/Read.md", "docs/read.md"), ("x", "X"), ("\u{e9}t\u{e9}", "e\u{301}te\u{301}")];
    for (one, other) in twins {
        harness.put(&office, one, one.as_bytes()).await;
        harness.put(&office, other, other.as_bytes()).await;
    }
    for (path, existing, told) in [
        ("x/y", "x", "is a file, so that nothing can be below it"),
        ("X/y/z", "X", "is a file, so that nothing can be below it"),
        ("docs", "docs/read.md", "is a directory"),
        ("Docs/Read.md/a", "Docs/Read.md", "is a file"),
    ] {
        // `force` is about the file at this path, not about another one.
        let refused = harness.upload(UploadHeader { force: true, ..header(&office, path) }, b"2").await;
        let status = refused.expect_err(path);
        let resource = status.get_details_resource_info().expect("names the file");
        assert_eq!((status.code(), resource.resource_name.as_str()), (Code::AlreadyExists, existing));
        assert!(status.message().contains(told), "{}", status.message());
    }
    for path in ["docs/other.md", "DOCS", "x-y", "xa/b", "Docs0", "x.y/z"] {
        harness.put(&office, path, b"3").await;
    }
    harness.remove(&office, "x").await;
    harness.put(&office, "x/y/z", b"4").await;
    harness.remove(&office, "docs/read.md").await;
    for (path, content) in [("Docs/Read.md", "Docs/Read.md"), ("X", "X"), ("e\u{301}te\u{301}", "e\u{301}te\u{301}")] {
        assert_eq!(harness.content(&office, path).await.expect("kept"), content.as_bytes());
    }
}

async fn lists_go_by_prefix_and_page(harness: Harness) {
    let office = harness.create("Mine").await.id;
    let long = format!("long/{}", "\u{10FFFF}\"".repeat(200));
    let paths = ["Z", "a", "a/../b", "ab", "dir/1", "dir/2", "dir/\u{10FFFF}", "dir0", long.as_str(), "é"];
    let mut kept: Vec<&str> = paths.into_iter().filter(|path| !path.contains("..") && *path != "a").collect();
    for path in kept.iter().rev() {
        harness.put(&office, path, b"").await;
    }
    kept.sort_unstable();
    assert_eq!(harness.paths(&office).await, kept);
    let (mut page_token, mut paged) = (String::new(), Vec::new());
    loop {
        let request =
            ListFilesRequest { office_id: office.clone(), page_size: Some(2), page_token, ..Default::default() };
        let page = harness.drive(&harness.owner).list_files(request).await.expect("lists").into_inner();
        paged.push(page.files.len());
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(paged, [2, 2, 2, 2]);
    for (prefix, expected) in [
        ("dir/", vec!["dir/1", "dir/2", "dir/\u{10FFFF}"]),
        ("dir/\u{10FFFF}", vec!["dir/\u{10FFFF}"]),
        ("a", vec!["ab"]),
        ("z", vec![]),
        ("%", vec![]),
    ] {
        let request = ListFilesRequest { office_id: office.clone(), prefix: prefix.into(), ..Default::default() };
        let files = harness.drive(&harness.owner).list_files(request).await.expect("lists").into_inner().files;
        assert_eq!(files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>(), expected, "{prefix}");
    }
}

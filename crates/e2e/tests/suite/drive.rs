//! Files on their way: through the gateway, over broken connections and dying processes, from the command line.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use mi_client::{Client, Credential};
use mi_e2e::{LIMIT, World, refusal};
use mi_kernel::{receipt::sha256_hex, secret::Secret};
use mi_proto::v1::{
    self, DownloadFileRequest, File, StatFileRequest, UploadFileRequest, UploadHeader, upload_file_request::Part,
};
use mi_testkit::{Arrangement, Backend, on_both, platform::binary, until};
use tokio::sync::mpsc;
use tonic::{Code, Status};

on_both! {
    what_comes_back_is_what_was_sent,
    an_upload_that_is_cut_leaves_nothing,
    a_refusal_is_heard_before_all_is_sent,
    a_platform_that_dies_keeps_the_old_file,
    the_command_line_speaks_for_operators_and_agents,
    many_files_go_and_come_back,
    a_command_prints_all_of_its_output,
}

pub(crate) const MIB: usize = 1 << 20;

/// Bytes that do not compress and differ by seed.
pub(crate) fn content(seed: u64, bytes: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let words = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    });
    words.flatten().take(bytes).collect()
}

pub(crate) fn header(office: &str, path: &str) -> UploadHeader {
    UploadHeader { office_id: office.into(), path: path.into(), force: true, ..Default::default() }
}

pub(crate) fn message(part: Part) -> UploadFileRequest {
    UploadFileRequest { part: Some(part) }
}

pub(crate) async fn put(client: &Client, header: UploadHeader, content: &[u8]) -> Result<File, Status> {
    let chunks: Vec<_> = content.chunks(MIB).map(|chunk| message(Part::Chunk(chunk.to_vec().into()))).collect();
    let messages = futures::stream::iter(std::iter::once(message(Part::Header(header))).chain(chunks));
    Ok(client.drive().upload_file(messages).await?.into_inner().file.expect("an answer has its file"))
}

pub(crate) async fn get(
    client: &Client,
    office: &str,
    path: &str,
    offset: i64,
    length: i64,
) -> Result<Vec<u8>, Status> {
    let request = DownloadFileRequest { office_id: office.into(), path: path.into(), offset, length };
    let mut stream = client.drive().download_file(request).await?.into_inner();
    let mut content = Vec::new();
    while let Some(part) = stream.message().await? {
        content.extend(part.chunk);
    }
    Ok(content)
}

async fn stat(world: &World, office: &str, path: &str) -> Result<File, Status> {
    let request = StatFileRequest { office_id: office.into(), path: path.into() };
    Ok(world.owner.drive().stat_file(request).await?.into_inner().file.expect("an answer has its file"))
}

/// What storage holds of drives, finished or not.
fn objects(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
    let all = entries.flat_map(|path| if path.is_dir() { objects(&path) } else { vec![path] });
    all.filter(|path| path.components().any(|part| part.as_os_str() == "drive")).collect()
}

async fn until_objects(world: &World, expected: usize) {
    until("storage holds so many objects", LIMIT, async || {
        let all = objects(world.platform.data_dir());
        if all.len() == expected { Ok(Some(())) } else { Err(format!("{all:?}")) }
    })
    .await;
}

async fn what_comes_back_is_what_was_sent(backend: Backend) {
    let arrangement = match backend {
        Backend::Sqlite => Arrangement::OneProcess,
        Backend::Postgres => Arrangement::ProcessPerRole,
    };
    let world = World::start(backend, arrangement).await;
    let office = world.office("Drive").await;
    let sent = content(1, 64 * MIB + 12_345);
    let file = put(&world.owner, header(&office, "large/file.bin"), &sent).await.expect("taken");
    assert_eq!((file.size, &file.sha256), (sent.len() as i64, &sha256_hex(&sent)));
    assert_eq!(stat(&world, &office, "large/file.bin").await.expect("there"), file);
    let back = get(&world.owner, &office, "large/file.bin", 0, 0).await.expect("read");
    assert!(back == sent, "{} bytes of {}", back.len(), sent.len());
    let part = get(&world.owner, &office, "large/file.bin", 33_333_333, 3_333_333).await.expect("read");
    assert!(part == sent[33_333_333..36_666_666], "{} bytes", part.len());
    world.happened(&office, "", "file.created").await;
}

async fn an_upload_that_is_cut_leaves_nothing(backend: Backend) {
    let world = World::start(backend, Arrangement::OneProcess).await;
    let office = world.office("Cut").await;
    let kept = content(2, 3 * MIB);
    put(&world.owner, header(&office, "kept"), &kept).await.expect("taken");
    let chunk = message(Part::Chunk(content(3, MIB).into()));
    // What they send never ends: an end would say that the file is whole.
    let mut open = Vec::new();
    for chunks in 0..=12 {
        for path in ["kept", "new"] {
            // A connection of its own, which goes down with the call every other time.
            let key = Secret::new(world.platform.admin_key());
            let client = Client::connect(world.platform.endpoint(), Credential::ApiKey(key)).expect("good");
            let (sender, mut messages) = mpsc::channel(1);
            let stream = futures::stream::poll_fn(move |context| messages.poll_recv(context));
            let mut drive = client.drive();
            let call = tokio::spawn(async move { drive.upload_file(stream).await.map(drop) });
            sender.send(message(Part::Header(header(&office, path)))).await.expect("taken");
            for _ in 0..chunks {
                sender.send(chunk.clone()).await.expect("taken");
            }
            if path == "new" {
                drop(client);
            }
            call.abort();
            assert!(call.await.expect_err("cut").is_cancelled());
            open.push(sender);
        }
    }
    assert_eq!(refusal(stat(&world, &office, "new").await).0, Code::NotFound);
    assert!(get(&world.owner, &office, "kept", 0, 0).await.expect("read") == kept);
    until_objects(&world, 1).await;
    assert_eq!(stat(&world, &office, "kept").await.expect("there").revision, 1);
}

async fn a_refusal_is_heard_before_all_is_sent(backend: Backend) {
    let platform = mi_testkit::Platform::builder().backend(backend).arg("--drive-file-limit").arg("20MiB");
    let world = World::on(platform.start().await).await;
    let office = world.office("Small").await;
    let sent = content(4, 64 * MIB);
    let (code, reason) = refusal(put(&world.owner, header(&office, "a"), &sent).await);
    assert_eq!((code, reason.as_str()), (Code::ResourceExhausted, "FILE_TOO_LARGE"));
    put(&world.owner, header(&office, "a"), &sent[..20 * MIB]).await.expect("taken");
    let careful = UploadHeader { force: false, ..header(&office, "a") };
    let (code, reason) = refusal(put(&world.owner, careful, &sent).await);
    assert_eq!((code, reason.as_str()), (Code::FailedPrecondition, "REVISION_CONFLICT"));
    until_objects(&world, 1).await;
}

async fn a_platform_that_dies_keeps_the_old_file(backend: Backend) {
    let mut world = World::start(backend, Arrangement::OneProcess).await;
    let office = world.office("Crash").await;
    let old = content(5, 3 * MIB);
    put(&world.owner, header(&office, "a"), &old).await.expect("taken");
    // Where the work stands at each of these moments is left to chance on purpose.
    for (round, millis) in [0, 3, 10, 30, 100].into_iter().enumerate() {
        let (client, new) = (world.owner.clone(), content(6 + round as u64, 40 * MIB));
        let (sent, target) = (new.clone(), header(&office, "a"));
        let call = tokio::spawn(async move { put(&client, target, &sent).await });
        tokio::time::sleep(Duration::from_millis(millis)).await;
        world.crash().await;
        let _ = call.await;
        let file = stat(&world, &office, "a").await.expect("there");
        let kept = get(&world.owner, &office, "a", 0, 0).await.expect("read");
        assert!(kept == old || kept == new, "half a file: {} bytes", kept.len());
        assert_eq!((file.size, file.sha256), (kept.len() as i64, sha256_hex(&kept)));
        // Back to the old one, so that there is something to lose again.
        put(&world.owner, header(&office, "a"), &old).await.expect("taken");
    }
    let unfinished = |path: &PathBuf| path.to_string_lossy().contains('#');
    assert!(!objects(world.platform.data_dir()).iter().any(unfinished));
}

/// Runs `mi` in a directory, with these variables.
async fn mi(dir: &Path, env: &[(&str, &str)], line: &str) -> (bool, Vec<u8>, String) {
    mi_reading(Stdio::null(), dir, env, line).await
}

async fn mi_reading(stdin: Stdio, dir: &Path, env: &[(&str, &str)], line: &str) -> (bool, Vec<u8>, String) {
    let mut command = tokio::process::Command::new(binary());
    command.args(line.split(' ')).env_clear().env("MI_CONFIG_DIR", dir.join("no-config")).envs(env.iter().copied());
    let output = command.current_dir(dir).stdin(stdin).kill_on_drop(true).output();
    let output = tokio::time::timeout(LIMIT, output).await.expect("ends by itself").expect("ran");
    (output.status.success(), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
}

async fn the_command_line_speaks_for_operators_and_agents(backend: Backend) {
    let world = World::start(backend, Arrangement::OneProcess).await;
    let office = world.office("Desk").await;
    let dir = tempfile::tempdir().expect("made");
    let sent = content(7, 5 * MIB + 1);
    fs::write(dir.path().join("report.bin"), &sent).expect("written");
    let operator = [
        ("MI_ENDPOINT", world.platform.endpoint()),
        ("MI_API_KEY", world.platform.admin_key()),
        ("MI_COLONY", office.as_str()),
    ];
    let (put, printed, told) = mi(dir.path(), &operator, "files put report.bin -o json").await;
    assert!(put, "{told}");
    let printed: serde_json::Value = serde_json::from_slice(&printed).expect("JSON");
    assert_eq!((&printed["path"], &printed["sha256"]), (&"report.bin".into(), &sha256_hex(&sent).into()));

    // One is sent as it is read, the other once it was read to its end.
    for (name, content) in [("long", sent.as_slice()), ("short", b"short")] {
        fs::write(dir.path().join(name), content).expect("written");
        let input = fs::File::open(dir.path().join(name)).expect("there").into();
        let (put, _, told) = mi_reading(input, dir.path(), &operator, &format!("files put - read/{name}")).await;
        assert!(put, "{told}");
        assert_eq!(stat(&world, &office, &format!("read/{name}")).await.expect("there").sha256, sha256_hex(content));
    }

    // An agent's environment is enough: the call is the agent's own.
    let request = v1::CreateInviteRequest { office_id: office.clone() };
    let invite = world.owner.access().create_invite(request).await.expect("made").into_inner().invite;
    let code = invite.expect("answered").code;
    let identity = dir.path().join("identity");
    let join = format!("join {code} --name robo --identity-dir {} --once", identity.display());
    let (joined, _, told) = mi(dir.path(), &operator[..1], &join).await;
    assert!(joined, "{told}");
    let agent = world.agent(&office, "robo").await.expect("joined");
    let identity = identity.display().to_string();
    let member = [
        ("MI_ENDPOINT", world.platform.endpoint()),
        ("MI_OFFICE_ID", office.as_str()),
        ("MI_AGENT_ID", agent.id.as_str()),
        ("MI_IDENTITY_DIR", identity.as_str()),
    ];
    fs::write(dir.path().join("note.txt"), "done").expect("written");
    let (refused, _, told) = mi(dir.path(), &member, "files put note.txt report.bin").await;
    assert!(!refused && told.contains("at revision 1"), "{told}");
    let (put, _, told) = mi(dir.path(), &member, "files put note.txt out/note.txt --content-type text/plain").await;
    assert!(put, "{told}");
    assert_eq!(stat(&world, &office, "out/note.txt").await.expect("there").modified_by, "robo");
    world.happened(&office, "robo", "file.created").await;
    let (got, printed, told) = mi(dir.path(), &member, "files get report.bin -O -").await;
    assert!(got && printed == sent, "{told}");
    // Through a link, so that a mistake here would cost no device.
    std::os::unix::fs::symlink("/dev/null", dir.path().join("device")).expect("linked");
    let (got, printed, told) = mi(dir.path(), &member, "files get report.bin -O device -o json").await;
    assert!(got, "{told}");
    let printed: serde_json::Value = serde_json::from_slice(&printed).expect("JSON");
    assert_eq!(printed["sha256"], sha256_hex(&sent));
    let device = fs::metadata(dir.path().join("device")).expect("there").file_type();
    assert!(std::os::unix::fs::FileTypeExt::is_char_device(&device), "{device:?}");
    let (got, _, told) = mi(dir.path(), &operator, "files get out/note.txt").await;
    assert!(got, "{told}");
    assert_eq!(fs::read_to_string(dir.path().join("note.txt")).expect("there"), "done");
    let (listed, printed, told) = mi(dir.path(), &member, "files changes --after 3 -o json").await;
    assert!(listed, "{told}");
    let printed: serde_json::Value = serde_json::from_slice(&printed).expect("JSON");
    assert_eq!((&printed[0]["path"], &printed[0]["agent"]), (&"out/note.txt".into(), &"robo".into()));
}

async fn many_files_go_and_come_back(backend: Backend) {
    let world = World::start(backend, Arrangement::OneProcess).await;
    let office = world.office("Many").await;
    let dir = tempfile::tempdir().expect("made");
    let at = |name: &str| dir.path().join(name);
    let read = |name: &str| fs::read_to_string(at(name)).expect(name);
    let operator = [
        ("MI_ENDPOINT", world.platform.endpoint()),
        ("MI_API_KEY", world.platform.admin_key()),
        ("MI_COLONY", office.as_str()),
    ];
    let works = async |line: &str, counts: &str| {
        let (worked, _, told) = mi(dir.path(), &operator, line).await;
        assert!(worked && told.contains(counts), "{line}: {told}");
        told
    };
    let fails = async |line: &str, why: &[&str]| {
        let (worked, _, told) = mi(dir.path(), &operator, line).await;
        assert!(!worked && why.iter().all(|why| told.contains(why)), "{line}: {told}");
    };
    fs::create_dir_all(at("notes/deep/er")).expect("made");
    fs::create_dir_all(at("notes/empty")).expect("made");
    for (name, text) in [("notes/a", "one"), ("notes/A", "another"), ("notes/deep/er/b", "two")] {
        fs::write(at(name), text).expect("written");
    }
    std::os::unix::fs::symlink("a", at("notes/link")).expect("linked");

    // There, again, and over what differs.
    let told = works("files put -r notes", "3 uploaded, 0 unchanged").await;
    assert!(told.contains("left out: notes/empty: ") && told.contains("left out: notes/link: "), "{told}");
    works("files put -r notes", "0 uploaded, 3 unchanged").await;
    let before = stat(&world, &office, "notes/a").await.expect("there");
    fs::write(at("notes/deep/er/b"), "three").expect("written");
    fs::write(at("notes/c"), "new").expect("written");
    let why = "not uploaded: notes/deep/er/b: \"notes/deep/er/b\" is on the drive with another content, at revision";
    fails("files put -r notes", &[why, "1 uploaded, 2 unchanged", "1 of 4 files were not uploaded", "--force"]).await;
    assert_eq!(get(&world.owner, &office, "notes/deep/er/b", 0, 0).await.expect("read"), b"two");
    works("files put -r notes --force", "1 uploaded, 3 unchanged").await;
    assert_eq!(get(&world.owner, &office, "notes/deep/er/b", 0, 0).await.expect("read"), b"three");
    assert_eq!(stat(&world, &office, "notes/a").await.expect("there"), before);

    // A slash means into.
    works("files put -r notes kept/", "4 uploaded").await;
    works("files put -r notes/deep renamed", "1 uploaded").await;
    works("files put notes/a notes/c flat/", "2 uploaded").await;
    fails("files put notes/a notes/c flat", &["slash"]).await;
    fails("files put notes flat/", &["directory"]).await;
    for path in ["kept/notes/deep/er/b", "renamed/er/b", "flat/a", "flat/c"] {
        stat(&world, &office, path).await.expect(path);
    }

    // And back: what is here and differs stays, and so does what is behind a link.
    works("files get -r notes back", "4 downloaded, 0 unchanged").await;
    assert_eq!([read("back/a"), read("back/A"), read("back/deep/er/b")], ["one", "another", "three"]);
    fs::write(at("back/a"), "mine").expect("written");
    fs::remove_file(at("back/c")).expect("removed");
    fails("files get -r notes/ back", &["not downloaded: notes/a: ", "1 downloaded, 2 unchanged", "--force"]).await;
    assert_eq!([read("back/a"), read("back/c")], ["mine", "new"]);
    works("files get -r notes back --force", "1 downloaded, 3 unchanged").await;
    assert_eq!(read("back/a"), "one");
    works("files get flat/a flat/c notes/deep/er/b here/", "3 downloaded").await;
    assert_eq!([read("here/a"), read("here/b")], ["one", "three"]);
    fs::create_dir_all(at("trap")).expect("made");
    fs::create_dir_all(at("outside")).expect("made");
    std::os::unix::fs::symlink(at("outside"), at("trap/deep")).expect("linked");
    fails("files get -r notes trap --force", &["not downloaded: notes/deep/er/b: trap/deep is a link"]).await;
    assert_eq!((fs::read_dir(at("outside")).expect("there").count(), read("trap/a")), (0, "one".to_owned()));
    fails("files get -r nothing", &["not downloaded: nothing: there is no such file, and nothing below nothing/"])
        .await;

    // Programs are told of all files, also of those that were there.
    let (got, printed, told) = mi(dir.path(), &operator, "files get -r flat out -o json").await;
    assert!(got, "{told}");
    let printed: serde_json::Value = serde_json::from_slice(&printed).expect("JSON");
    let (got, again, told) = mi(dir.path(), &operator, "files get -r flat out -o json").await;
    assert!(got, "{told}");
    assert_eq!(serde_json::from_slice::<serde_json::Value>(&again).expect("JSON"), printed);
    let paths: Vec<_> = printed.as_array().expect("a list").iter().map(|file| file["path"].clone()).collect();
    assert_eq!(paths, ["flat/a", "flat/c"]);
}

async fn a_command_prints_all_of_its_output(backend: Backend) {
    let world = World::start(backend, Arrangement::OneProcess).await;
    let office = world.office("Long").await;
    world.hire(&office, "worker").await.expect("hired");
    let dir = tempfile::tempdir().expect("made");
    let operator = [
        ("MI_ENDPOINT", world.platform.endpoint()),
        ("MI_API_KEY", world.platform.admin_key()),
        ("MI_COLONY", office.as_str()),
    ];
    // More than a report takes, no text, and no newline at the end.
    let sent = content(9, 200_001);
    put(&world.owner, header(&office, "long.bin"), &sent).await.expect("taken");
    for (ends, printed_to) in [(0, "1"), (3, "1"), (0, "2")] {
        let script = format!("mi files get long.bin -O - >&{printed_to}; exit {ends}");
        let mut command = tokio::process::Command::new(binary());
        command.args(["run", "--", "sh", "-c", &script]).env_clear().env("MI_CONFIG_DIR", dir.path().join("no-config"));
        let output = command.envs(operator).stdin(Stdio::null()).kill_on_drop(true).output();
        let output = tokio::time::timeout(LIMIT, output).await.expect("ends by itself").expect("ran");
        let (printed, other) = match printed_to {
            "1" => (output.stdout, output.stderr),
            _ => (output.stderr, output.stdout),
        };
        assert!(printed == sent, "{} bytes of {}: {}", printed.len(), sent.len(), String::from_utf8_lossy(&other));
        assert_eq!((output.status.code(), String::from_utf8_lossy(&other).as_ref()), (Some(ends), ""));
    }
    // However little it is.
    for (printed, ends) in [(&b"a\xffb\0c"[..], 0), (&b"\0\n"[..], 3), (&b"text without an end"[..], 0)] {
        let format: String = printed.iter().map(|byte| format!("\\{byte:03o}")).collect();
        let script = format!("printf '{format}'; exit {ends}");
        let mut command = tokio::process::Command::new(binary());
        command.args(["run", "--", "sh", "-c", &script]).env_clear().env("MI_CONFIG_DIR", dir.path().join("no-config"));
        let output = command.envs(operator).stdin(Stdio::null()).kill_on_drop(true).output();
        let output = tokio::time::timeout(LIMIT, output).await.expect("ends by itself").expect("ran");
        assert_eq!((output.stdout.as_slice(), output.status.code()), (printed, Some(ends)));
    }
}

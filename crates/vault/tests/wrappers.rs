//! One suite over every holder of master keys, and what only files can do.

use std::{fs, os::unix::fs::PermissionsExt, path::Path};

use mi_kernel::{Error, ErrorKind, OfficeId, secret::Secret};
use mi_vault::{DataKey, EnvKeys, FileKeys, KeyId, KeyWrapper, Place};

const OLD: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAE=";
const NEW: &str = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAI=";

fn write(path: &Path, text: &str) {
    fs::write(path, text).expect("written");
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).expect("set");
}

/// Every kind of holder of these keys.
fn holders(directory: &Path, text: &str) -> [Box<dyn KeyWrapper>; 2] {
    let path = directory.join("keys");
    write(&path, text);
    [Box::new(FileKeys::new(path)), Box::new(EnvKeys::new(&Secret::new(text)).expect("good keys"))]
}

async fn id_of(text: &str) -> KeyId {
    EnvKeys::new(&Secret::new(text)).expect("a good key").start(None).await.expect("starts")
}

#[track_caller]
fn assert_unknown(error: &Error, id: &KeyId) {
    assert_eq!((error.kind, error.reason), (ErrorKind::FailedPrecondition, "MASTER_KEY_UNKNOWN"));
    assert!(error.message.contains(id.as_str()), "{error}");
}

#[tokio::test]
async fn a_data_key_unwraps_for_its_office_under_its_master_key() {
    let directory = tempfile::tempdir().expect("made");
    let (old, new) = (id_of(OLD).await, id_of(NEW).await);
    for keys in holders(directory.path(), &format!("{NEW}\n{OLD}\n")) {
        assert_eq!(keys.start(None).await.expect("starts"), new, "{keys:?}");
        assert_eq!(keys.start(Some(&old)).await.expect("starts"), new);
        let (office_id, data_key) = (OfficeId::new(), DataKey::random());
        let place = Place { office_id, integration: "github", name: "token" };
        let sealed = data_key.seal(place, &Secret::new("value"));
        for id in [&old, &new] {
            let wrapped = keys.wrap(id, office_id, &data_key).await.expect("wraps");
            let unwrapped = keys.unwrap(id, office_id, &wrapped).await.expect("unwraps");
            assert_eq!(unwrapped.open(place, &sealed).expect("the same key"), Secret::new("value"));
            let other = if *id == old { &new } else { &old };
            for (id, office_id) in [(other, office_id), (id, OfficeId::new())] {
                let error = keys.unwrap(id, office_id, &wrapped).await.expect_err("moved");
                assert!(error.chain().contains("altered or moved"), "{}", error.chain());
            }
        }
    }
}

#[tokio::test]
async fn an_unknown_master_key_is_named() {
    let directory = tempfile::tempdir().expect("made");
    let (old, office_id) = (id_of(OLD).await, OfficeId::new());
    for keys in holders(directory.path(), NEW) {
        assert_unknown(&keys.start(Some(&old)).await.expect_err("unknown"), &old);
        assert_unknown(&keys.wrap(&old, office_id, &DataKey::random()).await.expect_err("unknown"), &old);
        assert_unknown(&keys.unwrap(&old, office_id, &[]).await.expect_err("unknown"), &old);
        assert_unknown(&keys.advance(&old, false).await.expect_err("unknown"), &old);
    }
}

#[tokio::test]
async fn a_newer_key_or_an_unfinished_rotation_is_gone_on_with() {
    let directory = tempfile::tempdir().expect("made");
    let (old, new) = (id_of(OLD).await, id_of(NEW).await);
    for keys in holders(directory.path(), &format!("{NEW} {OLD}")) {
        assert_eq!(keys.advance(&old, false).await.expect("goes on"), new);
        assert_eq!(keys.advance(&new, true).await.expect("goes on"), new);
    }
    let [_, fixed] = holders(directory.path(), NEW);
    let error = fixed.advance(&new, false).await.expect_err("cannot make keys");
    assert_eq!((error.kind, error.reason), (ErrorKind::FailedPrecondition, "MASTER_KEY_FIXED"));
}

#[tokio::test]
async fn texts_that_are_no_keys_are_refused_and_not_repeated() {
    let short = &NEW[4..];
    for bad in ["", " \n", "nonsense-of-an-operator", short, &format!("{OLD} {short}"), &format!("{OLD}\n{OLD}")] {
        let error = EnvKeys::new(&Secret::new(bad)).expect_err(bad);
        assert_eq!((error.kind, error.reason), (ErrorKind::FailedPrecondition, "MASTER_KEY"));
        assert!(bad.split_whitespace().all(|word| !error.chain().contains(word)), "{error}");
    }
}

#[tokio::test]
async fn a_file_is_made_at_the_first_start_and_rotated() {
    let directory = tempfile::tempdir().expect("made");
    let path = directory.path().join("master.key");
    let keys = FileKeys::new(&path);
    let first = keys.start(None).await.expect("makes one");
    assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
    assert_eq!(FileKeys::new(&path).start(Some(&first)).await.expect("kept"), first);

    let second = keys.advance(&first, false).await.expect("makes another");
    assert_ne!(second, first);
    assert_eq!(keys.start(Some(&first)).await.expect("both are there"), second);
    keys.retire(&second).await.expect("forgets");
    assert_eq!(keys.start(Some(&second)).await.expect("kept"), second);
    assert_unknown(&keys.start(Some(&first)).await.expect_err("forgotten"), &first);
    keys.retire(&second).await.expect("nothing left to forget");
    let entries = fs::read_dir(directory.path()).expect("reads").flatten();
    let mut names: Vec<_> = entries.map(|entry| entry.file_name().into_string().expect("text")).collect();
    names.sort_unstable();
    assert_eq!(names, ["master.key", "master.lock"], "no drafts stay");
}

#[tokio::test]
async fn a_key_that_another_process_is_about_to_use_is_not_forgotten() {
    let directory = tempfile::tempdir().expect("made");
    let path = directory.path().join("master.key");
    let (ours, theirs) = (FileKeys::new(&path), FileKeys::new(&path));
    let first = ours.start(None).await.expect("makes one");
    // Both rotate at once: one key is made.
    let second = ours.advance(&first, false).await.expect("makes another");
    assert_eq!(theirs.advance(&first, false).await.expect("the same"), second);
    // The next rotation begins before the first has forgotten what it replaced.
    let third = theirs.advance(&second, false).await.expect("makes a third");
    ours.retire(&second).await.expect("forgets");
    assert_eq!(ours.start(Some(&second)).await.expect("kept"), third);
    assert_eq!(ours.start(Some(&third)).await.expect("kept"), third);
    assert_unknown(&ours.start(Some(&first)).await.expect_err("forgotten"), &first);
}

#[tokio::test]
async fn a_lost_or_open_file_is_told_and_not_replaced() {
    let directory = tempfile::tempdir().expect("made");
    let path = directory.path().join("master.key");
    let keys = FileKeys::new(&path);
    let first = keys.start(None).await.expect("makes one");
    let text = fs::read_to_string(&path).expect("there");
    fs::remove_file(&path).expect("lost");
    assert_unknown(&keys.start(Some(&first)).await.expect_err("lost"), &first);
    assert_eq!(keys.wrap(&first, OfficeId::new(), &DataKey::random()).await.expect_err("lost").reason, "MASTER_KEY");
    assert!(!path.exists());

    write(&path, &text);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("set");
    let error = keys.start(Some(&first)).await.expect_err("open to the group");
    assert!(error.message.contains("chmod 600") && error.message.contains("640"), "{error}");
    let nowhere = FileKeys::new(directory.path().join("nowhere/master.key"));
    let error = nowhere.start(None).await.expect_err("no directory");
    assert!(error.message.contains("nowhere/master.key cannot be written"), "{error}");
}

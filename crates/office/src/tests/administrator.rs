//! The administrator's key file: whatever became of it, the next start has a good key in it.

use std::{fs, os::unix::fs::PermissionsExt, path::PathBuf};

use mi_kernel::{Actor, ErrorKind, secret::Secret};
use mi_proto::v1::RevokeApiKeyRequest;
use mi_testkit::on_both;
use tempfile::TempDir;
use tonic::Code;

use super::harness::Harness;

on_both! {
    the_key_in_the_file_stays_good,
    a_deleted_file_is_made_again,
    a_revoked_key_is_replaced,
    what_is_no_administrators_key_is_replaced,
    a_key_that_never_reached_the_database_is_registered,
    a_file_that_cannot_be_used_is_named,
}

fn file(directory: &TempDir) -> PathBuf {
    directory.path().join("admin.key")
}

impl Harness {
    /// A start; answers the key, which is good and stands in the file.
    async fn ensured(&self, file: &PathBuf) -> Secret {
        let secret = self.accounts.ensure_administrator(file).await.expect("ensures");
        assert_eq!(fs::read_to_string(file).expect("written").trim(), secret.expose());
        let resolved = self.resolve(secret.expose()).await.expect("good");
        assert!(matches!(resolved, Actor::Operator { administrator: true, .. }), "{resolved:?}");
        secret
    }

    async fn administrator(&self, secret: &Secret) -> Actor {
        self.resolve(secret.expose()).await.expect("good")
    }
}

async fn the_key_in_the_file_stays_good(mut harness: Harness) {
    let directory = tempfile::tempdir().expect("made");
    let file = file(&directory);
    let first = harness.ensured(&file).await;
    assert!(first.expose().starts_with("mi_"));
    assert_eq!(fs::metadata(&file).expect("there").permissions().mode() & 0o777, 0o600);
    let actor = harness.administrator(&first).await;
    harness.crash().await;
    assert_eq!(harness.ensured(&file).await, first);
    // An editor that adds a line end does no harm.
    fs::write(&file, format!("{}\n", first.expose())).expect("written");
    assert_eq!(harness.ensured(&file).await, first);
    assert_eq!(harness.administrator(&first).await, actor);
    assert_eq!(fs::read_dir(directory.path()).expect("reads").count(), 1);
}

async fn a_deleted_file_is_made_again(harness: Harness) {
    let directory = tempfile::tempdir().expect("made");
    let file = file(&directory);
    let first = harness.ensured(&file).await;
    fs::remove_file(&file).expect("removed");
    let second = harness.ensured(&file).await;
    assert_ne!(second, first);
    let (Actor::Operator { account_id: old, .. }, Actor::Operator { account_id: new, .. }) =
        (harness.administrator(&first).await, harness.administrator(&second).await)
    else {
        panic!("operators")
    };
    assert_eq!(old, new, "the same account");
}

async fn a_revoked_key_is_replaced(harness: Harness) {
    let directory = tempfile::tempdir().expect("made");
    let file = file(&directory);
    let first = harness.ensured(&file).await;
    let actor = harness.administrator(&first).await;
    let Actor::Operator { api_key_id, .. } = &actor else { panic!("{actor:?}") };
    let request = RevokeApiKeyRequest { api_key_id: api_key_id.to_string() };
    harness.access(&actor).revoke_api_key(request).await.expect("revokes");
    let second = harness.ensured(&file).await;
    assert_ne!(second, first);
    assert_eq!(harness.refusal(&first).await, Code::Unauthenticated);
}

async fn what_is_no_administrators_key_is_replaced(harness: Harness) {
    let directory = tempfile::tempdir().expect("made");
    let file = file(&directory);
    let first = harness.ensured(&file).await;
    let (_, operators) = harness.account("Other").await;
    let text = "some notes of forty characters and more, in words\nand lines\n".to_owned();
    let no_prefix = Secret::random("").expose().to_owned();
    let words = format!("{} {}", first.expose(), first.expose());
    for content in [String::new(), "mi_short".into(), operators.clone(), text, no_prefix, words] {
        fs::write(&file, &content).expect("written");
        let fresh = harness.ensured(&file).await;
        assert_ne!(fresh.expose(), content.trim(), "{content:?}");
    }
    let other = harness.resolve(&operators).await.expect("still good");
    assert!(matches!(other, Actor::Operator { administrator: false, .. }), "{other:?}");
}

async fn a_key_that_never_reached_the_database_is_registered(harness: Harness) {
    let directory = tempfile::tempdir().expect("made");
    let file = file(&directory);
    let written = Secret::random("mi_");
    fs::write(&file, written.expose()).expect("written");
    assert_eq!(harness.ensured(&file).await, written);
    let again = Secret::random("mi_");
    fs::write(&file, again.expose()).expect("written");
    assert_eq!(harness.ensured(&file).await, again);
}

async fn a_file_that_cannot_be_used_is_named(harness: Harness) {
    let directory = tempfile::tempdir().expect("made");
    for path in [directory.path().join("nowhere/admin.key"), directory.path().to_owned()] {
        let error = harness.accounts.ensure_administrator(&path).await.expect_err("unusable");
        assert_eq!((error.kind, error.reason), (ErrorKind::FailedPrecondition, "KEY_FILE"));
        assert!(error.message.contains(&path.display().to_string()), "{error}");
    }
    // Nothing half done is in the way of the next start.
    harness.ensured(&file(&directory)).await;
}

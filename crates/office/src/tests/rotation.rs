//! The master key goes over to a new one while everything goes on, whatever happens on the way.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use mi_kernel::{Error, ErrorKind, OfficeId, Result, secret::Secret};
use mi_proto::v1::{RotateMasterKeyRequest, RotateMasterKeyResponse};
use mi_testkit::on_both;
use mi_vault::{DataKey, EnvKeys, FileKeys, KeyId, KeyWrapper};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use super::harness::{Harness, administrator};
use crate::DataKeys;

on_both! {
    every_secret_opens_with_the_new_key_alone,
    a_rotation_goes_on_after_a_crash_at_any_step,
    offices_get_their_key_while_a_rotation_runs,
    a_key_from_the_environment_is_not_made_here,
}

const SECRET: (&str, &str) = ("github", "token");

impl Harness {
    async fn rotate(&self) -> std::result::Result<RotateMasterKeyResponse, Status> {
        let answer = self.access(&administrator()).rotate_master_key(RotateMasterKeyRequest {}).await?;
        Ok(answer.into_inner())
    }

    /// Offices, each with a secret of its own.
    async fn offices_with_secrets(&self, count: usize) -> Vec<String> {
        let mut offices = Vec::new();
        for number in 0..count {
            let office = self.create(&format!("Office {number}")).await.id;
            self.set(&self.owner, &office, SECRET, &format!("secret of {office}")).await.expect("sets");
            offices.push(office);
        }
        offices
    }

    async fn assert_opens(&self, offices: &[String]) {
        for office in offices {
            assert_eq!(self.opened(office, SECRET).await, Secret::new(format!("secret of {office}")));
        }
    }

    fn master_keys_in_file(&self) -> Vec<String> {
        let text = fs::read_to_string(self.master_key_file()).expect("there");
        text.lines().map(str::to_owned).collect()
    }
}

async fn every_secret_opens_with_the_new_key_alone(harness: Harness) {
    let offices = harness.offices_with_secrets(3).await;
    let before = harness.master_keys_in_file();
    let sealed = harness.sealed(&offices[0], SECRET).await;
    let rotated = harness.rotate().await.expect("rotates");
    assert_eq!(rotated.rewrapped, 3);
    let after = harness.master_keys_in_file();
    assert_eq!((before.len(), after.len()), (1, 1));
    assert_ne!(before, after, "the old key is nowhere any more");
    harness.assert_opens(&offices).await;
    assert_eq!(harness.sealed(&offices[0], SECRET).await, sealed, "no secret is touched");

    // The next one is another one, and an operator who is no administrator has no part in it.
    let again = harness.rotate().await.expect("rotates");
    assert_ne!(again.master_key_id, rotated.master_key_id);
    let refused =
        harness.access(&harness.owner).rotate_master_key(RotateMasterKeyRequest {}).await.expect_err("an owner");
    assert_eq!(refused.code(), Code::PermissionDenied);
    let rewrapped = "data_key.rewrapped";
    let kinds =
        ["office.created", "credit.granted", "office.activated", "integration.secret_set", rewrapped, rewrapped];
    harness.until_events(&offices[1], &kinds).await;
}

/// Dies at one call: before it has an effect, or after.
#[derive(Debug)]
struct Dying {
    keys: FileKeys,
    calls: AtomicUsize,
    fatal: usize,
    after: bool,
}

impl Dying {
    async fn step<T>(&self, call: impl Future<Output = Result<T>>) -> Result<T> {
        let number = self.calls.fetch_add(1, Ordering::SeqCst);
        if number >= self.fatal && !(self.after && number == self.fatal) {
            return Err(Error::internal("dead"));
        }
        let done = call.await?;
        if number == self.fatal { Err(Error::internal("dies")) } else { Ok(done) }
    }
}

#[async_trait]
impl KeyWrapper for Dying {
    async fn start(&self, in_use: Option<&KeyId>) -> Result<KeyId> {
        self.keys.start(in_use).await
    }

    async fn wrap(&self, key_id: &KeyId, office_id: OfficeId, data_key: &DataKey) -> Result<Vec<u8>> {
        self.step(self.keys.wrap(key_id, office_id, data_key)).await
    }

    async fn unwrap(&self, key_id: &KeyId, office_id: OfficeId, wrapped: &[u8]) -> Result<DataKey> {
        self.step(self.keys.unwrap(key_id, office_id, wrapped)).await
    }

    async fn advance(&self, in_use: &KeyId, unfinished: bool) -> Result<KeyId> {
        self.step(self.keys.advance(in_use, unfinished)).await
    }

    async fn retire(&self, keep: &KeyId) -> Result<()> {
        self.step(self.keys.retire(keep)).await
    }
}

async fn a_rotation_goes_on_after_a_crash_at_any_step(mut harness: Harness) {
    let mut offices = harness.offices_with_secrets(3).await;
    // One call to go on to the new key, two for each office, one to forget the old key; then one that dies nowhere.
    let mut crashes = 0;
    for fatal in 0.. {
        let mut survived = false;
        for after in [false, true] {
            let keys = FileKeys::new(harness.master_key_file());
            let dying = Arc::new(Dying { keys, calls: AtomicUsize::new(0), fatal, after });
            let keys = DataKeys::open(harness.context(harness.clock.shared()).await, dying).await;
            // A batch of one: a crash between any two of them.
            let outcome = keys.expect("opens").rotate(1).await;
            survived = outcome.is_ok();
            crashes += usize::from(!survived);
            // The next process: all is readable at once, new offices too, and the rotation comes to its end.
            harness.crash().await;
            harness.assert_opens(&offices).await;
            if fatal == 3 {
                offices.extend(harness.offices_with_secrets(1).await);
            }
            harness.rotate().await.expect("finishes");
            let left = harness.master_keys_in_file();
            assert_eq!(left.len(), 1, "step {fatal}, after it: {after}");
            harness.assert_opens(&offices).await;
        }
        if survived {
            break;
        }
    }
    assert!(crashes >= 2 * 8, "{crashes} crashes");
}

async fn offices_get_their_key_while_a_rotation_runs(harness: Harness) {
    let mut offices = harness.offices_with_secrets(4).await;
    let (rotations, fresh) = tokio::join!(
        async {
            for _ in 0..4 {
                harness.rotate().await.expect("rotates");
            }
        },
        harness.offices_with_secrets(6)
    );
    let () = rotations;
    offices.extend(fresh);
    harness.assert_opens(&offices).await;
    harness.rotate().await.expect("rotates");
    assert_eq!(harness.master_keys_in_file().len(), 1);
    harness.assert_opens(&offices).await;
}

async fn a_key_from_the_environment_is_not_made_here(mut harness: Harness) {
    let offices = harness.offices_with_secrets(2).await;
    let old = harness.master_keys_in_file().remove(0);
    let new = "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAI=";
    let keys = |text: &str| Arc::new(EnvKeys::new(&Secret::new(text)).expect("good keys"));
    harness.end().await;
    harness.start_with(keys(&old)).await.expect("starts");
    let refused = harness.rotate().await.expect_err("it has no other key");
    let reason = refused.get_details_error_info().expect("always there").reason;
    assert_eq!((refused.code(), reason.as_str()), (Code::FailedPrecondition, "MASTER_KEY_FIXED"));

    harness.end().await;
    harness.start_with(keys(&format!("{new} {old}"))).await.expect("starts");
    assert_eq!(harness.rotate().await.expect("rotates").rewrapped, 2);
    harness.end().await;
    let error = harness.start_with(keys(&old)).await.expect_err("the old key is of no use now");
    assert_eq!((error.kind, error.reason), (ErrorKind::FailedPrecondition, "MASTER_KEY_UNKNOWN"));
    harness.start_with(keys(new)).await.expect("starts");
    fs::write(harness.master_key_file(), new).expect("written");
    harness.assert_opens(&offices).await;
}

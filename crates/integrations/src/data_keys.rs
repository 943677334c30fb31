//! The key of each office that seals its secrets, and the master key that wraps all of them.
//!
//! One row in the database says which master key wraps data keys from now on; each wrapped key names the one it is under.
//! A rotation moves that row first and the keys after it, batch by batch, so that at any moment, and after a crash at any
//! moment, every data key is under a master key that the wrapper still has.

mod repo;

use std::sync::Arc;

use mi_kernel::{Clock, Error, OfficeId, Result, event::Category, event::Event};
use mi_store::{Db, FromRow, OfficeConn, outbox};
use mi_tenancy::RoleContext;
use mi_vault::{DataKey, KeyId, KeyWrapper};
use tokio::sync::{Mutex, Notify};

/// A data key as it is kept.
#[derive(FromRow)]
struct Wrapped {
    #[sqlx(try_from = "String")]
    master_key_id: KeyId,
    #[sqlx(rename = "wrapped")]
    bytes: Vec<u8>,
}

/// What a rotation did.
#[derive(Debug, PartialEq, Eq)]
pub struct Rotation {
    /// The master key in use now.
    pub key_id: KeyId,
    /// Data keys wrapped anew.
    pub rewrapped: i64,
}

/// The data keys of the platform.
#[derive(Clone)]
pub struct DataKeys {
    db: Db,
    clock: Arc<dyn Clock>,
    wrapper: Arc<dyn KeyWrapper>,
    outbox: Arc<Notify>,
    /// Of two calls to rotate, the second waits.
    rotating: Arc<Mutex<()>>,
}

impl DataKeys {
    /// Makes sure that the master key in use is there.
    ///
    /// # Errors
    /// `FailedPrecondition` when it is not.
    pub async fn open(context: RoleContext, wrapper: Arc<dyn KeyWrapper>) -> Result<Self> {
        let RoleContext { db, clock, outbox } = context;
        let in_use = repo::master_get(&mut db.platform().read().await?).await?;
        let newest = wrapper.start(in_use.as_ref()).await?;
        if in_use.is_none() {
            let mut tx = db.platform().begin().await?;
            repo::master_claim(&mut tx, &newest).await?;
            tx.commit().await?;
            // Another process may have been faster, with a key that is not here.
            let claimed = repo::master_get(&mut db.platform().read().await?).await?;
            wrapper.start(claimed.as_ref()).await?;
        }
        Ok(Self { db, clock, wrapper, outbox, rotating: Arc::default() })
    }

    /// The data key of the connection's office; none: it has none yet.
    ///
    /// # Errors
    /// What the holder of the master key answers.
    pub async fn get(&self, conn: &mut OfficeConn) -> Result<Option<DataKey>> {
        match repo::key_get(conn).await? {
            Some(key) => self.wrapper.unwrap(&key.master_key_id, conn.office_id(), &key.bytes).await.map(Some),
            None => Ok(None),
        }
    }

    /// The data key of the transaction's office, which it makes when there is none. The office must be locked.
    pub(super) async fn get_or_make(&self, tx: &mut OfficeConn) -> Result<DataKey> {
        if let Some(key) = self.get(tx).await? {
            return Ok(key);
        }
        // Held until the commit: a rotation that moves on finds this key among those to wrap anew.
        let master_key_id = repo::master_hold(tx).await?.ok_or_else(|| Error::internal("no master key was claimed"))?;
        let key = DataKey::random();
        let bytes = self.wrapper.wrap(&master_key_id, tx.office_id(), &key).await?;
        repo::key_insert(tx, &Wrapped { master_key_id, bytes }).await?;
        Ok(key)
    }

    /// Destroys the data key of the transaction's office. Its secrets must be gone.
    pub(super) async fn destroy(tx: &mut OfficeConn) -> Result<()> {
        Ok(repo::key_delete(tx).await?)
    }

    /// Goes over to a new master key, or finishes what a rotation left that was cut short, in transactions of this many
    /// data keys.
    ///
    /// # Errors
    /// What the holder of the master key answers; what was done stays done.
    pub async fn rotate(&self, batch: i64) -> Result<Rotation> {
        let _alone = self.rotating.lock().await;
        let mut conn = self.db.platform().read().await?;
        let in_use = repo::master_get(&mut conn).await?;
        let in_use = in_use.ok_or_else(|| Error::internal("no master key was claimed"))?;
        let unfinished = !repo::key_elsewhere(&mut conn, &in_use, 1).await?.is_empty();
        drop(conn);
        let key_id = self.wrapper.advance(&in_use, unfinished).await?;
        // Waits for those who make a data key at this moment; whoever comes after them takes the new one.
        let mut tx = self.db.platform().begin().await?;
        repo::master_set(&mut tx, &key_id).await?;
        tx.commit().await?;
        let mut rewrapped = 0;
        loop {
            let done = self.rewrap(&key_id, batch).await?;
            if done == 0 {
                break;
            }
            rewrapped += done;
        }
        self.wrapper.retire(&key_id).await?;
        tracing::info!(target: "mi::office", %key_id, rewrapped, "the master key was rotated");
        Ok(Rotation { key_id, rewrapped })
    }

    /// Wraps one batch of keys anew; answers how many.
    async fn rewrap(&self, key_id: &KeyId, batch: i64) -> Result<i64> {
        let mut tx = self.db.platform().begin().await?;
        let offices = repo::key_elsewhere(&mut tx, key_id, batch).await?;
        let mut done = 0;
        for office_id in offices {
            let tx = tx.within(office_id);
            // Gone meanwhile, with its office.
            let Some(old) = repo::key_lock(tx).await? else { continue };
            let key = self.wrapper.unwrap(&old.master_key_id, office_id, &old.bytes).await?;
            let bytes = self.wrapper.wrap(key_id, office_id, &key).await?;
            repo::key_update(tx, &Wrapped { master_key_id: key_id.clone(), bytes }).await?;
            outbox::push(tx, &self.rewrapped(office_id, key_id)).await?;
            done += 1;
        }
        tx.commit().await?;
        self.outbox.notify_one();
        Ok(done)
    }

    fn rewrapped(&self, office_id: OfficeId, key_id: &KeyId) -> Event {
        let summary = "The office's data key was wrapped by a new master key";
        Event::lifecycle(office_id, "", "data_key.rewrapped", summary, self.clock.now())
            .category(Category::Security)
            .with(serde_json::json!({ "master_key_id": key_id.as_str() }))
    }
}

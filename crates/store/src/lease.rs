//! A named lease in the database: of several processes over the same tables one does a job at a time.

use std::time::Duration;

use mi_kernel::Time;

use crate::{Db, DbResult, exec};

/// Takes or renews the lease; false: somebody else holds it. A holder that comes back under its own name gets it at once.
pub async fn hold(db: &Db, name: &str, holder: &str, now: Time, ttl: Duration) -> DbResult<bool> {
    let mut tx = db.platform().begin().await?;
    let sql = "INSERT INTO leases (name, holder, expires_at) VALUES ($1, $2, $3)
         ON CONFLICT (name) DO UPDATE SET holder = excluded.holder, expires_at = excluded.expires_at
         WHERE leases.holder = excluded.holder OR leases.expires_at < $4";
    let held = exec!(tx, sql, name, holder, now + ttl, now)? == 1;
    tx.commit().await?;
    Ok(held)
}

//! Tables `schedulers` and `shards`, which Postgres alone has. Nothing here waits for another process: what one has locked
//! that stands still is passed over.

use mi_kernel::Time;
use mi_store::{DbResult, OfficeConn, PlatformConn, all, exec, json_text, scalar, scalar_one, scalars};
use uuid::Uuid;

use super::Fence;

/// The time by the database's clock.
pub(super) async fn told(tx: &mut PlatformConn) -> DbResult<Time> {
    scalar_one!(tx, "SELECT clock_timestamp()")
}

/// Renews a run's lease, and keeps its row until the transaction ends; false: it is gone.
pub(super) async fn renew(tx: &mut PlatformConn, run: Uuid, until: Time) -> DbResult<bool> {
    Ok(exec!(tx, "UPDATE schedulers SET expires_at = $2 WHERE id = $1 AND NOT gone", run, until)? == 1)
}

/// A process begins. The one of its name before it has ended.
pub(super) async fn join(tx: &mut PlatformConn, run: Uuid, name: &str, until: Time) -> DbResult<()> {
    let sql = "UPDATE schedulers SET gone = TRUE
         WHERE id IN (SELECT id FROM schedulers WHERE NOT gone AND name = $1 FOR UPDATE SKIP LOCKED)";
    exec!(tx, sql, name)?;
    exec!(tx, "INSERT INTO schedulers (id, name, expires_at) VALUES ($1, $2, $3)", run, name, until).map(drop)
}

/// A run ends.
pub(super) async fn leave(tx: &mut PlatformConn, run: Uuid) -> DbResult<()> {
    exec!(tx, "UPDATE schedulers SET gone = TRUE WHERE id = $1", run).map(drop)
}

/// Runs that were not renewed in time are gone; those that have no shard any more are forgotten.
pub(super) async fn bury(tx: &mut PlatformConn, now: Time) -> DbResult<()> {
    let sql = "UPDATE schedulers SET gone = TRUE
         WHERE id IN (SELECT id FROM schedulers WHERE NOT gone AND expires_at < $1 FOR UPDATE SKIP LOCKED)";
    exec!(tx, sql, now)?;
    let sql = "DELETE FROM schedulers WHERE gone AND NOT EXISTS (SELECT 1 FROM shards WHERE holder = schedulers.id)";
    exec!(tx, sql).map(drop)
}

/// The runs that are not gone, in order.
pub(super) async fn members(tx: &mut PlatformConn) -> DbResult<Vec<Uuid>> {
    scalars!(tx, "SELECT id FROM schedulers WHERE NOT gone ORDER BY id")
}

/// What a run holds, with the epochs, and whether another one that is not gone holds anything.
pub(super) async fn held(tx: &mut PlatformConn, run: Uuid) -> DbResult<(Vec<(i32, i64)>, bool)> {
    let own = all!(tx, "SELECT shard, epoch FROM shards WHERE holder = $1", run)?;
    let sql = "SELECT EXISTS (SELECT 1 FROM shards JOIN schedulers ON id = holder WHERE NOT gone AND id <> $1)";
    Ok((own, scalar_one!(tx, sql, run)?))
}

/// Takes shards that nobody has, but none of these, at most so many.
pub(super) async fn take(tx: &mut PlatformConn, run: Uuid, but: &[i32], most: i64) -> DbResult<Vec<(i32, i64)>> {
    // A run that joined after this began is not gone as this sees it: what it took meanwhile stays.
    let sql = "UPDATE shards SET holder = $1, epoch = epoch + 1 WHERE shard IN
         (SELECT shard FROM shards WHERE (holder IS NULL OR holder IN (SELECT id FROM schedulers WHERE gone))
              AND shard <> ALL (ARRAY(SELECT json_array_elements_text($2::json)::int))
          ORDER BY shard LIMIT $3 FOR UPDATE SKIP LOCKED) RETURNING shard, epoch";
    all!(tx, sql, run, json_text(but)?, most)
}

/// Gives shards back.
pub(super) async fn give(tx: &mut PlatformConn, run: Uuid, shards: &[i32]) -> DbResult<()> {
    let sql = "UPDATE shards SET holder = NULL
         WHERE holder = $1 AND shard = ANY (ARRAY(SELECT json_array_elements_text($2::json)::int))";
    exec!(tx, sql, run, json_text(shards)?).map(drop)
}

/// Whether a shard is still its holder's, which it stays until the transaction ends. The tables are not the office's: its id
/// stands for nothing.
pub(super) async fn stands(tx: &mut OfficeConn, fence: Fence) -> DbResult<bool> {
    let sql =
        "SELECT shard FROM shards WHERE $1::uuid IS NOT NULL AND shard = $2 AND epoch = $3 AND holder = $4 FOR SHARE";
    let found: Option<i32> = scalar!(tx, sql, fence.shard, fence.epoch, fence.run)?;
    Ok(found.is_some())
}

//! Tables `offices`, `removed_offices` and `hires`.

use mi_kernel::{AgentId, OfficeId, Time};
use mi_store::{Db, DbResult, Json, OfficeConn, delete_some, exec, optional, scalar_one};

use super::Office;

pub(crate) async fn office_get(conn: &mut OfficeConn) -> DbResult<Option<Office>> {
    optional!(conn, "SELECT * FROM offices WHERE id = $1")
}

/// The office, locked: hires of one office happen one after the other.
pub(crate) async fn office_lock(tx: &mut OfficeConn) -> DbResult<Option<Office>> {
    let sql = tx.pick("SELECT * FROM offices WHERE id = $1", "SELECT * FROM offices WHERE id = $1 FOR UPDATE");
    optional!(tx, sql)
}

/// The office, locked, also where there is no row of it: one process that makes it and another one that removes it do so one
/// after the other.
pub(crate) async fn office_lock_or_wait(tx: &mut OfficeConn) -> DbResult<Option<Office>> {
    let known = office_lock(tx).await?;
    if known.is_some() {
        return Ok(known);
    }
    // SQLite's one writer is the lock; Postgres takes one that the end of the transaction releases.
    let sql = tx.pick("SELECT $1", "SELECT pg_advisory_xact_lock(hashtextextended($1::uuid::text, 0))");
    exec!(tx, sql)?;
    office_lock(tx).await
}

/// Makes the copy at least as new as this one; false: it was already, or the office was removed.
pub(crate) async fn office_apply(tx: &mut OfficeConn, office: &Office) -> DbResult<bool> {
    let sql = "INSERT INTO offices (id, account_id, version, active, removing, settings) SELECT $1, $2, $3, $4, $5, $6
         WHERE NOT EXISTS (SELECT 1 FROM removed_offices WHERE id = $1)
         ON CONFLICT (id) DO UPDATE SET version = excluded.version, active = excluded.active,
         settings = excluded.settings WHERE offices.version < excluded.version";
    Ok(exec!(tx, sql, office.account_id, office.version, office.active, office.removing, Json(&office.settings))? == 1)
}

pub(crate) async fn office_begin_removal(tx: &mut OfficeConn) -> DbResult<()> {
    exec!(tx, "UPDATE offices SET removing = TRUE WHERE id = $1").map(drop)
}

/// Deletes some of what stays of agents that are gone, in a transaction of its own; true: there may be more.
pub(crate) async fn office_clear_some(db: &Db, office: OfficeId) -> DbResult<bool> {
    let mut tx = db.office(office).begin().await?;
    let statements = [
        // Whoever did not hear that one of these was revoked lets it in, and into no office: there is none.
        "DELETE FROM former_keys WHERE office_id = $1 AND (agent_id, key_id) IN
         (SELECT agent_id, key_id FROM former_keys WHERE office_id = $1 LIMIT $2)",
        "DELETE FROM agent_keys WHERE office_id = $1 AND public_key IN
         (SELECT public_key FROM agent_keys WHERE office_id = $1 LIMIT $2)",
        "DELETE FROM admissions WHERE office_id = $1 AND invite_id IN
         (SELECT invite_id FROM admissions WHERE office_id = $1 LIMIT $2)",
        "DELETE FROM hires WHERE office_id = $1 AND agent_id IN
         (SELECT agent_id FROM hires WHERE office_id = $1 LIMIT $2)",
        "DELETE FROM roster_changes WHERE office_id = $1 AND changed_ms IN
         (SELECT changed_ms FROM roster_changes WHERE office_id = $1 LIMIT $2)",
    ];
    let more = delete_some(&mut tx, &statements).await?;
    tx.commit().await?;
    Ok(more)
}

/// Removes the office, of which nothing else is left, for good; one that was never heard of is noted as removed, too.
pub(crate) async fn office_delete(tx: &mut OfficeConn) -> DbResult<()> {
    exec!(tx, "INSERT INTO removed_offices (id) VALUES ($1) ON CONFLICT (id) DO NOTHING")?;
    exec!(tx, "DELETE FROM offices WHERE id = $1").map(drop)
}

/// Hires by agents since a time; older ones are forgotten.
pub(crate) async fn hire_count(tx: &mut OfficeConn, since: Time) -> DbResult<i64> {
    exec!(tx, "DELETE FROM hires WHERE office_id = $1 AND hired_at < $2", since)?;
    scalar_one!(tx, "SELECT count(*) FROM hires WHERE office_id = $1")
}

pub(crate) async fn hire_insert(tx: &mut OfficeConn, agent: AgentId, now: Time) -> DbResult<()> {
    exec!(tx, "INSERT INTO hires (agent_id, office_id, hired_at) VALUES ($2, $1, $3)", agent, now).map(drop)
}

//! Table `offices`. An office is its own scope: the row is the one whose id is the office.

use mi_kernel::{AccountId, OfficeId, page::Page};
use mi_store::{DbResult, Json, OfficeConn, PlatformConn, all, exec, optional, scalars};

use super::Office;

/// Writes a new office.
pub async fn office_insert(tx: &mut OfficeConn, office: &Office) -> DbResult<()> {
    let sql = "INSERT INTO offices
         (id, account_id, name, state, settings, version, applied_version, conditions, created_at, updated_at)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
    exec!(
        tx,
        sql,
        office.account_id,
        &office.name,
        office.state.as_str(),
        Json(&office.settings),
        office.version,
        office.applied_version,
        Json(&office.conditions),
        office.created_at,
        office.updated_at
    )
    .map(drop)
}

/// The office; none: there is no such office, or not any more.
pub async fn office_get(conn: &mut OfficeConn) -> DbResult<Option<Office>> {
    optional!(conn, "SELECT * FROM offices WHERE id = $1")
}

/// The office, which nobody else changes until the transaction ends. Rows that belong to it may still be written.
pub async fn office_lock(tx: &mut OfficeConn) -> DbResult<Option<Office>> {
    let sql = tx.pick("SELECT * FROM offices WHERE id = $1", "SELECT * FROM offices WHERE id = $1 FOR NO KEY UPDATE");
    optional!(tx, sql)
}

/// Offices of one account, or of all, after a key. Spans offices: an account owns several.
pub async fn office_list(
    conn: &mut PlatformConn,
    owner: Option<AccountId>,
    page: &Page<OfficeId>,
) -> DbResult<Vec<Office>> {
    let after = page.after.unwrap_or(OfficeId::MIN);
    let Some(owner) = owner else {
        return all!(conn, "SELECT * FROM offices WHERE id > $1 ORDER BY id LIMIT $2", after, page.fetch());
    };
    let sql = "SELECT * FROM offices WHERE id > $1 AND account_id = $3 ORDER BY id LIMIT $2";
    all!(conn, sql, after, page.fetch(), owner)
}

/// Every office of an account. Spans offices: who acts for the account may enter them all.
pub async fn office_ids(conn: &mut PlatformConn, owner: AccountId) -> DbResult<Vec<OfficeId>> {
    scalars!(conn, "SELECT id FROM offices WHERE account_id = $1 ORDER BY id", owner)
}

/// Offices after one of which other roles do not know everything yet. Spans offices: it finds the ones to work on.
pub async fn office_unfinished(
    conn: &mut PlatformConn,
    after: Option<OfficeId>,
    limit: i64,
) -> DbResult<Vec<OfficeId>> {
    let sql = "SELECT id FROM offices WHERE applied_version < version AND id > $1 ORDER BY id LIMIT $2";
    scalars!(conn, sql, after.unwrap_or(OfficeId::MIN), limit)
}

/// Writes everything that can change. The row must be locked.
pub async fn office_update(tx: &mut OfficeConn, office: &Office) -> DbResult<()> {
    let sql = "UPDATE offices SET state = $2, settings = $3, version = $4, applied_version = $5, conditions = $6,
         updated_at = $7 WHERE id = $1";
    exec!(
        tx,
        sql,
        office.state.as_str(),
        Json(&office.settings),
        office.version,
        office.applied_version,
        Json(&office.conditions),
        office.updated_at
    )
    .map(drop)
}

/// Deletes the row; false: somebody did already.
pub async fn office_delete(tx: &mut OfficeConn) -> DbResult<bool> {
    Ok(exec!(tx, "DELETE FROM offices WHERE id = $1")? == 1)
}

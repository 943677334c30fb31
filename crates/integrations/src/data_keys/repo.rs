//! Tables `master_key` and `office_keys`.

use mi_kernel::OfficeId;
use mi_store::{Conn, DbResult, OfficeConn, PlatformConn, exec, optional, scalar, scalars};
use mi_vault::KeyId;

use super::Wrapped;

/// The master key in use. Platform-wide: it is no office's.
pub(super) async fn master_get(conn: &mut PlatformConn) -> DbResult<Option<KeyId>> {
    let id: Option<String> = scalar!(conn, "SELECT key_id FROM master_key")?;
    Ok(id.map(KeyId::from))
}

/// The master key in use, which stays so until the transaction ends.
pub(super) async fn master_hold(tx: &mut OfficeConn) -> DbResult<Option<KeyId>> {
    let sql = tx.pick("SELECT key_id FROM master_key", "SELECT key_id FROM master_key FOR SHARE");
    // The key is no office's: the statement has no place for one.
    let conn: &mut Conn = tx;
    let id: Option<String> = scalar!(conn, sql)?;
    Ok(id.map(KeyId::from))
}

/// Takes a master key into use, unless there is one.
pub(super) async fn master_claim(tx: &mut PlatformConn, id: &KeyId) -> DbResult<()> {
    exec!(tx, "INSERT INTO master_key (one, key_id) VALUES (1, $1) ON CONFLICT (one) DO NOTHING", id.as_str()).map(drop)
}

/// Takes another master key into use.
pub(super) async fn master_set(tx: &mut PlatformConn, id: &KeyId) -> DbResult<()> {
    exec!(tx, "UPDATE master_key SET key_id = $1", id.as_str()).map(drop)
}

pub(super) async fn key_get(conn: &mut OfficeConn) -> DbResult<Option<Wrapped>> {
    optional!(conn, "SELECT master_key_id, wrapped FROM office_keys WHERE office_id = $1")
}

/// The key, which nobody else changes until the transaction ends.
pub(super) async fn key_lock(tx: &mut OfficeConn) -> DbResult<Option<Wrapped>> {
    let sql = tx.pick(
        "SELECT master_key_id, wrapped FROM office_keys WHERE office_id = $1",
        "SELECT master_key_id, wrapped FROM office_keys WHERE office_id = $1 FOR UPDATE",
    );
    optional!(tx, sql)
}

async fn write(tx: &mut OfficeConn, sql: &'static str, key: &Wrapped) -> DbResult<()> {
    exec!(tx, sql, key.master_key_id.as_str(), &key.bytes).map(drop)
}

pub(super) async fn key_insert(tx: &mut OfficeConn, key: &Wrapped) -> DbResult<()> {
    write(tx, "INSERT INTO office_keys (office_id, master_key_id, wrapped) VALUES ($1, $2, $3)", key).await
}

pub(super) async fn key_update(tx: &mut OfficeConn, key: &Wrapped) -> DbResult<()> {
    write(tx, "UPDATE office_keys SET master_key_id = $2, wrapped = $3 WHERE office_id = $1", key).await
}

pub(super) async fn key_delete(tx: &mut OfficeConn) -> DbResult<()> {
    exec!(tx, "DELETE FROM office_keys WHERE office_id = $1").map(drop)
}

/// Offices whose keys are under another master key. Spans offices: a rotation is over when none is left.
pub(super) async fn key_elsewhere(conn: &mut PlatformConn, id: &KeyId, limit: i64) -> DbResult<Vec<OfficeId>> {
    // Two parts of an index: in the order of offices, all that are done would be passed over each time.
    let sql = "SELECT office_id FROM (SELECT office_id FROM office_keys WHERE master_key_id < $1
             ORDER BY master_key_id, office_id LIMIT $2) AS lower
         UNION ALL SELECT office_id FROM (SELECT office_id FROM office_keys WHERE master_key_id > $1
             ORDER BY master_key_id, office_id LIMIT $2) AS higher LIMIT $2";
    scalars!(conn, sql, id.as_str(), limit)
}

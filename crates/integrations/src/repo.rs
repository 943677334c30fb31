//! Table `integration_secrets`.

use mi_kernel::Time;
use mi_store::{DbResult, OfficeConn, all, exec};

use super::Kept;

/// Which secrets there are; not what they are.
pub(super) async fn secret_list(conn: &mut OfficeConn) -> DbResult<Vec<Kept>> {
    let sql = "SELECT integration, name, updated_at FROM integration_secrets WHERE office_id = $1";
    all!(conn, sql)
}

/// The secrets of one integration, sealed, by name.
pub(super) async fn secret_sealed(conn: &mut OfficeConn, integration: &str) -> DbResult<Vec<(String, Vec<u8>)>> {
    all!(conn, "SELECT name, sealed FROM integration_secrets WHERE office_id = $1 AND integration = $2", integration)
}

/// Writes a secret, in place of the one before.
pub(super) async fn secret_put(
    tx: &mut OfficeConn,
    integration: &str,
    name: &str,
    sealed: &[u8],
    now: Time,
) -> DbResult<()> {
    let sql = "INSERT INTO integration_secrets (office_id, integration, name, sealed, updated_at)
         VALUES ($1, $2, $3, $4, $5) ON CONFLICT (office_id, integration, name)
         DO UPDATE SET sealed = excluded.sealed, updated_at = excluded.updated_at";
    exec!(tx, sql, integration, name, sealed, now).map(drop)
}

/// False: there was none.
pub(super) async fn secret_delete(tx: &mut OfficeConn, integration: &str, name: &str) -> DbResult<bool> {
    let sql = "DELETE FROM integration_secrets WHERE office_id = $1 AND integration = $2 AND name = $3";
    Ok(exec!(tx, sql, integration, name)? == 1)
}

/// Deletes all secrets of the office.
pub(super) async fn secret_clear(tx: &mut OfficeConn) -> DbResult<()> {
    exec!(tx, "DELETE FROM integration_secrets WHERE office_id = $1").map(drop)
}

//! Table `invites`.

use mi_kernel::Time;
use mi_store::{Db, DbResult, OfficeConn, PlatformConn, delete_before, exec, optional, scalar_one};

use super::Invite;

/// Keeps an invite; false: its code is another one's, of whatever office.
pub(super) async fn invite_insert(tx: &mut OfficeConn, invite: &Invite, code_sha256: &[u8]) -> DbResult<bool> {
    let sql = "INSERT INTO invites (id, office_id, code_sha256, created_at, expires_at) VALUES ($2, $1, $3, $4, $5)
         ON CONFLICT DO NOTHING";
    Ok(exec!(tx, sql, invite.id, code_sha256, invite.created_at, invite.expires_at)? == 1)
}

/// Invites of the office that have not run out.
pub(super) async fn invite_count(conn: &mut OfficeConn, now: Time) -> DbResult<i64> {
    scalar_one!(conn, "SELECT count(*) FROM invites WHERE office_id = $1 AND expires_at > $2", now)
}

/// The invite with this code, unless it has run out; of whatever office: who shows a code has not said where to.
pub(super) async fn invite_find(conn: &mut PlatformConn, code_sha256: &[u8], now: Time) -> DbResult<Option<Invite>> {
    let sql = "SELECT id, office_id, created_at, expires_at FROM invites WHERE code_sha256 = $1 AND expires_at > $2";
    optional!(conn, sql, code_sha256, now)
}

/// Forgets the invites of the office.
pub(super) async fn invite_forget_all(tx: &mut OfficeConn) -> DbResult<()> {
    exec!(tx, "DELETE FROM invites WHERE office_id = $1").map(drop)
}

/// Forgets the invites that have run out, of whatever office, in parts.
pub(super) async fn invite_sweep(db: &Db, now: Time) -> DbResult<()> {
    let sql =
        "DELETE FROM invites WHERE id IN (SELECT id FROM invites WHERE expires_at < $1 ORDER BY expires_at LIMIT $2)";
    delete_before(db, sql, now).await
}

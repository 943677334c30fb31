//! Table `offices`.

use mi_kernel::AccountId;
use mi_store::{DbResult, OfficeConn, on};
use uuid::Uuid;

/// Version of a row that was made before the office role told about the office.
const UNTOLD: i64 = -1;

/// The account that owns the office; none: unknown or removed.
pub(crate) async fn office_owner(conn: &mut OfficeConn) -> DbResult<Option<AccountId>> {
    let office_id = conn.office_id();
    let owner: Option<Option<Uuid>> = on!(conn, |c| {
        sqlx::query_scalar("SELECT account_id FROM offices WHERE office_id = $1 AND NOT removed")
            .bind(office_id.0)
            .fetch_optional(&mut *c)
            .await
    })?;
    Ok(owner.flatten().map(AccountId))
}

pub(crate) async fn office_apply(tx: &mut OfficeConn, account_id: AccountId, version: i64) -> DbResult<()> {
    let office_id = tx.office_id();
    on!(tx, |c| {
        sqlx::query(
            "INSERT INTO offices (office_id, account_id, version, removed, next_seq) VALUES ($1, $2, $3, false, 1)
             ON CONFLICT (office_id) DO UPDATE SET account_id = excluded.account_id, version = excluded.version
             WHERE offices.version < excluded.version AND NOT offices.removed",
        )
        .bind(office_id.0)
        .bind(account_id.0)
        .bind(version)
        .execute(&mut *c)
        .await
        .map(drop)
    })?;
    Ok(())
}

/// Puts the tombstone up and waits for the transactions that hold the office by [`office_hold`].
pub(crate) async fn office_bury(tx: &mut OfficeConn) -> DbResult<()> {
    let office_id = tx.office_id();
    on!(tx, |c| {
        sqlx::query(
            "INSERT INTO offices (office_id, version, removed, next_seq) VALUES ($1, $2, true, 1)
             ON CONFLICT (office_id) DO UPDATE SET removed = true",
        )
        .bind(office_id.0)
        .bind(UNTOLD)
        .execute(&mut *c)
        .await
        .map(drop)
    })?;
    // SQLite's writers queue anyway. On Postgres the update above does not wait for KEY SHARE, this does.
    let wait = tx.pick(
        "SELECT next_seq FROM offices WHERE office_id = $1",
        "SELECT next_seq FROM offices WHERE office_id = $1 FOR UPDATE",
    );
    let _: Option<i64> = on!(tx, |c| sqlx::query_scalar(wait).bind(office_id.0).fetch_optional(&mut *c).await)?;
    Ok(())
}

/// Keeps the office from being removed until the transaction ends; false: it is removed. Several may hold at once.
pub(crate) async fn office_hold(tx: &mut OfficeConn) -> DbResult<bool> {
    let office_id = tx.office_id();
    let sql = tx.pick(
        "SELECT removed FROM offices WHERE office_id = $1",
        "SELECT removed FROM offices WHERE office_id = $1 FOR KEY SHARE",
    );
    loop {
        let removed: Option<bool> =
            on!(tx, |c| sqlx::query_scalar(sql).bind(office_id.0).fetch_optional(&mut *c).await)?;
        match removed {
            Some(removed) => return Ok(!removed),
            None => office_expect(tx).await?,
        }
    }
}

/// A row for an office that the office role has not told about yet.
async fn office_expect(tx: &mut OfficeConn) -> DbResult<()> {
    let office_id = tx.office_id();
    on!(tx, |c| {
        sqlx::query(
            "INSERT INTO offices (office_id, version, removed, next_seq) VALUES ($1, $2, false, 1)
             ON CONFLICT (office_id) DO NOTHING",
        )
        .bind(office_id.0)
        .bind(UNTOLD)
        .execute(&mut *c)
        .await
        .map(drop)
    })?;
    Ok(())
}

/// Takes the feed's counter for this transaction alone; none: the office is removed.
pub(crate) async fn feed_lock(tx: &mut OfficeConn) -> DbResult<Option<i64>> {
    let office_id = tx.office_id();
    let (removed, next): (bool, i64) = on!(tx, |c| {
        sqlx::query_as(
            "INSERT INTO offices (office_id, version, removed, next_seq) VALUES ($1, $2, false, 1)
             ON CONFLICT (office_id) DO UPDATE SET next_seq = offices.next_seq
             RETURNING removed, next_seq",
        )
        .bind(office_id.0)
        .bind(UNTOLD)
        .fetch_one(&mut *c)
        .await
    })?;
    Ok((!removed).then_some(next))
}

/// Writes the counter back.
pub(crate) async fn feed_advance(tx: &mut OfficeConn, next: i64) -> DbResult<()> {
    let office_id = tx.office_id();
    on!(tx, |c| {
        sqlx::query("UPDATE offices SET next_seq = $2 WHERE office_id = $1")
            .bind(office_id.0)
            .bind(next)
            .execute(&mut *c)
            .await
            .map(drop)
    })?;
    Ok(())
}

/// The cursor of the newest event; 0: there was none yet.
pub(crate) async fn feed_end(conn: &mut OfficeConn) -> DbResult<i64> {
    let office_id = conn.office_id();
    let next: Option<i64> = on!(conn, |c| {
        sqlx::query_scalar("SELECT next_seq FROM offices WHERE office_id = $1")
            .bind(office_id.0)
            .fetch_optional(&mut *c)
            .await
    })?;
    Ok(next.unwrap_or(1) - 1)
}

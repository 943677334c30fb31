//! Tables `balances` and `ledger_entries`.

mod metering;
mod transaction;

use mi_kernel::{OfficeId, page::Page};
use mi_store::{Db, DbResult, OfficeConn, all, delete_some, exec, idempotency, one, optional};
use sqlx::FromRow;

pub(super) use self::{metering::*, transaction::*};
use super::{Balance, Entry};

/// A new office has nothing yet.
pub(super) async fn balance_insert(tx: &mut OfficeConn) -> DbResult<()> {
    exec!(tx, "INSERT INTO balances (office_id, balance, entries) VALUES ($1, 0, 0)").map(drop)
}

/// Gives what an office begins with, `taken` of it out of its account's allowance, and notes that it has it: the place of the
/// entry that explains it, if it is anything, and the balance then.
pub(super) async fn balance_begin(tx: &mut OfficeConn, amount: i64, taken: i64) -> DbResult<(i64, i64)> {
    let sql = "UPDATE balances SET balance = balance + $2, taken = $3, begun = TRUE,
             entries = entries + CASE WHEN $2 > 0 THEN 1 ELSE 0 END
         WHERE office_id = $1 RETURNING entries, balance";
    one!(tx, sql, amount, taken)
}

/// What an office began with, and what is left.
#[derive(Debug, FromRow)]
pub(super) struct Taken {
    pub(super) balance: i64,
    pub(super) reserved: i64,
    /// What it took out of its account's allowance.
    pub(super) taken: i64,
    /// Whether it has what it begins with.
    pub(super) begun: bool,
}

/// What the office has.
pub(super) async fn balance_get(conn: &mut OfficeConn) -> DbResult<Balance> {
    let found = optional!(conn, "SELECT balance, reserved FROM balances WHERE office_id = $1")?;
    Ok(found.unwrap_or_default())
}

/// Locks the balance.
pub(super) async fn balance_taken(tx: &mut OfficeConn) -> DbResult<Option<Taken>> {
    let sql = tx.pick(
        "SELECT balance, reserved, taken, begun FROM balances WHERE office_id = $1",
        "SELECT balance, reserved, taken, begun FROM balances WHERE office_id = $1 FOR NO KEY UPDATE",
    );
    optional!(tx, sql)
}

/// Changes the balance, unless it would be more than `most`: the place of the entry that explains it, and the balance then.
/// Nobody else changes it until the transaction ends.
pub(super) async fn balance_add(tx: &mut OfficeConn, amount: i64, most: i64) -> DbResult<Option<(i64, i64)>> {
    let sql = "UPDATE balances SET balance = balance + $2, entries = entries + 1,
             exhausted = exhausted AND balance + $2 - reserved <= 0
         WHERE office_id = $1 AND balance <= $3 RETURNING entries, balance";
    optional!(tx, sql, amount, most - amount)
}

/// Forgets that credits did not suffice, when there are more: who needs more still asks again. The balance is locked.
pub(super) async fn account_relieve(tx: &mut OfficeConn) -> DbResult<bool> {
    let sql = "UPDATE agent_accounts SET broke = '', version = version + 1 WHERE office_id = $1 AND agent_id IN
         (SELECT agent_id FROM agent_accounts WHERE office_id = $1 AND broke <> '' ORDER BY agent_id LIMIT $2)";
    Ok(exec!(tx, sql, MOST_WAITING)? > 0)
}

/// Writes an entry; what a request wrote is found again by it.
pub(super) async fn entry_insert(
    tx: &mut OfficeConn,
    entry: &Entry,
    request: Option<&idempotency::Request>,
) -> DbResult<()> {
    let sql = "INSERT INTO ledger_entries
             (office_id, seq, id, amount, balance_after, reason, reference, entered_at, request_key, request_digest)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)";
    exec!(
        tx,
        sql,
        entry.seq,
        entry.id,
        entry.amount,
        entry.balance_after,
        &entry.reason,
        &entry.reference,
        entry.entered_at,
        request.map(idempotency::Request::key),
        request.map(idempotency::Request::digest)
    )
    .map(drop)
}

/// What a request wrote, and the digest of what it said.
pub(super) async fn entry_by_key(tx: &mut OfficeConn, key: &str) -> DbResult<Option<(Entry, Vec<u8>)>> {
    #[derive(FromRow)]
    struct Row {
        #[sqlx(flatten)]
        entry: Entry,
        request_digest: Vec<u8>,
    }
    let sql = "SELECT * FROM ledger_entries WHERE office_id = $1 AND request_key = $2";
    let row: Option<Row> = optional!(tx, sql, key)?;
    Ok(row.map(|row| (row.entry, row.request_digest)))
}

/// Entries before a place, newest first.
pub(super) async fn entry_list(conn: &mut OfficeConn, page: &Page<i64>) -> DbResult<Vec<Entry>> {
    let sql = "SELECT * FROM ledger_entries WHERE office_id = $1 AND seq < $2 ORDER BY seq DESC LIMIT $3";
    all!(conn, sql, page.after.unwrap_or(i64::MAX), page.fetch())
}

/// Deletes a part of the entries of an office that is being deleted. True: there may be more.
pub(super) async fn entry_clear_some(db: &Db, office_id: OfficeId) -> DbResult<bool> {
    let mut tx = db.office(office_id).begin().await?;
    let sql = "DELETE FROM ledger_entries WHERE office_id = $1 AND seq IN
         (SELECT seq FROM ledger_entries WHERE office_id = $1 ORDER BY seq LIMIT $2)";
    let more = delete_some(&mut tx, &[sql]).await?;
    tx.commit().await?;
    Ok(more)
}

/// Deletes the balance, when its entries are deleted; an office that is being deleted gets no more of them.
pub(super) async fn balance_delete(tx: &mut OfficeConn) -> DbResult<()> {
    exec!(tx, "DELETE FROM balances WHERE office_id = $1").map(drop)
}

//! Table `offices`.

use mi_kernel::{
    AccountId,
    chain::{End, Ends},
};
use mi_store::{DbResult, FromRow, OfficeConn, exec, one, optional, scalar};

/// Version of a row that was made before the office role told about the office.
const UNTOLD: i64 = -1;

/// The account that owns the office; none: unknown or removed.
pub(crate) async fn office_owner(conn: &mut OfficeConn) -> DbResult<Option<AccountId>> {
    let sql = "SELECT account_id FROM offices WHERE office_id = $1 AND NOT removed";
    Ok(scalar!(conn, sql)?.flatten())
}

pub(crate) async fn office_apply(tx: &mut OfficeConn, account_id: AccountId, version: i64) -> DbResult<()> {
    let sql = "INSERT INTO offices (office_id, account_id, version, removed, next_seq) VALUES ($1, $2, $3, false, 1)
         ON CONFLICT (office_id) DO UPDATE SET account_id = excluded.account_id, version = excluded.version
         WHERE offices.version < excluded.version AND NOT offices.removed";
    exec!(tx, sql, account_id, version).map(drop)
}

/// Puts the tombstone up and waits for the transactions that hold the office by [`office_hold`].
pub(crate) async fn office_bury(tx: &mut OfficeConn) -> DbResult<()> {
    let sql = "INSERT INTO offices (office_id, version, removed, next_seq) VALUES ($1, $2, true, 1)
         ON CONFLICT (office_id) DO UPDATE SET removed = true";
    exec!(tx, sql, UNTOLD)?;
    // SQLite's writers queue anyway. On Postgres the update above does not wait for KEY SHARE, this does.
    let wait = tx.pick(
        "SELECT next_seq FROM offices WHERE office_id = $1",
        "SELECT next_seq FROM offices WHERE office_id = $1 FOR UPDATE",
    );
    let _: Option<i64> = scalar!(tx, wait)?;
    Ok(())
}

/// Keeps the office from being removed until the transaction ends; false: it is removed. Several may hold at once.
pub(crate) async fn office_hold(tx: &mut OfficeConn) -> DbResult<bool> {
    let sql = tx.pick(
        "SELECT removed FROM offices WHERE office_id = $1",
        "SELECT removed FROM offices WHERE office_id = $1 FOR KEY SHARE",
    );
    loop {
        let removed: Option<bool> = scalar!(tx, sql)?;
        match removed {
            Some(removed) => return Ok(!removed),
            None => office_expect(tx).await?,
        }
    }
}

/// A row for an office that the office role has not told about yet.
async fn office_expect(tx: &mut OfficeConn) -> DbResult<()> {
    let sql = "INSERT INTO offices (office_id, version, removed, next_seq) VALUES ($1, $2, false, 1)
         ON CONFLICT (office_id) DO NOTHING";
    exec!(tx, sql, UNTOLD).map(drop)
}

#[derive(FromRow)]
struct EndsRow {
    removed: bool,
    next_seq: i64,
    head_hash: Vec<u8>,
    anchor_seq: i64,
    anchor_hash: Vec<u8>,
}

impl EndsRow {
    fn ends(self) -> DbResult<Ends> {
        let hash = |bytes: Vec<u8>| bytes.try_into().map_err(|_| sqlx::Error::Decode("a hash has 32 bytes".into()));
        Ok(Ends {
            head: End { cursor: self.next_seq - 1, hash: hash(self.head_hash)? },
            anchor: End { cursor: self.anchor_seq, hash: hash(self.anchor_hash)? },
        })
    }
}

/// Takes the newest end of the feed for this transaction alone; none: the office is removed.
pub(crate) async fn feed_lock(tx: &mut OfficeConn) -> DbResult<Option<End>> {
    let sql = "INSERT INTO offices (office_id, version, removed, next_seq) VALUES ($1, $2, false, 1)
         ON CONFLICT (office_id) DO UPDATE SET next_seq = offices.next_seq
         RETURNING removed, next_seq, head_hash, anchor_seq, anchor_hash";
    let row: EndsRow = one!(tx, sql, UNTOLD)?;
    if row.removed { Ok(None) } else { Ok(Some(row.ends()?.head)) }
}

/// Writes the newest end back.
pub(crate) async fn feed_advance(tx: &mut OfficeConn, head: &End) -> DbResult<()> {
    let sql = "UPDATE offices SET next_seq = $2, head_hash = $3 WHERE office_id = $1";
    exec!(tx, sql, head.cursor + 1, &head.hash[..]).map(drop)
}

/// Moves the old end to an event that is deleted.
pub(crate) async fn feed_anchor(tx: &mut OfficeConn, anchor: &End) -> DbResult<()> {
    // Not back: the chain of an older installation begins after events that have no hashes.
    let sql = "UPDATE offices SET anchor_seq = $2, anchor_hash = $3 WHERE office_id = $1 AND anchor_seq < $2";
    exec!(tx, sql, anchor.cursor, &anchor.hash[..]).map(drop)
}

/// Both ends of the feed.
pub(crate) async fn feed_ends(conn: &mut OfficeConn) -> DbResult<Ends> {
    let sql = "SELECT removed, next_seq, head_hash, anchor_seq, anchor_hash FROM offices WHERE office_id = $1";
    let row: Option<EndsRow> = optional!(conn, sql)?;
    row.map_or_else(|| Ok(Ends::default()), EndsRow::ends)
}

/// The cursor of the newest event; 0: there was none yet.
pub(crate) async fn feed_end(conn: &mut OfficeConn) -> DbResult<i64> {
    Ok(feed_ends(conn).await?.head.cursor)
}

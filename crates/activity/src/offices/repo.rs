//! Table `offices`.

use std::collections::HashMap;

use mi_kernel::{
    AccountId, OfficeId, Time,
    chain::{End, Ends},
};
use mi_store::{Conn, DbResult, FromRow, OfficeConn, PlatformConn, all, exec, json_text, optional, scalar, time_text};
use serde::Serialize;

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

#[derive(FromRow)]
struct FeedRow {
    office_id: OfficeId,
    newest_time: Time,
    #[sqlx(flatten)]
    ends: EndsRow,
}

/// The newest end of a feed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Head {
    pub(crate) end: End,
    /// Of the newest event that is in a block.
    pub(crate) newest: Time,
}

/// Takes the newest ends of these feeds for this transaction alone, without those of removed offices. Spans offices: so does
/// a batch of events. They are locked in the order in which they are given: two batches do not wait for each other that have
/// the same one.
pub(crate) async fn feeds_lock(tx: &mut Conn, offices: &[OfficeId]) -> DbResult<HashMap<OfficeId, Head>> {
    let sql = tx.pick(
        "INSERT INTO offices (office_id, version, removed, next_seq)
         SELECT unhex(value, '-'), $2, false, 1 FROM json_each($1) WHERE TRUE
         ON CONFLICT (office_id) DO UPDATE SET next_seq = offices.next_seq
         RETURNING office_id, newest_time, removed, next_seq, head_hash, anchor_seq, anchor_hash",
        "INSERT INTO offices (office_id, version, removed, next_seq)
         SELECT value::uuid, $2, false, 1 FROM json_array_elements_text($1::json)
         ON CONFLICT (office_id) DO UPDATE SET next_seq = offices.next_seq
         RETURNING office_id, newest_time, removed, next_seq, head_hash, anchor_seq, anchor_hash",
    );
    let rows: Vec<FeedRow> = all!(tx, sql, json_text(offices)?, UNTOLD)?;
    let rows = rows.into_iter().filter(|row| !row.ends.removed);
    let head = |FeedRow { office_id, newest_time, ends }: FeedRow| {
        Ok((office_id, Head { end: ends.ends()?.head, newest: newest_time }))
    };
    rows.map(head).collect()
}

/// Where a feed ends, as the statement takes it that writes many.
#[derive(Serialize)]
struct Written {
    office_id: OfficeId,
    next_seq: i64,
    hash: String,
    newest_time: String,
}

/// Writes the newest ends back. Spans offices, as [`feeds_lock`] does.
pub(crate) async fn feeds_advance(tx: &mut PlatformConn, heads: &HashMap<OfficeId, Head>) -> DbResult<()> {
    let heads = heads.iter().map(|(office_id, Head { end, newest })| Written {
        office_id: *office_id,
        next_seq: end.cursor + 1,
        hash: hex::encode(end.hash),
        newest_time: time_text(*newest),
    });
    // All of them are there and conflict: a join could read all offices instead.
    let sql = tx.pick(
        "INSERT INTO offices (office_id, version, removed, next_seq, head_hash, newest_time)
         SELECT unhex(value ->> 'office_id', '-'), $2, false, value ->> 'next_seq', unhex(value ->> 'hash'),
             value ->> 'newest_time'
         FROM json_each($1) WHERE TRUE
         ON CONFLICT (office_id) DO UPDATE SET next_seq = excluded.next_seq, head_hash = excluded.head_hash,
             newest_time = excluded.newest_time",
        "INSERT INTO offices (office_id, version, removed, next_seq, head_hash, newest_time)
         SELECT office_id, $2, false, next_seq, decode(hash, 'hex'), newest_time
         FROM json_to_recordset($1::json) AS head (office_id uuid, next_seq bigint, hash text, newest_time timestamptz)
         ON CONFLICT (office_id) DO UPDATE SET next_seq = excluded.next_seq, head_hash = excluded.head_hash,
             newest_time = excluded.newest_time",
    );
    exec!(tx, sql, json_text(&heads.collect::<Vec<_>>())?, UNTOLD).map(drop)
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

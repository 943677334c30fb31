//! The row of an office's queue in `task_queues`.

use mi_kernel::Time;
use mi_store::{DbResult, FromRow, Json, OfficeConn, exec, json_text, optional, scalar};
use mi_tenancy::Office;

use super::Rest;
use crate::{status_counts::StatusCounts, sweep_clock::SweepClock};

/// Makes the new office's queue. Made with the office, since who makes it later waits for whoever has the office locked,
/// and that one for the queue.
pub(crate) async fn queue_insert(tx: &mut OfficeConn) -> DbResult<()> {
    exec!(tx, "INSERT INTO task_queues (office_id, cursor) VALUES ($1, 0)").map(drop)
}

/// A queue as a transaction finds it, locked until that ends.
#[derive(Debug, Clone, FromRow)]
pub(crate) struct Opened {
    /// The position of the newest change.
    pub(crate) cursor: i64,
    /// How many tasks have each status.
    pub(crate) counts: Json<StatusCounts>,
    /// What is left to be done about changes.
    #[sqlx(try_from = "i64")]
    pub(crate) rest: Rest,
    /// Micro-credits that the office may spend.
    pub(crate) available: i64,
    #[sqlx(flatten)]
    pub(crate) office: Office,
    #[sqlx(flatten)]
    pub(crate) sweep_clock: SweepClock,
    /// When that was, by the database's clock; none: it has no clock of its own.
    pub(crate) told: Option<Time>,
}

/// Locks the office's queue; none: it is not there.
pub(crate) async fn queue_open(tx: &mut OfficeConn) -> DbResult<Option<Opened>> {
    let sql = tx.pick(
        "SELECT q.cursor, q.counts, (SELECT count(*) FROM (SELECT 1 FROM task_consequences WHERE office_id = $1 LIMIT 1))
             + (SELECT count(*) FROM (SELECT 1 FROM task_consequences
                 WHERE office_id = $1 AND root_id IS NOT NULL LIMIT 1)) AS rest,
             b.balance - b.reserved AS available, o.*, NULL AS told, s.swept_at, s.away, s.back_at FROM task_queues AS q
         JOIN offices AS o ON o.id = q.office_id JOIN balances AS b ON b.office_id = q.office_id
         CROSS JOIN task_sweeps AS s WHERE q.office_id = $1 AND s.id = 1",
        "SELECT q.newest AS cursor, q.tally AS counts, queue_rest($1) AS rest, q.available, (q.office).*, q.told, q.swept_at,
             q.away, q.back_at FROM queue_open($1) AS q",
    );
    optional!(tx, sql)
}

/// The position of the newest change, and that of the newest one of a task that is deleted by now.
pub(crate) async fn queue_ends(conn: &mut OfficeConn) -> DbResult<(i64, i64)> {
    let found: Option<(i64, i64)> = optional!(conn, "SELECT cursor, forgotten FROM task_queues WHERE office_id = $1")?;
    Ok(found.unwrap_or_default())
}

/// Notes that tasks are deleted whose changes lie up to this position, and how many are left of each status.
pub(crate) async fn queue_forget(tx: &mut OfficeConn, position: i64, counts: &StatusCounts) -> DbResult<()> {
    let counts = json_text(counts)?;
    let sql = tx.pick(
        "UPDATE task_queues SET forgotten = max(forgotten, $2), counts = $3 WHERE office_id = $1",
        "UPDATE task_queues SET forgotten = greatest(forgotten, $2), counts = $3::json WHERE office_id = $1",
    );
    exec!(tx, sql, position, counts).map(drop)
}

/// How many tasks have each status.
pub(crate) async fn queue_status_counts(conn: &mut OfficeConn) -> DbResult<StatusCounts> {
    let found: Option<Json<StatusCounts>> = scalar!(conn, "SELECT counts FROM task_queues WHERE office_id = $1")?;
    Ok(found.map(|counts| counts.0).unwrap_or_default())
}

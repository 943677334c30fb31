//! What deletes old history reads of the office, and the statements over any log.

use mi_kernel::Time;
use mi_store::{DbResult, FromRow, OfficeConn, all, exec, optional};

use crate::Office;

/// An office whose settings stay as they are until the transaction ends.
#[derive(FromRow)]
pub(super) struct Held {
    #[sqlx(flatten)]
    pub(super) office: Office,
    /// When that was, by the database's clock; none: it has no clock of its own.
    pub(super) told: Option<Time>,
}

/// Holds the office; none: it is not there.
pub(super) async fn office_hold(tx: &mut OfficeConn) -> DbResult<Option<Held>> {
    let sql = tx.pick(
        "SELECT *, NULL AS told FROM offices WHERE id = $1",
        "SELECT *, clock_timestamp() AS told FROM offices WHERE id = $1 FOR SHARE",
    );
    optional!(tx, sql)
}

/// Place and time of the oldest entries of a log.
pub(super) async fn log_oldest(tx: &mut OfficeConn, sql: &'static str, limit: i64) -> DbResult<Vec<(i64, Time)>> {
    all!(tx, sql, limit)
}

/// Deletes the entries of a log up to a place, and answers how many those were.
pub(super) async fn log_delete(tx: &mut OfficeConn, sql: &'static str, last: i64) -> DbResult<i64> {
    exec!(tx, sql, last)
}

//! Table `task_sweeps`: one row for all offices.

use mi_kernel::Time;
use mi_store::{DbResult, FromRow, PlatformConn, exec, one};

use crate::sweep_clock::SweepClock;

/// What a look at deadlines begins with.
#[derive(FromRow)]
pub(crate) struct Seen {
    #[sqlx(flatten)]
    pub(crate) sweep_clock: SweepClock,
    /// The time by the database's clock; none: it has no clock of its own.
    pub(crate) told: Option<Time>,
    /// Whether any task has a deadline.
    pub(crate) waited_for: bool,
}

/// What is known of looks at deadlines. Spans offices: one sweep looks after all of them.
pub(crate) async fn sweep_clock_get(conn: &mut PlatformConn) -> DbResult<Seen> {
    let sql = conn.pick(
        "SELECT swept_at, away, back_at, NULL AS told, EXISTS (SELECT 1 FROM tasks WHERE deadline > '') AS waited_for
         FROM task_sweeps WHERE id = 1",
        "SELECT swept_at, away, back_at, clock_timestamp() AS told,
             EXISTS (SELECT 1 FROM tasks WHERE deadline > '-infinity') AS waited_for
         FROM task_sweeps WHERE id = 1",
    );
    one!(conn, sql)
}

/// Notes a look; false: another process noted one since the row was read. Spans offices.
pub(crate) async fn sweep_clock_put(tx: &mut PlatformConn, known: SweepClock, next: SweepClock) -> DbResult<bool> {
    let sql = tx.pick(
        "UPDATE task_sweeps SET swept_at = $1, away = $2, back_at = $3 WHERE id = 1 AND swept_at IS $4",
        "UPDATE task_sweeps SET swept_at = $1, away = $2, back_at = $3
         WHERE id = 1 AND swept_at IS NOT DISTINCT FROM $4",
    );
    Ok(exec!(tx, sql, next.swept_at, next.away, next.back_at, known.swept_at)? == 1)
}

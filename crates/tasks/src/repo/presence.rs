//! Table `task_sweeps`: one row for all offices.

use mi_kernel::Time;
use mi_store::{DbResult, PlatformConn, on};
use sqlx::FromRow;

use crate::presence::Presence;

#[derive(FromRow)]
pub(crate) struct PresenceRow {
    swept_at: Option<Time>,
    away: i64,
    back_at: Option<Time>,
}

impl From<PresenceRow> for Presence {
    fn from(row: PresenceRow) -> Self {
        Self { swept_at: row.swept_at, away: row.away, back_at: row.back_at }
    }
}

/// What a look at deadlines begins with.
#[derive(FromRow)]
pub(crate) struct Seen {
    #[sqlx(flatten, try_from = "PresenceRow")]
    pub(crate) presence: Presence,
    /// The time by the database's clock; none: it has no clock of its own.
    pub(crate) told: Option<Time>,
    /// Whether any task has a deadline.
    pub(crate) waited_for: bool,
}

/// What is known of looks at deadlines. Spans offices: one sweep looks after all of them.
pub(crate) async fn presence_get(conn: &mut PlatformConn) -> DbResult<Seen> {
    let sql = conn.pick(
        "SELECT swept_at, away, back_at, NULL AS told, EXISTS (SELECT 1 FROM tasks WHERE deadline > '') AS waited_for
         FROM task_sweeps WHERE id = 1",
        "SELECT swept_at, away, back_at, clock_timestamp() AS told,
             EXISTS (SELECT 1 FROM tasks WHERE deadline > '-infinity') AS waited_for
         FROM task_sweeps WHERE id = 1",
    );
    Ok(on!(conn, |c| sqlx::query_as(sql).fetch_one(&mut *c).await)?)
}

/// Notes a look; false: another process noted one since the row was read. Spans offices.
pub(crate) async fn presence_put(tx: &mut PlatformConn, known: Presence, next: Presence) -> DbResult<bool> {
    let sql = tx.pick(
        "UPDATE task_sweeps SET swept_at = $1, away = $2, back_at = $3 WHERE id = 1 AND swept_at IS $4",
        "UPDATE task_sweeps SET swept_at = $1, away = $2, back_at = $3
         WHERE id = 1 AND swept_at IS NOT DISTINCT FROM $4",
    );
    Ok(on!(tx, |c| {
        sqlx::query(sql)
            .bind(next.swept_at)
            .bind(next.away)
            .bind(next.back_at)
            .bind(known.swept_at)
            .execute(&mut *c)
            .await
            .map(|done| done.rows_affected() == 1)
    })?)
}

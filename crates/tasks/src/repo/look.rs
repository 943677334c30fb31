//! A look at a queue without its lock, and a write that goes by its being as it was then: two statements, each a transaction
//! of its own, where a transaction with the lock waits five times for the database.

use std::time::Duration;

use chrono::SubsecRound;
use mi_kernel::{OfficeId, TaskId, Time};
use mi_store::{Db, DbResult, FromRow, Json, json_text, on_postgres, optional, scalar_one};
use serde::Deserialize;
use sqlx::PgConnection;
use tokio::time::Instant;

use super::{
    Asked, Change, MAX_DEPENDENTS, Prefetched, Rest, Wanted,
    change::Arguments,
    queue::{Opened, queue_open},
    task_prefetch, task_put,
};
use crate::model::{Progress, Spec, Task};

/// What was seen.
#[derive(FromRow)]
struct Look {
    #[sqlx(flatten)]
    opened: Opened,
    found: Json<Vec<Found>>,
}

#[derive(Debug, Deserialize)]
struct Found {
    id: TaskId,
    cursor: i64,
    spec: Spec,
    progress: Progress,
    claimable: bool,
}

/// Looks at the queue, and asks for tasks besides; none: there is no such queue.
pub(crate) async fn queue_look(
    db: &Db,
    office_id: OfficeId,
    asked: &Asked<'_>,
) -> DbResult<Option<(Opened, Prefetched)>> {
    let mut conn = db.office(office_id).bare().await?;
    let sql = conn.pick(
        "",
        "SELECT q.newest AS cursor, q.tally AS counts, q.rest, q.available, (q.office).*, q.told, q.swept_at, q.away,
             q.back_at, q.seen AS found
         FROM queue_look($1, $2::json, $3::json, $4::jsonb, $5, $6, $7::json, $8::json, $9) AS q",
    );
    if sql.is_empty() {
        let Some(opened) = queue_open(&mut conn).await? else { return Ok(None) };
        return Ok(Some((opened, task_prefetch(&mut conn, asked).await?)));
    }
    let Wanted { agents, kinds, tools, limit, shared } = &asked.wanted;
    let tools = tools.as_deref().map(json_text).transpose()?;
    let (ids, ended) = (json_text(asked.ids)?, json_text(asked.ended)?);
    let (agents, kinds) = (json_text(agents)?, json_text(kinds)?);
    let look: Option<Look> = optional!(conn, sql, agents, kinds, tools, *limit, *shared, ids, ended, MAX_DEPENDENTS)?;
    Ok(look.map(|look| {
        let found =
            look.found.0.into_iter().map(|Found { id, cursor, spec, progress, claimable }| {
                (Task { id, cursor, spec, progress }, claimable)
            });
        (look.opened, Prefetched::of(found))
    }))
}

/// What a write goes by. Tasks are as they were as long as the position and the counts are: whoever changes one moves on, and
/// whoever deletes old ones counts them.
pub(crate) struct Fence {
    cursor: i64,
    counts: String,
    /// The office's.
    version: i64,
    away: i64,
    could_pay: Option<bool>,
}

impl Fence {
    /// What was seen. Whether the office can pay matters only where that is `metered`. None: something was left to be done
    /// about changes of tasks, which takes the lock.
    pub(crate) fn new(opened: &Opened, metered: bool) -> DbResult<Option<Self>> {
        Ok((opened.rest == Rest::None).then_some(Self {
            cursor: opened.cursor,
            counts: json_text(&opened.counts.0)?,
            version: opened.office.version,
            away: opened.sweep_clock.away,
            could_pay: metered.then_some(opened.available > 0),
        }))
    }
}

/// When it was by the database's clock, and by this process's.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Told {
    pub(crate) time: Time,
    at: Instant,
}

impl Told {
    pub(crate) fn new(time: Time) -> Self {
        Self { time, at: Instant::now() }
    }

    /// The same now.
    pub(crate) fn now(self) -> Self {
        let at = Instant::now();
        Self { time: (self.time + (at - self.at)).trunc_subsecs(6), at }
    }
}

/// A write that waited longer for its turn is not of the time that it says: what is remembered is read again then. The same
/// stands in `queue_write`.
const MOST_WAITED: Duration = Duration::from_secs(1);

/// What came of a write.
pub(crate) enum Writing {
    /// The queue is no longer as it was.
    Moved,
    /// It is durable since then; none: the database has no clock of its own.
    Done(Option<Told>),
}

/// Writes, unless the queue is no longer as it was. `remembered`: the time that is written, `told`, was not asked for in a look
/// just before.
pub(crate) async fn queue_write(
    db: &Db,
    office_id: OfficeId,
    fence: &Fence,
    change: &Change<'_>,
    (remembered, told): (bool, Option<Told>),
) -> DbResult<Writing> {
    let Fence { cursor, counts, version, away, could_pay } = fence;
    let mut conn = db.office(office_id).bare().await?;
    let sql = conn.pick(
        "",
        "SELECT queue_write($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23,
             $24, $25, $26, $27, $28)",
    );
    let write = async |conn: &mut PgConnection, arguments| {
        sqlx::query_scalar_with::<_, Option<Time>, _>(sql, arguments).fetch_one(conn).await
    };
    let done = on_postgres!(conn, |c| {
        let mut arguments = Arguments(change.arguments(office_id)?);
        arguments.add(*cursor)?;
        arguments.add(counts)?;
        arguments.add(*version)?;
        arguments.add(*away)?;
        arguments.add(*could_pay)?;
        arguments.add(told.filter(|_| remembered).map(|told| told.time))?;
        write(c, arguments.0).await
    });
    if let Some(done) = done {
        return Ok(done?.map_or(Writing::Moved, |time| Writing::Done(Some(Told::new(time)))));
    }
    drop(conn);
    let asked = Instant::now();
    let mut tx = db.office(office_id).begin_sharing("").await?;
    if remembered && asked.elapsed() > MOST_WAITED {
        return Ok(Writing::Moved);
    }
    let sql = "SELECT count(*) FROM task_queues AS q JOIN offices AS o ON o.id = q.office_id
         JOIN balances AS b ON b.office_id = q.office_id CROSS JOIN task_sweeps AS s
         WHERE q.office_id = $1 AND q.cursor = $2 AND CAST(q.counts AS text) = $3 AND o.version = $4 AND s.id = 1 AND s.away = $5
             AND coalesce($6, b.balance - b.reserved > 0) = (b.balance - b.reserved > 0)
             AND NOT EXISTS (SELECT 1 FROM task_consequences AS c WHERE c.office_id = $1)";
    let found: i64 = scalar_one!(tx, sql, *cursor, counts, *version, *away, *could_pay)?;
    if found == 0 {
        return Ok(Writing::Moved);
    }
    task_put(&mut tx, change).await?;
    tx.commit().await?;
    Ok(Writing::Done(None))
}

#[cfg(test)]
mod tests {
    use mi_kernel::{Clock, SystemClock};

    use super::*;

    #[test]
    fn the_time_that_goes_on_is_in_whole_microseconds() {
        let told = Told::new(SystemClock.now());
        for _ in 0..100 {
            let now = told.now();
            assert_eq!(now.time, now.time.trunc_subsecs(6));
            assert!(now.time >= told.time);
        }
    }
}

//! Events leave a service through its outbox: written in the transaction of the change they report, delivered at least
//! once by [`relay`], deduplicated by id at the other end.

use std::{future::Future, time::Duration};

use mi_kernel::{Error, backoff::Backoff, event::Event};
use sqlx::types::Json;
use tokio::{sync::Notify, time::Instant};

use crate::{Db, DbResult, OfficeConn, json_text, on};

const BATCH: i64 = 500;
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(50), most: Duration::from_secs(5) };
/// While events keep coming, those of this time are delivered together: the first of them at once.
const GATHER: Duration = Duration::from_millis(25);
/// How often the table is looked at without a signal: another process may have written to it.
const INTERVAL: Duration = Duration::from_secs(2);

/// The statement that adds events, for statements that do so beside something else: `$1` is the office, `$2` the list of
/// events as JSON, as [`text`] makes it.
#[macro_export]
macro_rules! outbox_insert {
    (sqlite) => {
        "INSERT INTO outbox (office_id, event) SELECT $1, value FROM json_each($2) ORDER BY key"
    };
    (postgres) => {
        "INSERT INTO outbox (office_id, event)
         SELECT $1, value FROM json_array_elements($2::json) WITH ORDINALITY AS e (value, place) ORDER BY place"
    };
}

/// Adds an event of the transaction's office to it.
///
/// # Errors
/// When the event is another office's, besides failures of the database.
pub async fn push(tx: &mut OfficeConn, event: &Event) -> DbResult<()> {
    push_all(tx, std::slice::from_ref(event)).await
}

/// Adds events of the transaction's office to it, in order, with one statement.
///
/// # Errors
/// As [`push`].
pub async fn push_all(tx: &mut OfficeConn, events: &[Event]) -> DbResult<()> {
    let (office_id, text) = (tx.office_id(), text(tx, events)?);
    let sql = tx.pick(outbox_insert!(sqlite), outbox_insert!(postgres));
    on!(tx, |c| sqlx::query(sql).bind(office_id.0).bind(text).execute(&mut *c).await.map(drop))?;
    Ok(())
}

/// Events of the connection's office as [`outbox_insert`](crate::outbox_insert) takes them.
///
/// # Errors
/// When one is another office's, or holds NUL: no column of text on Postgres takes that, so it would be refused by the feed
/// for ever, and all events behind it would wait.
pub fn text(conn: &OfficeConn, events: &[Event]) -> DbResult<String> {
    let office_id = conn.office_id();
    if let Some(event) = events.iter().find(|event| event.office_id != office_id) {
        let text = format!("an event of office {} in a transaction of office {office_id}", event.office_id);
        return Err(sqlx::Error::Encode(text.into()).into());
    }
    let text = json_text(events)?;
    match holds_nul(&text) {
        true => Err(sqlx::Error::Encode("an event holds NUL".into()).into()),
        false => Ok(text),
    }
}

/// Whether a text in this JSON holds NUL: an escape, unless its backslash is escaped itself.
fn holds_nul(json: &str) -> bool {
    let escaped = |at: usize| json[..at].bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1;
    json.match_indices(r"\u0000").any(|(at, _)| !escaped(at))
}

/// Forgets what was delivered and reads what comes next, oldest first.
async fn next(db: &Db, delivered: &[i64]) -> DbResult<Vec<(i64, Json<Event>)>> {
    const OLDEST: &str = "SELECT position, event FROM outbox ORDER BY position LIMIT $1";
    if delivered.is_empty() {
        let mut conn = db.platform().read().await?;
        return Ok(on!(conn, |c| sqlx::query_as(OLDEST).bind(BATCH).fetch_all(&mut *c).await)?);
    }
    let mut tx = db.platform().begin().await?;
    // By position, not by range: on Postgres a lower one may be committed after a higher one was read.
    let text = json_text(delivered)?;
    let sql = tx.pick(
        "DELETE FROM outbox WHERE position IN (SELECT value FROM json_each($1))",
        "DELETE FROM outbox WHERE position = ANY (ARRAY(SELECT json_array_elements_text($1::json)::bigint))",
    );
    on!(tx, |c| sqlx::query(sql).bind(text).execute(&mut *c).await.map(drop))?;
    let rows = on!(tx, |c| sqlx::query_as(OLDEST).bind(BATCH).fetch_all(&mut *c).await)?;
    tx.commit().await?;
    Ok(rows)
}

/// Delivers the outbox for ever: at each signal and at a slow pace without one. Ends only by cancellation.
pub async fn relay<F>(db: Db, wake: &Notify, mut deliver: impl FnMut(Vec<Event>) -> F)
where
    F: Future<Output = Result<(), Error>>,
{
    let mut failures = 0;
    let mut delivered = Vec::new();
    loop {
        let began = Instant::now();
        let round = async {
            let rows = next(&db, &delivered).await?;
            delivered.clear();
            let (positions, events): (Vec<i64>, Vec<Event>) = rows.into_iter().map(|(p, Json(e))| (p, e)).unzip();
            if !events.is_empty() {
                deliver(events).await?;
                delivered = positions;
            }
            Ok::<(), Error>(())
        };
        match round.await {
            Ok(()) if delivered.is_empty() => {
                failures = 0;
                let _ = tokio::time::timeout(INTERVAL, wake.notified()).await;
            }
            Ok(()) => {
                failures = 0;
                if i64::try_from(delivered.len()) != Ok(BATCH) {
                    tokio::time::sleep_until(began + GATHER).await;
                }
            }
            Err(error) => {
                failures += 1;
                tracing::warn!(target: "mi::outbox", error = %error.chain(), failures, "events wait for delivery");
                tokio::time::sleep(BACKOFF.after(failures)).await;
            }
        }
    }
}

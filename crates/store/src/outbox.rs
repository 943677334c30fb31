//! Events leave a service through its outbox: written in the transaction of the change they report, delivered at least
//! once by [`relay`], deduplicated by id at the other end.

use std::{future::Future, time::Duration};

use mi_kernel::{Error, backoff::Backoff, event::Event};
use sqlx::types::Json;
use tokio::sync::Notify;

use crate::{Db, DbResult, OfficeConn, on};

const BATCH: i64 = 500;
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(50), most: Duration::from_secs(5) };
/// How often the table is looked at without a signal: another process may have written to it.
const INTERVAL: Duration = Duration::from_secs(2);

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
    let office_id = tx.office_id();
    if let Some(event) = events.iter().find(|event| event.office_id != office_id) {
        let text = format!("an event of office {} in a transaction of office {office_id}", event.office_id);
        return Err(sqlx::Error::Encode(text.into()).into());
    }
    let sql = tx.pick(
        "INSERT INTO outbox (office_id, event) SELECT $1, value FROM json_each($2) ORDER BY key",
        "INSERT INTO outbox (office_id, event)
         SELECT $1, value FROM jsonb_array_elements($2) WITH ORDINALITY AS e (value, place) ORDER BY place",
    );
    on!(tx, |c| sqlx::query(sql).bind(office_id.0).bind(Json(events)).execute(&mut *c).await.map(drop))?;
    Ok(())
}

async fn oldest(db: &Db) -> DbResult<Vec<(i64, Json<Event>)>> {
    let mut conn = db.platform().read().await?;
    Ok(on!(conn, |c| {
        sqlx::query_as("SELECT position, event FROM outbox ORDER BY position LIMIT $1")
            .bind(BATCH)
            .fetch_all(&mut *c)
            .await
    })?)
}

async fn delete(db: &Db, positions: &[i64]) -> DbResult<()> {
    let mut tx = db.platform().begin().await?;
    // By position, not by range: on Postgres a lower one may be committed after a higher one was read.
    let text = serde_json::to_string(positions).unwrap_or_default();
    let sql = tx.pick(
        "DELETE FROM outbox WHERE position IN (SELECT value FROM json_each($1))",
        "DELETE FROM outbox WHERE position IN (SELECT value::bigint FROM json_array_elements_text($1::json))",
    );
    on!(tx, |c| sqlx::query(sql).bind(text).execute(&mut *c).await.map(drop))?;
    tx.commit().await
}

/// Delivers the outbox for ever: at each signal and at a slow pace without one. Ends only by cancellation.
pub async fn relay<F>(db: Db, wake: &Notify, mut deliver: impl FnMut(Vec<Event>) -> F)
where
    F: Future<Output = Result<(), Error>>,
{
    let mut failures = 0;
    loop {
        let delivered = async {
            let rows = oldest(&db).await?;
            let (positions, events): (Vec<i64>, Vec<Event>) = rows.into_iter().map(|(p, Json(e))| (p, e)).unzip();
            if !events.is_empty() {
                deliver(events).await?;
                delete(&db, &positions).await?;
            }
            Ok::<usize, Error>(positions.len())
        };
        match delivered.await {
            Ok(count) if i64::try_from(count) == Ok(BATCH) => failures = 0,
            Ok(_) => {
                failures = 0;
                let _ = tokio::time::timeout(INTERVAL, wake.notified()).await;
            }
            Err(error) => {
                failures += 1;
                tracing::warn!(target: "mi::outbox", error = %error.chain(), failures, "events wait for delivery");
                tokio::time::sleep(BACKOFF.after(failures)).await;
            }
        }
    }
}

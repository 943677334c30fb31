//! Events leave a service through its outbox: written in the transaction of the change they report, delivered at least
//! once by [`relay`], deduplicated by id at the other end.

use std::{future::Future, sync::Arc, time::Duration};

use mi_kernel::{Clock, Error, ErrorKind, OfficeId, backoff::Backoff, event::Event};
use tokio::{sync::Notify, time::Instant};

use crate::{Conn, Db, DbResult, Json, OfficeConn, Topic, all, exec, json_text, lease::Lease};

/// Most events that are delivered together.
const BATCH: usize = 500;
/// Bytes of events that are delivered together, as JSON; one more is added while there are fewer. On the wire they may be
/// several times as long.
const BATCH_BYTES: i64 = 4 << 20;
/// Longest event, as JSON.
const LONGEST: usize = 1 << 20;
/// Most events that are passed over because the feed refuses them for good. When it refuses more, it is not the events.
const MOST_REFUSED: usize = 1000;
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(50), most: Duration::from_secs(5) };
/// While events keep coming, those of this time are delivered together: the first of them at once.
const GATHER: Duration = Duration::from_millis(25);
/// How often the table is looked at without a signal, since another process may have written to it, and how often a process
/// asks whether it delivers.
const INTERVAL: Duration = Duration::from_secs(2);
/// Of several processes over one database one delivers: all would deliver the same. When it is gone without a word, another
/// one goes on after this time and an interval.
const LEASE: Duration = Duration::from_secs(5);

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
    let text = text(tx.office_id(), events)?;
    let sql = tx.pick(outbox_insert!(sqlite), outbox_insert!(postgres));
    exec!(tx, sql, text).map(drop)
}

/// Events of this office as [`outbox_insert`](crate::outbox_insert) takes them.
///
/// # Errors
/// When one is another office's, longer than a megabyte, or holds NUL, which no column of text on Postgres takes: the feed
/// would refuse it for ever.
pub fn text(office_id: OfficeId, events: &[Event]) -> DbResult<String> {
    if let Some(event) = events.iter().find(|event| event.office_id != office_id) {
        let text = format!("an event of office {} in a transaction of office {office_id}", event.office_id);
        return Err(sqlx::Error::Encode(text.into()).into());
    }
    let text = json_text(events)?;
    if holds_nul(&text) {
        return Err(sqlx::Error::Encode("an event holds NUL".into()).into());
    }
    if text.len() > LONGEST {
        for event in events {
            let length = json_text(event)?.len();
            if length > LONGEST {
                let text = format!("an event {} of {length} bytes is too long", event.kind);
                return Err(sqlx::Error::Encode(text.into()).into());
            }
        }
    }
    Ok(text)
}

/// Whether a text in this JSON holds NUL: an escape, unless its backslash is escaped itself.
fn holds_nul(json: &str) -> bool {
    let escaped = |at: usize| json[..at].bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1;
    json.match_indices(r"\u0000").any(|(at, _)| !escaped(at))
}

/// What comes next, oldest first: at most so many as `$1` says, without those in `$2`, until they have `$3` bytes.
macro_rules! oldest {
    ($length:literal, $refused:literal) => {
        concat!(
            "SELECT position, event FROM (
                 SELECT position, event,
                     sum(",
            $length,
            ") OVER (ORDER BY position ROWS UNBOUNDED PRECEDING) - ",
            $length,
            " AS before FROM (SELECT position, event FROM outbox WHERE position ",
            $refused,
            " ORDER BY position LIMIT $1) AS oldest
             ) AS summed WHERE before < $3 ORDER BY position"
        )
    };
}

/// What the process that delivers is told by the others: there are events.
fn topic() -> Topic {
    Topic::platform("outbox")
}

/// The lease of the process that delivers a database's events.
pub fn lease(db: Db, clock: Arc<dyn Clock>) -> Lease {
    Lease::new(db, clock, "outbox", LEASE)
}

/// Where the relay is.
struct Relay {
    db: Db,
    lease: Lease,
    /// Delivered, and not forgotten yet.
    delivered: Vec<i64>,
    /// Refused for good, and passed over until the next start: by then the other end may know better.
    refused: Vec<i64>,
    /// How many are delivered together.
    limit: usize,
}

/// When the relay goes on.
enum Pause {
    /// At once.
    None,
    /// When more may have come.
    Gather,
    /// At a signal.
    Signal,
    /// When whoever delivers may be gone. Signals are passed on.
    Elsewhere,
}

impl Relay {
    /// Forgets what was delivered and reads what comes next.
    async fn next(&mut self) -> DbResult<Vec<(i64, Json<Event>)>> {
        let (limit, refused) = (i64::try_from(self.limit).unwrap_or(i64::MAX), json_text(&self.refused)?);
        let read = async |conn: &mut Conn| {
            let sql = conn.pick(
                oldest!("octet_length(event)", "NOT IN (SELECT value FROM json_each($2))"),
                oldest!(
                    "octet_length(event::text)",
                    "<> ALL (ARRAY(SELECT json_array_elements_text($2::json)::bigint))"
                ),
            );
            all!(conn, sql, limit, refused, BATCH_BYTES)
        };
        if self.delivered.is_empty() {
            return read(&mut *self.db.platform().read().await?).await;
        }
        let mut tx = self.db.platform().begin().await?;
        // By position, not by range: on Postgres a lower one may be committed after a higher one was read.
        let sql = tx.pick(
            "DELETE FROM outbox WHERE position IN (SELECT value FROM json_each($1))",
            "DELETE FROM outbox WHERE position = ANY (ARRAY(SELECT json_array_elements_text($1::json)::bigint))",
        );
        exec!(tx, sql, json_text(&self.delivered)?)?;
        let rows = read(&mut tx).await?;
        tx.commit().await?;
        self.delivered.clear();
        Ok(rows)
    }

    async fn round<F>(&mut self, deliver: &mut impl FnMut(Vec<Event>) -> F) -> Result<Pause, Error>
    where
        F: Future<Output = Result<(), Error>>,
    {
        if !self.lease.held().await? {
            return Ok(Pause::Elsewhere);
        }
        let (positions, events): (Vec<i64>, Vec<Event>) =
            self.next().await?.into_iter().map(|(position, Json(event))| (position, event)).unzip();
        let (count, only) = (events.len(), (events.len() == 1).then(|| events[0].clone()));
        if count == 0 {
            return Ok(Pause::Signal);
        }
        match (deliver(events).await, only) {
            (Ok(()), _) => {
                let pause = if count == self.limit { Pause::None } else { Pause::Gather };
                self.delivered = positions;
                self.limit = BATCH.min(self.limit * 2);
                Ok(pause)
            }
            (Err(error), None) if for_good(&error) => {
                // One of them is in the way of the others: it is found by halves.
                tracing::warn!(target: "mi::outbox", error = %error.chain(), count, "events are refused together");
                self.limit = count / 2;
                Ok(Pause::None)
            }
            (Err(error), Some(event)) if for_good(&error) && self.refused.len() < MOST_REFUSED => {
                tracing::error!(
                    target: "mi::outbox", error = %error.chain(), event = %event.id, office = %event.office_id,
                    kind = event.kind, position = positions[0],
                    "the feed refuses an event for good: it stays in the outbox, and others go before it until the next start"
                );
                self.refused.extend(positions);
                Ok(Pause::None)
            }
            (Err(error), _) => Err(error),
        }
    }
}

/// Whether the same events would be refused again, whenever they are sent: they are wrong, or too long together. What is
/// exhausted for a while says for how long.
fn for_good(error: &Error) -> bool {
    match error.kind {
        ErrorKind::Invalid => true,
        ErrorKind::Exhausted => error.retry_after.is_none(),
        _ => false,
    }
}

/// Delivers the outbox for ever, while the [`lease`] is this process's: at each signal and at a slow pace without one. Ends
/// only by cancellation.
pub async fn relay<F>(db: Db, lease: Lease, wake: &Notify, mut deliver: impl FnMut(Vec<Event>) -> F)
where
    F: Future<Output = Result<(), Error>>,
{
    let mut failures = 0;
    let mut told = db.listen(topic()).every(INTERVAL);
    let mut relay = Relay { db, lease, delivered: Vec::new(), refused: Vec::new(), limit: BATCH };
    loop {
        let began = Instant::now();
        match relay.round(&mut deliver).await {
            Ok(pause) => {
                failures = 0;
                match pause {
                    Pause::None => {}
                    Pause::Gather => tokio::time::sleep_until(began + GATHER).await,
                    Pause::Signal => tokio::select! {
                        biased;
                        () = wake.notified() => {}
                        () = told.changed() => {}
                    },
                    Pause::Elsewhere => {
                        while tokio::time::timeout_at(began + INTERVAL, wake.notified()).await.is_ok() {
                            relay.db.notify(topic());
                        }
                    }
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

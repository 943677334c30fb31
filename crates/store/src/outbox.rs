//! Events leave a service through its outbox: written in the transaction of the change they report, delivered at least
//! once by [`relay`], deduplicated by id at the other end.

use std::{collections::VecDeque, future::Future, sync::Arc, time::Duration};

use mi_kernel::{Clock, Error, ErrorKind, OfficeId, backoff::Backoff, event::Event};
use serde_json::value::RawValue;
use tokio::{sync::Notify, time::Instant};

use crate::{Conn, Db, DbResult, OfficeConn, Topic, all, exec, json_text, lease::Lease};

/// Most events that are delivered together.
const BATCH: usize = 500;
/// Most rows that are read together.
const MOST_ROWS: i64 = 500;
/// Bytes of events that are read, and delivered, together, as JSON; one more is added while there are fewer. On the wire they may be
/// several times as long.
const BATCH_BYTES: i64 = 4 << 20;
/// Longest event, as JSON.
const LONGEST: usize = 1 << 20;
/// Most rows that are passed over because they cannot be read, or the feed refuses an event of theirs for good. When it refuses more, it is not the events.
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
/// events as JSON, as [`text`] makes it. They become one row, which holds one event or more.
#[macro_export]
macro_rules! outbox_insert {
    (sqlite) => {
        "INSERT INTO outbox (office_id, event) SELECT $1, $2 WHERE $2 <> '[]'"
    };
    (postgres) => {
        "INSERT INTO outbox (office_id, event)
         SELECT $1, event FROM (SELECT $2::json AS event OFFSET 0) AS given WHERE event::text <> '[]'"
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

/// The events of a row, each with its length as JSON, in bytes: of a list, or of a row from when each event had its own.
///
/// # Errors
/// When it holds no events.
pub fn events(row: &str) -> DbResult<Vec<(Event, usize)>> {
    let parse = || -> serde_json::Result<_> {
        let texts: Vec<&RawValue> = match row.starts_with('[') {
            true => serde_json::from_str(row)?,
            false => vec![serde_json::from_str(row)?],
        };
        texts.into_iter().map(|text| Ok((serde_json::from_str(text.get())?, text.get().len()))).collect()
    };
    parse().map_err(|error| sqlx::Error::Decode(error.into()).into())
}

/// Whether a text in this JSON holds NUL: an escape, unless its backslash is escaped itself.
fn holds_nul(json: &str) -> bool {
    let escaped = |at: usize| json[..at].bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1;
    json.match_indices(r"\u0000").any(|(at, _)| !escaped(at))
}

/// What comes next, oldest first: at most so many rows as `$1` says, without those in `$2`, until they have `$3` bytes.
macro_rules! oldest {
    ($length:literal, $refused:literal) => {
        concat!(
            "SELECT position, CAST(event AS text) FROM (
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
    // Another name than that of processes which do not read rows with several events: they stop at the first one, and would
    // keep the lease all the same. What both deliver the feed takes once.
    Lease::new(db, clock, "outbox-rows", LEASE)
}

/// An event on its way.
struct Waiting {
    event: Event,
    /// Bytes.
    length: i64,
    /// The row that it is of.
    position: i64,
    /// It is the last one of that.
    is_last: bool,
}

/// Where the relay is.
struct Relay {
    db: Db,
    lease: Lease,
    /// Read, and neither delivered nor refused yet.
    waiting: VecDeque<Waiting>,
    /// Rows that are delivered, and not forgotten yet.
    delivered: Vec<i64>,
    /// Rows that cannot be read, or of which an event is refused for good: they are passed over until the next start, by when
    /// this end or the other one may know better.
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
    async fn next(&mut self) -> DbResult<()> {
        let refused = json_text(&self.refused)?;
        let read = async |conn: &mut Conn| {
            let sql = conn.pick(
                oldest!("octet_length(event)", "NOT IN (SELECT value FROM json_each($2))"),
                oldest!(
                    "octet_length(event::text)",
                    "<> ALL (ARRAY(SELECT json_array_elements_text($2::json)::bigint))"
                ),
            );
            all!(conn, sql, MOST_ROWS, refused, BATCH_BYTES)
        };
        let rows: Vec<(i64, String)> = if self.delivered.is_empty() {
            read(&mut *self.db.platform().read().await?).await?
        } else {
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
            rows
        };
        for (position, row) in rows {
            let events = match events(&row) {
                Err(error) if self.refused.len() < MOST_REFUSED => {
                    tracing::error!(target: "mi::outbox", %error, position, "a row of the outbox cannot be read: it stays there");
                    self.refused.push(position);
                    continue;
                }
                read => read?,
            };
            let count = events.len();
            self.waiting.extend(events.into_iter().enumerate().map(|(place, (event, length))| {
                let length = i64::try_from(length).unwrap_or(i64::MAX);
                Waiting { event, length, position, is_last: place + 1 == count }
            }));
        }
        Ok(())
    }

    /// How many of those that wait are delivered together.
    fn some(&self) -> usize {
        let mut bytes = 0;
        let fits = |waiting: &&Waiting| {
            let fits = bytes < BATCH_BYTES;
            bytes += waiting.length;
            fits
        };
        self.waiting.iter().take(self.limit).take_while(fits).count()
    }

    /// The first of those that wait do so no longer.
    fn done(&mut self, count: usize) {
        let rows = self.waiting.drain(..count).filter(|waiting| waiting.is_last).map(|waiting| waiting.position);
        self.delivered.extend(rows.filter(|position| !self.refused.contains(position)));
    }

    async fn round<F>(&mut self, deliver: &mut impl FnMut(Vec<Event>) -> F) -> Result<Pause, Error>
    where
        F: Future<Output = Result<(), Error>>,
    {
        if !self.lease.held().await? {
            // Whoever delivers them reads them.
            self.waiting.clear();
            return Ok(Pause::Elsewhere);
        }
        if self.waiting.is_empty() {
            self.next().await?;
        }
        let count = self.some();
        if count == 0 {
            return Ok(Pause::Signal);
        }
        let events: Vec<Event> = self.waiting.iter().take(count).map(|waiting| waiting.event.clone()).collect();
        match deliver(events).await {
            Ok(()) => {
                self.done(count);
                let more = count == self.limit || !self.waiting.is_empty();
                self.limit = BATCH.min(self.limit * 2);
                Ok(if more { Pause::None } else { Pause::Gather })
            }
            Err(error) if for_good(&error) && count > 1 => {
                // One of them is in the way of the others: it is found by halves.
                tracing::warn!(target: "mi::outbox", error = %error.chain(), count, "events are refused together");
                self.limit = count / 2;
                Ok(Pause::None)
            }
            Err(error) if for_good(&error) && self.refused.len() < MOST_REFUSED => {
                let Waiting { event, position, .. } = &self.waiting[0];
                tracing::error!(
                    target: "mi::outbox", error = %error.chain(), event = %event.id, office = %event.office_id,
                    kind = event.kind, position,
                    "the feed refuses an event for good: it stays in the outbox, and others go before it until the next start"
                );
                self.refused.push(*position);
                self.done(1);
                Ok(Pause::None)
            }
            Err(error) => Err(error),
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
    let (waiting, delivered, refused) = Default::default();
    let mut relay = Relay { db, lease, waiting, delivered, refused, limit: BATCH };
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

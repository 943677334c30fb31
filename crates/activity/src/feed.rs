//! The activity feed of each office: every event once, in the order of its cursors.

pub(crate) mod repo;

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use futures::Stream;
use mi_kernel::{
    Clock, Error, EventId, OfficeId, Result, Time,
    chain::{self, End, Ends, Link},
    event::{Category, Event},
    page::{Page, not_ahead},
};
use mi_store::{Batch, Db, Topic};

use crate::offices::{
    Offices,
    repo::{feed_anchor, feed_end, feed_ends, feeds_advance, feeds_lock},
};

/// Events that a watch reads, and holds, at a time.
const BATCH: i64 = 200;
/// What is told of when a feed grew.
const TOPIC: &str = "feed";
/// Events deleted in one transaction.
pub(crate) const DELETE: i64 = 1000;

/// Offices looked up at a time.
const OFFICES: i64 = 1000;

/// Key of the paging: newest first by time, then by cursor.
pub(crate) type FeedKey = (Time, i64);

/// An event and its place in the feed.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct FeedEvent {
    /// What happened.
    pub(crate) event: Event,
    /// Position, from 1 without gaps.
    pub(crate) cursor: i64,
    /// Hash of the event before.
    pub(crate) prev_hash: Vec<u8>,
    /// Hash of this event.
    pub(crate) hash: Vec<u8>,
}

/// What a reader wants to see.
#[derive(Debug, Clone)]
pub(crate) struct Filter {
    /// This agent; empty: all.
    pub(crate) agent: String,
    /// These categories; empty: all.
    pub(crate) categories: Vec<Category>,
}

impl Filter {
    fn takes(&self, event: &Event) -> bool {
        (self.agent.is_empty() || self.agent == event.agent)
            && (self.categories.is_empty() || self.categories.contains(&event.category))
    }
}

/// The feeds.
#[derive(Clone)]
pub(crate) struct Feed {
    db: Db,
    clock: Arc<dyn Clock>,
    offices: Offices,
    retention_age: Duration,
}

impl Feed {
    pub(crate) fn new(db: Db, clock: Arc<dyn Clock>, offices: Offices, retention_age: Duration) -> Self {
        Self { db, clock, offices, retention_age }
    }

    /// Takes events in. Those already there, those of removed offices and those past the retention time are left out.
    pub(crate) async fn append(&self, events: Vec<Event>) -> Result<()> {
        // Kept events are younger than this, so forgetting old ones cannot let a late delivery in a second time.
        let oldest = self.clock.now() - self.retention_age;
        // Offices are locked in the order of their ids: two batches cannot wait for each other.
        let mut by_office: BTreeMap<OfficeId, Vec<Event>> = BTreeMap::new();
        for event in events.into_iter().filter(|event| event.time >= oldest) {
            by_office.entry(event.office_id).or_default().push(event);
        }
        if by_office.is_empty() {
            return Ok(());
        }
        // Platform-wide: one batch, committed once, brings events of several offices.
        let mut batch = self.db.platform().begin().await?;
        let offices: Vec<OfficeId> = by_office.keys().copied().collect();
        let mut ends = feeds_lock(&mut batch, &offices).await?;
        // What is there is known for certain only now that nobody else adds to these feeds.
        let ids: Vec<EventId> = by_office.values().flatten().map(|event| event.id).collect();
        let mut known = repo::event_known(&mut batch, &ids).await?;
        let (mut heads, mut links) = (HashMap::new(), Vec::with_capacity(ids.len()));
        for event in by_office.into_values().flatten() {
            let Some(end) = ends.get_mut(&event.office_id) else { continue };
            if known.insert(event.id) {
                let (cursor, prev_hash) = (end.cursor + 1, end.hash);
                *end = End { cursor, hash: chain::hash(&event, cursor, &prev_hash) };
                heads.insert(event.office_id, *end);
                links.push(Link { event, cursor, prev_hash: prev_hash.to_vec(), hash: end.hash.to_vec() });
            }
        }
        if !links.is_empty() {
            feeds_advance(&mut batch, &heads).await?;
            repo::event_insert(&mut batch, &links).await?;
        }
        batch.commit().await?;
        offices.into_iter().for_each(|office_id| self.db.notify(Topic::of(office_id, TOPIC)));
        Ok(())
    }

    /// One page, newest first, and the token of the next.
    pub(crate) async fn list(
        &self,
        office_id: OfficeId,
        filter: &Filter,
        span: Range<Time>,
        page: &Page<FeedKey>,
    ) -> Result<(Vec<FeedEvent>, String)> {
        let mut conn = self.db.office(office_id).read().await?;
        let rows = repo::event_list(&mut conn, filter, &span, page).await?;
        Ok(page.finish(rows, |row| (row.event.time, row.cursor)))
    }

    /// Events after a cursor, for ever; none: what is taken in after this call. Holds one batch at a time and reads the
    /// next when that is handed on, so a slow reader costs no more than that.
    pub(crate) async fn watch(
        &self,
        office_id: OfficeId,
        filter: Filter,
        after: Option<i64>,
    ) -> Result<impl Stream<Item = Result<FeedEvent>> + Send + use<>> {
        let changes = self.db.listen(Topic::of(office_id, TOPIC));
        let newest = feed_end(&mut self.db.office(office_id).read().await?).await?;
        let mut position = after.unwrap_or(newest);
        not_ahead(position, newest)?;
        let feed = self.clone();
        Ok(changes.follow(async move || {
            let mut found = repo::event_after(&mut feed.db.office(office_id).read().await?, position, BATCH).await?;
            // Cursors have no gaps, so the first one tells; whoever begins at the beginning misses nothing.
            if position > 0 && found.first().is_some_and(|first| first.cursor > position + 1) {
                let text = "events after this cursor are no longer kept; begin anew, with cursor 0";
                return Err(Error::precondition("CURSOR_EXPIRED", text));
            }
            match found.last() {
                Some(last) => position = last.cursor,
                None => feed.offices.still_there(office_id).await?,
            }
            let more = i64::try_from(found.len()) == Ok(BATCH);
            found.retain(|event| filter.takes(&event.event));
            Ok(Batch { found, more })
        }))
    }

    /// Both ends of an office's chain.
    pub(crate) async fn ends(&self, office_id: OfficeId) -> Result<Ends> {
        Ok(feed_ends(&mut self.db.office(office_id).read().await?).await?)
    }

    /// Deletes events past the retention time. What is left of a feed has no gaps: an event goes when all before it go.
    pub(crate) async fn retain(&self) -> Result<()> {
        let oldest = self.clock.now() - self.retention_age;
        let mut after = None;
        loop {
            let mut conn = self.db.platform().read().await?;
            let offices = repo::event_offices_before(&mut conn, after, oldest, OFFICES).await?;
            drop(conn);
            for office_id in &offices {
                if let Err(error) = self.retain_office(*office_id, oldest).await {
                    tracing::warn!(
                        target: "mi::activity", office = %office_id, error = %error.chain(), "old events are not deleted yet"
                    );
                }
            }
            match offices.last() {
                Some(last) if i64::try_from(offices.len()) == Ok(OFFICES) => after = Some(*last),
                _ => return Ok(()),
            }
        }
    }

    async fn retain_office(&self, office_id: OfficeId, oldest: Time) -> Result<()> {
        while self.retain_batch(office_id, oldest).await? {}
        Ok(())
    }

    /// Deletes one batch and moves the anchor of the chain after it; true: there may be more.
    async fn retain_batch(&self, office_id: OfficeId, oldest: Time) -> Result<bool> {
        let mut tx = self.db.office(office_id).begin().await?;
        if feeds_lock(&mut tx, &[office_id]).await?.is_empty() {
            return Ok(false);
        }
        let Some((anchor, deleted)) = repo::event_delete_before(&mut tx, oldest, DELETE).await? else {
            return Ok(false);
        };
        feed_anchor(&mut tx, &anchor).await?;
        tx.commit().await?;
        Ok(deleted == DELETE)
    }

    /// Deletes events of an office that was buried, at most `batches` batches; true: none is left.
    pub(crate) async fn remove(&self, office_id: OfficeId, batches: usize) -> Result<bool> {
        self.db.notify_office(office_id);
        for _ in 0..batches {
            let mut tx = self.db.office(office_id).begin().await?;
            let deleted = repo::event_delete_office(&mut tx, DELETE).await?;
            tx.commit().await?;
            if deleted < DELETE {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

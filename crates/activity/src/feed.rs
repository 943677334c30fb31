//! The activity feed of each office: every event once, in the order of its cursors.

pub(crate) mod block;
mod blocks;
pub(crate) mod rows;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    ops::Range,
    sync::Arc,
    time::Duration,
};

use chrono::SubsecRound;
use futures::Stream;
use mi_kernel::{
    Clock, Error, EventId, OfficeId, Result, Time,
    chain::{self, End, Ends, Link},
    event::{Category, Event},
    page::{Page, not_ahead},
};
use mi_proto::v1::ActivityEvent;
use mi_rpc::convert;
use mi_store::{Batch, Db, Topic};

use crate::offices::{
    Offices,
    repo::{Head, feed_anchor, feed_end, feed_ends, feeds_advance, feeds_lock},
};

/// Events, of those that are not in blocks, that a watch reads and holds at a time.
const BATCH: i64 = 200;
/// What is told of when a feed grew.
const TOPIC: &str = "feed";
/// Events that are not in blocks, and blocks, deleted in one transaction.
pub(crate) const DELETE: i64 = 1000;
const DELETE_BLOCKS: i64 = 100;

/// Offices looked up at a time.
const OFFICES: i64 = 1000;

/// Key of the paging: newest first by time, then by cursor.
pub(crate) type FeedKey = (Time, i64);

/// The key of an event.
fn key(event: &ActivityEvent) -> FeedKey {
    let time = event.time.as_ref().and_then(|time| convert::time("time", time).ok());
    (time.unwrap_or_default(), event.cursor)
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
    fn takes(&self, event: &ActivityEvent) -> bool {
        (self.agent.is_empty() || self.agent == event.agent)
            && (self.categories.is_empty()
                || self.categories.iter().any(|category| category.as_str() == event.category))
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
        for mut event in events.into_iter().filter(|event| event.time >= oldest) {
            // What both databases can hold.
            event.time = event.time.trunc_subsecs(6);
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
        let is_doubtful = |event: &&Event| ends.get(&event.office_id).is_some_and(|head| event.time <= head.newest);
        let doubtful: Vec<&Event> = by_office.values().flatten().filter(is_doubtful).collect();
        let mut known = blocks::event_known(&mut batch, &ids, &doubtful).await?;
        let (mut heads, mut links) = (HashMap::new(), Vec::with_capacity(ids.len()));
        for event in by_office.into_values().flatten() {
            let Some(head) = ends.get_mut(&event.office_id) else { continue };
            if known.insert(event.id) {
                let (cursor, prev_hash) = (head.end.cursor + 1, head.end.hash);
                let hash = chain::hash(&event, cursor, &prev_hash);
                *head = Head { end: End { cursor, hash }, newest: head.newest.max(event.time) };
                heads.insert(event.office_id, *head);
                links.push(Link { event, cursor, prev_hash: prev_hash.to_vec(), hash: hash.to_vec() });
            }
        }
        if !links.is_empty() {
            feeds_advance(&mut batch, &heads).await?;
            blocks::block_insert(&mut batch, &block::pack(links)?).await?;
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
    ) -> Result<(Vec<ActivityEvent>, String)> {
        let mut conn = self.db.office(office_id).read().await?;
        let mut events = blocks::event_list(&mut conn, filter, &span, page).await?;
        events.extend(rows::event_list(&mut conn, filter, &span, page).await?);
        events.sort_by_key(|event| Reverse(key(event)));
        Ok(page.finish(events, key))
    }

    /// Events after a cursor, for ever; none: what is taken in after this call. Holds one batch at a time and reads the
    /// next when that is handed on, so a slow reader costs no more than that.
    pub(crate) async fn watch(
        &self,
        office_id: OfficeId,
        filter: Filter,
        after: Option<i64>,
    ) -> Result<impl Stream<Item = Result<ActivityEvent>> + Send + use<>> {
        let changes = self.db.listen(Topic::of(office_id, TOPIC));
        let newest = feed_end(&mut self.db.office(office_id).read().await?).await?;
        let mut position = after.unwrap_or(newest);
        not_ahead(position, newest)?;
        let feed = self.clone();
        Ok(changes.follow(async move || {
            let (mut found, more) = feed.after(office_id, position).await?;
            // Cursors have no gaps, so the first one tells; whoever begins at the beginning misses nothing.
            if position > 0 && found.first().is_some_and(|first| first.cursor > position + 1) {
                let text = "events after this cursor are no longer kept; begin anew, with cursor 0";
                return Err(Error::precondition("CURSOR_EXPIRED", text));
            }
            match found.last() {
                Some(last) => position = last.cursor,
                None => feed.offices.still_there(office_id).await?,
            }
            found.retain(|event| filter.takes(event));
            Ok(Batch { found, more })
        }))
    }

    /// Events after a cursor, oldest first, and whether there are more.
    async fn after(&self, office_id: OfficeId, cursor: i64) -> Result<(Vec<ActivityEvent>, bool)> {
        let mut conn = self.db.office(office_id).read().await?;
        let (mut found, more) = blocks::event_after(&mut conn, cursor).await?;
        let rows = rows::event_after(&mut conn, cursor, BATCH).await?;
        let full = i64::try_from(rows.len()) == Ok(BATCH);
        // Nothing is handed on behind a place where there may be more.
        let last =
            |events: &[ActivityEvent], more: bool| events.last().filter(|_| more).map_or(i64::MAX, |it| it.cursor);
        let end = last(&found, more).min(last(&rows, full));
        found.extend(rows);
        found.retain(|event| event.cursor <= end);
        found.sort_by_key(|event| event.cursor);
        Ok((found, more || full))
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
            let offices = rows::event_offices_before(&mut conn, after, oldest, OFFICES).await?;
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
        let anchor = match rows::event_delete_before(&mut tx, oldest, DELETE).await? {
            Some(anchor) => Some(anchor),
            None => blocks::block_delete_before(&mut tx, oldest, DELETE_BLOCKS).await?,
        };
        let Some(anchor) = anchor else { return Ok(false) };
        feed_anchor(&mut tx, &anchor).await?;
        tx.commit().await?;
        Ok(true)
    }

    /// Deletes events of an office that was buried, at most `batches` batches; true: none is left.
    pub(crate) async fn remove(&self, office_id: OfficeId, batches: usize) -> Result<bool> {
        self.db.notify_office(office_id);
        for _ in 0..batches {
            let mut tx = self.db.office(office_id).begin().await?;
            let more = rows::event_delete_office(&mut tx, DELETE).await? > 0
                || blocks::block_delete_some(&mut tx, DELETE_BLOCKS).await?;
            tx.commit().await?;
            if !more {
                return Ok(true);
            }
        }
        Ok(false)
    }
}

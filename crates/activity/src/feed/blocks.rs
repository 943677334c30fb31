//! Tables `feed_blocks` and `feed_agents`.

use std::{collections::HashSet, ops::Range};

use mi_kernel::{
    EventId, OfficeId, Result, Time,
    chain::{self, End},
    event::{Category, Event},
    page::Page,
};
use mi_proto::v1::ActivityEvent;
use mi_store::{
    DbResult, FromRow, OfficeConn, PlatformConn, all, exec, json_text, on_postgres, optional, scalar, scalars,
    time_text,
};
use serde::Serialize;
use sqlx::PgConnection;

use super::{
    FeedKey, Filter,
    block::{Block, SPAN, mask, unpack},
    key,
};
use crate::span::LAST;

/// Blocks that are read at a time; a list that has to go on reads twice as many each time, up to the other.
const READ: i64 = 16;
const MOST_READ: i64 = 128;

/// What is read of a block.
#[derive(FromRow)]
struct Row {
    last_time: Time,
    last_seq: i64,
    raw_bytes: i64,
    events: Vec<u8>,
}

impl Row {
    fn events(&self) -> Result<Vec<ActivityEvent>> {
        unpack(&self.events, self.raw_bytes)
    }
}

/// An event that may be there already, as the statement takes it that looks for many.
#[derive(Serialize)]
struct Doubtful {
    event_id: EventId,
    office_id: OfficeId,
    time: String,
    until: String,
}

/// Those of these events that are there already; only the `doubtful` ones are looked for in blocks. Spans offices: so does the
/// batch that they came in.
pub(crate) async fn event_known(
    conn: &mut PlatformConn,
    events: &[EventId],
    doubtful: &[&Event],
) -> DbResult<HashSet<EventId>> {
    let sql = conn.pick(
        "SELECT event_id FROM events WHERE event_id IN (SELECT unhex(value, '-') FROM json_each($1))
         UNION ALL SELECT unhex(d.value ->> 'event_id', '-') FROM json_each($2) AS d WHERE EXISTS (
             SELECT 1 FROM feed_blocks AS b WHERE b.office_id = unhex(d.value ->> 'office_id', '-')
             AND b.last_time >= d.value ->> 'time' AND b.last_time <= d.value ->> 'until'
             AND b.first_time <= d.value ->> 'time' AND instr(b.ids, unhex(d.value ->> 'event_id', '-')) > 0)",
        // Whether there is any is asked first, and once: most installations have none.
        "SELECT event_id FROM events WHERE EXISTS (SELECT 1 FROM events ORDER BY event_id LIMIT 1)
         AND event_id = ANY (ARRAY(SELECT json_array_elements_text($1::json)::uuid))
         UNION ALL SELECT d.event_id
         FROM json_to_recordset($2::json) AS d (event_id uuid, office_id uuid, time timestamptz, until timestamptz),
         LATERAL (SELECT 1 FROM feed_blocks AS b WHERE b.office_id = d.office_id
             AND b.last_time >= d.time AND b.last_time <= d.until AND b.first_time <= d.time
             AND position(uuid_send(d.event_id) IN b.ids) > 0 LIMIT 1 OFFSET 0) AS found",
    );
    let doubtful = doubtful.iter().map(|event| Doubtful {
        event_id: event.id,
        office_id: event.office_id,
        time: time_text(event.time),
        until: time_text(event.time + SPAN),
    });
    Ok(scalars!(conn, sql, json_text(events)?, json_text(&doubtful.collect::<Vec<_>>())?)?.into_iter().collect())
}

/// A block as SQLite's writing statement takes it: many of them are one JSON text, of which it reads ids, times and bytes as text.
#[derive(Serialize)]
struct Written<'a> {
    office_id: OfficeId,
    last_seq: i64,
    first_time: String,
    last_time: String,
    categories: i64,
    agents: String,
    ids: String,
    raw_bytes: i64,
    events: String,
    of_agents: Vec<(&'a str, i64)>,
}

impl<'a> Written<'a> {
    fn new(block: &'a Block) -> DbResult<Self> {
        Ok(Self {
            office_id: block.office_id,
            last_seq: block.last_seq,
            first_time: time_text(block.first_time),
            last_time: time_text(block.last_time),
            categories: block.categories(),
            agents: agents(block)?,
            ids: hex::encode(&block.ids),
            raw_bytes: block.raw_bytes,
            events: hex::encode(&block.data),
            of_agents: of_agents(block).collect(),
        })
    }
}

/// Whose events it has. What concerns no agent is looked for by time alone.
fn of_agents(block: &Block) -> impl Iterator<Item = (&str, i64)> {
    block.agents.iter().filter(|(agent, _)| !agent.is_empty()).map(|(agent, categories)| (agent.as_str(), *categories))
}

fn agents(block: &Block) -> DbResult<String> {
    json_text(&of_agents(block).map(|(agent, _)| agent).collect::<Vec<_>>())
}

/// Adds blocks. Spans offices: so does the batch that their events came in.
pub(crate) async fn block_insert(tx: &mut PlatformConn, blocks: &[Block]) -> DbResult<()> {
    let sql = tx.pick(
        // Materialised: `json_each` would write each row out once for every column that is read from it.
        "WITH v AS MATERIALIZED (SELECT value AS block FROM json_each($1))
         INSERT INTO feed_blocks
             (office_id, last_seq, first_time, last_time, categories, agents, ids, raw_bytes, events)
         SELECT unhex(block ->> 'office_id', '-'), block ->> 'last_seq', block ->> 'first_time', block ->> 'last_time',
             block ->> 'categories', block ->> 'agents', unhex(block ->> 'ids'), block ->> 'raw_bytes',
             unhex(block ->> 'events') FROM v;
         INSERT INTO feed_agents (office_id, agent, last_time, last_seq, categories)
         SELECT unhex(b.value ->> 'office_id', '-'), a.value ->> 0, b.value ->> 'last_time', b.value ->> 'last_seq',
             a.value ->> 1 FROM json_each($1) AS b, json_each(b.value, '$.of_agents') AS a",
        "WITH written AS (INSERT INTO feed_blocks
             (office_id, last_seq, first_time, last_time, categories, agents, ids, raw_bytes, events)
         SELECT v.office_id, v.last_seq, v.first_time, v.last_time, v.categories, v.agents::json, v.ids, v.raw_bytes, v.events
         FROM unnest($1::uuid[], $2::bigint[], $3::timestamptz[], $4::timestamptz[], $5::bigint[], $6::text[], $7::bytea[],
             $8::bigint[], $9::bytea[])
             AS v (office_id, last_seq, first_time, last_time, categories, agents, ids, raw_bytes, events))
         INSERT INTO feed_agents (office_id, agent, last_time, last_seq, categories)
         SELECT * FROM unnest($10::uuid[], $11::text[], $12::timestamptz[], $13::bigint[], $14::bigint[])",
    );
    let of_agents = || blocks.iter().flat_map(|block| of_agents(block).map(move |agent| (block, agent)));
    let insert = async |conn: &mut PgConnection, texts: Vec<String>| {
        let query = sqlx::query(sql)
            .bind(blocks.iter().map(|block| block.office_id).collect::<Vec<_>>())
            .bind(blocks.iter().map(|block| block.last_seq).collect::<Vec<_>>())
            .bind(blocks.iter().map(|block| block.first_time).collect::<Vec<_>>())
            .bind(blocks.iter().map(|block| block.last_time).collect::<Vec<_>>())
            .bind(blocks.iter().map(Block::categories).collect::<Vec<_>>())
            .bind(texts)
            .bind(blocks.iter().map(|block| &block.ids[..]).collect::<Vec<_>>())
            .bind(blocks.iter().map(|block| block.raw_bytes).collect::<Vec<_>>())
            .bind(blocks.iter().map(|block| &block.data[..]).collect::<Vec<_>>())
            .bind(of_agents().map(|(block, _)| block.office_id).collect::<Vec<_>>())
            .bind(of_agents().map(|(_, (agent, _))| agent).collect::<Vec<_>>())
            .bind(of_agents().map(|(block, _)| block.last_time).collect::<Vec<_>>())
            .bind(of_agents().map(|(block, _)| block.last_seq).collect::<Vec<_>>())
            .bind(of_agents().map(|(_, (_, categories))| categories).collect::<Vec<_>>());
        query.execute(conn).await
    };
    match on_postgres!(tx, |c| insert(c, blocks.iter().map(agents).collect::<DbResult<_>>()?).await) {
        Some(done) => done.map(drop),
        None => {
            let written = blocks.iter().map(Written::new).collect::<DbResult<Vec<_>>>()?;
            exec!(tx, sql, json_text(&written)?).map(drop)
        }
    }
}

/// The events of one page and one more, newest first.
pub(crate) async fn event_list(
    conn: &mut OfficeConn,
    filter: &Filter,
    span: &Range<Time>,
    page: &Page<FeedKey>,
) -> Result<Vec<ActivityEvent>> {
    // Two texts, because a condition that may be off keeps either database from using the index of the agent. The second
    // compares rows with the agent in front, which that index alone has in order: Postgres would else go by the time at
    // times, over the blocks of all others.
    let sql = if filter.agent.is_empty() {
        "SELECT last_time, last_seq, raw_bytes, events FROM feed_blocks
         WHERE office_id = $1 AND $2 = '' AND last_time >= $3 AND (last_time, last_seq) < ($4, $5)
         AND first_time <= $6 AND (categories & $7) <> 0
         ORDER BY last_time DESC, last_seq DESC LIMIT $8"
    } else {
        "SELECT b.last_time, b.last_seq, b.raw_bytes, b.events FROM feed_agents AS a
         JOIN feed_blocks AS b ON b.office_id = a.office_id AND b.last_seq = a.last_seq
         WHERE a.office_id = $1 AND (a.agent, a.last_time) >= ($2, $3) AND (a.agent, a.last_time, a.last_seq) < ($2, $4, $5)
         AND b.first_time <= $6 AND (a.categories & $7) <> 0
         ORDER BY a.agent DESC, a.last_time DESC, a.last_seq DESC LIMIT $8"
    };
    let (before, fetch) =
        (page.after.unwrap_or((span.end, i64::MAX)), usize::try_from(page.fetch()).unwrap_or_default());
    let before = before.min((span.end, i64::MIN));
    let wanted = mask(if filter.categories.is_empty() { Category::ALL } else { &filter.categories });
    // A block has events of before a time when it begins before it, and ends no later than that.
    let (mut next, mut most) = (((before.0 + SPAN).min(LAST), i64::MAX), READ);
    let mut found: Vec<ActivityEvent> = Vec::new();
    loop {
        let (agent, start, (time, seq)) = (&filter.agent, span.start, next);
        let rows: Vec<Row> = all!(conn, sql, agent, start, time, seq, before.0, wanted, most)?;
        for row in &rows {
            let takes =
                |event: &ActivityEvent| key(event) < before && key(event).0 >= span.start && filter.takes(event);
            found.extend(row.events()?.into_iter().filter(takes));
        }
        found.sort_by_key(|event| std::cmp::Reverse(key(event)));
        let Some(last) = rows.last().filter(|_| i64::try_from(rows.len()) == Ok(most)) else { break };
        next = (last.last_time, last.last_seq);
        most = (most * 2).min(MOST_READ);
        // Nothing that is still to be read comes before these.
        if found.partition_point(|event| key(event) >= next) >= fetch {
            break;
        }
    }
    found.truncate(fetch);
    Ok(found)
}

/// Events after a cursor, oldest first, and whether there are more.
pub(crate) async fn event_after(conn: &mut OfficeConn, seq: i64) -> Result<(Vec<ActivityEvent>, bool)> {
    let sql = "SELECT last_time, last_seq, raw_bytes, events FROM feed_blocks
         WHERE office_id = $1 AND last_seq > $2 ORDER BY last_seq LIMIT $3";
    let rows: Vec<Row> = all!(conn, sql, seq, READ)?;
    let mut found = Vec::new();
    for row in &rows {
        found.extend(row.events()?.into_iter().filter(|event| event.cursor > seq));
    }
    Ok((found, i64::try_from(rows.len()) == Ok(READ)))
}

/// Deletes the first blocks of the feed up to the first that has an event of not before the time, and before `events` that are
/// not in blocks; the last event deleted; none: there was none.
pub(crate) async fn block_delete_before(tx: &mut OfficeConn, time: Time, limit: i64) -> Result<Option<End>> {
    // The first young one is looked for in the batch alone, not among all that are kept.
    let sql =
        "WITH batch AS (SELECT last_seq, last_time FROM feed_blocks WHERE office_id = $1 ORDER BY last_seq LIMIT $3)
         SELECT last_seq FROM batch
         WHERE last_seq < COALESCE((SELECT min(last_seq) FROM batch WHERE last_time >= $2), 9223372036854775807)
         AND last_seq < COALESCE((SELECT min(seq) FROM events WHERE office_id = $1), 9223372036854775807)
         ORDER BY last_seq DESC LIMIT 1";
    let Some(last_seq): Option<i64> = scalar!(tx, sql, time, limit)? else { return Ok(None) };
    let sql = "SELECT last_time, last_seq, raw_bytes, events FROM feed_blocks WHERE office_id = $1 AND last_seq = $2";
    let row: Option<Row> = optional!(tx, sql, last_seq)?;
    let last = row.map(|row| row.events()).transpose()?.and_then(|events| events.into_iter().last());
    let hash = last.and_then(|last| chain::Hash::try_from(&last.hash[..]).ok()).unwrap_or(chain::START);
    block_delete(tx, last_seq).await?;
    Ok(Some(End { cursor: last_seq, hash }))
}

/// Deletes the first blocks of the feed; false: there was none.
pub(crate) async fn block_delete_some(tx: &mut OfficeConn, limit: i64) -> DbResult<bool> {
    let sql = "SELECT max(last_seq) FROM (SELECT last_seq FROM feed_blocks WHERE office_id = $1 ORDER BY last_seq LIMIT $2) AS b";
    let last_seq: Option<Option<i64>> = scalar!(tx, sql, limit)?;
    match last_seq.flatten() {
        Some(last_seq) => block_delete(tx, last_seq).await.map(|()| true),
        None => Ok(false),
    }
}

async fn block_delete(tx: &mut OfficeConn, last_seq: i64) -> DbResult<()> {
    let sql = tx.pick(
        "DELETE FROM feed_agents WHERE office_id = $1 AND (agent, last_time, last_seq) IN (
             SELECT a.value, b.last_time, b.last_seq FROM feed_blocks AS b, json_each(b.agents) AS a
             WHERE b.office_id = $1 AND b.last_seq <= $2)",
        "DELETE FROM feed_agents AS d USING feed_blocks AS b, json_array_elements_text(b.agents) AS a (agent)
         WHERE b.office_id = $1 AND b.last_seq <= $2
         AND d.office_id = $1 AND d.agent = a.agent AND d.last_time = b.last_time AND d.last_seq = b.last_seq",
    );
    exec!(tx, sql, last_seq)?;
    exec!(tx, "DELETE FROM feed_blocks WHERE office_id = $1 AND last_seq <= $2", last_seq).map(drop)
}

//! Every statement of the role goes by an index.

use mi_testkit::{Allowed, Plans};

const CATEGORIES: &str = "passes over events of other categories within the span that is asked for";

/// Statements that break the rule.
const ALLOWED: &[Allowed] = &[
    ("SELECT * FROM events WHERE office_id = $1 AND $2 = ''...", CATEGORIES),
    ("SELECT * FROM events WHERE office_id = $1 AND (agent, time)...", CATEGORIES),
    ("SELECT last_time, last_seq, raw_bytes, events FROM feed_blocks WHERE office_id = $1 AND $2 = ''...", CATEGORIES),
    ("SELECT b.last_time, b.last_seq, b.raw_bytes, b.events FROM feed_agents AS a JOIN...", CATEGORIES),
    (
        "SELECT event_id FROM events WHERE EXISTS (SELECT 1 FROM events ORDER BY event_id LIMIT 1) AND event_id = ANY...",
        "looks through the blocks of two seconds",
    ),
    (
        "SELECT office_id FROM offices WHERE office_id > $1 AND (EXISTS...",
        "goes over all offices, and asks for each by an index",
    ),
    ("SELECT s.office_id, s.agent_id FROM log_streams s JOIN...", "adds up the blocks that are not compacted yet"),
];

#[tokio::test]
async fn every_statement_goes_by_an_index() {
    let plans = Plans { crates: &["activity"], allowed: ALLOWED, ..Plans::default() };
    plans.check("activity", crate::MIGRATIONS).await;
}

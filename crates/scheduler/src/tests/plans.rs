//! Every statement of the role goes by an index.

use mi_testkit::{Allowed, Plans};

/// Tables of which an office has few rows.
const FEW_PER_OFFICE: &[Allowed] =
    &[("agents", "has a quota"), ("hires", "holds those of the last hour, which have a limit")];
const PARTS: &str = "removes what a removed office has of its agents, in parts";
const POSTGRES: &str = "is run on Postgres alone, over tables of a few rows";

/// Statements that break the rule.
const ALLOWED: &[Allowed] = &[
    ("SELECT clock_timestamp()", POSTGRES),
    ("UPDATE schedulers SET...", POSTGRES),
    ("INSERT INTO schedulers...", POSTGRES),
    ("DELETE FROM schedulers...", POSTGRES),
    ("SELECT id FROM schedulers...", POSTGRES),
    ("SELECT shard, epoch FROM shards...", POSTGRES),
    ("SELECT EXISTS (SELECT 1 FROM shards...", POSTGRES),
    ("UPDATE shards SET...", POSTGRES),
    ("SELECT shard FROM shards...", POSTGRES),
    ("SELECT agent_id, key_id FROM former_keys WHERE revoked_at >= $1", "reads what was revoked since a moment ago"),
    ("SELECT CAST(s.seq AS TEXT)...", "reads SQLite's own list of the few tables that count their rows"),
    ("DELETE FROM former_keys WHERE office_id = $1...", PARTS),
    ("DELETE FROM agent_keys WHERE office_id = $1...", PARTS),
    ("DELETE FROM admissions WHERE office_id = $1...", PARTS),
];

#[tokio::test]
async fn every_statement_goes_by_an_index() {
    let plans = Plans {
        crates: &["scheduler"],
        few: &["cluster", "schedulers", "shards"],
        few_per_office: FEW_PER_OFFICE,
        allowed: ALLOWED,
        functions: &[("roster_changed", "INSERT INTO roster_changes (office_id, changed_ms) VALUES ($1, $2::bigint)")],
        ..Plans::default()
    };
    plans.check("scheduler", crate::MIGRATIONS).await;
}

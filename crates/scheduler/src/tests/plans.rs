//! Every statement of the role goes by an index.

use mi_testkit::{Allowed, Plans};

/// Tables of which an office has few rows.
const FEW_PER_OFFICE: &[Allowed] =
    &[("agents", "has a quota"), ("hires", "holds those of the last hour, which have a limit")];
const PARTS: &str = "removes what a removed office has of its agents, in parts";

/// Statements that break the rule.
const ALLOWED: &[Allowed] = &[
    ("SELECT agent_id, key_id FROM former_keys WHERE revoked_at >= $1", "reads what was revoked since a moment ago"),
    ("DELETE FROM former_keys WHERE office_id = $1...", PARTS),
    ("DELETE FROM agent_keys WHERE office_id = $1...", PARTS),
    ("DELETE FROM admissions WHERE office_id = $1...", PARTS),
];

#[tokio::test]
async fn every_statement_goes_by_an_index() {
    let plans = Plans {
        crates: &["scheduler"],
        few: &["cluster"],
        few_per_office: FEW_PER_OFFICE,
        allowed: ALLOWED,
        ..Plans::default()
    };
    plans.check("scheduler", crate::MIGRATIONS).await;
}

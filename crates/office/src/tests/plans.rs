//! Every statement of the role goes by an index.

use mi_testkit::{Allowed, Plans};

/// Tables of which an office has few rows.
const FEW_PER_OFFICE: &[Allowed] = &[
    ("drive_uploads", "holds the uploads that are under way"),
    ("integration_secrets", "holds the secrets that the catalogue names"),
    ("invites", "has a quota"),
    ("wakes", "has one row an agent"),
];
/// What is left when an office was cleared in parts.
const LAST: &str = "comes after `task_clear_some`, and finds what was written since";
/// Likewise.
const LAST_METERED: &str = "comes after `metering_clear_some`, and finds what was written since";

/// Statements that break the rule.
const ALLOWED: &[Allowed] = &[
    ("SELECT id FROM api_keys WHERE revoked_at >= $1", "reads what was revoked since a moment ago"),
    ("SELECT id, name, administrator, created_at FROM accounts WHERE administrator", "goes by an index of one row"),
    (
        "SELECT t.*, FALSE AS claimable FROM...",
        "goes through an office's queue in its order, up to as much as the claim may have",
    ),
    (
        "SELECT id, cursor, spec, progress FROM tasks WHERE office_id = $1 AND cursor BETWEEN...",
        "looks at a thousand changes at most, whichever of them are asked for",
    ),
    ("SELECT office_id, id FROM tasks WHERE deadline <= $1...", "passes over offices in which the sweep failed before"),
    ("SELECT DISTINCT office_id FROM task_consequences...", "reads what is still to be carried on, which is gone soon"),
    ("DELETE FROM task_consequences WHERE office_id = $1", LAST),
    ("DELETE FROM task_notes WHERE office_id = $1", LAST),
    ("DELETE FROM task_dependencies WHERE office_id = $1", LAST),
    ("DELETE FROM tasks WHERE office_id = $1", LAST),
    ("DELETE FROM reservations WHERE office_id = $1", LAST_METERED),
    ("DELETE FROM agent_accounts WHERE office_id = $1", LAST_METERED),
    ("DELETE FROM task_costs WHERE office_id = $1", LAST_METERED),
    ("DELETE FROM usages WHERE office_id = $1", LAST_METERED),
    ("DELETE FROM ledger_entries WHERE office_id = $1", LAST_METERED),
    ("SELECT FROM balances...", "is run on Postgres alone"),
    ("SELECT key, CAST(sum(amount)...", "adds up at most 92 days of an office, a row an hour and key"),
];

#[tokio::test]
async fn every_statement_goes_by_an_index() {
    let plans = Plans {
        crates: &["office", "tenancy", "integrations", "drive", "tasks", "chat", "credits"],
        few: &["master_key", "task_sweeps"],
        values: &[
            (
                "tasks.status",
                "(ARRAY['queued', 'blocked', 'running', 'verifying', 'failed', 'cancelled', 'done'])[least(g % 100 + 1, 7)]",
            ),
            ("agent_accounts.reached", "CASE WHEN g % 100 = 0 THEN 'spent' ELSE '' END"),
            ("agent_accounts.broke", "CASE WHEN g % 100 = 0 THEN 'broke' ELSE '' END"),
            ("agent_accounts.version", "CASE WHEN g % 100 = 0 THEN 1 ELSE 0 END"),
            ("agent_accounts.told_version", "0"),
            ("tasks.tools", "CASE WHEN g % 20 = 0 THEN '[\"git\"]' ELSE '[]' END::jsonb"),
        ],
        functions: &[
            ("queue_open", "SELECT cursor, counts FROM task_queues WHERE office_id = $1 FOR NO KEY UPDATE"),
            (
                "queue_open",
                "SELECT $2::bigint, $3::json, o, clock_timestamp(), s.swept_at, s.away, s.back_at, b.balance - b.reserved
                 FROM offices AS o JOIN balances AS b ON b.office_id = o.id CROSS JOIN task_sweeps AS s
                 WHERE o.id = $1 AND s.id = 1",
            ),
            (
                "queue_rest",
                "SELECT EXISTS (SELECT 1 FROM task_consequences WHERE office_id = $1 AND root_id IS NOT NULL)",
            ),
            ("queue_rest", "SELECT EXISTS (SELECT 1 FROM task_consequences WHERE office_id = $1)"),
        ],
        few_per_office: FEW_PER_OFFICE,
        allowed: ALLOWED,
    };
    plans.check("office", crate::MIGRATIONS).await;
}

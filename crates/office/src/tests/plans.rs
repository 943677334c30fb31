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
    ("SELECT coalesce(json_agg(json_build_object(...", "is the same question, in a function"),
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
            (
                "queue_look",
                "SELECT coalesce(json_agg(json_build_object('id', t.id, 'cursor', t.cursor, 'spec', t.spec, 'progress', t.progress,
                     'claimable', t.claimable)), '[]')
                 FROM (SELECT t.id, t.cursor, t.spec, t.progress, FALSE AS claimable
                     FROM json_array_elements_text($6::json) AS wanted (id),
                     LATERAL (SELECT * FROM tasks WHERE office_id = $1 AND tasks.id = wanted.id::uuid OFFSET 0) AS t
                 UNION ALL SELECT t.id, t.cursor, t.spec, t.progress, FALSE FROM json_array_elements_text($7::json) AS whole (id),
                     LATERAL (SELECT * FROM tasks WHERE office_id = $1 AND parent_id = whole.id::uuid
                         AND status IN ('blocked', 'queued', 'running', 'verifying') LIMIT 1) AS t
                 UNION ALL (SELECT t.id, t.cursor, t.spec, t.progress, FALSE FROM json_array_elements_text($7::json) AS before (id),
                     LATERAL (SELECT task_id FROM task_dependencies
                         WHERE office_id = $1 AND depends_on = before.id::uuid OFFSET 0) AS d,
                     LATERAL (SELECT * FROM tasks WHERE office_id = $1 AND tasks.id = d.task_id AND status = 'blocked'
                         OFFSET 0) AS t LIMIT $8)
                 UNION ALL (SELECT tasks.id, tasks.cursor, tasks.spec, tasks.progress, TRUE FROM tasks
                     WHERE office_id = $1 AND status = 'queued'
                     AND (assigned_id IS NULL OR assigned_id = ANY ($2::uuid[]))
                     AND ($3::text[] = '{}' OR kind = ANY ($3::text[]))
                     AND ($4::jsonb IS NULL OR tools <@ $4::jsonb)
                     AND (excluded_id IS NULL OR $5::boolean OR NOT excluded_id = ANY ($2::uuid[]))
                     ORDER BY priority, tasks.id LIMIT $9)) AS t",
            ),
            ("queue_look", "SELECT q.cursor, q.counts FROM task_queues AS q WHERE q.office_id = $1"),
            (
                "queue_look",
                "SELECT $2::bigint, $3::json, queue_rest($1), b.balance - b.reserved, o, clock_timestamp(), s.swept_at, s.away,
                     s.back_at, $4::json
                 FROM offices AS o JOIN balances AS b ON b.office_id = o.id CROSS JOIN task_sweeps AS s
                 WHERE o.id = $1 AND s.id = 1",
            ),
            (
                "queue_put",
                "INSERT INTO tasks (office_id, id, cursor, kind, priority, status, assigned_agent, assigned_id, excluded_id,
                     parent_id, verifies_id, request, context, tools, worker_id, deadline, hangs_on, spec, progress)
                 SELECT $1, v.id, v.cursor, coalesce(v.kind, ''), coalesce(v.priority, 0), v.status, v.assigned_agent,
                     v.assigned_id, v.excluded_id, v.parent_id, v.verifies_id, v.request, v.context,
                     coalesce(v.tools, '[]')::jsonb, v.worker_id, v.deadline, v.hangs_on, coalesce(v.spec, '{}')::json,
                     v.progress::json
                 FROM unnest($2::uuid[], $3::bigint[], $4::text[], $5::text[], $6::uuid[], $7::uuid[], $8::timestamptz[],
                     $9::uuid[], $10::text[], $11::text[], $12::integer[], $13::uuid[], $14::uuid[], $15::uuid[], $16::text[],
                     $17::text[], $18::text[], $19::text[])
                     AS v (id, cursor, status, assigned_agent, assigned_id, worker_id, deadline, hangs_on, progress, kind,
                     priority, excluded_id, parent_id, verifies_id, request, context, tools, spec)
                 ON CONFLICT (office_id, id) DO UPDATE SET cursor = excluded.cursor, status = excluded.status,
                     assigned_agent = excluded.assigned_agent, assigned_id = excluded.assigned_id,
                     worker_id = excluded.worker_id, deadline = excluded.deadline, hangs_on = excluded.hangs_on,
                     progress = excluded.progress",
            ),
            ("queue_put", "UPDATE task_queues SET cursor = $2, counts = $3::json WHERE office_id = $1"),
            ("queue_put", "INSERT INTO outbox (office_id, event) SELECT $1, $2::json WHERE $2::text <> '[]'"),
            (
                "queue_write",
                "SELECT 1 FROM task_queues WHERE office_id = $1 AND cursor = $2 AND counts::text = $3 FOR NO KEY UPDATE",
            ),
            (
                "queue_write",
                "SELECT 1 FROM offices AS o JOIN balances AS b ON b.office_id = o.id CROSS JOIN task_sweeps AS s
                 WHERE o.id = $1 AND o.version = $2 AND s.id = 1 AND s.away = $3
                 AND ($4::boolean IS NULL OR (b.balance - b.reserved > 0) = $4)
                 AND NOT EXISTS (SELECT 1 FROM task_consequences WHERE office_id = $1)",
            ),
        ],
        few_per_office: FEW_PER_OFFICE,
        allowed: ALLOWED,
    };
    plans.check("office", crate::MIGRATIONS).await;
}

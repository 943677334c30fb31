//! What a transaction over an office's credits reads and writes, by one statement each and as JSON: what takes long is the
//! round trip, not the row.

use std::collections::{BTreeMap, BTreeSet};

use mi_kernel::{AgentId, CallId, TaskId, Time, event::Event};
use mi_store::{DbResult, FromRow, OfficeConn, exec, json_text, optional, outbox, outbox_insert};
use mi_tenancy::{Settings, State};
use serde::Serialize;

use super::UsageKind;
use crate::{
    Entry,
    model::{Account, Reservation, TaskCost, Usage},
};

/// Locks the balance of the transaction's office.
pub(crate) const LOCK: &str =
    "SELECT FROM balances WHERE office_id = current_setting('mi.scope')::uuid FOR NO KEY UPDATE";

/// An office's balance as a transaction finds it, locked until that ends, and what of the office it goes by.
#[derive(Debug, FromRow)]
pub(crate) struct Purse {
    pub(crate) balance: i64,
    pub(crate) reserved: i64,
    pub(crate) entries: i64,
    /// Whether it was told that nothing is left.
    pub(crate) exhausted: bool,
    #[sqlx(try_from = "String")]
    pub(crate) state: State,
    #[sqlx(json)]
    pub(crate) settings: Settings,
    /// When it is by the database's clock; none: it has no clock of its own.
    pub(crate) told: Option<Time>,
}

impl Purse {
    /// Micro-credits that may be spent.
    pub(crate) fn available(&self) -> i64 {
        self.balance.saturating_sub(self.reserved)
    }
}

/// What a transaction is about. The agents and tasks of what is set aside for the calls need not be named.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) calls: BTreeSet<CallId>,
    pub(crate) agents: BTreeSet<AgentId>,
    pub(crate) tasks: BTreeSet<TaskId>,
}

/// What a transaction finds.
#[derive(Debug, FromRow)]
pub(crate) struct Opened {
    #[sqlx(flatten)]
    pub(crate) purse: Purse,
    /// What is set aside for the calls, or was a while ago.
    #[sqlx(json)]
    pub(crate) reservations: Vec<Reservation>,
    /// What those of the calls cost that have ended and were not free.
    #[sqlx(json)]
    pub(crate) debited: Vec<(CallId, i64)>,
    #[sqlx(json)]
    pub(crate) accounts: Vec<Account>,
    #[sqlx(json)]
    pub(crate) costs: Vec<TaskCost>,
}

/// Reads the office's balance, which is locked, and what is wanted; none: there is no such office.
pub(crate) async fn open(tx: &mut OfficeConn, wanted: &Wanted) -> DbResult<Option<Opened>> {
    let sql = tx.pick(
        "WITH r AS MATERIALIZED (SELECT * FROM reservations
             WHERE office_id = $1 AND call_id IN (SELECT unhex(value, '-') FROM json_each($2)))
         SELECT b.balance, b.reserved, b.entries, b.exhausted, o.state, o.settings, NULL AS told,
             (SELECT json_group_array(json_object('call_id', hex(call_id), 'agent_id', hex(agent_id), 'agent', agent,
                     'lineage', json(lineage), 'task_id', nullif(hex(task_id), ''), 'root_id', nullif(hex(root_id), ''),
                     'provider', provider, 'model', model, 'amount', amount, 'settled', json(iif(settled, 'true', 'false')),
                     'expired', json(iif(expired, 'true', 'false')), 'expires_at', expires_at))
                 FROM r) AS reservations,
             (SELECT json_group_array(json_array(substr(request_key, 6), -amount)) FROM ledger_entries
                 WHERE office_id = $1 AND request_key IN (SELECT 'call/' || value FROM json_each($2))) AS debited,
             (SELECT json_group_array(json_object('agent_id', hex(agent_id), 'name', name, 'lineage', json(lineage),
                     'budget', budget, 'operator_budget', operator_budget, 'spent', spent, 'reserved', reserved,
                     'reached', reached, 'broke', broke, 'version', version, 'told_version', told_version, 'seen_until', seen_until,
                     'unpaid_ms', unpaid_ms))
                 FROM agent_accounts WHERE office_id = $1 AND agent_id IN (SELECT unhex(value, '-') FROM json_each($3)
                     UNION SELECT agent_id FROM r
                     UNION SELECT unhex(value, '-') FROM r CROSS JOIN json_each(r.lineage))) AS accounts,
             (SELECT json_group_array(json_object('task_id', hex(task_id), 'spent', spent, 'tree_spent', tree_spent,
                     'tree_reserved', tree_reserved))
                 FROM task_costs WHERE office_id = $1 AND task_id IN (SELECT unhex(value, '-') FROM json_each($4)
                     UNION SELECT task_id FROM r UNION SELECT root_id FROM r)) AS costs
         FROM balances AS b JOIN offices AS o ON o.id = b.office_id WHERE b.office_id = $1",
        "WITH r AS MATERIALIZED (SELECT r.* FROM json_array_elements_text($2::json) AS wanted (id),
             LATERAL (SELECT * FROM reservations WHERE office_id = $1 AND call_id = wanted.id::uuid OFFSET 0) AS r)
         SELECT b.balance, b.reserved, b.entries, b.exhausted, o.state, o.settings, clock_timestamp() AS told,
             (SELECT coalesce(json_agg(r), '[]') FROM r) AS reservations,
             (SELECT coalesce(json_agg(json_build_array(wanted.id, -e.amount)), '[]')
                 FROM json_array_elements_text($2::json) AS wanted (id), LATERAL (SELECT amount FROM ledger_entries
                     WHERE office_id = $1 AND request_key = 'call/' || wanted.id OFFSET 0) AS e) AS debited,
             (SELECT coalesce(json_agg(a), '[]') FROM (SELECT value::uuid FROM json_array_elements_text($3::json)
                     UNION SELECT agent_id FROM r
                     UNION SELECT value::uuid FROM r, json_array_elements_text(r.lineage)) AS wanted (id),
                 LATERAL (SELECT * FROM agent_accounts
                     WHERE office_id = $1 AND agent_id = wanted.id OFFSET 0) AS a) AS accounts,
             (SELECT coalesce(json_agg(c), '[]') FROM (SELECT value::uuid FROM json_array_elements_text($4::json)
                     UNION SELECT task_id FROM r UNION SELECT root_id FROM r) AS wanted (id),
                 LATERAL (SELECT * FROM task_costs
                     WHERE office_id = $1 AND task_id = wanted.id OFFSET 0) AS c) AS costs
         FROM balances AS b JOIN offices AS o ON o.id = b.office_id WHERE b.office_id = $1",
    );
    optional!(tx, sql, json_text(&wanted.calls)?, json_text(&wanted.agents)?, json_text(&wanted.tasks)?)
}

/// What a transaction leaves.
#[derive(Debug)]
pub(crate) struct Written<'a> {
    pub(crate) purse: &'a Purse,
    pub(crate) reservations: Vec<&'a Reservation>,
    /// Calls for which nothing is set aside any more, and that are remembered elsewhere.
    pub(crate) dropped: &'a [CallId],
    pub(crate) accounts: Vec<&'a Account>,
    pub(crate) costs: Vec<&'a TaskCost>,
    /// What is added to what was used in this hour.
    pub(crate) usages: &'a BTreeMap<(UsageKind, String), Usage>,
    pub(crate) hour: Time,
    /// What has a key is found again by it.
    pub(crate) entries: &'a [(Entry, Option<String>)],
    pub(crate) events: &'a [Event],
}

/// Writes what changed; of accounts not what the scheduler knows of them.
pub(crate) async fn write(tx: &mut OfficeConn, written: Written<'_>) -> DbResult<()> {
    #[derive(Serialize)]
    struct Keyed<'a> {
        #[serde(flatten)]
        entry: &'a Entry,
        key: Option<&'a str>,
    }
    let Written { purse, reservations, dropped, accounts, costs, usages, hour, entries, events } = written;
    let events = outbox::text(tx.office_id(), events)?;
    let entries: Vec<_> = entries.iter().map(|(entry, key)| Keyed { entry, key: key.as_deref() }).collect();
    let usage = |((kind, key), used): (&(UsageKind, String), &Usage)| {
        (kind.as_str(), key.clone(), used.amount, used.tokens.input, used.tokens.output, used.calls)
    };
    let usages: Vec<_> = usages.iter().map(usage).collect();
    // Materialised: `json_each` would write each row out once for every column that is read from it.
    let sql = tx.pick(
        concat!(
            "WITH v AS MATERIALIZED (SELECT value AS r FROM json_each($3))
             INSERT INTO reservations (office_id, call_id, agent_id, agent, lineage, task_id, root_id, provider, model,
                 amount, settled, expired, expires_at)
             SELECT $1, unhex(r ->> 'call_id', '-'), unhex(r ->> 'agent_id', '-'), r ->> 'agent', r -> 'lineage',
                 unhex(r ->> 'task_id', '-'), unhex(r ->> 'root_id', '-'), r ->> 'provider', r ->> 'model', r ->> 'amount',
                 r ->> 'settled', r ->> 'expired', r ->> 'expires_at' FROM v WHERE TRUE
             ON CONFLICT (office_id, call_id) DO UPDATE SET amount = excluded.amount, settled = excluded.settled,
                 expired = excluded.expired, expires_at = excluded.expires_at;
             DELETE FROM reservations WHERE office_id = $1 AND call_id IN (SELECT unhex(value, '-') FROM json_each($4));
             WITH v AS MATERIALIZED (SELECT value AS a FROM json_each($5))
             INSERT INTO agent_accounts (office_id, agent_id, name, lineage, budget, operator_budget, spent, reserved,
                 reached, broke, version, told_version, seen_until, unpaid_ms)
             SELECT $1, unhex(a ->> 'agent_id', '-'), a ->> 'name', a -> 'lineage', a ->> 'budget',
                 a ->> 'operator_budget', a ->> 'spent', a ->> 'reserved', a ->> 'reached', a ->> 'broke', a ->> 'version', 0,
                 a ->> 'seen_until', a ->> 'unpaid_ms' FROM v WHERE TRUE
             ON CONFLICT (office_id, agent_id) DO UPDATE SET name = excluded.name, lineage = excluded.lineage,
                 budget = excluded.budget, operator_budget = excluded.operator_budget, spent = excluded.spent,
                 reserved = excluded.reserved, reached = excluded.reached, broke = excluded.broke, version = excluded.version,
                 seen_until = excluded.seen_until, unpaid_ms = excluded.unpaid_ms;
             INSERT INTO task_costs (office_id, task_id, spent, tree_spent, tree_reserved)
             SELECT $1, unhex(value ->> 'task_id', '-'), value ->> 'spent', value ->> 'tree_spent',
                 value ->> 'tree_reserved' FROM json_each($6) WHERE TRUE
             ON CONFLICT (office_id, task_id) DO UPDATE SET spent = excluded.spent, tree_spent = excluded.tree_spent,
                 tree_reserved = excluded.tree_reserved;
             INSERT INTO usages (office_id, kind, hour, key, amount, input_tokens, output_tokens, calls)
             SELECT $1, value ->> 0, $8, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5
             FROM json_each($7) WHERE TRUE
             ON CONFLICT (office_id, kind, hour, key) DO UPDATE SET amount = amount + excluded.amount,
                 input_tokens = input_tokens + excluded.input_tokens,
                 output_tokens = output_tokens + excluded.output_tokens, calls = calls + excluded.calls;
             WITH v AS MATERIALIZED (SELECT value AS e FROM json_each($9))
             INSERT INTO ledger_entries (office_id, seq, id, amount, balance_after, reason, reference, entered_at,
                 request_key)
             SELECT $1, e ->> 'seq', unhex(e ->> 'id', '-'), e ->> 'amount', e ->> 'balance_after', e ->> 'reason',
                 e ->> 'reference', e ->> 'entered_at', e ->> 'key' FROM v;
             UPDATE balances SET balance = $10, reserved = $11, entries = $12, exhausted = $13 WHERE office_id = $1; ",
            outbox_insert!(sqlite)
        ),
        concat!(
            "WITH put AS (
                 INSERT INTO reservations (office_id, call_id, agent_id, agent, lineage, task_id, root_id, provider,
                     model, amount, settled, expired, expires_at)
                 SELECT $1, call_id, agent_id, agent, lineage, task_id, root_id, provider, model, amount, settled,
                     expired, expires_at
                 FROM json_to_recordset($3::json) AS v (call_id uuid, agent_id uuid, agent text, lineage json,
                     task_id uuid, root_id uuid, provider text, model text, amount bigint, settled boolean,
                     expired boolean, expires_at timestamptz)
                 ON CONFLICT (office_id, call_id) DO UPDATE SET amount = excluded.amount, settled = excluded.settled,
                     expired = excluded.expired, expires_at = excluded.expires_at),
             dropped AS (DELETE FROM reservations WHERE office_id = $1
                 AND call_id = ANY (ARRAY(SELECT json_array_elements_text($4::json)::uuid))),
             accounted AS (
                 INSERT INTO agent_accounts (office_id, agent_id, name, lineage, budget, operator_budget, spent,
                     reserved, reached, broke, version, told_version, seen_until, unpaid_ms)
                 SELECT $1, agent_id, name, lineage, budget, operator_budget, spent, reserved, reached, broke, version, 0,
                     seen_until, unpaid_ms
                 FROM json_to_recordset($5::json) AS v (agent_id uuid, name text, lineage json, budget bigint,
                     operator_budget bigint, spent bigint, reserved bigint, reached text, broke text, version bigint,
                     seen_until timestamptz, unpaid_ms bigint)
                 ON CONFLICT (office_id, agent_id) DO UPDATE SET name = excluded.name, lineage = excluded.lineage,
                     budget = excluded.budget, operator_budget = excluded.operator_budget, spent = excluded.spent,
                     reserved = excluded.reserved, reached = excluded.reached, broke = excluded.broke, version = excluded.version,
                     seen_until = excluded.seen_until, unpaid_ms = excluded.unpaid_ms),
             costed AS (
                 INSERT INTO task_costs (office_id, task_id, spent, tree_spent, tree_reserved)
                 SELECT $1, task_id, spent, tree_spent, tree_reserved FROM json_to_recordset($6::json)
                     AS v (task_id uuid, spent bigint, tree_spent bigint, tree_reserved bigint)
                 ON CONFLICT (office_id, task_id) DO UPDATE SET spent = excluded.spent,
                     tree_spent = excluded.tree_spent, tree_reserved = excluded.tree_reserved),
             used AS (
                 INSERT INTO usages (office_id, kind, hour, key, amount, input_tokens, output_tokens, calls)
                 SELECT $1, value ->> 0, $8, value ->> 1, (value ->> 2)::bigint, (value ->> 3)::bigint,
                     (value ->> 4)::bigint, (value ->> 5)::bigint FROM json_array_elements($7::json)
                 ON CONFLICT (office_id, kind, hour, key) DO UPDATE SET amount = usages.amount + excluded.amount,
                     input_tokens = usages.input_tokens + excluded.input_tokens,
                     output_tokens = usages.output_tokens + excluded.output_tokens,
                     calls = usages.calls + excluded.calls),
             entered AS (
                 INSERT INTO ledger_entries (office_id, seq, id, amount, balance_after, reason, reference, entered_at,
                     request_key)
                 SELECT $1, seq, id, amount, balance_after, reason, reference, entered_at, key
                 FROM json_to_recordset($9::json) AS v (seq bigint, id uuid, amount bigint, balance_after bigint,
                     reason text, reference text, entered_at timestamptz, key text)),
             kept AS (UPDATE balances SET balance = $10, reserved = $11, entries = $12, exhausted = $13
                 WHERE office_id = $1) ",
            outbox_insert!(postgres)
        ),
    );
    exec!(
        tx,
        sql,
        events,
        json_text(&reservations)?,
        json_text(dropped)?,
        json_text(&accounts)?,
        json_text(&costs)?,
        json_text(&usages)?,
        hour,
        json_text(&entries)?,
        purse.balance,
        purse.reserved,
        purse.entries,
        purse.exhausted
    )
    .map(drop)
}

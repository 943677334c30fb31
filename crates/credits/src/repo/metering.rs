//! Tables `reservations`, `agent_accounts`, `task_costs` and `usages`. Rows are read and written many at a time, as one JSON
//! text a statement. On Postgres they are looked up by `LATERAL` and `OFFSET 0`: for each wanted id its row by the index.

use std::collections::{BTreeMap, HashMap};

use mi_kernel::{AgentId, CallId, LedgerEntryId, OfficeId, TaskId, Time};
use mi_store::{
    Db, DbResult, FromRow, OfficeConn, PlatformConn, all, delete_some, exec, json_text, optional, scalar_one, scalars,
    time_text,
};
use mi_tenancy::{Settings, State};
use serde::Serialize;
use strum::IntoStaticStr;

use crate::{
    Entry,
    model::{Account, Reservation, TaskCost, Tokens, Usage},
};

/// Agents that may be found waiting for a budget, or for credits, at a time.
pub(crate) const MOST_WAITING: i64 = 10_000;

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

/// Locks the office's balance; none: it is not there.
pub(crate) async fn purse_lock(tx: &mut OfficeConn) -> DbResult<Option<Purse>> {
    let sql = tx.pick(
        "SELECT b.balance, b.reserved, b.entries, b.exhausted, o.state, o.settings, NULL AS told
         FROM balances AS b JOIN offices AS o ON o.id = b.office_id WHERE b.office_id = $1",
        "SELECT b.balance, b.reserved, b.entries, b.exhausted, o.state, o.settings, clock_timestamp() AS told
         FROM balances AS b JOIN offices AS o ON o.id = b.office_id WHERE b.office_id = $1 FOR NO KEY UPDATE OF b",
    );
    optional!(tx, sql)
}

pub(crate) async fn purse_put(tx: &mut OfficeConn, purse: &Purse) -> DbResult<()> {
    let sql = "UPDATE balances SET balance = $2, reserved = $3, entries = $4, exhausted = $5 WHERE office_id = $1";
    exec!(tx, sql, purse.balance, purse.reserved, purse.entries, purse.exhausted).map(drop)
}

/// Those of these calls for which something is set aside, or was a while ago.
pub(crate) async fn reservation_get_all(tx: &mut OfficeConn, ids: &[CallId]) -> DbResult<Vec<Reservation>> {
    let sql = tx.pick(
        "SELECT * FROM reservations WHERE office_id = $1 AND call_id IN (SELECT unhex(value, '-') FROM json_each($2))",
        "SELECT r.* FROM json_array_elements_text($2::json) AS wanted (id),
             LATERAL (SELECT * FROM reservations WHERE office_id = $1 AND call_id = wanted.id::uuid OFFSET 0) AS r",
    );
    all!(tx, sql, json_text(ids)?)
}

/// What those of these calls cost that have ended and were not free.
pub(crate) async fn debited(tx: &mut OfficeConn, ids: &[CallId]) -> DbResult<HashMap<CallId, i64>> {
    let sql = tx.pick(
        "SELECT request_key, amount FROM ledger_entries
         WHERE office_id = $1 AND request_key IN (SELECT value FROM json_each($2))",
        "SELECT e.* FROM json_array_elements_text($2::json) AS wanted (key),
             LATERAL (SELECT request_key, amount FROM ledger_entries
                 WHERE office_id = $1 AND request_key = wanted.key OFFSET 0) AS e",
    );
    let keys: HashMap<String, CallId> = ids.iter().map(|id| (format!("call/{id}"), *id)).collect();
    let found: Vec<(String, i64)> = all!(tx, sql, json_text(&Vec::from_iter(keys.keys()))?)?;
    Ok(found.into_iter().filter_map(|(key, amount)| Some((*keys.get(&key)?, -amount))).collect())
}

#[derive(Serialize)]
struct PutReservation<'a> {
    call_id: CallId,
    agent_id: AgentId,
    agent: &'a str,
    lineage: &'a [AgentId],
    task_id: Option<TaskId>,
    root_id: Option<TaskId>,
    provider: &'a str,
    model: &'a str,
    amount: i64,
    settled: bool,
    expired: bool,
    expires_at: String,
}

/// Writes what is set aside.
pub(crate) async fn reservation_put(tx: &mut OfficeConn, reservations: &[&Reservation]) -> DbResult<()> {
    let row = |r: &&Reservation| {
        json_text(&PutReservation {
            call_id: r.call_id,
            agent_id: r.agent_id,
            agent: &r.agent,
            lineage: &r.lineage,
            task_id: r.task_id,
            root_id: r.root_id,
            provider: &r.provider,
            model: &r.model,
            amount: r.amount,
            settled: r.settled,
            expired: r.expired,
            expires_at: time_text(r.expires_at),
        })
    };
    let sql = tx.pick(
        "WITH v AS MATERIALIZED (SELECT value AS r FROM json_each($2))
         INSERT INTO reservations (office_id, call_id, agent_id, agent, lineage, task_id, root_id, provider, model, amount,
             settled, expired, expires_at)
         SELECT $1, unhex(r ->> 'call_id', '-'), unhex(r ->> 'agent_id', '-'), r ->> 'agent', r -> 'lineage',
             unhex(r ->> 'task_id', '-'), unhex(r ->> 'root_id', '-'), r ->> 'provider', r ->> 'model', r ->> 'amount',
             r ->> 'settled', r ->> 'expired', r ->> 'expires_at' FROM v WHERE TRUE
         ON CONFLICT (office_id, call_id) DO UPDATE SET amount = excluded.amount, settled = excluded.settled,
             expired = excluded.expired, expires_at = excluded.expires_at",
        "INSERT INTO reservations (office_id, call_id, agent_id, agent, lineage, task_id, root_id, provider, model, amount,
             settled, expired, expires_at)
         SELECT $1, call_id, agent_id, agent, lineage, task_id, root_id, provider, model, amount, settled, expired,
             expires_at
         FROM json_to_recordset($2::json) AS v (call_id uuid, agent_id uuid, agent text, lineage json, task_id uuid,
             root_id uuid, provider text, model text, amount bigint, settled boolean, expired boolean, expires_at timestamptz)
         ON CONFLICT (office_id, call_id) DO UPDATE SET amount = excluded.amount, settled = excluded.settled,
             expired = excluded.expired, expires_at = excluded.expires_at",
    );
    exec!(tx, sql, list(reservations.iter().map(row))?).map(drop)
}

/// A JSON list of rows that are JSON.
fn list(rows: impl Iterator<Item = DbResult<String>>) -> DbResult<String> {
    Ok(format!("[{}]", rows.collect::<DbResult<Vec<_>>>()?.join(",")))
}

pub(crate) async fn reservation_delete(tx: &mut OfficeConn, ids: &[CallId]) -> DbResult<()> {
    let sql = tx.pick(
        "DELETE FROM reservations WHERE office_id = $1 AND call_id IN (SELECT unhex(value, '-') FROM json_each($2))",
        "DELETE FROM reservations WHERE office_id = $1
         AND call_id = ANY (ARRAY(SELECT json_array_elements_text($2::json)::uuid))",
    );
    exec!(tx, sql, json_text(ids)?).map(drop)
}

/// Comes before everything that is due.
pub(crate) const BEFORE_ALL: (Time, OfficeId, CallId) = (Time::UNIX_EPOCH, OfficeId::MIN, CallId::MIN);

/// What nobody has settled in time, and what is remembered for too long, after a place, the longest due first. Spans offices:
/// one sweep looks after all of them.
pub(crate) async fn reservation_due(
    conn: &mut PlatformConn,
    now: Time,
    (at, office, call): (Time, OfficeId, CallId),
    limit: i64,
) -> DbResult<Vec<(Time, OfficeId, CallId)>> {
    let sql = "SELECT expires_at, office_id, call_id FROM reservations
         WHERE expires_at <= $1 AND (expires_at, office_id, call_id) > ($2, $3, $4)
         ORDER BY expires_at, office_id, call_id LIMIT $5";
    all!(conn, sql, now, at, office, call, limit)
}

/// The time by the database's clock; none: it has no clock of its own.
pub(crate) async fn told(conn: &mut PlatformConn) -> DbResult<Option<Time>> {
    let sql = conn.pick("SELECT NULL", "SELECT clock_timestamp()");
    scalar_one!(conn, sql)
}

/// Offices after this one that did not get what they begin with. Spans offices: it finds the ones to work on.
pub(crate) async fn office_unbegun(conn: &mut PlatformConn, after: OfficeId, limit: i64) -> DbResult<Vec<OfficeId>> {
    let sql = "SELECT office_id FROM balances WHERE NOT begun AND office_id > $1 ORDER BY office_id LIMIT $2";
    scalars!(conn, sql, after, limit)
}

/// Accounts of these agents.
pub(crate) async fn account_get_all(conn: &mut OfficeConn, ids: &[AgentId]) -> DbResult<Vec<Account>> {
    let sql = conn.pick(
        "SELECT * FROM agent_accounts WHERE office_id = $1 AND agent_id IN (SELECT unhex(value, '-') FROM json_each($2))",
        "SELECT a.* FROM json_array_elements_text($2::json) AS wanted (id),
             LATERAL (SELECT * FROM agent_accounts WHERE office_id = $1 AND agent_id = wanted.id::uuid OFFSET 0) AS a",
    );
    all!(conn, sql, json_text(ids)?)
}

/// Accounts of agents that wait for a budget.
pub(crate) async fn account_waiting(tx: &mut OfficeConn) -> DbResult<Vec<Account>> {
    let sql = "SELECT * FROM agent_accounts WHERE office_id = $1 AND reached <> '' ORDER BY agent_id LIMIT $2";
    all!(tx, sql, MOST_WAITING)
}

/// Accounts of which the scheduler does not know everything yet, at most so many.
pub(crate) async fn account_untold(conn: &mut OfficeConn, limit: i64) -> DbResult<Vec<Account>> {
    let sql = "SELECT * FROM agent_accounts WHERE office_id = $1 AND told_version < version ORDER BY agent_id LIMIT $2";
    all!(conn, sql, limit)
}

/// Offices with such accounts, at most so many. Spans offices: it finds the ones to work on.
pub(crate) async fn office_untold(conn: &mut PlatformConn, limit: i64) -> DbResult<Vec<OfficeId>> {
    let sql = "SELECT office_id FROM agent_accounts WHERE told_version < version ORDER BY office_id, agent_id LIMIT $1";
    scalars!(conn, sql, limit)
}

/// Accounts with a budget under this name, the newest first, at most so many. Names are given again: there may be more
/// than one.
pub(crate) async fn account_limited(conn: &mut OfficeConn, name: &str, limit: i64) -> DbResult<Vec<Account>> {
    let sql = "SELECT * FROM agent_accounts WHERE office_id = $1 AND name = $2 AND budget IS NOT NULL
         ORDER BY agent_id DESC LIMIT $3";
    all!(conn, sql, name, limit)
}

/// Agents that wait, after this one, at most so many. Spans offices: one sweep looks whether they are still there.
pub(crate) async fn waiting_after(
    conn: &mut PlatformConn,
    (office, agent): (OfficeId, AgentId),
    limit: i64,
) -> DbResult<Vec<(OfficeId, AgentId)>> {
    let sql = "SELECT office_id, agent_id FROM agent_accounts WHERE reached <> '' AND (office_id, agent_id) > ($1, $2)
         ORDER BY office_id, agent_id LIMIT $3";
    all!(conn, sql, office, agent, limit)
}

/// Notes that the scheduler knows this version. One that is gone waits for nothing any more, whatever it knew before.
pub(crate) async fn account_told(tx: &mut OfficeConn, account: &Account, gone: bool) -> DbResult<()> {
    let sql = "UPDATE agent_accounts SET told_version = $3, reached = CASE WHEN $4 THEN '' ELSE reached END,
             broke = CASE WHEN $4 THEN '' ELSE broke END
         WHERE office_id = $1 AND agent_id = $2 AND (told_version < $3 OR $4 AND told_version = $3)";
    exec!(tx, sql, account.agent_id, account.version, gone).map(drop)
}

#[derive(Serialize)]
struct PutAccount<'a> {
    agent_id: AgentId,
    name: &'a str,
    lineage: &'a [AgentId],
    budget: Option<i64>,
    operator_budget: Option<i64>,
    spent: i64,
    reserved: i64,
    reached: &'a str,
    broke: &'a str,
    version: i64,
    seen_until: Option<String>,
    unpaid_ms: i64,
}

/// Writes accounts, but for what the scheduler knows of them.
pub(crate) async fn account_put(tx: &mut OfficeConn, accounts: &[&Account]) -> DbResult<()> {
    let row = |a: &&Account| {
        json_text(&PutAccount {
            agent_id: a.agent_id,
            name: &a.name,
            lineage: &a.lineage,
            budget: a.budget,
            operator_budget: a.operator_budget,
            spent: a.spent,
            reserved: a.reserved,
            reached: &a.reached,
            broke: &a.broke,
            version: a.version,
            seen_until: a.seen_until.map(time_text),
            unpaid_ms: a.unpaid_ms,
        })
    };
    let sql = tx.pick(
        "WITH v AS MATERIALIZED (SELECT value AS a FROM json_each($2))
         INSERT INTO agent_accounts (office_id, agent_id, name, lineage, budget, operator_budget, spent, reserved, reached,
             broke, version, told_version, seen_until, unpaid_ms)
         SELECT $1, unhex(a ->> 'agent_id', '-'), a ->> 'name', a -> 'lineage', a ->> 'budget', a ->> 'operator_budget',
             a ->> 'spent', a ->> 'reserved', a ->> 'reached', a ->> 'broke', a ->> 'version', 0, a ->> 'seen_until',
             a ->> 'unpaid_ms' FROM v WHERE TRUE
         ON CONFLICT (office_id, agent_id) DO UPDATE SET name = excluded.name, lineage = excluded.lineage,
             budget = excluded.budget, operator_budget = excluded.operator_budget, spent = excluded.spent,
             reserved = excluded.reserved, reached = excluded.reached, broke = excluded.broke, version = excluded.version,
             seen_until = excluded.seen_until, unpaid_ms = excluded.unpaid_ms",
        "INSERT INTO agent_accounts (office_id, agent_id, name, lineage, budget, operator_budget, spent, reserved, reached,
             broke, version, told_version, seen_until, unpaid_ms)
         SELECT $1, agent_id, name, lineage, budget, operator_budget, spent, reserved, reached, broke, version, 0, seen_until,
             unpaid_ms
         FROM json_to_recordset($2::json) AS v (agent_id uuid, name text, lineage json, budget bigint,
             operator_budget bigint, spent bigint, reserved bigint, reached text, broke text, version bigint,
             seen_until timestamptz, unpaid_ms bigint)
         ON CONFLICT (office_id, agent_id) DO UPDATE SET name = excluded.name, lineage = excluded.lineage,
             budget = excluded.budget, operator_budget = excluded.operator_budget, spent = excluded.spent,
             reserved = excluded.reserved, reached = excluded.reached, broke = excluded.broke, version = excluded.version,
             seen_until = excluded.seen_until, unpaid_ms = excluded.unpaid_ms",
    );
    exec!(tx, sql, list(accounts.iter().map(row))?).map(drop)
}

/// What these tasks cost, as far as they cost anything.
pub(crate) async fn cost_get_all(conn: &mut OfficeConn, ids: &[TaskId]) -> DbResult<Vec<TaskCost>> {
    let sql = conn.pick(
        "SELECT task_id, spent, tree_spent, tree_reserved FROM task_costs
         WHERE office_id = $1 AND task_id IN (SELECT unhex(value, '-') FROM json_each($2))",
        "SELECT c.* FROM json_array_elements_text($2::json) AS wanted (id),
             LATERAL (SELECT task_id, spent, tree_spent, tree_reserved FROM task_costs
                 WHERE office_id = $1 AND task_id = wanted.id::uuid OFFSET 0) AS c",
    );
    all!(conn, sql, json_text(ids)?)
}

pub(crate) async fn cost_put(tx: &mut OfficeConn, costs: &[&TaskCost]) -> DbResult<()> {
    let row = |c: &&TaskCost| json_text(&(c.task_id, c.spent, c.tree_spent, c.tree_reserved));
    let sql = tx.pick(
        "INSERT INTO task_costs (office_id, task_id, spent, tree_spent, tree_reserved)
         SELECT $1, unhex(value ->> 0, '-'), value ->> 1, value ->> 2, value ->> 3 FROM json_each($2) WHERE TRUE
         ON CONFLICT (office_id, task_id) DO UPDATE SET spent = excluded.spent, tree_spent = excluded.tree_spent,
             tree_reserved = excluded.tree_reserved",
        "INSERT INTO task_costs (office_id, task_id, spent, tree_spent, tree_reserved)
         SELECT $1, (value ->> 0)::uuid, (value ->> 1)::bigint, (value ->> 2)::bigint, (value ->> 3)::bigint
         FROM json_array_elements($2::json)
         ON CONFLICT (office_id, task_id) DO UPDATE SET spent = excluded.spent, tree_spent = excluded.tree_spent,
             tree_reserved = excluded.tree_reserved",
    );
    exec!(tx, sql, list(costs.iter().map(row))?).map(drop)
}

pub(crate) async fn cost_delete(tx: &mut OfficeConn, ids: &[TaskId]) -> DbResult<()> {
    let sql = tx.pick(
        "DELETE FROM task_costs WHERE office_id = $1 AND task_id IN (SELECT unhex(value, '-') FROM json_each($2))",
        "DELETE FROM task_costs
         WHERE office_id = $1 AND task_id = ANY (ARRAY(SELECT json_array_elements_text($2::json)::uuid))",
    );
    exec!(tx, sql, json_text(ids)?).map(drop)
}

/// By what usage is added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, IntoStaticStr)]
#[strum(serialize_all = "snake_case")]
pub(crate) enum UsageKind {
    Agent,
    Model,
    Task,
}

impl UsageKind {
    pub(crate) fn as_str(self) -> &'static str {
        self.into()
    }
}

/// Adds to what was used in an hour.
pub(crate) async fn usage_add(
    tx: &mut OfficeConn,
    hour: Time,
    usages: &BTreeMap<(UsageKind, String), Usage>,
) -> DbResult<()> {
    let row = |((kind, key), used): (&(UsageKind, String), &Usage)| {
        json_text(&(kind.as_str(), key, used.amount, used.tokens.input, used.tokens.output, used.calls))
    };
    let sql = tx.pick(
        "INSERT INTO usages (office_id, kind, hour, key, amount, input_tokens, output_tokens, calls)
         SELECT $1, value ->> 0, $3, value ->> 1, value ->> 2, value ->> 3, value ->> 4, value ->> 5
         FROM json_each($2) WHERE TRUE
         ON CONFLICT (office_id, kind, hour, key) DO UPDATE SET amount = amount + excluded.amount,
             input_tokens = input_tokens + excluded.input_tokens, output_tokens = output_tokens + excluded.output_tokens,
             calls = calls + excluded.calls",
        "INSERT INTO usages (office_id, kind, hour, key, amount, input_tokens, output_tokens, calls)
         SELECT $1, value ->> 0, $3, value ->> 1, (value ->> 2)::bigint, (value ->> 3)::bigint, (value ->> 4)::bigint,
             (value ->> 5)::bigint FROM json_array_elements($2::json)
         ON CONFLICT (office_id, kind, hour, key) DO UPDATE SET amount = usages.amount + excluded.amount,
             input_tokens = usages.input_tokens + excluded.input_tokens,
             output_tokens = usages.output_tokens + excluded.output_tokens, calls = usages.calls + excluded.calls",
    );
    exec!(tx, sql, list(usages.iter().map(row))?, hour).map(drop)
}

/// Offices after this one, at most so many. Spans offices: each has what it used looked at.
pub(crate) async fn office_after(conn: &mut PlatformConn, after: OfficeId, limit: i64) -> DbResult<Vec<OfficeId>> {
    scalars!(conn, "SELECT office_id FROM balances WHERE office_id > $1 ORDER BY office_id LIMIT $2", after, limit)
}

/// Deletes a part of what was used before a time, at most so much; answers how much.
pub(crate) async fn usage_delete(tx: &mut OfficeConn, kind: UsageKind, before: Time, limit: i64) -> DbResult<i64> {
    let sql = "DELETE FROM usages WHERE office_id = $1 AND kind = $2 AND (hour, key) IN
         (SELECT hour, key FROM usages WHERE office_id = $1 AND kind = $2 AND hour < $3 ORDER BY hour, key LIMIT $4)";
    exec!(tx, sql, kind.as_str(), before, limit)
}

/// A row of sums.
#[derive(FromRow)]
struct Summed<K> {
    key: K,
    amount: i64,
    input_tokens: i64,
    output_tokens: i64,
    calls: i64,
}

impl<K> Summed<K> {
    fn split(self) -> (K, Usage) {
        let tokens = Tokens { input: self.input_tokens, output: self.output_tokens };
        (self.key, Usage { amount: self.amount, tokens, calls: self.calls })
    }
}

/// What was used from one hour to before another, the most expensive first, at most so many keys.
pub(crate) async fn usage_sum(
    conn: &mut OfficeConn,
    kind: UsageKind,
    (from, to): (Time, Time),
    limit: i64,
) -> DbResult<Vec<(String, Usage)>> {
    let sql = "SELECT key, CAST(sum(amount) AS bigint) AS amount, CAST(sum(input_tokens) AS bigint) AS input_tokens,
             CAST(sum(output_tokens) AS bigint) AS output_tokens, CAST(sum(calls) AS bigint) AS calls
         FROM usages WHERE office_id = $1 AND kind = $2 AND hour >= $3 AND hour < $4
         GROUP BY key ORDER BY 2 DESC, key LIMIT $5";
    let found: Vec<Summed<String>> = all!(conn, sql, kind.as_str(), from, to, limit)?;
    Ok(found.into_iter().map(Summed::split).collect())
}

/// What was used in each hour from one to before another.
pub(crate) async fn usage_by_hour(conn: &mut OfficeConn, (from, to): (Time, Time)) -> DbResult<Vec<(Time, Usage)>> {
    let sql = "SELECT hour AS key, CAST(sum(amount) AS bigint) AS amount,
             CAST(sum(input_tokens) AS bigint) AS input_tokens, CAST(sum(output_tokens) AS bigint) AS output_tokens,
             CAST(sum(calls) AS bigint) AS calls
         FROM usages WHERE office_id = $1 AND kind = 'model' AND hour >= $2 AND hour < $3 GROUP BY hour ORDER BY hour";
    let found: Vec<Summed<Time>> = all!(conn, sql, from, to)?;
    Ok(found.into_iter().map(Summed::split).collect())
}

#[derive(Serialize)]
struct PutEntry<'a> {
    seq: i64,
    id: LedgerEntryId,
    amount: i64,
    balance_after: i64,
    reason: &'a str,
    reference: &'a str,
    entered_at: String,
    key: Option<&'a str>,
}

/// Writes entries. What has a key is found again by it.
pub(crate) async fn entry_insert_all(tx: &mut OfficeConn, entries: &[(Entry, Option<String>)]) -> DbResult<()> {
    let row = |(entry, key): &(Entry, Option<String>)| {
        json_text(&PutEntry {
            seq: entry.seq,
            id: entry.id,
            amount: entry.amount,
            balance_after: entry.balance_after,
            reason: &entry.reason,
            reference: &entry.reference,
            entered_at: time_text(entry.entered_at),
            key: key.as_deref(),
        })
    };
    let sql = tx.pick(
        "WITH v AS MATERIALIZED (SELECT value AS e FROM json_each($2))
         INSERT INTO ledger_entries (office_id, seq, id, amount, balance_after, reason, reference, entered_at, request_key)
         SELECT $1, e ->> 'seq', unhex(e ->> 'id', '-'), e ->> 'amount', e ->> 'balance_after', e ->> 'reason',
             e ->> 'reference', e ->> 'entered_at', e ->> 'key' FROM v",
        "INSERT INTO ledger_entries (office_id, seq, id, amount, balance_after, reason, reference, entered_at, request_key)
         SELECT $1, seq, id, amount, balance_after, reason, reference, entered_at, key
         FROM json_to_recordset($2::json) AS v (seq bigint, id uuid, amount bigint, balance_after bigint, reason text,
             reference text, entered_at timestamptz, key text)",
    );
    exec!(tx, sql, list(entries.iter().map(row))?).map(drop)
}

/// Deletes a part of what was metered of an office that is being deleted. True: there may be more.
pub(crate) async fn metering_clear_some(db: &Db, office_id: OfficeId) -> DbResult<bool> {
    let mut tx = db.office(office_id).begin().await?;
    let statements = [
        "DELETE FROM reservations WHERE office_id = $1 AND call_id IN
         (SELECT call_id FROM reservations WHERE office_id = $1 ORDER BY call_id LIMIT $2)",
        "DELETE FROM agent_accounts WHERE office_id = $1 AND agent_id IN
         (SELECT agent_id FROM agent_accounts WHERE office_id = $1 ORDER BY agent_id LIMIT $2)",
        "DELETE FROM task_costs WHERE office_id = $1 AND task_id IN
         (SELECT task_id FROM task_costs WHERE office_id = $1 ORDER BY task_id LIMIT $2)",
        "DELETE FROM usages WHERE office_id = $1 AND (kind, hour, key) IN
         (SELECT kind, hour, key FROM usages WHERE office_id = $1 ORDER BY kind, hour, key LIMIT $2)",
    ];
    let more = delete_some(&mut tx, &statements).await?;
    tx.commit().await?;
    Ok(more)
}

/// Deletes what came since.
pub(crate) async fn metering_clear(tx: &mut OfficeConn) -> DbResult<()> {
    for sql in [
        "DELETE FROM reservations WHERE office_id = $1",
        "DELETE FROM agent_accounts WHERE office_id = $1",
        "DELETE FROM task_costs WHERE office_id = $1",
        "DELETE FROM usages WHERE office_id = $1",
        "DELETE FROM ledger_entries WHERE office_id = $1",
    ] {
        exec!(tx, sql)?;
    }
    Ok(())
}

//! Tables `reservations`, `agent_accounts`, `task_costs` and `usages`. Rows are read many at a time. On Postgres they are
//! looked up by `LATERAL` and `OFFSET 0`: for each wanted id its row by the index.

use mi_kernel::{AgentId, CallId, OfficeId, TaskId, Time};
use mi_store::{
    Db, DbResult, FromRow, OfficeConn, PlatformConn, all, delete_some, exec, json_text, scalar_one, scalars,
};
use strum::IntoStaticStr;

use crate::model::{Account, TaskCost, Tokens, Usage};

/// Agents that may be found waiting for a budget, or for credits, at a time.
pub(crate) const MOST_WAITING: i64 = 10_000;

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

//! Table `former_keys`: keys that agents held and that are revoked.

use mi_kernel::{AgentId, OfficeId, Time, public_key::key_id};
use mi_store::{DbResult, OfficeConn, PlatformConn, Topic, all, exec, optional, scalar};

use super::Agent;

/// What the change bus tells of when a key was revoked.
pub(crate) fn topic() -> Topic {
    Topic::platform("revoked_agent_keys")
}

/// Revokes the agent's current key; changes nothing when it has none.
pub(crate) async fn key_revoke(tx: &mut OfficeConn, agent: &Agent, now: Time) -> DbResult<()> {
    let Some(public_key) = &agent.public_key else {
        return Ok(());
    };
    let sql = "INSERT INTO former_keys (agent_id, key_id, office_id, agent, revoked_at) VALUES ($2, $3, $1, $4, $5)
         ON CONFLICT (agent_id, key_id) DO NOTHING";
    exec!(tx, sql, agent.id, key_id(public_key), &agent.name, now).map(drop)
}

/// Whether the agent held this key before.
pub(crate) async fn key_is_revoked(tx: &mut OfficeConn, agent: AgentId, key_id: &str) -> DbResult<bool> {
    let sql = "SELECT 1 FROM former_keys WHERE office_id = $1 AND agent_id = $2 AND key_id = $3";
    let row: Option<i32> = scalar!(tx, sql, agent, key_id)?;
    Ok(row.is_some())
}

/// Whether any agent held this key and lost it, of whatever office: a key is one agent's on the whole installation.
pub(crate) async fn key_lived(conn: &mut PlatformConn, key_id: &str) -> DbResult<bool> {
    let row: Option<i32> = scalar!(conn, "SELECT 1 FROM former_keys WHERE key_id = $1 LIMIT 1", key_id)?;
    Ok(row.is_some())
}

/// Office and name of an agent that is gone, or whose key was revoked; of whatever office, since only its id is known.
pub(crate) async fn key_owner(conn: &mut PlatformConn, agent: AgentId) -> DbResult<Option<(OfficeId, String)>> {
    optional!(conn, "SELECT office_id, agent FROM former_keys WHERE agent_id = $1 LIMIT 1", agent)
}

/// Keys that were revoked at this time and later, of whatever office.
pub(crate) async fn keys_revoked_since(conn: &mut PlatformConn, time: Time) -> DbResult<Vec<(AgentId, String)>> {
    all!(conn, "SELECT agent_id, key_id FROM former_keys WHERE revoked_at >= $1", time)
}

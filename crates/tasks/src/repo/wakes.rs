//! Table `wakes`: the newest message that reached each agent.

use mi_kernel::{AgentId, Time};
use mi_store::{DbResult, OfficeConn, exec, optional};

use crate::model::Cause;

/// Notes the newest message that reached an agent, in place of the one before.
pub(crate) async fn wake_put(tx: &mut OfficeConn, agent: AgentId, cause: &Cause, now: Time) -> DbResult<()> {
    let sql = "INSERT INTO wakes (office_id, agent_id, cause, depth, woken_at) VALUES ($1, $2, $3, $4, $5)
         ON CONFLICT (office_id, agent_id)
         DO UPDATE SET cause = excluded.cause, depth = excluded.depth, woken_at = excluded.woken_at";
    exec!(tx, sql, agent, &cause.text, cause.depth, now).map(drop)
}

/// The newest message that reached an agent after this time.
pub(crate) async fn wake_get(tx: &mut OfficeConn, agent: AgentId, after: Time) -> DbResult<Option<Cause>> {
    let sql = "SELECT cause, depth FROM wakes WHERE office_id = $1 AND agent_id = $2 AND woken_at > $3";
    let found: Option<(String, i32)> = optional!(tx, sql, agent, after)?;
    Ok(found.map(|(text, depth)| Cause { text, depth }))
}

//! Table `wakes`: the newest message that reached each agent.

use mi_kernel::{AgentId, Time};
use mi_store::{DbResult, OfficeConn, on};

use crate::create::Cause;

/// Notes the newest message that reached an agent, in place of the one before.
pub(crate) async fn wake_put(tx: &mut OfficeConn, agent: AgentId, cause: &Cause, now: Time) -> DbResult<()> {
    let office_id = tx.office_id();
    on!(tx, |c| {
        sqlx::query(
            "INSERT INTO wakes (office_id, agent_id, cause, depth, woken_at) VALUES ($1, $2, $3, $4, $5)
             ON CONFLICT (office_id, agent_id)
             DO UPDATE SET cause = excluded.cause, depth = excluded.depth, woken_at = excluded.woken_at",
        )
        .bind(office_id.0)
        .bind(agent.0)
        .bind(&cause.text)
        .bind(cause.depth)
        .bind(now)
        .execute(&mut *c)
        .await
        .map(drop)
    })?;
    Ok(())
}

/// The newest message that reached an agent after this time.
pub(crate) async fn wake_get(tx: &mut OfficeConn, agent: AgentId, after: Time) -> DbResult<Option<Cause>> {
    let office_id = tx.office_id();
    let found: Option<(String, i32)> = on!(tx, |c| {
        sqlx::query_as("SELECT cause, depth FROM wakes WHERE office_id = $1 AND agent_id = $2 AND woken_at > $3")
            .bind(office_id.0)
            .bind(agent.0)
            .bind(after)
            .fetch_optional(&mut *c)
            .await
    })?;
    Ok(found.map(|(text, depth)| Cause { text, depth }))
}

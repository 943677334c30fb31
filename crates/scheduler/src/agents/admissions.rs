//! Table `admissions`: which invite let which agent in. What stands here is used up, whatever becomes of the agent.

use std::time::Duration;

use mi_kernel::{AgentId, InviteId, Time};
use mi_store::{Db, DbResult, OfficeConn, delete_before, on};
use uuid::Uuid;

/// Twice as long as an invite is good for: none is shown again after that.
const RETENTION: Duration = Duration::from_secs(2 * 24 * 3600);

/// The agent that this invite let in.
pub(crate) async fn admission_get(conn: &mut OfficeConn, invite: InviteId) -> DbResult<Option<AgentId>> {
    let office = conn.office_id();
    let row: Option<(Uuid,)> = on!(conn, |c| {
        sqlx::query_as("SELECT agent_id FROM admissions WHERE office_id = $1 AND invite_id = $2")
            .bind(office.0)
            .bind(invite.0)
            .fetch_optional(&mut *c)
            .await
    })?;
    Ok(row.map(|(agent,)| agent.into()))
}

pub(crate) async fn admission_insert(tx: &mut OfficeConn, invite: InviteId, agent: AgentId, now: Time) -> DbResult<()> {
    let office = tx.office_id();
    on!(tx, |c| {
        sqlx::query("INSERT INTO admissions (invite_id, office_id, agent_id, admitted_at) VALUES ($1, $2, $3, $4)")
            .bind(invite.0)
            .bind(office.0)
            .bind(agent.0)
            .bind(now)
            .execute(&mut *c)
            .await
            .map(drop)
    })?;
    Ok(())
}

/// Forgets what is too old to matter, of whatever office, in parts.
pub(crate) async fn admission_sweep(db: &Db, now: Time) -> DbResult<()> {
    let sql = "DELETE FROM admissions WHERE invite_id IN
         (SELECT invite_id FROM admissions WHERE admitted_at < $1 ORDER BY admitted_at LIMIT $2)";
    delete_before(db, sql, now - RETENTION).await
}

//! Table `admissions`: which invite was redeemed by which agent. An invite that is here is used up, whatever becomes of
//! the agent.

use std::time::Duration;

use mi_kernel::{AgentId, InviteId, Time};
use mi_store::{Db, DbResult, OfficeConn, delete_before, exec, scalar};

/// Twice as long as an invite is good for: none is shown again after that.
const RETENTION: Duration = Duration::from_secs(2 * 24 * 3600);

/// The agent that redeemed this invite.
pub(crate) async fn redemption_get(conn: &mut OfficeConn, invite: InviteId) -> DbResult<Option<AgentId>> {
    scalar!(conn, "SELECT agent_id FROM admissions WHERE office_id = $1 AND invite_id = $2", invite)
}

pub(crate) async fn redemption_insert(
    tx: &mut OfficeConn,
    invite: InviteId,
    agent: AgentId,
    now: Time,
) -> DbResult<()> {
    let sql = "INSERT INTO admissions (invite_id, office_id, agent_id, admitted_at) VALUES ($2, $1, $3, $4)";
    exec!(tx, sql, invite, agent, now).map(drop)
}

/// Forgets what is too old to matter, of whatever office, in parts.
pub(crate) async fn redemption_sweep(db: &Db, now: Time) -> DbResult<()> {
    let sql = "DELETE FROM admissions WHERE invite_id IN
         (SELECT invite_id FROM admissions WHERE admitted_at < $1 ORDER BY admitted_at LIMIT $2)";
    delete_before(db, sql, now - RETENTION).await
}

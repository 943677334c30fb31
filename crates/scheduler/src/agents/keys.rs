//! Table `agent_keys`: each public key is one agent's, on the whole installation.

use mi_kernel::{AgentId, Error, ErrorKind};
use mi_store::{DbResult, OfficeConn, exec};

/// Why a key is refused that another agent has or had: whoever holds it could verify its own work.
pub(crate) fn in_use() -> Error {
    let text = "public_key is or was the key of another agent; generate a key pair of its own for each agent";
    Error::new(ErrorKind::AlreadyExists, "KEY_IN_USE", text)
}

/// Takes the key for the agent; a unique violation when another one has or had it, of whatever office.
pub(crate) async fn key_take(tx: &mut OfficeConn, agent: AgentId, public_key: &[u8]) -> DbResult<()> {
    let sql = "INSERT INTO agent_keys (public_key, office_id, agent_id) VALUES ($2, $1, $3)";
    exec!(tx, sql, public_key, agent).map(drop)
}

//! Backups of agents.

use mi_kernel::Error;
use mi_rpc::status;
use serde_json::{Value, json};

use super::{
    Reply, answer,
    ask::Ask,
    list::{self, Window},
    shape::int,
};

const RPC: &str = "AgentService/ListBackups";

pub(super) async fn list(ask: Ask) -> Reply {
    let (window, agent) = (Window::of(&ask)?, ask.query("employee"));
    let is_wanted = |backup: &Value| agent.is_none_or(|agent| backup["agent"] == agent);
    let page = list::walk(&ask, RPC, json!({"office_id": ask.office()}), "backups", window, is_wanted).await?;
    Ok(answer::list(page.entries.iter().map(|backup| shown(ask.office(), backup)).collect(), page.total))
}

/// One backup, looked for in the list: there is no call that answers one.
pub(super) async fn get(ask: Ask) -> Reply {
    let id = ask.part(1);
    let window = Window { offset: 0, limit: 1 };
    let is_wanted = |backup: &Value| backup["id"] == id;
    let page = list::walk(&ask, RPC, json!({"office_id": ask.office()}), "backups", window, is_wanted).await?;
    match &*page.entries {
        [backup, ..] => Ok(answer::found(&shown(ask.office(), backup))),
        [] => Err(status(Error::not_found("backup", id))),
    }
}

pub(super) async fn delete(ask: Ask) -> Reply {
    ask.call("AgentService/DeleteBackup", json!({"office_id": ask.office(), "backup_id": ask.part(1)})).await?;
    Ok(answer::none())
}

fn shown(office: &str, backup: &Value) -> Value {
    json!({
        "id": backup["id"],
        "employee_name": backup["agent"],
        "office_id": office,
        "size_bytes": int(&backup["size_bytes"]),
        "sha256": backup["sha256"],
        "created_at": backup["created_at"],
    })
}

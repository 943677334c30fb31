//! Which task pays for what an agent does.

use std::collections::HashMap;

use mi_credits::Payer;
use mi_kernel::{AgentId, OfficeId, Result, TaskId};

use super::{Tasks, repo};

impl Tasks {
    /// The task that pays for a call of an agent: the one that it says it works on, if it holds that, else the
    /// oldest of those that it holds: who names none of them has no call for nothing. None: it holds none.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn payer(&self, office_id: OfficeId, agent: AgentId, said: Option<TaskId>) -> Result<Option<Payer>> {
        let mut conn = self.db.office(office_id).read().await?;
        let held = repo::task_ids_held_by(&mut conn, agent).await?;
        let Some(task_id) = said.filter(|said| held.contains(said)).or_else(|| held.iter().min().copied()) else {
            return Ok(None);
        };
        let key = (office_id, task_id);
        if let Some(root_id) = self.roots.get(&key) {
            return Ok(Some(Payer { task_id, root_id }));
        }
        let parents: HashMap<TaskId, Option<TaskId>> =
            repo::task_ancestors(&mut conn, task_id).await?.into_iter().collect();
        let mut root_id = task_id;
        // A parent that is no longer kept is none.
        while let Some(parent) = parents.get(&root_id).copied().flatten().filter(|parent| parents.contains_key(parent))
        {
            root_id = parent;
        }
        self.roots.insert(key, root_id);
        Ok(Some(Payer { task_id, root_id }))
    }
}

//! Who works in an office, as the scheduler tells: asked at most about once a second, however many want to know.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use mi_kernel::{Error, OfficeId, Result, text};
use mi_proto::internal::v1::{ListMembersRequest, Member, agent_registry_service_client::AgentRegistryServiceClient};
use mi_rpc::{RoleClient, status::from_status};
use moka::future::Cache;

/// How long an answer is used: whoever was fired or paused is taken for a worker at most this much longer.
const FRESH: Duration = Duration::from_secs(1);
/// Offices that are remembered at a time.
const CAPACITY: u64 = 10_000;

/// The agents of all offices.
#[derive(Clone)]
pub struct Members {
    registry: AgentRegistryServiceClient<RoleClient>,
    known: Cache<OfficeId, Arc<Vec<Member>>>,
}

impl Members {
    /// As the scheduler's registry tells.
    pub fn new(registry: AgentRegistryServiceClient<RoleClient>) -> Self {
        Self { registry, known: Cache::builder().max_capacity(CAPACITY).time_to_live(FRESH).build() }
    }

    /// The office's agents, by name. Who asks while another waits for the answer gets the same one.
    ///
    /// # Errors
    /// What the scheduler answers.
    pub async fn list(&self, office_id: OfficeId) -> Result<Arc<Vec<Member>>> {
        let mut registry = self.registry.clone();
        let asked = async move {
            let mut members = Vec::new();
            let mut request = ListMembersRequest { office_id: office_id.to_string(), after_name: String::new() };
            loop {
                let page = registry.list_members(request.clone()).await?.into_inner();
                members.extend(page.members);
                request.after_name = page.next_after_name;
                if request.after_name.is_empty() {
                    return Ok::<_, tonic::Status>(Arc::new(members));
                }
            }
        };
        self.known.try_get_with(office_id, asked).await.map_err(|status| from_status(&status))
    }

    /// Asks anew the next time.
    pub async fn forget(&self, office_id: OfficeId) {
        self.known.invalidate(&office_id).await;
    }

    /// The agent of this name, in whatever case it is written.
    ///
    /// # Errors
    /// `NotFound` when the office has none.
    pub async fn find(&self, office_id: OfficeId, name: &str) -> Result<Member> {
        let name = text::lookup_name("agent", name)?;
        let found = self.among(office_id, &BTreeSet::from([name.clone()])).await?;
        found.into_iter().next().ok_or_else(|| Error::not_found("agent", name))
    }

    /// The agents of these names, in lower case, as far as there are any.
    ///
    /// # Errors
    /// What the scheduler answers.
    pub async fn among(&self, office_id: OfficeId, names: &BTreeSet<String>) -> Result<Vec<Member>> {
        let pick = |members: &[Member]| -> Vec<Member> {
            members.iter().filter(|member| names.contains(&member.name)).cloned().collect()
        };
        let found = pick(&self.list(office_id).await?);
        if found.len() == names.len() {
            return Ok(found);
        }
        // One may have been hired since: whoever hires and then writes to the new one must not be told that there is none.
        self.forget(office_id).await;
        Ok(pick(&self.list(office_id).await?))
    }
}

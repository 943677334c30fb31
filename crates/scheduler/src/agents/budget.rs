//! What an agent's budget does to it: it waits while the budget, or that of an agent above it, is used up.
//!
//! The office role keeps the budgets and tells of them by version; what it told is kept with the agent.

use mi_kernel::{AgentId, Error, OfficeId, Result, text};
use mi_proto::{
    internal::v1::{ApplyAgentBudgetRequest, GetSpenderRequest, GetSpenderResponse},
    v1,
};
use serde_json::json;

use super::{Agent, Desired, State, intent::Change, repo, wire};
use crate::{Scheduler, offices};

/// The word with which an agent is shown whose office has no credits for it.
const OUT_OF_CREDITS: &str = "OUT_OF_CREDITS";
/// The word with which an agent is paused for its budget.
pub(crate) const BUDGET_REACHED: &str = "BUDGET_REACHED";

impl Scheduler {
    /// An agent, for whoever meters it.
    pub(crate) async fn spender(&self, request: &GetSpenderRequest) -> Result<GetSpenderResponse> {
        let office_id = OfficeId::parse(&request.office_id)?;
        let mut conn = self.db.office(office_id).read().await?;
        let (found, shown) = match request.agent_id.as_str() {
            "" => {
                let name = text::lookup_name("agent", &request.agent)?;
                (repo::agent_get_by_name(&mut conn, &name).await?, name)
            }
            id => (repo::agent_get(&mut conn, AgentId::parse(id)?).await?, id.to_owned()),
        };
        let agent = found.ok_or_else(|| Error::not_found("agent", shown))?;
        let office = offices::repo::office_get(&mut conn).await?;
        Ok(GetSpenderResponse {
            allow_any_model: office.is_some_and(|office| office.settings.allow_any_model),
            ..wire::spender(&self.seen.freshen(agent), self.runtime.sandbox())
        })
    }

    /// Brings an agent to what its budget says. None: it is gone.
    pub(crate) async fn apply_budget(&self, request: ApplyAgentBudgetRequest) -> Result<Option<v1::Agent>> {
        let (office_id, id) = (OfficeId::parse(&request.office_id)?, AgentId::parse(&request.agent_id)?);
        let mut tx = self.db.office(office_id).begin().await?;
        let Some(mut agent) = repo::agent_lock(&mut tx, id).await? else {
            return Ok(None);
        };
        if request.version > agent.budget_version {
            let told = agent.heed_budget(request)?;
            let change = Change { tx, agent, trace_id: String::new() };
            agent = match told {
                Some((kind, summary)) => {
                    let metadata = json!({ "reason": BUDGET_REACHED, "generation": change.agent.generation });
                    self.save(change, kind, summary, metadata).await?
                }
                None => self.save_silently(change).await?,
            };
        }
        Ok(Some(wire::agent(&self.seen.freshen(agent), self.runtime.sandbox())))
    }
}

impl Agent {
    /// Whether it is paused for a budget, and for nothing else.
    fn waits_for_budget(&self) -> bool {
        let for_budget = |reason: &str| reason.starts_with(BUDGET_REACHED);
        self.desired == Desired::Pause && matches!(&self.state, State::Paused { reason } if for_budget(reason))
    }

    /// Takes over what its budget says: the event to write, if it is paused or goes on by that. One that is paused for
    /// something else, stopped or being fired stays so.
    fn heed_budget(&mut self, told: ApplyAgentBudgetRequest) -> Result<Option<(&'static str, String)>> {
        (self.budget, self.budget_version, self.budget_reached) = (told.budget, told.version, told.reached);
        self.broke = if told.broke.is_empty() { told.broke } else { format!("{OUT_OF_CREDITS}: {}", told.broke) };
        if self.budget_reached.is_empty() {
            if !self.waits_for_budget() {
                return Ok(None);
            }
            self.renew()?;
            self.desired = Desired::Run;
            return Ok(Some(("agent.resumed", format!("Agent {:?} goes on: there is budget again", self.name))));
        }
        if self.desired != Desired::Run {
            return Ok(None);
        }
        self.renew()?;
        self.desired = Desired::Pause;
        let reason = format!("{BUDGET_REACHED}: {}", self.budget_reached);
        let summary = format!("Agent {:?} is paused: {reason}", self.name);
        self.state = State::Paused { reason };
        Ok(Some(("agent.paused", summary)))
    }

    /// Refuses to start what would have to stop again at once.
    pub(crate) fn has_budget(&self) -> Result<()> {
        if self.budget_reached.is_empty() {
            return Ok(());
        }
        let text = format!("agent {:?} waits until a budget is raised: {}", self.name, self.budget_reached);
        Err(Error::precondition(BUDGET_REACHED, text))
    }
}

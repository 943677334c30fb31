//! Budgets of agents: what an owner sets, and how the scheduler hears of it.
//!
//! The accounts have a version, and the one that the scheduler confirmed: what differs is pushed after the transaction, and
//! by the sweep for as long as it takes.

use mi_kernel::{AgentId, Error, ErrorKind, OfficeId, Result, credits::CREDIT, text};
use mi_proto::{
    internal::v1::{ApplyAgentBudgetRequest, GetSpenderRequest},
    v1::{self, SetAgentBudgetRequest},
};
use mi_rpc::{Access, Caller, status::from_status};

use super::{
    Credits, MAX_GRANT,
    model::{Account, Op, SetBudget, Spender},
    repo,
};

/// Accounts that are told of in one go.
const PAGE: i64 = 100;
/// Agents that are gone, of one name, that are named to whoever means one of them.
const MOST_NAMED: i64 = 10;

impl Credits {
    /// Sets what an agent and all whom it hired may spend.
    pub(super) async fn set_budget(&self, caller: &Caller, request: SetAgentBudgetRequest) -> Result<v1::Agent> {
        let (access, office) = self.offices.get(caller, &request.office_id).await?;
        if office.state == mi_tenancy::State::Deleting {
            return Err(mi_tenancy::State::deleting());
        }
        if request.amount.is_some_and(|amount| !(0..=MAX_GRANT).contains(&amount)) {
            let text = format!(
                "must be 0 to {MAX_GRANT} micro-credits, of which {CREDIT} are one credit, or be left out for no budget of \
                 its own"
            );
            return Err(Error::invalid("amount", text));
        }
        let (agent, spender) = self.limited(office.id, &request.agent).await?;
        may_limit(caller, &access, &spender)?;
        let (id, trace_id) = (spender.agent_id, access.trace_id().to_owned());
        let set = SetBudget { spender, budget: request.amount, by_operator: access.agent().is_none(), trace_id };
        self.submit(office.id, Op::SetBudget(set)).await.map_err(|error| match error.kind {
            ErrorKind::PermissionDenied => caller.refused(access.office_id(), error),
            _ => error,
        })?;
        // So that whoever asked sees it at once; the scheduler hears of it in any case.
        let account = repo::account_get_all(&mut self.db.office(office.id).read().await?, &[id]).await?;
        let told = match account.first() {
            Some(account) => self.push_budget(office.id, account).await,
            None => Ok(None),
        };
        let agent = v1::Agent { budget: request.amount, ..agent };
        Ok(told.ok().flatten().unwrap_or(agent))
    }

    /// What an agent and all whom it hired may spend, and did.
    pub(super) async fn budget(&self, caller: &Caller, office: &str, agent: &str) -> Result<v1::AgentBudget> {
        let (_, office) = self.offices.get(caller, office).await?;
        let (_, Spender { agent_id, name, .. }) = self.limited(office.id, agent).await?;
        let found = repo::account_get_all(&mut self.db.office(office.id).read().await?, &[agent_id]).await?;
        let account = found.into_iter().next().unwrap_or_else(|| Account::new(agent_id));
        let Account { budget, spent, reserved, .. } = account;
        Ok(v1::AgentBudget { agent_id: agent_id.to_string(), agent: name, budget, spent, reserved })
    }

    /// Whose budget is meant: the agent of this name; else an agent that is gone, by its id or by its name if one of that
    /// name has a budget. What those below it spend counts for it still.
    async fn limited(&self, office_id: OfficeId, agent: &str) -> Result<(v1::Agent, Spender)> {
        let name = text::lookup_name("agent", agent)?;
        let missing =
            match self.spender(office_id, GetSpenderRequest { agent: name.clone(), ..Default::default() }).await {
                Err(error) if error.kind == ErrorKind::NotFound => error,
                found => return found,
            };
        let id = AgentId::parse(&name).ok();
        if let Some(id) = id {
            let asked = GetSpenderRequest { agent_id: id.to_string(), ..Default::default() };
            match self.spender(office_id, asked).await {
                Err(error) if error.kind == ErrorKind::NotFound => {}
                found => return found,
            }
        }
        let mut conn = self.db.office(office_id).read().await?;
        let found = match id {
            Some(id) => repo::account_get_all(&mut conn, &[id]).await?,
            None => repo::account_limited(&mut conn, &name, MOST_NAMED).await?,
        };
        match &found[..] {
            [] => Err(missing),
            [gone] => {
                let Account { agent_id, name, lineage, budget, .. } = gone.clone();
                let agent = v1::Agent { id: agent_id.to_string(), name: name.clone(), budget, ..Default::default() };
                Ok((agent, Spender { agent_id, name, lineage }))
            }
            several => {
                let ids: Vec<String> = several.iter().map(|account| account.agent_id.to_string()).collect();
                let text =
                    format!("agents of this name that are gone have budgets; say the id of one: {}", ids.join(", "));
                Err(Error::invalid("agent", text))
            }
        }
    }

    /// An agent that is there.
    async fn spender(&self, office_id: OfficeId, asked: GetSpenderRequest) -> Result<(v1::Agent, Spender)> {
        let asked = GetSpenderRequest { office_id: office_id.to_string(), ..asked };
        let found = self.registry.clone().get_spender(asked).await;
        let found = found.map_err(|status| from_status(&status))?.into_inner();
        let agent = found.agent.ok_or_else(|| Error::internal("a spender without an agent"))?;
        let lineage = found.lineage.iter().map(|id| AgentId::parse(id)).collect::<Result<Vec<_>>>()?;
        let spender = Spender { agent_id: AgentId::parse(&agent.id)?, name: agent.name.clone(), lineage };
        Ok((agent, spender))
    }

    /// Tells the scheduler again of agents that wait, some at a time: those that are gone by now wait no longer. Answers
    /// after whom to go on.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn recall_waiting(&self, after: (OfficeId, AgentId)) -> Result<(OfficeId, AgentId)> {
        let waiting = repo::waiting_after(&mut self.db.platform().read().await?, after, PAGE).await?;
        for (office_id, id) in &waiting {
            let found = repo::account_get_all(&mut self.db.office(*office_id).read().await?, &[*id]).await?;
            let Some(account) = found.first() else { continue };
            if let Err(error) = self.push_budget(*office_id, account).await {
                tracing::warn!(target: "mi::credits", office = %office_id, error = %error.chain(), "whether an agent that waits is still there is not known yet");
            }
        }
        let full = i64::try_from(waiting.len()) == Ok(PAGE);
        Ok(waiting.last().filter(|_| full).copied().unwrap_or((OfficeId::MIN, AgentId::MIN)))
    }

    /// Tells the scheduler of what it does not know, soon.
    pub(super) fn push_budgets_soon(&self, office_id: OfficeId) {
        let credits = self.clone();
        self.background.spawn("credit-push", async move {
            if let Err(error) = credits.push_budgets(office_id).await {
                tracing::warn!(target: "mi::credits", office = %office_id, error = %error.chain(), "the scheduler does not know of a budget yet");
            }
        });
    }

    /// Tells the scheduler of what it does not know.
    pub(super) async fn push_budgets(&self, office_id: OfficeId) -> Result<()> {
        loop {
            let untold = repo::account_untold(&mut self.db.office(office_id).read().await?, PAGE).await?;
            if untold.is_empty() {
                return Ok(());
            }
            for account in &untold {
                self.push_budget(office_id, account).await?;
            }
        }
    }

    /// Tells the scheduler of one account. None: the agent is gone.
    async fn push_budget(&self, office_id: OfficeId, account: &Account) -> Result<Option<v1::Agent>> {
        let request = ApplyAgentBudgetRequest {
            office_id: office_id.to_string(),
            agent_id: account.agent_id.to_string(),
            version: account.version,
            budget: account.budget,
            reached: account.reached.clone(),
            broke: account.broke.clone(),
        };
        let answer = self.registry.clone().apply_agent_budget(request).await;
        let agent = answer.map_err(|status| from_status(&status))?.into_inner().agent;
        let mut tx = self.db.office(office_id).begin().await?;
        repo::account_told(&mut tx, account, agent.is_none()).await?;
        tx.commit().await?;
        Ok(agent)
    }
}

/// Owners limit every agent, agents those below them.
fn may_limit(caller: &Caller, access: &Access, asked: &Spender) -> Result<()> {
    match access.agent() {
        Some(member) if !asked.lineage.contains(&member.agent_id) => {
            let text = format!("an agent limits only those below it, not {:?}", asked.name);
            Err(caller.refused(access.office_id(), Error::denied(text)))
        }
        _ => Ok(()),
    }
}

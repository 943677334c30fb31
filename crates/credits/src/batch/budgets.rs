//! Budgets in a transaction: what they refuse, who has to wait for them, and who goes on.

use std::collections::HashSet;

use mi_kernel::{
    AgentId, Error, Result,
    event::{Category, Event},
};
use serde_json::json;

use super::Batch;
use crate::{
    CREDITS_RETRY,
    model::{Account, SetBudget, Spender},
};

impl Batch<'_> {
    /// Refuses what the agent's budget, or that of one above it, does not cover. One whose budget will not cover it when
    /// all open calls cost nothing either has to wait.
    pub(super) fn check_budgets(&mut self, spender: &Spender, needed: i64) -> Result<()> {
        let mut refusal = None;
        for id in spender.chain() {
            let Some(account) = self.accounts.get(&id) else { continue };
            let Some(budget) = account.budget else { continue };
            if account.spent.saturating_add(account.reserved).saturating_add(needed) <= budget {
                continue;
            }
            let text = format!(
                "the budget of {} is {budget} micro-credits, {} of them are spent, {} set aside, and the call could cost \
                 {needed}",
                account.shown_to(spender.agent_id),
                account.spent,
                account.reserved
            );
            let waits = account.spent.saturating_add(needed) > budget;
            refusal = Some((text, waits));
            if waits {
                break;
            }
        }
        let Some((text, waits)) = refusal else { return Ok(()) };
        if waits {
            self.account(spender);
            self.must_wait(spender.agent_id, &text);
        }
        Err(budget_reached(text))
    }

    /// Notes that an agent has to wait, unless it does.
    pub(super) fn must_wait(&mut self, id: AgentId, why: &str) {
        let Some(account) = self.accounts.get_mut(&id).filter(|account| account.reached.is_empty()) else { return };
        account.reached = why.to_owned();
        account.version += 1;
        let summary = format!("Agent {:?} has to wait: {why}", account.name);
        let metadata = json!({ "agent_id": id, "budget": account.budget, "spent": account.spent });
        let event = Event::lifecycle(self.tx.office_id(), &account.name, "credit.budget_reached", summary, self.now);
        self.events.push(event.category(Category::Credit).with(metadata));
        self.changed_accounts.insert(id);
    }

    /// Notes why the office's credits do not suffice for an agent, if nothing is noted yet, or that they do (empty).
    pub(super) fn note_broke(&mut self, id: AgentId, why: &str) {
        let changes = |account: &&mut Account| account.broke.is_empty() != why.is_empty();
        let Some(account) = self.accounts.get_mut(&id).filter(changes) else { return };
        account.broke = why.to_owned();
        account.version += 1;
        self.changed_accounts.insert(id);
    }

    pub(super) fn set_budget(&mut self, asked: &SetBudget) -> Result<()> {
        let (id, office_id, now) = (asked.spender.agent_id, self.tx.office_id(), self.now);
        let limit = self.accounts.get(&id).and_then(|account| account.operator_budget);
        if let Some(limit) = limit.filter(|limit| !asked.by_operator && asked.budget.is_none_or(|asked| asked > *limit))
        {
            let name = &asked.spender.name;
            let text = format!("an operator set the budget of agent {name:?} to {limit} micro-credits; set no more");
            return Err(Error::denied(text));
        }
        let account = self.account(&asked.spender);
        if asked.by_operator {
            account.operator_budget = asked.budget;
        }
        if account.budget != asked.budget {
            account.budget = asked.budget;
            account.version += 1;
            let summary = match asked.budget {
                Some(budget) => format!("The budget of {} is {budget} micro-credits", account.shown()),
                None => format!("{} has no budget of its own any more", account.shown()),
            };
            let metadata = json!({ "agent_id": id, "budget": asked.budget, "spent": account.spent });
            let event = Event::lifecycle(office_id, &account.name, "credit.budget_set", summary, now);
            self.events.push(event.category(Category::Credit).with(metadata).traced(&asked.trace_id));
        }
        self.free_below(&HashSet::from([id]));
        if let Some(account) = self.accounts.get(&id).filter(|account| account.is_spent()) {
            let why = spent_text(account, id);
            self.must_wait(id, &why);
        }
        Ok(())
    }

    /// Lets go on whoever waits for one of these budgets, as far as no other one stands in the way.
    pub(super) fn free_below(&mut self, ids: &HashSet<AgentId>) {
        let waits = |account: &&Account| {
            let mut chain = std::iter::once(&account.agent_id).chain(&account.lineage);
            !account.reached.is_empty() && chain.any(|id| ids.contains(id))
        };
        let free = |account: &Account| {
            let chain = std::iter::once(&account.agent_id).chain(&account.lineage);
            !chain.filter_map(|id| self.accounts.get(id)).any(Account::is_spent)
        };
        let freed: Vec<AgentId> = self
            .accounts
            .values()
            .filter(waits)
            .filter(|account| free(account))
            .map(|account| account.agent_id)
            .collect();
        for id in freed {
            if let Some(account) = self.accounts.get_mut(&id) {
                account.reached.clear();
                account.version += 1;
                self.changed_accounts.insert(id);
            }
        }
    }
}

/// Why this agent has to wait, whose budget, or that of one above it, is spent.
pub(super) fn spent_text(account: &Account, id: AgentId) -> String {
    format!("the budget of {} is spent, {} micro-credits", account.shown_to(id), account.budget.unwrap_or_default())
}

/// The refusal of what a budget does not cover.
pub(super) fn budget_reached(text: String) -> Error {
    Error::exhausted("BUDGET_REACHED", text, CREDITS_RETRY)
}

//! `mi credits`.

use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand, ValueEnum};
use mi_kernel::{Clock, SystemClock, credits, page::MAX_PAGE_SIZE};
use mi_proto::v1::{
    AgentBudget, Balance, GetBalanceRequest, GetUsageRequest, GrantCreditsRequest, LedgerEntry,
    ListLedgerEntriesRequest, SetAgentBudgetRequest, Usage, UsageGroup,
};
use uuid::Uuid;

use crate::{
    answer::ask, context::Context, failure::Failure, options::ColonyArg, output::resource, text::precise_time,
};

#[derive(Debug, Subcommand)]
pub(crate) enum CreditsCommand {
    /// Show what the colony has
    Balance(ColonyArg),
    /// List what changed the balance, newest first
    Ledger(LedgerArgs),
    /// Show what credits were spent on, the most expensive first
    Usage(UsageArgs),
    /// Limit what an agent and all agents below it may spend, counted since it was hired, or show what they spent
    Budget(BudgetArgs),
    /// Give credits to the colony, as the administrator
    Grant(GrantArgs),
}

#[derive(Debug, Args)]
pub(crate) struct LedgerArgs {
    #[command(flatten)]
    colony: ColonyArg,
    /// The newest this many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(i32).range(1..=100_000))]
    limit: i32,
}

/// By what usage is added up.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum By {
    /// By agent
    Agent,
    /// By provider and model; `compute` is the time for which agents ran
    Model,
    /// By the task at the top of a tree
    Task,
    /// By day, the oldest first
    Day,
}

#[derive(Debug, Args)]
pub(crate) struct UsageArgs {
    #[command(flatten)]
    colony: ColonyArg,
    /// By what it is added up
    #[arg(long, default_value = "agent")]
    by: By,
    /// Of the last this many days, at most 92, by task 31
    #[arg(long, value_name = "N", default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=92))]
    days: u64,
}

#[derive(Debug, Args)]
pub(crate) struct BudgetArgs {
    #[command(flatten)]
    colony: ColonyArg,
    /// The agent; one that is gone by its id, or by its name if it is the only one
    #[arg(value_name = "NAME")]
    name: String,
    /// Credits, 0 for a wall at once, or `none` for no budget of its own; left out: show what it is and what of it is spent
    #[arg(value_parser = budget)]
    amount: Option<Budget>,
}

/// A budget of an agent, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Budget(Option<i64>);

#[derive(Debug, Args)]
pub(crate) struct GrantArgs {
    #[command(flatten)]
    colony: ColonyArg,
    /// Credits, with up to six places behind the point
    #[arg(value_parser = grant)]
    amount: i64,
    /// Why, for the ledger
    #[arg(long, value_name = "TEXT", default_value = "granted")]
    reason: String,
    /// The same one again answers the same entry and grants nothing [default: a fresh one]
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
}

pub(crate) async fn run(command: CreditsCommand, context: &Context) -> Result<(), Failure> {
    let out = context.out;
    match command {
        CreditsCommand::Balance(colony) => {
            let office_id = context.colony(&colony).await?;
            let request = GetBalanceRequest { office_id, agent: String::new() };
            out.one(&ask!(context, credits.get_balance(request).balance).await?)
        }
        CreditsCommand::Ledger(LedgerArgs { colony, limit }) => {
            let office_id = context.colony(&colony).await?;
            let page_size = Some(limit.min(MAX_PAGE_SIZE));
            let mut request = ListLedgerEntriesRequest { office_id, page_size, page_token: String::new() };
            let (limit, mut entries) = (usize::try_from(limit).unwrap_or_default(), Vec::new());
            loop {
                let page = ask!(context, credits.list_ledger_entries(request.clone())).await?;
                entries.extend(page.entries);
                if page.next_page_token.is_empty() || entries.len() >= limit {
                    break;
                }
                request.page_token = page.next_page_token;
            }
            entries.truncate(limit);
            out.list(&entries)
        }
        CreditsCommand::Usage(UsageArgs { colony, by, days }) => {
            let group_by = match by {
                By::Agent => UsageGroup::Agent,
                By::Model => UsageGroup::Model,
                By::Task => UsageGroup::Task,
                By::Day => UsageGroup::Day,
            };
            let end = SystemTime::from(SystemClock.now());
            let start = end.checked_sub(Duration::from_secs(days * 24 * 3600)).unwrap_or(end);
            let request = GetUsageRequest {
                office_id: context.colony(&colony).await?,
                group_by: group_by.into(),
                start_time: Some(start.into()),
                end_time: Some(end.into()),
            };
            out.list(&ask!(context, credits.get_usage(request)).await?.usages)
        }
        CreditsCommand::Budget(BudgetArgs { colony, name, amount: None }) => {
            let request = GetBalanceRequest { office_id: context.colony(&colony).await?, agent: name };
            out.one(&ask!(context, credits.get_balance(request).budget).await?)
        }
        CreditsCommand::Budget(BudgetArgs { colony, name, amount: Some(Budget(amount)) }) => {
            let request = SetAgentBudgetRequest { office_id: context.colony(&colony).await?, agent: name, amount };
            out.one(&ask!(context, credits.set_agent_budget(request).agent).await?)
        }
        CreditsCommand::Grant(GrantArgs { colony, amount, reason, request_id }) => {
            let office_id = context.colony(&colony).await?;
            // Chosen here, so that a call that is tried again grants once.
            let request_id = request_id.unwrap_or_else(|| Uuid::new_v4().to_string());
            let request = GrantCreditsRequest { office_id, amount, reason, request_id };
            out.one(&ask!(context, credits.grant_credits(request).entry).await?)
        }
    }
}

/// Credits to give: some.
fn grant(text: &str) -> Result<i64, String> {
    credits::read(text).and_then(|amount| if amount > 0 { Ok(amount) } else { Err("must be more than none".into()) })
}

/// A budget as it is typed.
fn budget(text: &str) -> Result<Budget, String> {
    match text {
        "none" => Ok(Budget(None)),
        text => credits::read(text).map(|amount| Budget(Some(amount))).map_err(|problem| format!("{problem}, or none")),
    }
}

resource!(Balance, "balances", |it| {
    "AVAILABLE" => credits::shown(it.available),
    "BALANCE" => credits::shown(it.balance),
    "RESERVED" => credits::shown(it.reserved),
});

resource!(
    AgentBudget, "budgets", |it| {
        "AGENT" => it.agent,
        "BUDGET" => it.budget.map_or("none".into(), credits::shown),
        "SPENT" => credits::shown(it.spent),
        "RESERVED" => credits::shown(it.reserved),
        "LEFT" => it.budget.map(|budget| credits::shown(budget - it.spent - it.reserved)).unwrap_or_default(),
    }
    id { it.agent_id }
    name { it.agent }
);

resource!(
    LedgerEntry, "ledger entries", |it| {
        "TIME" => precise_time(it.time.as_ref()),
        "AMOUNT" => credits::shown(it.amount),
        "BALANCE" => credits::shown(it.balance_after),
        "REASON" => it.reason,
    }
    wide { "REFERENCE" => it.reference }
    id { it.id }
);

resource!(Usage, "usages", |it| {
    "KEY" => it.key,
    "AMOUNT" => credits::shown(it.amount),
    "INPUT TOKENS" => it.input_tokens,
    "OUTPUT TOKENS" => it.output_tokens,
    "CALLS" => it.calls,
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_is_given_nothing() {
        assert_eq!((grant("0.5"), grant("0.0")), (Ok(500_000), Err("must be more than none".into())));
    }

    #[test]
    fn a_budget_may_be_a_wall_or_none() {
        let read = |text| budget(text).map(|Budget(amount)| amount);
        assert_eq!((read("0"), read("none"), read("2.5")), (Ok(Some(0)), Ok(None), Ok(Some(2_500_000))));
        for text in ["", "-1", "all", "None"] {
            assert!(read(text).is_err(), "{text:?}");
        }
    }
}

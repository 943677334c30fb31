//! `mi credits`.

use std::time::{Duration, SystemTime};

use clap::{Args, Subcommand, ValueEnum};
use mi_kernel::{Clock, SystemClock};
use mi_proto::v1::{
    Balance, GetBalanceRequest, GetUsageRequest, GrantCreditsRequest, LedgerEntry, ListLedgerEntriesRequest,
    SetAgentBudgetRequest, Usage, UsageGroup,
};
use uuid::Uuid;

use crate::{
    answer::ask, context::Context, failure::Failure, options::ColonyArg, output::resource, text::precise_time,
};

/// Micro-credits of one credit.
const CREDIT: i64 = 1_000_000;

#[derive(Debug, Subcommand)]
pub(crate) enum CreditsCommand {
    /// Show what the colony has
    Balance(ColonyArg),
    /// List what changed the balance, newest first
    Ledger(LedgerArgs),
    /// Show what credits were spent on, the most expensive first
    Usage(UsageArgs),
    /// Limit what an agent and all agents below it may spend, counted since it was hired
    Budget(BudgetArgs),
    /// Give credits to the colony, as the administrator
    Grant(GrantArgs),
}

#[derive(Debug, Args)]
pub(crate) struct LedgerArgs {
    #[command(flatten)]
    colony: ColonyArg,
    /// The newest this many
    #[arg(long, value_name = "N", default_value_t = 50, value_parser = clap::value_parser!(i32).range(1..=200))]
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
    /// Credits, 0 for a wall at once, or `none` for no budget of its own
    #[arg(value_parser = budget)]
    amount: Budget,
}

/// A budget of an agent, or none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Budget(Option<i64>);

#[derive(Debug, Args)]
pub(crate) struct GrantArgs {
    #[command(flatten)]
    colony: ColonyArg,
    /// Credits, with up to six places behind the point
    #[arg(value_parser = micro_credits)]
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
            let request = GetBalanceRequest { office_id: context.colony(&colony).await? };
            out.one(&ask!(context, credits.get_balance(request).balance).await?)
        }
        CreditsCommand::Ledger(LedgerArgs { colony, limit }) => {
            let office_id = context.colony(&colony).await?;
            let request = ListLedgerEntriesRequest { office_id, page_size: Some(limit), page_token: String::new() };
            out.list(&ask!(context, credits.list_ledger_entries(request)).await?.entries)
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
        CreditsCommand::Budget(BudgetArgs { colony, name, amount: Budget(amount) }) => {
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

/// `2.5` is 2,500,000 micro-credits. Read as digits: a float would lose some.
fn micro_credits(text: &str) -> Result<i64, String> {
    let refusal =
        || "must be credits like 5 or 0.25, more than none, with at most six places behind the point".to_owned();
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let is_number = |digits: &str| !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !is_number(whole) || !is_number(part) || part.len() > 6 {
        return Err(refusal());
    }
    let whole = whole.parse::<i64>().ok().and_then(|whole| whole.checked_mul(CREDIT));
    let amount = whole.zip(format!("{part:0<6}").parse().ok()).and_then(|(whole, part)| whole.checked_add(part));
    amount.filter(|amount| *amount > 0).ok_or_else(refusal)
}

/// A budget as it is typed.
fn budget(text: &str) -> Result<Budget, String> {
    match text {
        "none" => Ok(Budget(None)),
        "0" => Ok(Budget(Some(0))),
        text => {
            micro_credits(text).map(|amount| Budget(Some(amount))).map_err(|problem| format!("{problem}, 0 or none"))
        }
    }
}

/// Micro-credits as credits, without zeros at the end.
pub(crate) fn credits(micro: i64) -> String {
    let (sign, amount) = (if micro < 0 { "-" } else { "" }, micro.unsigned_abs());
    let (whole, part) = (amount / CREDIT.unsigned_abs(), amount % CREDIT.unsigned_abs());
    let part = format!("{part:06}");
    match part.trim_end_matches('0') {
        "" => format!("{sign}{whole}"),
        part => format!("{sign}{whole}.{part}"),
    }
}

resource!(Balance, "balances", |it| {
    "AVAILABLE" => credits(it.available),
    "BALANCE" => credits(it.balance),
    "RESERVED" => credits(it.reserved),
});

resource!(
    LedgerEntry, "ledger entries", |it| {
        "TIME" => precise_time(it.time.as_ref()),
        "AMOUNT" => credits(it.amount),
        "BALANCE" => credits(it.balance_after),
        "REASON" => it.reason,
    }
    wide { "REFERENCE" => it.reference }
    id { it.id }
);

resource!(Usage, "usages", |it| {
    "KEY" => it.key,
    "AMOUNT" => credits(it.amount),
    "INPUT TOKENS" => it.input_tokens,
    "OUTPUT TOKENS" => it.output_tokens,
    "CALLS" => it.calls,
});

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credits_are_read_and_shown_to_the_last_micro_credit() {
        for (text, micro) in [
            ("5", 5_000_000),
            ("0.25", 250_000),
            ("0.000001", 1),
            ("1.5", 1_500_000),
            ("9223372036854.775807", i64::MAX),
        ] {
            assert_eq!((micro_credits(text), credits(micro)), (Ok(micro), text.to_owned()));
        }
        assert_eq!((credits(0), credits(-2_500_000)), ("0".into(), "-2.5".into()));
        for text in ["", "0", "0.0", "-1", "+1", "1.", ".5", "1.0000001", "1e3", "1,5", "9223372036854.775808", "٣"] {
            assert!(micro_credits(text).is_err(), "{text:?}");
        }
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

//! Compute in a transaction: whole minutes for which agents ran.

use chrono::TimeDelta;

use super::{Batch, budgets::spent_text};
use crate::model::{Compute, Running, Usage};

/// A clock that shows so much less than it did was put back, and counts from what it shows.
const PUT_BACK: TimeDelta = TimeDelta::minutes(5);
/// What compute is called among models.
const COMPUTE: &str = "compute";

impl Batch<'_> {
    /// Charges whole minutes: what is left of one is kept and charged with what comes next, of whatever instance.
    pub(super) fn charge(&mut self, asked: &Compute) -> i64 {
        const MINUTE_MS: i64 = 60_000;
        let (until, earliest) = (asked.until, asked.until - asked.at_most);
        let mut all = 0;
        for Running { spender, since } in &asked.agents {
            let account = self.account(spender);
            let from = match account.seen_until {
                None => *since,
                Some(seen) if seen - until > PUT_BACK => until,
                // One that was started again within a minute was as good as always there.
                Some(seen) if *since - seen <= TimeDelta::minutes(1) => seen,
                Some(_) => *since,
            };
            let new = (until - from.max(earliest)).num_milliseconds();
            if new < 0 {
                continue;
            }
            account.seen_until = Some(until);
            let unpaid = account.unpaid_ms + new;
            account.unpaid_ms = unpaid % MINUTE_MS;
            let minutes = unpaid / MINUTE_MS;
            if minutes == 0 {
                continue;
            }
            let cost = minutes.saturating_mul(self.rules.minute_price);
            self.spend(spender, cost, 0);
            let usage = Usage { amount: cost, ..Usage::default() };
            self.used(&spender.name, COMPUTE.into(), String::new(), usage);
            all += minutes;
        }
        if all == 0 {
            return 0;
        }
        let cost = all.saturating_mul(self.rules.minute_price);
        self.debit(cost, format!("{COMPUTE}: {all} agent-minutes"), COMPUTE.into(), None);
        // Compute waits for nobody's leave; whoever has nothing left for it is stopped after it.
        for Running { spender, .. } in &asked.agents {
            let spent = spender.chain().find_map(|id| self.accounts.get(&id).filter(|account| account.is_spent()));
            if let Some(account) = spent {
                let why = spent_text(account, spender.agent_id);
                self.must_wait(spender.agent_id, &why);
            }
            if !self.rules.metered {
                self.note_broke(spender.agent_id, "");
            } else if self.purse.balance <= 0 {
                self.note_broke(spender.agent_id, "the office has no credits left; grant some");
            }
        }
        cost
    }
}

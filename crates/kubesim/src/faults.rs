//! Faults on demand.

use std::time::Duration;

use crate::{matching::Matching, record::Request};

/// What goes wrong with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// The answer comes later.
    Latency(Duration),
    /// The request is refused with this status, such as 500, 503 or 401, and nothing is done.
    Status(u16),
    /// Too many requests: 429 with `Retry-After` in these seconds.
    Throttle(u64),
    /// RBAC refuses: 403.
    Forbid,
    /// The connection is closed without an answer, and nothing is done.
    Disconnect,
    /// The request is done, and its connection closed without an answer.
    LoseAnswer,
    /// No answer ever comes.
    Hang,
    /// The next page of a list is no longer there: 410.
    LosePage,
    /// A watch that starts stays silent for ever.
    HangWatch,
    /// A watch that starts is broken off after so many events.
    BreakWatch(usize),
}

/// By which a fault is taken away again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FaultId(pub(crate) u64);

#[derive(Default)]
pub(crate) struct Faults {
    rules: Vec<Rule>,
}

struct Rule {
    id: FaultId,
    of: Matching,
    fault: Fault,
    /// How many requests it still meets; without a number it meets all.
    left: Option<usize>,
}

impl Faults {
    /// Adds a fault.
    pub(crate) fn add(&mut self, id: FaultId, of: Matching, fault: Fault, times: Option<usize>) {
        self.rules.push(Rule { id, of, fault, left: times });
    }

    /// Takes a fault away.
    pub(crate) fn take(&mut self, id: FaultId) {
        self.rules.retain(|rule| rule.id != id);
    }

    /// Takes all faults away.
    pub(crate) fn clear(&mut self) {
        self.rules.clear();
    }

    /// What a request meets. Of those that decide what becomes of it the first counts, and is used up by it; latency
    /// comes on top.
    pub(crate) fn meet(&mut self, request: &Request, has_page: bool) -> (Duration, Option<Fault>) {
        let mut latency = Duration::ZERO;
        let mut met = None;
        for rule in &mut self.rules {
            let applies = match rule.fault {
                Fault::LosePage => has_page,
                Fault::HangWatch | Fault::BreakWatch(_) => request.verb == "watch",
                _ => true,
            };
            if !applies || rule.left == Some(0) || !request.is(&rule.of) {
                continue;
            }
            match &rule.fault {
                Fault::Latency(more) => latency += *more,
                _ if met.is_some() => continue,
                fault => met = Some(fault.clone()),
            }
            rule.left = rule.left.map(|left| left - 1);
        }
        self.rules.retain(|rule| rule.left != Some(0));
        (latency, met)
    }
}

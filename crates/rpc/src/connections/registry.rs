//! Who has which connections, and which of them makes room for a new one.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use mi_base::metrics;
use tokio_util::sync::CancellationToken;

use super::{ConnectionLimits, Limit};

/// The least that may be on its way to a first request, of limits that are larger.
const OPENING: usize = 64;

/// How many of so many connections may be without a request yet.
pub(super) fn part(limit: usize) -> usize {
    (limit / 4).max(OPENING)
}

/// The connections that are kept. Nothing here goes through all of them: a connection comes, begins a first call, ends a
/// last one and goes in logarithmic time.
#[derive(Debug, Default)]
pub(super) struct Registry {
    /// Given out in order.
    turns: u64,
    /// Connections in all, and those of each network.
    all: usize,
    by_network: HashMap<IpAddr, usize>,
    /// Of those, the ones without a request yet, in order of arrival.
    opening: Waiting,
    /// Of those, the ones that have called and have no call under way, in the order in which their last calls ended.
    idle: Waiting,
    /// Connections that made room for others and are not gone yet. They are not among the ones above.
    pub(super) leaving: usize,
}

impl Registry {
    /// Takes up a connection, for which others may have to end: those that only hold theirs, and of the network that has
    /// most of such. Returns its turn.
    ///
    /// # Errors
    /// The limit that is met, when all connections that count towards it have calls under way.
    pub(super) fn admit(
        &mut self,
        limits: &ConnectionLimits,
        listener: &'static str,
        network: IpAddr,
        end: &CancellationToken,
    ) -> Result<u64, Limit> {
        for (limit, most, of) in
            [(Limit::Address, limits.per_address, Some(network)), (Limit::Total, limits.total, None)]
        {
            if self.opening.count(of) >= part(most) {
                let oldest = self.opening.pop(of);
                self.end(oldest, listener, limit);
            }
            if self.count(of) >= most {
                let longest = self.idle.pop(of).or_else(|| self.opening.pop(of));
                if !self.end(longest, listener, limit) {
                    return Err(limit);
                }
            }
        }
        self.all += 1;
        *self.by_network.entry(network).or_default() += 1;
        let turn = self.next_turn();
        self.opening.add(network, turn, end);
        Ok(turn)
    }

    /// A connection has no call under way any more. Returns its new turn.
    pub(super) fn rest(&mut self, network: IpAddr, turn: u64, end: &CancellationToken) -> u64 {
        self.wake(network, turn);
        let turn = self.next_turn();
        self.idle.add(network, turn, end);
        turn
    }

    /// A connection has a call under way.
    pub(super) fn wake(&mut self, network: IpAddr, turn: u64) {
        if !self.idle.remove(network, turn) {
            self.opening.remove(network, turn);
        }
    }

    /// A connection is gone.
    pub(super) fn remove(&mut self, network: IpAddr, turn: u64, end: &CancellationToken) {
        if end.is_cancelled() {
            self.leaving -= 1;
        } else {
            self.wake(network, turn);
            self.forget(network);
        }
    }

    /// Tells a connection to end, and says whether there was one.
    fn end(&mut self, ended: Option<(IpAddr, CancellationToken)>, listener: &'static str, limit: Limit) -> bool {
        let Some((network, end)) = ended else { return false };
        end.cancel();
        self.forget(network);
        self.leaving += 1;
        metrics::refused_connection(listener, limit.as_str());
        true
    }

    fn forget(&mut self, network: IpAddr) {
        self.all -= 1;
        if let Some(count) = self.by_network.get_mut(&network) {
            *count -= 1;
            if *count == 0 {
                self.by_network.remove(&network);
            }
        }
    }

    /// Connections of a network, or in all.
    fn count(&self, of: Option<IpAddr>) -> usize {
        of.map_or(self.all, |network| self.by_network.get(&network).copied().unwrap_or_default())
    }

    fn next_turn(&mut self) -> u64 {
        self.turns += 1;
        self.turns
    }
}

/// The connections of a network that wait for a call, by turn.
type Queue = BTreeMap<u64, CancellationToken>;

/// How many connections wait, the turn of the first of them, and whose they are: the greatest is the network that has most,
/// and among equals the one that has waited longest.
type Rank = (usize, Reverse<u64>, IpAddr);

/// Connections that wait for a call.
#[derive(Debug, Default)]
struct Waiting {
    all: usize,
    by_network: HashMap<IpAddr, Queue>,
    ranks: BTreeSet<Rank>,
}

impl Waiting {
    fn add(&mut self, network: IpAddr, turn: u64, end: &CancellationToken) {
        self.change(network, |queue| queue.insert(turn, end.clone()));
    }

    fn remove(&mut self, network: IpAddr, turn: u64) -> bool {
        self.change(network, |queue| queue.remove(&turn)).is_some()
    }

    /// Takes out the one that has waited longest, of a network or of that which has most.
    fn pop(&mut self, of: Option<IpAddr>) -> Option<(IpAddr, CancellationToken)> {
        let network = of.or_else(|| self.ranks.last().map(|(_, _, network)| *network))?;
        let (_, end) = self.change(network, BTreeMap::pop_first)?;
        Some((network, end))
    }

    fn count(&self, of: Option<IpAddr>) -> usize {
        of.map_or(self.all, |network| self.by_network.get(&network).map_or(0, BTreeMap::len))
    }

    fn change<T>(&mut self, network: IpAddr, change: impl FnOnce(&mut Queue) -> T) -> T {
        let queue = self.by_network.entry(network).or_default();
        if let Some(rank) = rank(network, queue) {
            self.ranks.remove(&rank);
        }
        self.all -= queue.len();
        let changed = change(queue);
        self.all += queue.len();
        if let Some(rank) = rank(network, queue) {
            self.ranks.insert(rank);
        } else {
            self.by_network.remove(&network);
        }
        changed
    }
}

fn rank(network: IpAddr, queue: &Queue) -> Option<Rank> {
    queue.first_key_value().map(|(turn, _)| (queue.len(), Reverse(*turn), network))
}

#[cfg(test)]
impl Registry {
    /// Connections in all, and of those without a request yet and without a call under way.
    pub(super) fn counts(&self) -> (usize, usize, usize) {
        (self.all, self.opening.all, self.idle.all)
    }

    /// Networks that are known in one place or another.
    pub(super) fn networks(&self) -> [usize; 5] {
        let Self { by_network, opening, idle, .. } = self;
        [by_network.len(), opening.by_network.len(), opening.ranks.len(), idle.by_network.len(), idle.ranks.len()]
    }
}

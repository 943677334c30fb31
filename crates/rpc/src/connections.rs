//! How many connections a process keeps, for whom and for how long: against those who only hold them.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use mi_base::metrics::{self, OpenConnection};
use tokio::time::Instant;

/// The least that may be on its way to a first request, of limits that are larger.
const OPENING: usize = 64;

/// Limits on connections. Of each number a quarter may be such that have not sent a request yet.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionLimits {
    /// Open at the same time.
    pub total: usize,
    /// Open at the same time from one address, or from one /64 of IPv6. The agents of a machine have one together, and so
    /// have all who are behind one router.
    pub per_address: usize,
    /// How long a connection may take until its first request is there: the handshakes of TLS and HTTP/2, and the head.
    pub first_request: Duration,
    /// How long a connection without an open call is kept. Calls that are open, such as streams, keep it for any time.
    pub idle: Duration,
}

impl Default for ConnectionLimits {
    fn default() -> Self {
        Self {
            total: 20_000,
            per_address: 10_000,
            first_request: Duration::from_secs(10),
            idle: Duration::from_secs(300),
        }
    }
}

/// Which limit a connection met: the label of the metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    Total,
    Address,
    FirstRequest,
    Idle,
}

impl Limit {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Address => "address",
            Self::FirstRequest => "first_request",
            Self::Idle => "idle",
        }
    }
}

/// The connections of one or several listeners, which share their limits.
#[derive(Debug, Clone, Default)]
pub struct Connections(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    limits: ConnectionLimits,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    all: Count,
    by_network: HashMap<IpAddr, Count>,
}

/// How many there are.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Count {
    open: usize,
    /// Of those, without a request yet.
    opening: usize,
}

impl Count {
    /// Whether there is no room for one more.
    fn is_full(self, limit: usize) -> bool {
        self.open >= limit || self.opening >= (limit / 4).max(OPENING)
    }
}

impl Connections {
    /// None are open yet.
    pub fn new(limits: ConnectionLimits) -> Self {
        Self(Arc::new(Shared { limits, counts: Mutex::default() }))
    }

    /// Lets a connection in, unless a limit is met.
    pub(crate) fn admit(&self, listener: &'static str, address: IpAddr) -> Result<Connection, Limit> {
        let network = network(address);
        let limits = self.0.limits;
        {
            let mut counts = self.0.lock();
            if counts.all.is_full(limits.total) {
                return Err(Limit::Total);
            }
            if counts.by_network.get(&network).is_some_and(|count| count.is_full(limits.per_address)) {
                return Err(Limit::Address);
            }
            counts.change(network, |count| {
                count.open += 1;
                count.opening += 1;
            });
        }
        Ok(Connection {
            shared: Arc::clone(&self.0),
            network,
            start: Instant::now(),
            has_called: AtomicBool::new(false),
            calls: AtomicUsize::new(0),
            last: AtomicU64::new(0),
            _open: metrics::open_connection(listener),
        })
    }
}

impl Shared {
    // The counts are whole between any two statements.
    fn lock(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Counts {
    fn change(&mut self, network: IpAddr, change: impl Fn(&mut Count)) {
        change(&mut self.all);
        let count = self.by_network.entry(network).or_default();
        change(count);
        if count.open == 0 {
            self.by_network.remove(&network);
        }
    }
}

/// One open connection, and what is called over it. Counts until it is dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
    network: IpAddr,
    start: Instant,
    has_called: AtomicBool,
    /// Calls that are open.
    calls: AtomicUsize,
    /// Milliseconds from the start to the end of the last call.
    last: AtomicU64,
    _open: OpenConnection,
}

/// What a look at a connection's time says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// Not before then.
    Later(Instant),
    /// It is over.
    Now(Limit),
}

impl Connection {
    /// When its first request has to be there.
    pub(crate) fn deadline(&self) -> Instant {
        self.start + self.shared.limits.first_request
    }

    /// When to look for the first time whether its time is up.
    pub(crate) fn first_look(&self) -> Instant {
        self.deadline().min(self.start + self.shared.limits.idle)
    }

    /// Whether calls are open.
    pub(crate) fn is_used(&self) -> bool {
        self.calls.load(Ordering::Acquire) > 0
    }

    /// Looks whether its time is up.
    pub(crate) fn due(&self, now: Instant) -> Due {
        let idle = self.shared.limits.idle;
        if !self.has_called.load(Ordering::Acquire) {
            let deadline = self.deadline();
            return if deadline <= now { Due::Now(Limit::FirstRequest) } else { Due::Later(deadline) };
        }
        if self.is_used() {
            return Due::Later(now + idle);
        }
        let end = self.start + Duration::from_millis(self.last.load(Ordering::Acquire)) + idle;
        if end <= now { Due::Now(Limit::Idle) } else { Due::Later(end) }
    }

    /// A call begins.
    pub(crate) fn call(self: &Arc<Self>) -> Call {
        self.calls.fetch_add(1, Ordering::AcqRel);
        if !self.has_called.swap(true, Ordering::AcqRel) {
            self.shared.lock().change(self.network, |count| count.opening -= 1);
        }
        Call(Arc::clone(self))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        let opening = usize::from(!*self.has_called.get_mut());
        self.shared.lock().change(self.network, |count| {
            count.open -= 1;
            count.opening -= opening;
        });
    }
}

/// An open call; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Call(Arc<Connection>);

impl Drop for Call {
    fn drop(&mut self) {
        let now = u64::try_from(self.0.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.last.store(now, Ordering::Release);
        self.0.calls.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Whoever has one IPv6 address has the whole /64 of it.
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(60);

    fn limited(total: usize, per_address: usize) -> Connections {
        let first_request = Duration::from_secs(10);
        Connections::new(ConnectionLimits { total, per_address, first_request, idle: IDLE })
    }

    fn admit(connections: &Connections, address: &str) -> Result<Arc<Connection>, Limit> {
        connections.admit("test", address.parse().expect("an address")).map(Arc::new)
    }

    #[test]
    fn connections_are_counted_by_network_and_in_all_until_they_are_gone() {
        let connections = limited(3, 2);
        let first = admit(&connections, "2001:db8::1").expect("room");
        let _second = admit(&connections, "2001:db8::2").expect("room");
        assert_eq!(admit(&connections, "2001:db8::3").map(drop), Err(Limit::Address));
        let _third = admit(&connections, "10.0.0.1").expect("a network of its own");
        assert_eq!(admit(&connections, "10.0.0.2").map(drop), Err(Limit::Total));
        drop(first);
        let _fourth = admit(&connections, "2001:db8::3").expect("room again");
        assert_eq!(connections.0.lock().by_network.len(), 2, "who has none is forgotten");
    }

    #[test]
    fn those_that_say_nothing_have_a_quarter() {
        let connections = limited(1000, 400);
        let silent: Vec<_> = (0..100).map(|_| admit(&connections, "10.0.0.1").expect("room")).collect();
        assert_eq!(admit(&connections, "10.0.0.1").map(drop), Err(Limit::Address));
        drop(silent[0].call());
        let _one_more = admit(&connections, "10.0.0.1").expect("one has called");
        let others: Vec<_> = (0..150).map(|n| admit(&connections, &format!("10.1.0.{n}")).expect("room")).collect();
        assert_eq!(admit(&connections, "10.2.0.1").map(drop), Err(Limit::Total));
        drop((silent, others));
        let counts = connections.0.lock();
        assert_eq!((counts.all, counts.by_network.len()), (Count { open: 1, opening: 1 }, 1));
    }

    #[test]
    fn a_connection_is_over_without_a_request_or_long_after_its_last_call() {
        let connections = limited(3, 3);
        let connection = admit(&connections, "10.0.0.1").expect("room");
        let (start, deadline) = (connection.start, connection.deadline());
        assert_eq!((connection.first_look(), deadline), (deadline, start + Duration::from_secs(10)));
        assert_eq!(connection.due(start), Due::Later(deadline));
        assert_eq!(connection.due(deadline), Due::Now(Limit::FirstRequest));
        let (one, other) = (connection.call(), connection.call());
        let much_later = start + 10 * IDLE;
        assert_eq!(connection.due(much_later), Due::Later(much_later + IDLE), "a call is open");
        drop(one);
        assert!(connection.is_used());
        let before = Instant::now();
        drop(other);
        assert!(!connection.is_used());
        let Due::Later(end) = connection.due(start) else { panic!("it was just used") };
        // The end of a call is kept in whole milliseconds.
        let earliest = before + IDLE - Duration::from_millis(1);
        assert!((earliest..=Instant::now() + IDLE).contains(&end));
        assert_eq!(connection.due(end), Due::Now(Limit::Idle));
    }
}

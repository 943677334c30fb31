//! How many connections a process keeps, for whom and for how long: against those who only hold them.

mod registry;

use std::{
    net::{IpAddr, Ipv6Addr},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use mi_base::metrics::{self, OpenConnection};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::registry::{Registry, part};

/// Limits on connections. Of each number a quarter may be such that have not sent a request yet.
///
/// Who holds connections and says nothing keeps nobody out: a new one ends the oldest of those without a request, where
/// there is no room for more of them, and the longest idle where there is no room at all, always of the network that has
/// most of such. A new one is refused only when all have calls under way.
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
    registry: Mutex<Registry>,
}

impl Connections {
    /// None are open yet.
    pub fn new(limits: ConnectionLimits) -> Self {
        Self(Arc::new(Shared { limits, registry: Mutex::default() }))
    }

    /// Lets a connection in, for which another one may have to end; unless a limit is met by such that have calls under way.
    pub(crate) fn admit(&self, listener: &'static str, address: IpAddr) -> Result<Connection, Limit> {
        let network = network(address);
        let end = CancellationToken::new();
        let turn = self.0.lock().admit(&self.0.limits, listener, network, &end)?;
        Ok(Connection {
            shared: Arc::clone(&self.0),
            network,
            turn: AtomicU64::new(turn),
            end,
            start: Instant::now(),
            has_called: AtomicBool::new(false),
            calls: AtomicUsize::new(0),
            last: AtomicU64::new(0),
            _open: metrics::open_connection(listener),
        })
    }
}

impl Shared {
    // The registry is whole between any two statements.
    fn lock(&self) -> MutexGuard<'_, Registry> {
        self.registry.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One open connection, and what is called over it. Counts until it is dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    shared: Arc<Shared>,
    network: IpAddr,
    /// Where it is in the registry; changed under its lock.
    turn: AtomicU64,
    /// Cancelled under the lock of the registry when it has to make room.
    end: CancellationToken,
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

    /// Waits until it has to make room for another one.
    pub(crate) async fn ousted(&self) {
        self.end.cancelled().await;
    }

    /// Whether its client is told before it makes room: not one that has never called, and not while very many are on
    /// their way out, who could keep the room that they were to make.
    pub(crate) fn takes_leave(&self) -> bool {
        self.has_called.load(Ordering::Acquire) && self.shared.lock().leaving <= part(self.shared.limits.total)
    }

    /// A call begins.
    pub(crate) fn call(self: &Arc<Self>) -> Call {
        self.has_called.store(true, Ordering::Release);
        if self.calls.fetch_add(1, Ordering::AcqRel) == 0 {
            self.file();
        }
        Call(Arc::clone(self))
    }

    /// Tells the registry whether calls are open. They are looked at under its lock: whoever comes last is right.
    fn file(&self) {
        let mut registry = self.shared.lock();
        if self.end.is_cancelled() {
            return;
        }
        let turn = self.turn.load(Ordering::Acquire);
        if self.is_used() {
            registry.wake(self.network, turn);
        } else {
            self.turn.store(registry.rest(self.network, turn, &self.end), Ordering::Release);
        }
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.shared.lock().remove(self.network, *self.turn.get_mut(), &self.end);
    }
}

/// An open call; it ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Call(Arc<Connection>);

impl Drop for Call {
    fn drop(&mut self) {
        let now = u64::try_from(self.0.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.0.last.store(now, Ordering::Release);
        if self.0.calls.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.file();
        }
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

    /// A call that is under way over a connection of its own.
    fn busy(connections: &Connections, address: &str) -> Result<Call, Limit> {
        admit(connections, address).map(|connection| connection.call())
    }

    /// A connection whose only call has ended.
    fn idle(connections: &Connections, address: &str) -> Arc<Connection> {
        let connection = admit(connections, address).expect("room");
        drop(connection.call());
        connection
    }

    /// Which of these have to make room.
    fn ousted(connections: &[Arc<Connection>]) -> Vec<usize> {
        let ended = connections.iter().enumerate().filter(|(_, connection)| connection.end.is_cancelled());
        ended.map(|(index, _)| index).collect()
    }

    #[test]
    fn connections_with_calls_are_counted_by_network_and_in_all_until_they_are_gone() {
        let connections = limited(3, 2);
        let first = busy(&connections, "2001:db8::1").expect("room");
        let _second = busy(&connections, "2001:db8::2").expect("room");
        assert_eq!(busy(&connections, "2001:db8::3").map(drop), Err(Limit::Address));
        let _third = busy(&connections, "10.0.0.1").expect("a network of its own");
        assert_eq!(busy(&connections, "10.0.0.2").map(drop), Err(Limit::Total));
        drop(first);
        let _fourth = busy(&connections, "2001:db8::3").expect("room again");
        assert_eq!(connections.0.lock().networks(), [2, 0, 0, 0, 0], "who has none is forgotten");
    }

    #[test]
    fn those_that_say_nothing_have_a_quarter_and_keep_nobody_out() {
        let connections = limited(1000, 400);
        let silent: Vec<_> = (0..100).map(|_| admit(&connections, "10.0.0.1").expect("room")).collect();
        assert_eq!(ousted(&silent), [0; 0]);
        let mut more = vec![admit(&connections, "10.0.0.1").expect("the oldest makes room")];
        assert_eq!(ousted(&silent), [0]);
        drop(silent[1].call());
        more.push(admit(&connections, "10.0.0.1").expect("one has called"));
        assert_eq!(ousted(&silent), [0]);
        more.push(admit(&connections, "10.0.0.1").expect("the oldest that is silent makes room"));
        assert_eq!(ousted(&silent), [0, 2]);
        let others: Vec<_> = (0..150).map(|n| admit(&connections, &format!("10.1.0.{n}")).expect("room")).collect();
        assert_eq!(ousted(&silent), [0, 2]);
        let newcomer = busy(&connections, "10.2.0.1").expect("who has most makes room");
        assert_eq!((ousted(&silent), ousted(&more), ousted(&others)), (vec![0, 2, 3], vec![], vec![]));
        assert_eq!(connections.0.lock().counts(), (251, 249, 1));
        drop((silent, more, others, newcomer));
        let registry = connections.0.lock();
        assert_eq!((registry.counts(), registry.networks(), registry.leaving), ((0, 0, 0), [0; 5], 0));
    }

    #[test]
    fn of_networks_that_have_as_many_the_oldest_makes_room() {
        let connections = limited(256, 256);
        let silent: Vec<_> = (0..64).map(|n| admit(&connections, &format!("10.0.0.{n}")).expect("room")).collect();
        let _newcomer = admit(&connections, "10.0.1.1").expect("the oldest makes room");
        assert_eq!(ousted(&silent), [0]);
    }

    #[test]
    fn the_longest_idle_makes_room_and_a_new_one_is_refused_only_for_calls() {
        let connections = limited(4, 3);
        let kept = [
            idle(&connections, "10.0.0.2"),
            idle(&connections, "10.0.0.1"),
            idle(&connections, "10.0.0.1"),
            admit(&connections, "10.0.0.1").expect("room"),
        ];
        // Now the third has been idle for longer than the second.
        drop(kept[1].call());
        let mut calls =
            vec![kept[3].call(), busy(&connections, "10.0.0.1").expect("its network is full, not of calls")];
        assert_eq!(ousted(&kept), [2]);
        calls.push(busy(&connections, "10.0.0.3").expect("the longest idle makes room"));
        assert_eq!(ousted(&kept), [0, 2]);
        let silent = admit(&connections, "10.0.0.4").expect("the other idle one makes room");
        assert_eq!(ousted(&kept), [0, 1, 2]);
        // What is called over those now changes nothing.
        calls.push(kept[1].call());
        calls.push(busy(&connections, "10.0.0.5").expect("with none that is idle, a silent one makes room"));
        assert!(silent.end.is_cancelled());
        assert_eq!(busy(&connections, "10.0.0.6").map(drop), Err(Limit::Total));
        let counts = |connections: &Connections| {
            let registry = connections.0.lock();
            (registry.counts(), registry.leaving)
        };
        assert_eq!(counts(&connections), ((4, 0, 0), 4));
        drop((calls, kept, silent));
        assert_eq!(counts(&connections), ((0, 0, 0), 0));
    }

    #[test]
    fn clients_that_have_called_are_told_before_they_make_room_unless_very_many_are() {
        let connections = limited(64, 64);
        let mut kept: Vec<_> = (0..128).map(|_| idle(&connections, "10.0.0.1")).collect();
        assert_eq!(ousted(&kept), (0..64).collect::<Vec<_>>());
        assert!(kept[0].takes_leave());
        kept.push(idle(&connections, "10.0.0.1"));
        assert!(!kept[0].takes_leave() && !kept[64].takes_leave());
        kept.drain(..32);
        assert!(kept[0].takes_leave());
        assert!(!admit(&connections, "10.0.0.2").expect("room").takes_leave(), "it has never called");
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

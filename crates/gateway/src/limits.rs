//! How much one principal may do at once: a rate and a number of open calls, kept in memory.

use std::{net::IpAddr, sync::Arc, time::Duration};

use governor::{
    DefaultDirectRateLimiter, Quota, RateLimiter,
    clock::{Clock, DefaultClock},
};
use mi_kernel::{AccountId, Actor, AgentId, Error, Result};
use mi_rpc::connections::network;
use moka::future::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config::Limits;

/// Principals remembered at once; the least used are forgotten first.
const PRINCIPALS: u64 = 100_000;
/// A principal that does not call for so long starts afresh. A bucket is full again long before.
const IDLE: Duration = Duration::from_secs(3600);

/// Who shares one bucket: the same callers for whom [`Actor::key`] is the same, without making a text of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Key {
    Account(AccountId),
    Agent(AgentId),
    Address(IpAddr),
    /// Callers within the process.
    Unknown,
}

struct Bucket {
    rate: DefaultDirectRateLimiter,
    slots: Arc<Semaphore>,
}

/// The buckets of all principals.
pub(crate) struct Limiter {
    limits: Limits,
    anonymous: Limits,
    buckets: Cache<Key, Arc<Bucket>>,
}

impl Limiter {
    pub(crate) fn new(limits: Limits, anonymous: Limits) -> Self {
        Self { limits, anonymous, buckets: Cache::builder().max_capacity(PRINCIPALS).time_to_idle(IDLE).build() }
    }

    /// Lets a call in. It counts as open until the permit is dropped.
    pub(crate) async fn admit(&self, actor: &Actor, address: Option<IpAddr>) -> Result<OwnedSemaphorePermit> {
        let (key, limits) = match actor {
            Actor::Operator { account_id, .. } => (Key::Account(*account_id), self.limits),
            Actor::Agent(agent) => (Key::Agent(agent.agent_id), self.limits),
            Actor::Anonymous | Actor::Service { .. } => {
                (address.map_or(Key::Unknown, |address| Key::Address(network(address))), self.anonymous)
            }
        };
        let bucket = match self.buckets.get(&key).await {
            Some(bucket) => bucket,
            None => self.buckets.get_with(key, async { Arc::new(Bucket::new(limits)) }).await,
        };
        if let Err(refused) = bucket.rate.check() {
            let wait = refused.wait_time_from(DefaultClock::default().now());
            return Err(Error::exhausted("RATE_LIMITED", "too many calls in a short time; slow down", wait));
        }
        Arc::clone(&bucket.slots).try_acquire_owned().map_err(|_| {
            let message = format!("{} calls and streams are open already; end some first", limits.concurrent);
            Error::exhausted("TOO_MANY_CALLS", message, Duration::from_secs(1))
        })
    }
}

impl Bucket {
    fn new(limits: Limits) -> Self {
        let quota = Quota::per_second(limits.per_second).allow_burst(limits.burst);
        Self { rate: RateLimiter::direct(quota), slots: Arc::new(Semaphore::new(limits.concurrent)) }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use mi_kernel::ApiKeyId;

    use super::*;

    fn limits(burst: u32, concurrent: usize) -> Limits {
        Limits { per_second: NonZeroU32::MIN, burst: NonZeroU32::new(burst).expect("not zero"), concurrent }
    }

    fn operator(account_id: AccountId) -> Actor {
        Actor::Operator { account_id, api_key_id: ApiKeyId::new(), administrator: false }
    }

    #[tokio::test]
    async fn the_keys_of_one_account_share_a_bucket_and_others_do_not() {
        let limiter = Limiter::new(limits(3, 2), limits(1, 1));
        let (mine, other) = (AccountId::new(), AccountId::new());
        let first = limiter.admit(&operator(mine), None).await.expect("within limits");
        let _second = limiter.admit(&operator(mine), None).await.expect("within limits");
        let refused = limiter.admit(&operator(mine), None).await.expect_err("a third at once");
        assert_eq!((refused.reason, refused.retry_after), ("TOO_MANY_CALLS", Some(Duration::from_secs(1))));
        drop(first);
        let refused = limiter.admit(&operator(mine), None).await.expect_err("a fourth in a second");
        assert_eq!(refused.reason, "RATE_LIMITED");
        assert!(refused.retry_after.is_some_and(|wait| !wait.is_zero() && wait <= Duration::from_secs(1)));
        let _free = limiter.admit(&operator(other), None).await.expect("an account of its own");
    }

    #[tokio::test]
    async fn strangers_are_told_apart_by_network() {
        let limiter = Limiter::new(limits(9, 9), limits(1, 9));
        let mut refused = Vec::new();
        for address in ["10.0.0.1", "10.0.0.2", "::ffff:10.0.0.1", "2001:db8::1", "2001:db8::2", "2001:db8:0:1::1"] {
            let address = Some(address.parse().expect("an address"));
            if limiter.admit(&Actor::Anonymous, address).await.is_err() {
                refused.push(address.map(|address: IpAddr| address.to_string()));
            }
        }
        assert_eq!(refused, [Some("::ffff:10.0.0.1".to_owned()), Some("2001:db8::2".to_owned())]);
        let _free = limiter.admit(&Actor::Anonymous, None).await.expect("callers within the process");
    }
}

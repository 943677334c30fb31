//! Credentials that die: each role that keeps them tells which were revoked, and what was opened with them ends.
//!
//! What is remembered of a credential holds for a second. It goes on to hold while its role, asked within a second, has not
//! told that it was revoked: one question, for all credentials.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use futures::{
    StreamExt,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use http_body::{Frame, SizeHint};
use mi_base::{
    Tasks,
    shared_answer::{Answered, SharedAnswer},
};
use mi_kernel::{AgentId, ApiKeyId, Time, backoff::Backoff};
use mi_proto::internal::v1::{
    WatchRevokedAgentKeysRequest, WatchRevokedApiKeysRequest,
    agent_registry_service_client::AgentRegistryServiceClient, credential_service_client::CredentialServiceClient,
};
use mi_rpc::{RoleClient, convert};
use prost_types::Timestamp;
use tokio::time::{Instant, timeout};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Status, body::Body};

use crate::{
    auth::{FRESH, KEPT},
    config::Backends,
};

/// How long a revocation is remembered: longer than what was asked before it is.
const REMEMBERED: Duration = KEPT.saturating_mul(2);
/// How long to wait for a role to say what was revoked, before credentials are asked for one by one.
const QUESTION: Duration = Duration::from_secs(2);
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(50), most: Duration::from_secs(1) };

/// What a caller showed.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) enum Credential {
    ApiKey(ApiKeyId),
    AgentKey(AgentId, String),
}

/// The credentials of open calls. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Revocations(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    open: HashMap<Credential, Open>,
    revoked: HashMap<Credential, Instant>,
}

/// The open calls of one credential.
#[derive(Default)]
struct Open {
    calls: usize,
    revoked: CancellationToken,
}

/// One open call; it counts until this is dropped.
pub(crate) struct Held {
    revocations: Revocations,
    credential: Credential,
    revoked: CancellationToken,
}

impl Revocations {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call as open.
    pub(crate) fn hold(&self, credential: &Credential) -> Held {
        let mut state = self.state();
        let dead = state.revoked.contains_key(credential);
        let open = state.open.entry(credential.clone()).or_default();
        open.calls += 1;
        if dead {
            open.revoked.cancel();
        }
        let revoked = open.revoked.clone();
        drop(state);
        Held { revocations: self.clone(), credential: credential.clone(), revoked }
    }

    /// Whether it was told of, within [`REMEMBERED`], that it was revoked.
    pub(crate) fn is_revoked(&self, credential: &Credential) -> bool {
        self.state().revoked.contains_key(credential)
    }

    fn revoke(&self, credentials: Vec<Credential>) {
        let mut state = self.state();
        let now = Instant::now();
        state.revoked.retain(|_, at| now.duration_since(*at) < REMEMBERED);
        for credential in credentials {
            if let Some(open) = state.open.get(&credential) {
                open.revoked.cancel();
            }
            state.revoked.insert(credential, now);
        }
    }

    /// Takes what one role tells, for ever, and goes on where it was when the stream broke.
    async fn listen(self, keeper: Arc<Keeper>, mut since: Option<Timestamp>) {
        let mut failures = 0;
        loop {
            let mut answers = match (keeper.watch)(since).await {
                Ok(answers) => answers,
                Err(status) => stream::iter([Err(status)]).boxed(),
            };
            while let Some(answer) = answers.next().await {
                match answer {
                    Ok((credentials, time)) => {
                        failures = 0;
                        self.revoke(credentials);
                        since = time.or(since);
                    }
                    Err(status) => {
                        tracing::debug!(target: "mi::gateway", role = keeper.role, error = status.message(), "revocations broke off");
                    }
                }
            }
            failures += 1;
            tokio::time::sleep(BACKOFF.after(failures)).await;
        }
    }
}

/// What was revoked, and where to go on.
type Told = Result<(Vec<Credential>, Option<Timestamp>), Status>;

/// Asks a role for what was revoked since a time, then for each that is.
type Watch =
    Box<dyn Fn(Option<Timestamp>) -> BoxFuture<'static, Result<BoxStream<'static, Told>, Status>> + Send + Sync>;

/// A role that keeps credentials.
struct Keeper {
    role: &'static str,
    watch: Watch,
    told: Mutex<Period>,
    /// Whether it answered.
    last: SharedAnswer<bool>,
}

/// Of when a role has told what was revoked.
#[derive(Clone, Copy)]
struct Period {
    /// Since when.
    began: Instant,
    /// Until when: it was asked then.
    asked: Instant,
    /// The same, by its clock.
    time: Option<Timestamp>,
}

impl Keeper {
    fn new(role: &'static str, since: Timestamp, watch: Watch) -> Arc<Self> {
        let now = Instant::now();
        let told = Mutex::new(Period { began: now, asked: now, time: Some(since) });
        Arc::new(Self { role, watch, told, last: SharedAnswer::default() })
    }

    fn told(&self) -> MutexGuard<'_, Period> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Asks what was revoked since it was asked last; false: it does not say.
    async fn ask(&self, revocations: &Revocations) -> bool {
        let (before, asked) = (*self.told(), Instant::now());
        // Nobody needs all that was revoked in a long time without calls.
        let goes_on = before.asked.elapsed() <= KEPT;
        let (since, began) = if goes_on { (before.time, before.began) } else { (None, asked) };
        let first = async { (self.watch)(since).await?.next().await.transpose() };
        match timeout(QUESTION, first).await {
            Ok(Ok(Some((credentials, time)))) => {
                revocations.revoke(credentials);
                *self.told() = Period { began, asked, time: time.or(since) };
                true
            }
            unanswered => {
                let error = unanswered.ok().and_then(Result::err);
                let error = error.as_ref().map_or("no answer", Status::message);
                tracing::debug!(target: "mi::gateway", role = self.role, error, "credentials are asked for one by one");
                false
            }
        }
    }
}

/// The roles that keep credentials.
pub(crate) struct Keepers {
    revocations: Revocations,
    office: Arc<Keeper>,
    scheduler: Arc<Keeper>,
}

impl Keepers {
    pub(crate) fn new(backends: &Backends, revocations: Revocations, now: Time) -> Self {
        // What is revoked from here on, also while a role cannot be reached; clocks may be apart.
        let since = convert::timestamp(now - Duration::from_secs(60));
        let office = CredentialServiceClient::new(RoleClient::new(backends.office.clone(), "gateway"));
        let api_keys: Watch = Box::new(move |since| {
            let mut office = office.clone();
            Box::pin(async move {
                let answers = office.watch_revoked_api_keys(WatchRevokedApiKeysRequest { since }).await?;
                let told = answers.into_inner().map(|answer| {
                    let answer = answer?;
                    let keys = answer.api_key_ids.iter().filter_map(|id| Some(Credential::ApiKey(id.parse().ok()?)));
                    Ok((keys.collect(), answer.time))
                });
                Ok(told.boxed())
            })
        });
        let scheduler = AgentRegistryServiceClient::new(RoleClient::new(backends.scheduler.clone(), "gateway"));
        let agent_keys: Watch = Box::new(move |since| {
            let mut scheduler = scheduler.clone();
            Box::pin(async move {
                let answers = scheduler.watch_revoked_agent_keys(WatchRevokedAgentKeysRequest { since }).await?;
                let told = answers.into_inner().map(|answer| {
                    let answer = answer?;
                    let credential = |key: &mi_proto::internal::v1::AgentKeyName| {
                        Some(Credential::AgentKey(key.agent_id.parse().ok()?, key.key_id.clone()))
                    };
                    Ok((answer.keys.iter().filter_map(credential).collect(), answer.time))
                });
                Ok(told.boxed())
            })
        });
        Self {
            revocations,
            office: Keeper::new("office", since, api_keys),
            scheduler: Keeper::new("scheduler", since, agent_keys),
        }
    }

    /// Listens to them for ever.
    pub(crate) fn listen(&self, tasks: &Tasks) {
        for (name, keeper) in
            [("gateway-revoked-api-keys", &self.office), ("gateway-revoked-agent-keys", &self.scheduler)]
        {
            let since = keeper.told().time;
            tasks.spawn(name, self.revocations.clone().listen(keeper.clone(), since));
        }
    }

    /// Whether what was asked at a moment still holds, unless the credential is revoked by now; none: it was a refusal.
    pub(crate) async fn confirm(&self, asked: Instant, credential: Option<&Credential>) -> bool {
        if asked.elapsed() <= FRESH {
            return true;
        }
        let keeper = match credential {
            None => return false,
            Some(Credential::ApiKey(_)) => &self.office,
            Some(Credential::AgentKey(..)) => &self.scheduler,
        };
        let stands = async |known: Answered<bool>| known.holds_for(FRESH);
        let ask = || {
            let (keeper, revocations) = (keeper.clone(), self.revocations.clone());
            async move { keeper.ask(&revocations).await }
        };
        keeper.last.get(stands, ask).await && keeper.told().began <= asked
    }
}

impl Held {
    /// What is sent ends with the credential.
    pub(crate) fn guard(&self, body: Body) -> Guarded {
        Guarded { body, revoked: Box::pin(self.revoked().cancelled_owned()) }
    }

    /// Cancelled once the credential is revoked.
    pub(crate) fn revoked(&self) -> CancellationToken {
        self.revoked.clone()
    }
}

/// What a caller sends, until its credential is revoked: whether it reads the answers is its own to choose.
pub(crate) struct Guarded {
    body: Body,
    revoked: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl http_body::Body for Guarded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.revoked.as_mut().poll(cx) {
            Poll::Ready(()) => Poll::Ready(Some(Err(Status::unauthenticated("the credential was revoked")))),
            Poll::Pending => Pin::new(&mut self.body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut state = self.revocations.state();
        if let Some(open) = state.open.get_mut(&self.credential) {
            open.calls -= 1;
            if open.calls == 0 {
                state.open.remove(&self.credential);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_open_call_of_a_revoked_credential_is_told_and_no_other() {
        let revocations = Revocations::default();
        let (dead, agent) = (Credential::ApiKey(ApiKeyId::new()), AgentId::new());
        let (old, new) = (Credential::AgentKey(agent, "k1".into()), Credential::AgentKey(agent, "k2".into()));
        let held = [&dead, &dead, &old, &new].map(|credential| revocations.hold(credential));
        revocations.revoke(vec![dead.clone()]);
        revocations.revoke(vec![old.clone()]);
        assert_eq!(held.each_ref().map(|held| held.revoked().is_cancelled()), [true, true, true, false]);
        // One that was let in on a remembered answer a moment later.
        assert!(revocations.hold(&old).revoked().is_cancelled());
        assert!(revocations.is_revoked(&old) && !revocations.is_revoked(&new));
        drop(held);
        assert!(revocations.state().open.is_empty(), "nothing is kept for calls that ended");
        assert!(revocations.hold(&dead).revoked().is_cancelled(), "also when none was open in between");
    }

    /// Also when the caller reads no answer, and so never learns of it.
    #[tokio::test]
    async fn what_a_caller_sends_ends_with_its_credential() {
        let (revocations, credential) = (Revocations::default(), Credential::ApiKey(ApiKeyId::new()));
        let held = revocations.hold(&credential);
        let sent = stream::iter([Ok::<_, Status>(Frame::data(Bytes::from_static(b"first")))]).chain(stream::pending());
        let mut body = held.guard(Body::new(http_body_util::StreamBody::new(sent)));
        let first = http_body_util::BodyExt::frame(&mut body).await.expect("goes on").expect("good");
        assert_eq!(first.into_data().expect("data"), "first");
        revocations.revoke(vec![credential]);
        let ended = http_body_util::BodyExt::frame(&mut body).await.expect("says so").expect_err("revoked");
        assert_eq!(ended.code(), tonic::Code::Unauthenticated);
    }
}

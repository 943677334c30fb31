//! Credentials that die while calls are open: each role that keeps them tells which were revoked, and what was opened
//! with them ends.
//!
//! An answer about a credential is remembered for a second; this is for streams, which outlive it, and makes the second
//! shorter where it can.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http_body::{Frame, SizeHint};
use mi_base::Tasks;
use mi_kernel::{AgentId, ApiKeyId, Time, backoff::Backoff};
use mi_proto::internal::v1::{
    WatchRevokedAgentKeysRequest, WatchRevokedApiKeysRequest,
    agent_registry_service_client::AgentRegistryServiceClient, credential_service_client::CredentialServiceClient,
};
use mi_rpc::{RoleClient, convert};
use prost_types::Timestamp;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::{Status, body::Body};

use crate::config::Backends;

/// How long a revocation is remembered for calls that are being let in at this moment on a remembered answer.
const REMEMBERED: Duration = Duration::from_secs(10);
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

    /// Whether it was revoked a moment ago.
    pub(crate) fn is_revoked(&self, credential: &Credential) -> bool {
        self.state().revoked.contains_key(credential)
    }

    fn revoke(&self, credential: Credential) {
        let mut state = self.state();
        let now = Instant::now();
        state.revoked.retain(|_, at| now.duration_since(*at) < REMEMBERED);
        if let Some(open) = state.open.get(&credential) {
            open.revoked.cancel();
        }
        state.revoked.insert(credential, now);
    }

    /// Listens to the roles for ever.
    pub(crate) fn start(backends: &Backends, now: Time, tasks: &Tasks) -> Self {
        let revocations = Self::default();
        // What is revoked from here on, also while a role cannot be reached; clocks may be apart.
        let since = Some(convert::timestamp(now - Duration::from_secs(60)));
        let office = CredentialServiceClient::new(RoleClient::new(backends.office.clone(), "gateway"));
        let api_keys = async move |since| {
            let answers = office.clone().watch_revoked_api_keys(WatchRevokedApiKeysRequest { since }).await?;
            Ok(answers.into_inner().map(|answer| {
                let answer = answer?;
                let keys = answer.api_key_ids.iter().filter_map(|id| Some(Credential::ApiKey(id.parse().ok()?)));
                Ok((keys.collect(), answer.time))
            }))
        };
        tasks.spawn("gateway-revoked-api-keys", revocations.clone().listen("office", since, api_keys));
        let scheduler = AgentRegistryServiceClient::new(RoleClient::new(backends.scheduler.clone(), "gateway"));
        let agent_keys = async move |since| {
            let answers = scheduler.clone().watch_revoked_agent_keys(WatchRevokedAgentKeysRequest { since }).await?;
            Ok(answers.into_inner().map(|answer| {
                let answer = answer?;
                let credential = |key: &mi_proto::internal::v1::AgentKeyName| {
                    Some(Credential::AgentKey(key.agent_id.parse().ok()?, key.key_id.clone()))
                };
                Ok((answer.keys.iter().filter_map(credential).collect(), answer.time))
            }))
        };
        tasks.spawn("gateway-revoked-agent-keys", revocations.clone().listen("scheduler", since, agent_keys));
        revocations
    }

    /// Takes what one role tells, and goes on where it was when the stream broke.
    async fn listen<S>(
        self,
        role: &'static str,
        mut since: Option<Timestamp>,
        connect: impl AsyncFn(Option<Timestamp>) -> Result<S, Status>,
    ) where
        S: Stream<Item = Told>,
    {
        let mut failures = 0;
        loop {
            let answers = match connect(since).await {
                Ok(answers) => answers.left_stream(),
                Err(status) => stream::iter([Err(status)]).right_stream(),
            };
            let mut answers = std::pin::pin!(answers);
            while let Some(answer) = answers.next().await {
                match answer {
                    Ok((credentials, time)) => {
                        failures = 0;
                        credentials.into_iter().for_each(|credential| self.revoke(credential));
                        since = time.or(since);
                    }
                    Err(status) => {
                        tracing::debug!(target: "mi::gateway", role, error = status.message(), "revocations broke off");
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
        revocations.revoke(dead.clone());
        revocations.revoke(old.clone());
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
        revocations.revoke(credential);
        let ended = http_body_util::BodyExt::frame(&mut body).await.expect("says so").expect_err("revoked");
        assert_eq!(ended.code(), tonic::Code::Unauthenticated);
    }
}

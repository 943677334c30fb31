//! Who calls: API keys of operators and tokens of agents become actors, by asking the role that keeps them.

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::{HeaderMap, header::AUTHORIZATION};
use mi_base::Tasks;
use mi_kernel::{Actor, AgentId, Clock, Error, ErrorKind, Result};
use mi_proto::{
    internal::v1::{
        ResolveAgentKeyRequest, ResolveApiKeyRequest, agent_registry_service_client::AgentRegistryServiceClient,
        credential_service_client::CredentialServiceClient,
    },
    v1::Principal,
};
use mi_rpc::{RoleClient, convert, status::from_status};
use moka::{Expiry, future::Cache};
use ring::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use tokio::time::Instant;
use tonic::{Code, Request, Status};

use crate::{
    config::Backends,
    reports::Reports,
    revocation::{Credential, Keepers, Revocations},
    token::{self, Token},
};

/// How API keys begin; everything else is an agent's token.
const API_KEY: &str = "mi_";
/// How long an answer counts, from when the question was asked: so long does a revoked credential live on at most.
pub(crate) const FRESH: Duration = Duration::from_secs(1);
/// How long it counts while the role that keeps the credential says that it was not revoked.
pub(crate) const KEPT: Duration = Duration::from_secs(60);
/// How long a refusal counts: enough to blunt a loop, short enough for a key that was made just now.
const REFUSED_FRESH: Duration = Duration::from_millis(200);
/// Credentials remembered at once.
const CAPACITY: u64 = 100_000;
/// How long to wait for the role that knows.
const LOOKUP: Duration = Duration::from_secs(5);

type Hash = [u8; SHA256_OUTPUT_LEN];

/// A value that stops being good at a moment, and sooner unless it is confirmed: see [`Keepers::confirm`].
#[derive(Clone)]
struct Fresh<T> {
    value: T,
    asked: Instant,
    until: Instant,
}

impl<T, E> Fresh<Result<T, E>> {
    fn new(asked: Instant, value: Result<T, E>) -> Self {
        let until = asked + if value.is_ok() { KEPT } else { REFUSED_FRESH };
        Self { value, asked, until }
    }
}

struct UntilStale;

impl<K, T> Expiry<K, Fresh<T>> for UntilStale {
    fn expire_after_create(&self, _: &K, fresh: &Fresh<T>, created: std::time::Instant) -> Option<Duration> {
        Some(fresh.until.into_std().saturating_duration_since(created))
    }
}

/// Who calls, and what they showed; nothing: nobody in particular.
#[derive(Clone)]
pub(crate) struct Identity {
    pub(crate) actor: Arc<Actor>,
    pub(crate) credential: Option<Credential>,
}

/// Who holds a credential and until when (Unix seconds), or why nobody does.
type Verdict = Result<(Identity, f64), &'static str>;

/// An agent with its public key, or why there is none.
type AgentKey = Result<(Arc<Actor>, Arc<[u8]>), &'static str>;

/// Resolves credentials.
pub(crate) struct Authenticator {
    api_keys: CredentialServiceClient<RoleClient>,
    agents: AgentRegistryServiceClient<RoleClient>,
    clock: Arc<dyn Clock>,
    anonymous: Identity,
    revocations: Revocations,
    keepers: Keepers,
    reports: Reports,
    verdicts: Cache<Hash, Fresh<Verdict>>,
    agent_keys: Cache<(AgentId, String), Fresh<AgentKey>>,
}

impl Authenticator {
    pub(crate) fn new(backends: &Backends, clock: Arc<dyn Clock>, revocations: Revocations, tasks: &Tasks) -> Self {
        let agents = AgentRegistryServiceClient::new(RoleClient::new(backends.scheduler.clone(), "gateway"));
        let keepers = Keepers::new(backends, revocations.clone(), clock.now());
        keepers.listen(tasks);
        Self {
            api_keys: CredentialServiceClient::new(RoleClient::new(backends.office.clone(), "gateway")),
            reports: Reports::start(agents.clone(), tasks),
            agents,
            clock,
            anonymous: Identity { actor: Arc::new(Actor::Anonymous), credential: None },
            revocations,
            keepers,
            verdicts: Cache::builder().max_capacity(CAPACITY).expire_after(UntilStale).build(),
            agent_keys: Cache::builder().max_capacity(CAPACITY).expire_after(UntilStale).build(),
        }
    }

    /// Nobody in particular.
    pub(crate) fn anonymous(&self) -> Identity {
        self.anonymous.clone()
    }

    /// Who the headers say that calls. Without a credential that is nobody; the role decides whether it needs one.
    ///
    /// # Errors
    /// `Unauthenticated` for a credential that is malformed or that nobody holds, `Unavailable` when the role that
    /// knows cannot be asked.
    pub(crate) async fn authenticate(&self, headers: &HeaderMap) -> Result<Identity> {
        match bearer(headers)? {
            Some(credential) => self.known(credential).await,
            None => Ok(self.anonymous()),
        }
    }

    /// Who holds this credential.
    ///
    /// # Errors
    /// As [`Authenticator::authenticate`].
    pub(crate) async fn known(&self, credential: &str) -> Result<Identity> {
        let mut hash = Hash::default();
        hash.copy_from_slice(digest(&SHA256, credential.as_bytes()).as_ref());
        let mut known = self.verdicts.get(&hash).await;
        if let Some(Fresh { value, asked, .. }) = &known {
            let shown = value.as_ref().ok().and_then(|(identity, _)| identity.credential.as_ref());
            if !self.keepers.confirm(*asked, shown).await {
                self.verdicts.invalidate(&hash).await;
                known = None;
            }
        }
        let verdict = match known {
            Some(known) => known.value,
            None => {
                let asked = self.verdicts.try_get_with(hash, self.resolve(credential, hash)).await;
                asked.map_err(lookup_failed)?.value
            }
        };
        // A remembered token runs out by the clock like any other, and dies with its key.
        let verdict = verdict.and_then(|(identity, expires)| {
            if expires < self.clock.now().timestamp_millis() as f64 / 1000.0 {
                return Err("it has expired");
            }
            match &identity.credential {
                Some(shown) if self.revocations.is_revoked(shown) => Err("it was revoked"),
                _ => Ok(identity),
            }
        });
        verdict.map_err(|why| refused(credential, why))
    }

    /// Tells the office of the agent that a refused credential names, if it names one.
    pub(crate) fn tell(&self, headers: &HeaderMap, refused: &Error, source: Option<IpAddr>) {
        if let Ok(Some(credential)) = bearer(headers) {
            self.tell_of(credential, refused, source);
        }
    }

    /// The same for a credential that came elsewhere.
    pub(crate) fn tell_of(&self, credential: &str, refused: &Error, source: Option<IpAddr>) {
        let named = token::claimed_agent(credential);
        if let (ErrorKind::Unauthenticated, Some(agent_id), Some(why)) = (refused.kind, named, &refused.source) {
            self.reports.send(agent_id, &why.to_string(), source);
        }
    }

    async fn resolve(&self, credential: &str, hash: Hash) -> Result<Fresh<Verdict>> {
        let asked = Instant::now();
        if credential.starts_with(API_KEY) {
            return Ok(Fresh::new(asked, self.api_key(hash).await?));
        }
        match Token::parse(credential, self.clock.now()) {
            Ok(token) => self.agent(&token).await,
            Err(why) => Ok(Fresh::new(asked, Err(why))),
        }
    }

    async fn api_key(&self, hash: Hash) -> Result<Verdict> {
        let question = request(ResolveApiKeyRequest { sha256: hash.to_vec().into() });
        match self.api_keys.clone().resolve_api_key(question).await {
            Ok(answer) => {
                let actor = actor(answer.into_inner().principal)?;
                let credential = match &*actor {
                    Actor::Operator { api_key_id, .. } => Credential::ApiKey(*api_key_id),
                    _ => return Err(Error::internal("an API key belongs to no operator")),
                };
                Ok(Ok((Identity { actor, credential: Some(credential) }, f64::INFINITY)))
            }
            Err(status) => unknown(&status, "no such API key").map(Err),
        }
    }

    /// The key behind a token is asked for apart from the token, since agents make themselves a new one each few
    /// minutes. The answer about the token is never good for longer than the one about the key.
    async fn agent(&self, token: &Token<'_>) -> Result<Fresh<Verdict>> {
        let name = (token.agent_id, token.key_id.clone());
        let credential = Credential::AgentKey(token.agent_id, token.key_id.clone());
        if let Some(known) = self.agent_keys.get(&name).await
            && !self.keepers.confirm(known.asked, Some(&credential)).await
        {
            self.agent_keys.invalidate(&name).await;
        }
        let asked = Instant::now();
        let key = self.agent_keys.try_get_with(name, self.agent_key(token, asked)).await.map_err(lookup_failed)?;
        let verdict = key.value.and_then(|(actor, public)| match token.signed_by(&public) {
            true => Ok((Identity { actor, credential: Some(credential) }, token.expires)),
            false => Err("the signature is not the agent's"),
        });
        let asked = if verdict.is_ok() { key.asked } else { asked };
        let fresh = Fresh::new(asked, verdict);
        Ok(Fresh { until: fresh.until.min(key.until), ..fresh })
    }

    async fn agent_key(&self, token: &Token<'_>, asked: Instant) -> Result<Fresh<AgentKey>> {
        let question =
            request(ResolveAgentKeyRequest { agent_id: token.agent_id.to_string(), key_id: token.key_id.clone() });
        let value = match self.agents.clone().resolve_agent_key(question).await {
            Ok(answer) => {
                let answer = answer.into_inner();
                let actor = actor(answer.principal)?;
                match &*actor {
                    Actor::Agent(agent) if agent.agent_id == token.agent_id => {}
                    _ => return Err(Error::internal("the registry answered for somebody else")),
                }
                Ok((actor, Arc::from(&answer.public_key[..])))
            }
            Err(status) => Err(unknown(&status, "no such agent, or not its key")?),
        };
        Ok(Fresh::new(asked, value))
    }
}

/// The one credential of the header that is meant for it.
pub(crate) fn bearer(headers: &HeaderMap) -> Result<Option<&str>> {
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    let malformed = || {
        Error::unauthenticated(
            "the authorization header must be one `Bearer` and a credential: an API key (`mi_...`) or an agent's token",
        )
    };
    if values.next().is_some() {
        return Err(malformed());
    }
    let (scheme, credential) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or_else(malformed)?;
    let credential = credential.trim_matches(' ');
    if !scheme.eq_ignore_ascii_case("bearer") || credential.is_empty() || credential.contains(' ') {
        return Err(malformed());
    }
    Ok(Some(credential))
}

fn request<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(LOOKUP);
    request
}

fn actor(principal: Option<Principal>) -> Result<Arc<Actor>> {
    let principal = principal.ok_or_else(|| Error::internal("a role resolved a credential to nobody"))?;
    convert::actor(&principal).map(Arc::new).map_err(Error::internal)
}

/// That nobody holds a credential is an answer; everything else is a failure to get one.
fn unknown(status: &Status, why: &'static str) -> Result<&'static str> {
    match status.code() {
        Code::Unauthenticated => Ok(why),
        _ => Err(from_status(status)),
    }
}

/// What the caller learns about a bad credential: the same, whatever is wrong with it.
fn refused(credential: &str, why: &'static str) -> Error {
    let text = match credential.starts_with(API_KEY) {
        true => "the API key is unknown or revoked",
        false => "the credential is neither an API key (`mi_...`) nor a valid agent's token",
    };
    Error::unauthenticated(text).caused_by(why)
}

/// A lookup that failed, for all who waited for it.
fn lookup_failed(error: Arc<Error>) -> Error {
    match error.kind {
        ErrorKind::Internal => Error::internal(error),
        _ => Error::unavailable("credentials cannot be checked right now; try again").caused_by(error),
    }
}

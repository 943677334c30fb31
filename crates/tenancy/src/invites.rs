//! Invites: how an agent that runs elsewhere gets into an office.
//!
//! This role makes codes and knows whose they are. Whether one was used the scheduler knows, which uses it up in the
//! transaction that creates the agent: nothing can happen between the two.

mod repo;
mod throttle;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use mi_kernel::{
    Clock, Error, InviteId, OfficeId, Result, Time,
    event::{Category, Event},
    public_key,
    secret::Secret,
    text,
};
use mi_proto::{
    internal::v1::{AdmitExternalAgentRequest, agent_registry_service_client::AgentRegistryServiceClient},
    v1,
};
use mi_rpc::{Caller, RoleClient, status};
use mi_store::{Db, DbResult, FromRow, OfficeConn, outbox};
use ring::{
    digest,
    rand::{SecureRandom, SystemRandom},
};
use serde_json::json;
use tokio::sync::Notify;
use tonic::{Code, Status};

use self::throttle::InviteThrottle;
use crate::{LifecycleStep, Office, OfficePart, Offices, RoleContext, State};

/// What codes are made of: 32 characters that nobody takes for one another.
const ALPHABET: &[u8; 32] = b"ABCDEFGHJKLMNPQRSTUVWXYZ23456789";
const CODE_LENGTH: usize = 6;
/// How long a code is good for.
const LIFE: Duration = Duration::from_secs(24 * 3600);
/// Invites of one office, used or not, that have not run out: each is one more code to hit for whoever guesses.
const MAX_INVITES: i64 = 1000;
/// Codes that are tried until one is free. One that is taken is about as likely as a good guess; so many in a row do not
/// happen.
const MAX_TRIES: usize = 8;

/// What lets one agent into an office.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Invite {
    /// Identifies the invite; the scheduler remembers it when it is used.
    pub id: InviteId,
    /// The office that it leads into.
    pub office_id: OfficeId,
    /// When it was made.
    pub created_at: Time,
    /// From when on its code is refused.
    pub expires_at: Time,
}

/// Makes invites and lets in who has one.
pub struct Invites {
    db: Db,
    clock: Arc<dyn Clock>,
    outbox: Arc<Notify>,
    offices: Offices,
    registry: AgentRegistryServiceClient<RoleClient>,
    throttle: InviteThrottle,
}

/// The same whatever is wrong with a code.
fn no_such_code() -> Error {
    Error::unauthenticated("the invite code is unknown, used or expired")
}

impl Invites {
    /// Invites into these offices, admitted by the scheduler's registry.
    pub fn new(context: RoleContext, offices: Offices, registry: AgentRegistryServiceClient<RoleClient>) -> Self {
        let RoleContext { db, clock, outbox } = context;
        Self { db, clock, outbox, offices, registry, throttle: InviteThrottle::default() }
    }

    /// Makes an invite; its code is not kept.
    ///
    /// # Errors
    /// Those of [`Offices::lock`], `FailedPrecondition` when the office is not active, `Exhausted` when it has too many.
    pub async fn create(&self, caller: &Caller, office_id: &str) -> Result<(Invite, Secret)> {
        let (mut tx, access, office) = self.offices.lock(caller, office_id).await?;
        if office.state != State::Active {
            let text = "the office is not active; nobody can be invited";
            return Err(Error::precondition("OFFICE_NOT_ACTIVE", text));
        }
        let now = self.clock.now();
        if repo::invite_count(&mut tx, now).await? >= MAX_INVITES {
            let text = format!("the office has {MAX_INVITES} invites that have not run out; each does so after a day");
            return Err(Error::exhausted("TOO_MANY_INVITES", text, Duration::from_secs(3600)));
        }
        let invite = Invite { id: InviteId::new(), office_id: office.id, created_at: now, expires_at: now + LIFE };
        let mut code = fresh_code();
        let mut tries = 1;
        while !repo::invite_insert(&mut tx, &invite, &hash(&code)).await? {
            if tries == MAX_TRIES {
                return Err(Error::internal("every fresh invite code is taken: the randomness is none"));
            }
            tries += 1;
            code = fresh_code();
        }
        let event = Event::lifecycle(office.id, "", "invite.created", "An invite for one external agent was made", now)
            .category(Category::Security)
            .with(json!({ "invite_id": invite.id, "expires_at": invite.expires_at }));
        outbox::push(&mut tx, &event.traced(access.trace_id())).await?;
        tx.commit().await?;
        self.outbox.notify_one();
        Ok((invite, code))
    }

    /// Forgets the invites that have run out, of whatever office.
    ///
    /// # Errors
    /// Those of the database.
    pub async fn sweep(db: &Db, now: Time) -> DbResult<()> {
        repo::invite_sweep(db, now).await
    }

    /// Lets in whoever has a code. `source` is whom wrong codes are counted against.
    ///
    /// # Errors
    /// `Unauthenticated` for a code that is no good, `Exhausted` after too many of those, and what the scheduler answers.
    pub async fn join(&self, source: &str, request: v1::JoinOfficeRequest) -> Result<v1::JoinOfficeResponse, Status> {
        let name = text::new_agent_name("name", &request.name).map_err(status)?;
        public_key::check("public_key", &request.public_key).map_err(status)?;
        let code = parse_code(&request.code).map_err(status)?;
        let now = self.clock.now();
        let attempt = self.throttle.admit(source, now).map_err(status)?;
        let wrong = || {
            tracing::warn!(target: "mi::office", source, "somebody tried to join with a code that is no good");
            status(no_such_code())
        };
        let found = async { repo::invite_find(&mut self.db.platform().read().await?, &hash(&code), now).await };
        let found = found.await.map_err(|error| status(error.into()))?;
        let invite = found.ok_or_else(wrong)?;
        let admit = AdmitExternalAgentRequest {
            office_id: invite.office_id.to_string(),
            invite_id: invite.id.to_string(),
            name,
            public_key: request.public_key,
        };
        match self.registry.clone().admit_external_agent(admit).await {
            // Used, or the office is gone.
            Err(refused) if matches!(refused.code(), Code::Unauthenticated | Code::NotFound) => Err(wrong()),
            answered => {
                attempt.succeeded();
                let missing = || status(Error::internal("the scheduler admitted nobody"));
                let agent = answered?.into_inner().agent.ok_or_else(missing)?;
                Ok(v1::JoinOfficeResponse { agent: Some(agent), office_id: invite.office_id.to_string() })
            }
        }
    }
}

/// A removed office takes its invites along.
#[async_trait]
impl OfficePart for Invites {
    async fn step(&self, tx: &mut OfficeConn, _: &Office, step: LifecycleStep, _: &str) -> Result<()> {
        match step {
            LifecycleStep::Remove => Ok(repo::invite_forget_all(tx).await?),
            LifecycleStep::Create | LifecycleStep::Stop => Ok(()),
        }
    }
}

/// Each character takes five of eight random bits: all are equally likely.
fn fresh_code() -> Secret {
    let mut bytes = [0u8; CODE_LENGTH];
    // Only fails where the operating system has no randomness at all; nothing is safe there.
    SystemRandom::new().fill(&mut bytes).expect("the operating system provides randomness");
    Secret::new(bytes.map(|byte| char::from(ALPHABET[usize::from(byte & 31)])).iter().collect::<String>())
}

/// A code as people type it.
fn parse_code(text: &str) -> Result<Secret> {
    let code = text.trim().to_ascii_uppercase();
    if code.len() != CODE_LENGTH || !code.bytes().all(|byte| ALPHABET.contains(&byte)) {
        return Err(Error::invalid("code", "must be the 6 letters and digits of an invite, without I, O, 0 and 1"));
    }
    Ok(Secret::new(code))
}

/// What is kept of a code. It keeps the code from whoever sees the row, and no more: a machine hashes all 2^30 codes in
/// seconds. What protects an invite from a reader of the database is that it works once and for a day.
fn hash(code: &Secret) -> Vec<u8> {
    digest::digest(&digest::SHA256, code.expose().as_bytes()).as_ref().to_vec()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn codes_are_of_all_characters_and_read_back() {
        let codes: Vec<Secret> = (0..2000).map(|_| fresh_code()).collect();
        let used: BTreeSet<u8> = codes.iter().flat_map(|code| code.expose().bytes()).collect();
        assert_eq!(used, ALPHABET.iter().copied().collect());
        let different: BTreeSet<&str> = codes.iter().map(Secret::expose).collect();
        assert!(different.len() > 1990, "{} of 2000", different.len());
        for code in &codes[..50] {
            assert_eq!(&parse_code(&format!("  {} ", code.expose().to_lowercase())).expect("own form"), code);
        }
    }

    #[test]
    fn what_is_no_code_names_the_field() {
        for bad in ["", "ABCDE", "ABCDEFG", "ABCDE0", "ABCDEI", "ABC DE", "ABCDE\u{e9}", "ABC\nEF"] {
            assert_eq!(parse_code(bad).expect_err(bad).field, Some("code"), "{bad:?}");
        }
    }
}

//! Keys of agents: enrolled by a token that works once, and dead at once when it has to be.

use std::time::Duration;

use futures::{FutureExt, StreamExt};
use mi_kernel::{Actor, AgentActor, AgentId, OfficeId, public_key::key_id};
use mi_proto::{
    internal::v1::{
        RegisterAgentKeyRequest, ReportRefusedCredentialRequest, ResolveAgentKeyRequest, WatchRevokedAgentKeysRequest,
        agent_registry_service_server::AgentRegistryService,
    },
    v1,
};
use mi_rpc::{Caller, convert};
use mi_testkit::on_both;
use ring::digest;
use tonic::{Code, Request, Status};

use super::harness::{Harness, LONG, TRACE, free_hiring};
use crate::{
    agents::{Agent, Phase},
    registry,
};

on_both! {
    a_token_works_once,
    of_two_users_of_one_token_one_wins,
    a_token_dies_with_time_office_relaunch_and_halt,
    a_key_is_dead_once_the_agent_is_fired_or_its_identity_rotated,
    a_relaunch_keeps_the_identity,
    a_token_is_for_one_generation,
    every_misuse_of_a_token_is_noted_in_the_right_office,
    refused_credentials_are_noted_also_for_agents_that_are_gone,
    revoked_keys_are_told_to_whoever_listens,
}

const KEY: [u8; 32] = [1; 32];
const OTHER_KEY: [u8; 32] = [2; 32];
const NEW_KEY: [u8; 32] = [3; 32];

impl Harness {
    pub(super) fn registry(&self) -> registry::Handler {
        registry::Handler::new(self.scheduler.clone())
    }

    /// The token in the environment of the newest instance.
    pub(super) fn token(&self, agent: &Agent) -> String {
        self.runtime.environment(agent.id)["MI_ENROL_TOKEN"].clone()
    }

    pub(super) async fn enrol(&self, office: OfficeId, token: &str, key: [u8; 32]) -> Result<v1::Agent, Status> {
        let mut request = Request::new(RegisterAgentKeyRequest {
            office_id: office.to_string(),
            token_sha256: digest::digest(&digest::SHA256, token.as_bytes()).as_ref().to_vec().into(),
            public_key: key.to_vec().into(),
        });
        let caller = Caller { actor: Actor::Service { role: "office".into() }, ..self.owner("HireAgent") };
        request.extensions_mut().insert(caller);
        let registered = self.registry().register_agent_key(request).await?;
        Ok(registered.into_inner().agent.expect("always there"))
    }

    /// What was refused since it was asked for the last time: office, agent, type and detail.
    fn refusals(&self) -> Vec<(OfficeId, String, String, String)> {
        let told = self.refusals.due(self.now()).into_iter().map(|event| {
            assert_eq!(event.category.as_str(), "security");
            let detail = event.metadata["detail"].as_str().expect("a text").to_owned();
            (event.office_id, event.agent, event.kind, detail)
        });
        let mut told: Vec<_> = told.collect();
        told.sort();
        told
    }

    async fn resolve(&self, agent: AgentId, key: [u8; 32]) -> Result<(v1::Principal, Vec<u8>), Status> {
        let request = ResolveAgentKeyRequest { agent_id: agent.to_string(), key_id: key_id(&key) };
        let resolved = self.registry().resolve_agent_key(Request::new(request)).await?.into_inner();
        Ok((resolved.principal.expect("always there"), resolved.public_key.to_vec()))
    }
}

fn code<T>(result: Result<T, Status>) -> Code {
    result.err().map_or(Code::Ok, |status| status.code())
}

async fn a_token_works_once(harness: Harness) {
    let agent = harness.hire("analyst").await;
    harness.settle(agent.id).await;
    let token = harness.token(&agent);
    assert_eq!(code(harness.resolve(agent.id, KEY).await), Code::Unauthenticated);
    assert_eq!(code(harness.enrol(harness.office, "", KEY).await), Code::Unauthenticated);
    let enrolled = harness.enrol(harness.office, &token, KEY).await.expect("enrols");
    assert_eq!((enrolled.id, enrolled.public_key.to_vec()), (agent.id.to_string(), KEY.to_vec()));
    for key in [KEY, OTHER_KEY] {
        assert_eq!(code(harness.enrol(harness.office, &token, key).await), Code::Unauthenticated);
    }
    let principal = convert::principal(&Actor::Agent(AgentActor {
        office_id: harness.office,
        agent_id: agent.id,
        name: "analyst".into(),
    }));
    assert_eq!(harness.resolve(agent.id, KEY).await.expect("known"), (principal, KEY.to_vec()));
    assert_eq!(code(harness.resolve(agent.id, OTHER_KEY).await), Code::Unauthenticated);
    assert_eq!(code(harness.resolve(AgentId::new(), KEY).await), Code::Unauthenticated);

    let events = harness.events().await;
    let enrolments: Vec<_> = events.iter().filter(|event| event.kind == "agent.enrolled").collect();
    let [event] = &enrolments[..] else { panic!("{enrolments:?}") };
    assert_eq!((event.category.as_str(), event.trace_id.as_str()), ("security", TRACE));
    assert_eq!(event.metadata, serde_json::json!({ "key_id": key_id(&KEY) }));
    let texts = format!("{events:?}");
    assert!(!texts.contains(&token));
}

async fn of_two_users_of_one_token_one_wins(harness: Harness) {
    let agent = harness.hire("analyst").await;
    harness.settle(agent.id).await;
    let token = harness.token(&agent);
    let users = (0..8u8).map(|user| harness.enrol(harness.office, &token, [user; 32]));
    let answers = tokio::time::timeout(LONG, futures::future::join_all(users)).await.expect("answers");
    let won: Vec<Vec<u8>> = answers.iter().flatten().map(|agent| agent.public_key.to_vec()).collect();
    assert_eq!(won.len(), 1);
    assert_eq!(harness.agent(agent.id).await.public_key, Some(won[0].clone()));
    assert!(answers.into_iter().filter_map(Result::err).all(|status| status.code() == Code::Unauthenticated));
}

async fn a_token_dies_with_time_office_relaunch_and_halt(harness: Harness) {
    let elsewhere = harness.open_office(1).await;
    let agent = harness.hire("analyst").await;
    harness.settle(agent.id).await;
    let first = harness.token(&agent);
    assert_eq!(code(harness.enrol(elsewhere, &first, KEY).await), Code::Unauthenticated);
    harness.clock.advance(Duration::from_secs(300));
    assert_eq!(code(harness.enrol(harness.office, &first, KEY).await), Code::Unauthenticated);

    let office = harness.office.to_string();
    harness.scheduler.restart(&harness.owner("RestartAgent"), &office, "analyst").await.expect("restarts");
    harness.settle(agent.id).await;
    let second = harness.token(&agent);
    assert_ne!(second, first);
    harness.scheduler.restart(&harness.owner("RestartAgent"), &office, "analyst").await.expect("restarts");
    harness.settle(agent.id).await;
    let third = harness.token(&agent);
    assert_eq!(code(harness.enrol(harness.office, &second, KEY).await), Code::Unauthenticated);

    harness.apply(harness.office, 2, false, free_hiring()).await;
    harness.settle(agent.id).await;
    assert_eq!(code(harness.enrol(harness.office, &third, KEY).await), Code::Unauthenticated);
    harness.apply(harness.office, 3, true, free_hiring()).await;
    harness.settle(agent.id).await;
    let fourth = harness.token(&agent);
    harness.clock.advance(Duration::from_secs(299));
    harness.enrol(harness.office, &fourth, KEY).await.expect("just in time");
}

async fn a_key_is_dead_once_the_agent_is_fired_or_its_identity_rotated(harness: Harness) {
    let office = harness.office.to_string();
    let (rotated, fired) = (harness.running("rotated").await, harness.running("fired").await);
    for (agent, key) in [(&rotated, KEY), (&fired, OTHER_KEY)] {
        harness.enrol(harness.office, &harness.token(agent), key).await.expect("enrols");
        harness.resolve(agent.id, key).await.expect("known");
    }
    harness.scheduler.rotate(&harness.owner("RotateAgentIdentity"), &office, "rotated").await.expect("rotates");
    harness.fire("fired", false).await;
    assert_eq!(code(harness.resolve(rotated.id, KEY).await), Code::Unauthenticated);
    assert_eq!(code(harness.resolve(fired.id, OTHER_KEY).await), Code::Unauthenticated);

    // The instance goes on and makes a new key against a token that it is handed.
    let launches = harness.runtime.launches().len();
    harness.settle(rotated.id).await;
    assert_eq!(harness.runtime.launches().len(), launches);
    let token = harness.runtime.handed(rotated.id).expect("handed over").expose().to_owned();
    let old = harness.enrol(harness.office, &token, KEY).await.expect_err("a revoked key stays revoked");
    assert_eq!((old.code(), old.message()), (Code::Unauthenticated, "this key was revoked; make a new one"));
    harness.enrol(harness.office, &token, NEW_KEY).await.expect("enrols a new one");
    harness.resolve(rotated.id, NEW_KEY).await.expect("the new key");
    assert_eq!(code(harness.resolve(rotated.id, KEY).await), Code::Unauthenticated);
    let agent = harness.agent(rotated.id).await;
    assert_eq!((agent.generation, agent.observed_generation, agent.phase()), (1, 1, Phase::Running));
    harness.settle(fired.id).await;
    assert_eq!(code(harness.resolve(fired.id, OTHER_KEY).await), Code::Unauthenticated);
}

async fn a_relaunch_keeps_the_identity(mut harness: Harness) {
    let agent = harness.running("analyst").await;
    harness.enrol(harness.office, &harness.token(&agent), KEY).await.expect("enrols");
    harness.crash().await;
    harness.settle(agent.id).await;
    harness.resolve(agent.id, KEY).await.expect("still known");
    assert_eq!(harness.runtime.environment(agent.id).get("MI_NEW_IDENTITY"), None);
    // The same key again is no news.
    harness.enrol(harness.office, &harness.token(&agent), KEY).await.expect("enrols");
    assert_eq!(harness.event_counts("analyst").await["agent.enrolled"], 1);
}

async fn a_token_is_for_one_generation(harness: Harness) {
    let agent = harness.hire("analyst").await;
    harness.settle(agent.id).await;
    let token = harness.token(&agent);
    let promote = v1::PromoteAgentRequest {
        office_id: harness.office.to_string(),
        name: "analyst".into(),
        model_tier: "opus".into(),
        provider: String::new(),
    };
    harness.scheduler.promote(&harness.owner("PromoteAgent"), promote).await.expect("promotes");
    assert_eq!(code(harness.enrol(harness.office, &token, KEY).await), Code::Unauthenticated);
    harness.settle(agent.id).await;
    harness.enrol(harness.office, &harness.token(&agent), KEY).await.expect("the next generation's");
}

async fn every_misuse_of_a_token_is_noted_in_the_right_office(harness: Harness) {
    let elsewhere = harness.open_office(1).await;
    let agent = harness.hire("analyst").await;
    harness.settle(agent.id).await;
    let token = harness.token(&agent);
    let noted = |office: OfficeId, agent: &str, detail: &str| {
        (office, agent.to_owned(), "enrolment.refused".to_owned(), detail.to_owned())
    };
    let guess = harness.enrol(harness.office, "a guess", KEY).await;
    assert_eq!(code(guess), Code::Unauthenticated);
    assert_eq!(harness.refusals(), [noted(harness.office, "", "an unknown enrolment token")]);
    assert_eq!(code(harness.enrol(elsewhere, &token, KEY).await), Code::Unauthenticated);
    let mut expected = [
        noted(elsewhere, "", "an enrolment token of another office"),
        noted(harness.office, "analyst", "its enrolment token, in another office"),
    ];
    expected.sort();
    assert_eq!(harness.refusals(), expected);
    // An office that does not exist has no feed, and none is made for it.
    assert_eq!(code(harness.enrol(OfficeId::new(), "a guess", KEY).await), Code::Unauthenticated);
    assert_eq!(harness.refusals(), []);

    harness.enrol(harness.office, &token, KEY).await.expect("enrols");
    assert_eq!(code(harness.enrol(harness.office, &token, OTHER_KEY).await), Code::Unauthenticated);
    assert_eq!(harness.refusals(), [noted(harness.office, "analyst", "an enrolment token that was used before")]);
    let office = harness.office.to_string();
    harness.scheduler.restart(&harness.owner("RestartAgent"), &office, "analyst").await.expect("restarts");
    harness.settle(agent.id).await;
    harness.clock.advance(Duration::from_secs(300));
    assert_eq!(code(harness.enrol(harness.office, &harness.token(&agent), OTHER_KEY).await), Code::Unauthenticated);
    assert_eq!(harness.refusals(), [noted(harness.office, "analyst", "an expired enrolment token")]);
    // The agent kept the key it had.
    harness.resolve(agent.id, KEY).await.expect("known");
}

async fn refused_credentials_are_noted_also_for_agents_that_are_gone(harness: Harness) {
    let (here, gone) = (harness.running("here").await, harness.running("gone").await);
    harness.enrol(harness.office, &harness.token(&gone), KEY).await.expect("enrols");
    harness.fire("gone", false).await;
    harness.settle(gone.id).await;
    for (id, name) in [(here.id, "here"), (gone.id, "gone")] {
        for _ in 0..3 {
            let mut request = Request::new(ReportRefusedCredentialRequest {
                agent_id: id.to_string(),
                problem: "aud is not mi".into(),
                source: "127.0.0.2".into(),
            });
            request.extensions_mut().insert(harness.owner("HireAgent"));
            harness.registry().report_refused_credential(request).await.expect("taken");
        }
        let noted = (harness.office, name.to_owned(), "credential.refused".to_owned(), "127.0.0.2".to_owned());
        assert_eq!(harness.refusals(), [noted], "told once");
    }
    let mut nobody = Request::new(ReportRefusedCredentialRequest {
        agent_id: AgentId::new().to_string(),
        problem: "aud is not mi".into(),
        source: String::new(),
    });
    nobody.extensions_mut().insert(harness.owner("HireAgent"));
    harness.registry().report_refused_credential(nobody).await.expect("taken");
    assert_eq!(harness.refusals(), []);
}

async fn revoked_keys_are_told_to_whoever_listens(harness: Harness) {
    let (rotated, fired) = (harness.running("rotated").await, harness.running("fired").await);
    for (agent, key) in [(&rotated, KEY), (&fired, OTHER_KEY)] {
        harness.enrol(harness.office, &harness.token(agent), key).await.expect("enrols");
    }
    let name = |agent: &Agent, key: &[u8]| (agent.id.to_string(), key_id(key));
    let request = Request::new(WatchRevokedAgentKeysRequest { since: None });
    let mut told = harness.registry().watch_revoked_agent_keys(request).await.expect("opens").into_inner();
    let mut next = async || {
        let message = tokio::time::timeout(LONG, told.next()).await.expect("in time").expect("goes on").expect("good");
        let keys: Vec<(String, String)> = message.keys.into_iter().map(|key| (key.agent_id, key.key_id)).collect();
        keys
    };
    assert_eq!(next().await, []);
    let office = harness.office.to_string();
    harness.scheduler.rotate(&harness.owner("RotateAgentIdentity"), &office, "rotated").await.expect("rotates");
    assert_eq!(next().await, [name(&rotated, &KEY)]);
    harness.fire("fired", false).await;
    // Each is told once, although every look goes back further than the one before.
    assert_eq!(next().await, [name(&fired, &OTHER_KEY)]);
    // Whoever was away hears of both.
    let since = Some(convert::timestamp(harness.now()));
    let request = Request::new(WatchRevokedAgentKeysRequest { since });
    let mut late = harness.registry().watch_revoked_agent_keys(request).await.expect("opens").into_inner();
    let message = late.next().await.expect("goes on").expect("good");
    let mut seen: Vec<_> = message.keys.into_iter().map(|key| (key.agent_id, key.key_id)).collect();
    seen.sort();
    let mut both = [name(&rotated, &KEY), name(&fired, &OTHER_KEY)];
    both.sort();
    assert_eq!(seen, both);
    // Whoever asks for a rotation again, since the answer was lost, has it told again to whom it was not.
    harness.scheduler.rotate(&harness.owner("RotateAgentIdentity"), &office, "rotated").await.expect("is rotated");
    assert!(late.next().now_or_never().is_none(), "told already");
}

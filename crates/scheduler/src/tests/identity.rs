//! Keys of agents: enrolled by a token that works once, and dead at once when it has to be.

use std::time::Duration;

use futures::StreamExt;
use mi_kernel::{Actor, AgentActor, AgentId, OfficeId};
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

use super::stage::{LONG, Stage, TRACE, free_hiring};
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

impl Stage {
    fn registry(&self) -> registry::Handler {
        registry::Handler::new(self.scheduler.clone())
    }

    /// The token in the environment of the newest compute.
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
        let request = ResolveAgentKeyRequest { agent_id: agent.to_string(), key_id: registry::key_id(&key) };
        let resolved = self.registry().resolve_agent_key(Request::new(request)).await?.into_inner();
        Ok((resolved.principal.expect("always there"), resolved.public_key.to_vec()))
    }
}

fn code<T>(result: Result<T, Status>) -> Code {
    result.err().map_or(Code::Ok, |status| status.code())
}

async fn a_token_works_once(stage: Stage) {
    let agent = stage.hire("analyst").await;
    stage.settle(agent.id).await;
    let token = stage.token(&agent);
    assert_eq!(code(stage.resolve(agent.id, KEY).await), Code::Unauthenticated);
    assert_eq!(code(stage.enrol(stage.office, "", KEY).await), Code::Unauthenticated);
    let enrolled = stage.enrol(stage.office, &token, KEY).await.expect("enrols");
    assert_eq!((enrolled.id, enrolled.public_key.to_vec()), (agent.id.to_string(), KEY.to_vec()));
    for key in [KEY, OTHER_KEY] {
        assert_eq!(code(stage.enrol(stage.office, &token, key).await), Code::Unauthenticated);
    }
    let principal = convert::principal(&Actor::Agent(AgentActor {
        office_id: stage.office,
        agent_id: agent.id,
        name: "analyst".into(),
    }));
    assert_eq!(stage.resolve(agent.id, KEY).await.expect("known"), (principal, KEY.to_vec()));
    assert_eq!(code(stage.resolve(agent.id, OTHER_KEY).await), Code::Unauthenticated);
    assert_eq!(code(stage.resolve(AgentId::new(), KEY).await), Code::Unauthenticated);

    let events = stage.events().await;
    let enrolments: Vec<_> = events.iter().filter(|event| event.kind == "agent.enrolled").collect();
    let [event] = &enrolments[..] else { panic!("{enrolments:?}") };
    assert_eq!((event.category.as_str(), event.trace_id.as_str()), ("security", TRACE));
    assert_eq!(event.metadata, serde_json::json!({ "key_id": registry::key_id(&KEY) }));
    let texts = format!("{events:?}");
    assert!(!texts.contains(&token));
}

async fn of_two_users_of_one_token_one_wins(stage: Stage) {
    let agent = stage.hire("analyst").await;
    stage.settle(agent.id).await;
    let token = stage.token(&agent);
    let users = (0..8u8).map(|user| stage.enrol(stage.office, &token, [user; 32]));
    let answers = tokio::time::timeout(LONG, futures::future::join_all(users)).await.expect("answers");
    let won: Vec<Vec<u8>> = answers.iter().flatten().map(|agent| agent.public_key.to_vec()).collect();
    assert_eq!(won.len(), 1);
    assert_eq!(stage.agent(agent.id).await.public_key, Some(won[0].clone()));
    assert!(answers.into_iter().filter_map(Result::err).all(|status| status.code() == Code::Unauthenticated));
}

async fn a_token_dies_with_time_office_relaunch_and_halt(stage: Stage) {
    let elsewhere = stage.open_office(1).await;
    let agent = stage.hire("analyst").await;
    stage.settle(agent.id).await;
    let first = stage.token(&agent);
    assert_eq!(code(stage.enrol(elsewhere, &first, KEY).await), Code::Unauthenticated);
    stage.clock.advance(Duration::from_secs(300));
    assert_eq!(code(stage.enrol(stage.office, &first, KEY).await), Code::Unauthenticated);

    let office = stage.office.to_string();
    stage.scheduler.restart(&stage.owner("RestartAgent"), &office, "analyst").await.expect("restarts");
    stage.settle(agent.id).await;
    let second = stage.token(&agent);
    assert_ne!(second, first);
    stage.scheduler.restart(&stage.owner("RestartAgent"), &office, "analyst").await.expect("restarts");
    stage.settle(agent.id).await;
    let third = stage.token(&agent);
    assert_eq!(code(stage.enrol(stage.office, &second, KEY).await), Code::Unauthenticated);

    stage.apply(stage.office, 2, false, free_hiring()).await;
    stage.settle(agent.id).await;
    assert_eq!(code(stage.enrol(stage.office, &third, KEY).await), Code::Unauthenticated);
    stage.apply(stage.office, 3, true, free_hiring()).await;
    stage.settle(agent.id).await;
    let fourth = stage.token(&agent);
    stage.clock.advance(Duration::from_secs(299));
    stage.enrol(stage.office, &fourth, KEY).await.expect("just in time");
}

async fn a_key_is_dead_once_the_agent_is_fired_or_its_identity_rotated(stage: Stage) {
    let office = stage.office.to_string();
    let (rotated, fired) = (stage.running("rotated").await, stage.running("fired").await);
    for (agent, key) in [(&rotated, KEY), (&fired, OTHER_KEY)] {
        stage.enrol(stage.office, &stage.token(agent), key).await.expect("enrols");
        stage.resolve(agent.id, key).await.expect("known");
    }
    stage.scheduler.rotate(&stage.owner("RotateAgentIdentity"), &office, "rotated").await.expect("rotates");
    stage.fire("fired", false).await;
    assert_eq!(code(stage.resolve(rotated.id, KEY).await), Code::Unauthenticated);
    assert_eq!(code(stage.resolve(fired.id, OTHER_KEY).await), Code::Unauthenticated);

    // The compute goes on and makes a new key against a token that it is handed.
    let launches = stage.runtime.launches().len();
    stage.settle(rotated.id).await;
    assert_eq!(stage.runtime.launches().len(), launches);
    let token = stage.runtime.handed(rotated.id).expect("handed over").expose().to_owned();
    let old = stage.enrol(stage.office, &token, KEY).await.expect_err("a dead key stays dead");
    assert_eq!((old.code(), old.message()), (Code::Unauthenticated, "this key was revoked; make a new one"));
    stage.enrol(stage.office, &token, NEW_KEY).await.expect("enrols a new one");
    stage.resolve(rotated.id, NEW_KEY).await.expect("the new key");
    assert_eq!(code(stage.resolve(rotated.id, KEY).await), Code::Unauthenticated);
    let agent = stage.agent(rotated.id).await;
    assert_eq!((agent.generation, agent.observed_generation, agent.phase()), (1, 1, Phase::Running));
    stage.settle(fired.id).await;
    assert_eq!(code(stage.resolve(fired.id, OTHER_KEY).await), Code::Unauthenticated);
}

async fn a_relaunch_keeps_the_identity(mut stage: Stage) {
    let agent = stage.running("analyst").await;
    stage.enrol(stage.office, &stage.token(&agent), KEY).await.expect("enrols");
    stage.crash().await;
    stage.settle(agent.id).await;
    stage.resolve(agent.id, KEY).await.expect("still known");
    assert_eq!(stage.runtime.environment(agent.id).get("MI_NEW_IDENTITY"), None);
    // The same key again is no news.
    stage.enrol(stage.office, &stage.token(&agent), KEY).await.expect("enrols");
    assert_eq!(stage.event_counts("analyst").await["agent.enrolled"], 1);
}

async fn a_token_is_for_one_generation(stage: Stage) {
    let agent = stage.hire("analyst").await;
    stage.settle(agent.id).await;
    let token = stage.token(&agent);
    let promote = v1::PromoteAgentRequest {
        office_id: stage.office.to_string(),
        name: "analyst".into(),
        model_tier: "opus".into(),
        provider: String::new(),
    };
    stage.scheduler.promote(&stage.owner("PromoteAgent"), promote).await.expect("promotes");
    assert_eq!(code(stage.enrol(stage.office, &token, KEY).await), Code::Unauthenticated);
    stage.settle(agent.id).await;
    stage.enrol(stage.office, &stage.token(&agent), KEY).await.expect("the next generation's");
}

async fn every_misuse_of_a_token_is_noted_in_the_right_office(stage: Stage) {
    let elsewhere = stage.open_office(1).await;
    let agent = stage.hire("analyst").await;
    stage.settle(agent.id).await;
    let token = stage.token(&agent);
    let noted = |office: OfficeId, agent: &str, detail: &str| {
        (office, agent.to_owned(), "enrolment.refused".to_owned(), detail.to_owned())
    };
    let guess = stage.enrol(stage.office, "a guess", KEY).await;
    assert_eq!(code(guess), Code::Unauthenticated);
    assert_eq!(stage.refusals(), [noted(stage.office, "", "an unknown enrolment token")]);
    assert_eq!(code(stage.enrol(elsewhere, &token, KEY).await), Code::Unauthenticated);
    let mut expected = [
        noted(elsewhere, "", "an enrolment token of another office"),
        noted(stage.office, "analyst", "its enrolment token, in another office"),
    ];
    expected.sort();
    assert_eq!(stage.refusals(), expected);
    // An office that does not exist has no feed, and none is made for it.
    assert_eq!(code(stage.enrol(OfficeId::new(), "a guess", KEY).await), Code::Unauthenticated);
    assert_eq!(stage.refusals(), []);

    stage.enrol(stage.office, &token, KEY).await.expect("enrols");
    assert_eq!(code(stage.enrol(stage.office, &token, OTHER_KEY).await), Code::Unauthenticated);
    assert_eq!(stage.refusals(), [noted(stage.office, "analyst", "an enrolment token that was used before")]);
    let office = stage.office.to_string();
    stage.scheduler.restart(&stage.owner("RestartAgent"), &office, "analyst").await.expect("restarts");
    stage.settle(agent.id).await;
    stage.clock.advance(Duration::from_secs(300));
    assert_eq!(code(stage.enrol(stage.office, &stage.token(&agent), OTHER_KEY).await), Code::Unauthenticated);
    assert_eq!(stage.refusals(), [noted(stage.office, "analyst", "an expired enrolment token")]);
    // The agent kept the key it had.
    stage.resolve(agent.id, KEY).await.expect("known");
}

async fn refused_credentials_are_noted_also_for_agents_that_are_gone(stage: Stage) {
    let (here, gone) = (stage.running("here").await, stage.running("gone").await);
    stage.enrol(stage.office, &stage.token(&gone), KEY).await.expect("enrols");
    stage.fire("gone", false).await;
    stage.settle(gone.id).await;
    for (id, name) in [(here.id, "here"), (gone.id, "gone")] {
        for _ in 0..3 {
            let mut request = Request::new(ReportRefusedCredentialRequest {
                agent_id: id.to_string(),
                problem: "aud is not mi".into(),
                source: "127.0.0.2".into(),
            });
            request.extensions_mut().insert(stage.owner("HireAgent"));
            stage.registry().report_refused_credential(request).await.expect("taken");
        }
        let noted = (stage.office, name.to_owned(), "credential.refused".to_owned(), "127.0.0.2".to_owned());
        assert_eq!(stage.refusals(), [noted], "told once");
    }
    let mut nobody = Request::new(ReportRefusedCredentialRequest {
        agent_id: AgentId::new().to_string(),
        problem: "aud is not mi".into(),
        source: String::new(),
    });
    nobody.extensions_mut().insert(stage.owner("HireAgent"));
    stage.registry().report_refused_credential(nobody).await.expect("taken");
    assert_eq!(stage.refusals(), []);
}

async fn revoked_keys_are_told_to_whoever_listens(stage: Stage) {
    let (rotated, fired) = (stage.running("rotated").await, stage.running("fired").await);
    for (agent, key) in [(&rotated, KEY), (&fired, OTHER_KEY)] {
        stage.enrol(stage.office, &stage.token(agent), key).await.expect("enrols");
    }
    let name = |agent: &Agent, key: &[u8]| (agent.id.to_string(), registry::key_id(key));
    let request = Request::new(WatchRevokedAgentKeysRequest { since: None });
    let mut told = stage.registry().watch_revoked_agent_keys(request).await.expect("opens").into_inner();
    let mut next = async || {
        let message = tokio::time::timeout(LONG, told.next()).await.expect("in time").expect("goes on").expect("good");
        let keys: Vec<(String, String)> = message.keys.into_iter().map(|key| (key.agent_id, key.key_id)).collect();
        keys
    };
    assert_eq!(next().await, []);
    let office = stage.office.to_string();
    stage.scheduler.rotate(&stage.owner("RotateAgentIdentity"), &office, "rotated").await.expect("rotates");
    assert_eq!(next().await, [name(&rotated, &KEY)]);
    stage.fire("fired", false).await;
    let mut both = [name(&rotated, &KEY), name(&fired, &OTHER_KEY)];
    both.sort();
    let mut seen = next().await;
    seen.sort();
    assert_eq!(seen, both);
    // Whoever was away hears of both.
    let since = Some(convert::timestamp(stage.now()));
    let request = Request::new(WatchRevokedAgentKeysRequest { since });
    let mut late = stage.registry().watch_revoked_agent_keys(request).await.expect("opens").into_inner();
    let message = late.next().await.expect("goes on").expect("good");
    assert_eq!(message.keys.len(), 2);
}

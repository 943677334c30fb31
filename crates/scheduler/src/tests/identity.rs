//! Keys of agents: enrolled by a token that works once, and dead at once when it has to be.

use std::time::Duration;

use mi_kernel::{Actor, AgentActor, AgentId, OfficeId};
use mi_proto::{
    internal::v1::{
        RegisterAgentKeyRequest, ResolveAgentKeyRequest, agent_registry_service_server::AgentRegistryService,
    },
    v1,
};
use mi_rpc::{Caller, convert};
use mi_testkit::on_both;
use ring::digest;
use tonic::{Code, Request, Status};

use super::stage::{LONG, Stage, TRACE, free_hiring};
use crate::{agents::Agent, registry};

on_both! {
    a_token_works_once,
    of_two_users_of_one_token_one_wins,
    a_token_dies_with_time_office_relaunch_and_halt,
    a_key_is_dead_once_the_agent_is_fired_or_its_identity_rotated,
    a_relaunch_keeps_the_identity,
}

const KEY: [u8; 32] = [1; 32];
const OTHER_KEY: [u8; 32] = [2; 32];

impl Stage {
    fn registry(&self) -> registry::Handler {
        registry::Handler::new(self.scheduler.clone())
    }

    /// The token in the environment of the newest compute.
    fn token(&self, agent: &Agent) -> String {
        self.runtime.environment(agent.id)["MI_ENROL_TOKEN"].clone()
    }

    async fn enrol(&self, office: OfficeId, token: &str, key: [u8; 32]) -> Result<v1::Agent, Status> {
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

    stage.settle(rotated.id).await;
    assert_eq!(stage.runtime.environment(rotated.id)["MI_NEW_IDENTITY"], "1");
    stage.enrol(stage.office, &stage.token(&rotated), OTHER_KEY).await.expect("enrols a new one");
    stage.resolve(rotated.id, OTHER_KEY).await.expect("the new key");
    assert_eq!(code(stage.resolve(rotated.id, KEY).await), Code::Unauthenticated);
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

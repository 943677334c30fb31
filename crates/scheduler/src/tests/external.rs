//! Agents that compute elsewhere: let in once for each invite, seen by their heartbeats, and nothing else done to them.

use std::{collections::BTreeSet, time::Duration};

use futures::future::join_all;
use mi_kernel::{Actor, AgentId, ErrorKind, InviteId, OfficeId, Result};
use mi_proto::{
    internal::v1::{
        AdmitExternalAgentRequest, RemoveOfficeRequest, office_replica_service_server::OfficeReplicaService,
    },
    v1::{AgentPhase, EmployeeType, OfficeSettings, PromoteAgentRequest},
};
use mi_rpc::Caller;
use mi_testkit::on_both;
use ring::digest;
use tonic::Request;

use super::{
    convergence::unsettled,
    stage::{Stage, TRACE, counts, free_hiring},
};
use crate::{
    agents::{Agent, Phase, State, wire},
    offices,
};

on_both! {
    an_invite_lets_one_agent_in,
    of_sixteen_who_show_an_invite_one_wins,
    whatever_is_refused_leaves_the_invite_as_it_was,
    silence_is_offline_and_a_heartbeat_is_online_once_for_each_change,
    nothing_is_asked_of_a_compute_that_is_elsewhere,
    a_fired_one_is_gone_at_once_and_its_invite_stays_used,
    it_waits_while_the_office_is_suspended,
    a_removed_office_takes_it_along,
}

const KEY: [u8; 32] = [1; 32];
const OTHER_KEY: [u8; 32] = [2; 32];

/// A key of its own for each name.
fn key_of(name: &str) -> [u8; 32] {
    digest::digest(&digest::SHA256, name.as_bytes()).as_ref().try_into().expect("32 bytes")
}

impl Stage {
    pub(super) async fn admit(&self, office: OfficeId, invite: InviteId, name: &str, key: [u8; 32]) -> Result<Agent> {
        let caller = Caller { actor: Actor::Service { role: "office".into() }, ..self.owner("HireAgent") };
        let request = AdmitExternalAgentRequest {
            office_id: office.to_string(),
            invite_id: invite.to_string(),
            name: name.into(),
            public_key: key.to_vec().into(),
        };
        self.scheduler.admit(&caller, request).await
    }

    /// An agent that joined just now.
    async fn joined(&self, name: &str) -> Agent {
        self.admit(self.office, InviteId::new(), name, key_of(name)).await.expect("admitted")
    }

    pub(super) async fn beat(&self, agent: AgentId) -> Result<()> {
        self.scheduler.sign_of_life(self.office, agent).await
    }
}

async fn an_invite_lets_one_agent_in(stage: Stage) {
    let invite = InviteId::new();
    let agent = stage.admit(stage.office, invite, "Robo", KEY).await.expect("admitted");
    assert_eq!((agent.name.as_str(), agent.phase(), agent.external), ("robo", Phase::Running, true));
    assert_eq!(stage.agent(agent.id).await, agent);
    let shown = wire::agent(&agent, Default::default());
    assert_eq!((shown.employee_type(), &shown.public_key[..]), (EmployeeType::External, &KEY[..]));
    let status = shown.status.expect("always there");
    assert_eq!((status.phase(), status.ready, status.sandbox), (AgentPhase::Running, true, None));

    // Sent again it answers the same agent; with anything else it is used.
    assert_eq!(stage.admit(stage.office, invite, "robo", KEY).await.expect("again"), agent);
    for (name, key) in [("robo", OTHER_KEY), ("other", KEY)] {
        let refused = stage.admit(stage.office, invite, name, key).await.expect_err("used");
        assert_eq!(refused.kind, ErrorKind::Unauthenticated);
    }
    let elsewhere = stage.open_office(1).await;
    stage.admit(elsewhere, InviteId::new(), "robo", OTHER_KEY).await.expect("a name is of one office");

    let events = stage.events().await;
    let told: Vec<_> = events.iter().filter(|event| event.office_id == stage.office).collect();
    let brief: Vec<(&str, &str)> = told.iter().map(|event| (event.kind.as_str(), event.category.as_str())).collect();
    assert_eq!(brief, [("invite.redeemed", "security"), ("agent.joined", "lifecycle"), ("access.granted", "security")]);
    assert!(told.iter().all(|event| event.trace_id == TRACE && event.agent == "robo"), "{told:?}");
    assert_eq!(told[0].metadata, serde_json::json!({ "agent_id": agent.id, "invite_id": invite }));
}

async fn of_sixteen_who_show_an_invite_one_wins(stage: Stage) {
    let invite = InviteId::new();
    let names: Vec<String> = (0..16).map(|number| format!("robo-{number}")).collect();
    let answers = join_all((0..16u8).zip(&names).map(|(key, name)| stage.admit(stage.office, invite, name, [key; 32])));
    let answers = answers.await;
    let won: Vec<&Agent> = answers.iter().flatten().collect();
    let [winner] = &won[..] else { panic!("{won:?}") };
    assert_eq!(stage.agent(winner.id).await, **winner);
    assert_eq!(stage.rows("agents").await, 1);
    let refused = answers.iter().filter_map(|answer| answer.as_ref().err());
    assert!(refused.clone().all(|error| error.kind == ErrorKind::Unauthenticated), "{answers:?}");
    assert_eq!(refused.count(), 15);
    assert_eq!(stage.event_counts(&winner.name).await["invite.redeemed"], 1);
}

async fn whatever_is_refused_leaves_the_invite_as_it_was(stage: Stage) {
    let invite = InviteId::new();
    let admit = async |name: &str| stage.admit(stage.office, invite, name, KEY).await;
    stage.hire("taken").await;
    let refused = admit("Taken").await.expect_err("a name is unique");
    assert_eq!(refused.kind, ErrorKind::AlreadyExists);
    for bad in ["no name", "Operator"] {
        assert_eq!(admit(bad).await.expect_err(bad).field, Some("name"));
    }
    stage.apply(stage.office, 2, true, OfficeSettings { max_agents: Some(1), ..free_hiring() }).await;
    assert_eq!(admit("robo").await.expect_err("full").reason, "MAX_AGENTS");
    stage.apply(stage.office, 3, false, free_hiring()).await;
    assert_eq!(admit("robo").await.expect_err("suspended").reason, "OFFICE_NOT_ACTIVE");
    let nowhere = stage.admit(OfficeId::new(), invite, "robo", KEY).await.expect_err("no office");
    assert_eq!(nowhere.kind, ErrorKind::NotFound);
    assert_eq!((stage.rows("admissions").await, stage.rows("agents").await), (0, 1));

    stage.apply(stage.office, 4, true, free_hiring()).await;
    let agent = admit("robo").await.expect("as good as before");
    // Whoever won may ask again even when nobody new would be let in.
    stage.apply(stage.office, 5, false, free_hiring()).await;
    assert_eq!(admit("robo").await.expect("again").id, agent.id);
}

async fn silence_is_offline_and_a_heartbeat_is_online_once_for_each_change(mut stage: Stage) {
    let agent = stage.joined("robo").await;
    let joined_at = stage.now();
    let told = async |stage: &Stage| {
        let counts = stage.event_counts("robo").await;
        ["agent.offline", "agent.online"].map(|kind| counts.get(kind).copied().unwrap_or_default())
    };
    assert_eq!(stage.settle(agent.id).await, Some(joined_at + Duration::from_secs(120)));
    stage.clock.advance(Duration::from_secs(100));
    stage.beat(agent.id).await.expect("taken");
    assert_eq!(stage.settle(agent.id).await, Some(stage.now() + Duration::from_secs(120)));
    stage.clock.advance(Duration::from_millis(119_999));
    stage.settle(agent.id).await;
    assert_eq!(stage.phase(agent.id).await, Some(Phase::Running));
    stage.clock.advance(Duration::from_millis(1));
    for _ in 0..3 {
        assert_eq!(stage.settle(agent.id).await, None);
    }
    let offline = stage.agent(agent.id).await;
    assert_eq!((offline.phase(), offline.message()), (Phase::Offline, "no heartbeat for two minutes"));
    assert_eq!(told(&stage).await, [1, 0]);

    // Another process forgets what was in memory, and nothing changes by that.
    stage.crash().await;
    stage.settle(agent.id).await;
    assert_eq!((stage.phase(agent.id).await, told(&stage).await), (Some(Phase::Offline), [1, 0]));

    stage.clock.advance(Duration::from_secs(3600));
    for answer in join_all((0..4).map(|_| stage.beat(agent.id))).await {
        answer.expect("taken");
    }
    let online = stage.agent(agent.id).await;
    assert_eq!((online.phase(), online.last_seen_at), (Phase::Running, Some(stage.now())));
    assert_eq!(told(&stage).await, [1, 1]);
    stage.clock.advance(Duration::from_secs(120));
    stage.settle(agent.id).await;
    assert_eq!((stage.phase(agent.id).await, told(&stage).await), (Some(Phase::Offline), [2, 1]));
    assert_eq!(stage.runtime.launches(), []);
}

async fn nothing_is_asked_of_a_compute_that_is_elsewhere(stage: Stage) {
    let agent = stage.joined("robo").await;
    let (scheduler, office) = (&stage.scheduler, stage.office.to_string());
    for refused in [
        scheduler.start(&stage.owner("StartAgent"), &office, "robo").await,
        scheduler.stop(&stage.owner("StopAgent"), &office, "robo").await,
        scheduler.restart(&stage.owner("RestartAgent"), &office, "robo").await,
        scheduler.rotate(&stage.owner("RotateAgentIdentity"), &office, "robo").await,
    ] {
        let refused = refused.expect_err("elsewhere");
        assert_eq!((refused.kind, refused.reason), (ErrorKind::FailedPrecondition, "EXTERNAL_AGENT"));
        assert!(refused.message.contains("join again with a new invite"), "{refused}");
    }
    assert_eq!(stage.agent(agent.id).await, agent);
    let promote = PromoteAgentRequest {
        office_id: office,
        name: "robo".into(),
        model_tier: "opus".into(),
        provider: String::new(),
    };
    scheduler.promote(&stage.owner("PromoteAgent"), promote).await.expect("promotes");
    stage.settle(agent.id).await;
    let promoted = stage.agent(agent.id).await;
    assert_eq!((promoted.generation, promoted.observed_generation, promoted.phase()), (2, 2, Phase::Running));
    assert_eq!(promoted.spec.model_tier, "opus");
    let expected = [("access.granted", 1), ("agent.joined", 1), ("agent.promoted", 1), ("invite.redeemed", 1)];
    assert_eq!(stage.event_counts("robo").await, counts(expected));
    assert_eq!(stage.runtime.launches(), []);
}

async fn a_fired_one_is_gone_at_once_and_its_invite_stays_used(stage: Stage) {
    let invite = InviteId::new();
    let agent = stage.admit(stage.office, invite, "robo", KEY).await.expect("admitted");
    stage.fire("robo", false).await;
    assert_eq!(stage.beat(agent.id).await.expect_err("fired").kind, ErrorKind::Unauthenticated);
    stage.settle(agent.id).await;
    assert_eq!(stage.find(agent.id).await, None);
    assert_eq!((stage.backups().await, stage.objects().await), (vec![], vec![]));
    assert_eq!(stage.rows("former_keys").await, 1);
    assert_eq!(stage.beat(agent.id).await.expect_err("gone").kind, ErrorKind::Unauthenticated);
    let counted = stage.event_counts("robo").await;
    assert_eq!((counted["access.revoked"], counted["agent.fired"]), (1, 1));
    let again = stage.admit(stage.office, invite, "robo", KEY).await.expect_err("used");
    assert_eq!(again.kind, ErrorKind::Unauthenticated);
    let dead = stage.admit(stage.office, InviteId::new(), "robo", KEY).await.expect_err("a dead key stays dead");
    assert_eq!((dead.kind, dead.reason), (ErrorKind::AlreadyExists, "KEY_IN_USE"));
    let back = stage.admit(stage.office, InviteId::new(), "robo", OTHER_KEY).await.expect("with a new invite and key");
    assert_ne!(back.id, agent.id);
}

async fn it_waits_while_the_office_is_suspended(stage: Stage) {
    let (there, away) = (stage.joined("there").await, stage.joined("away").await);
    stage.clock.advance(Duration::from_secs(60));
    stage.beat(there.id).await.expect("taken");
    stage.clock.advance(Duration::from_secs(60));
    stage.settle(away.id).await;
    // Whoever is there may fall silent; whoever is away is left alone until the office changes.
    assert_eq!(unsettled(&stage).await, [there.id]);
    stage.apply(stage.office, 2, false, free_hiring()).await;
    assert_eq!(unsettled(&stage).await, [there.id, away.id]);
    for id in [there.id, away.id] {
        stage.settle(id).await;
        assert_eq!(stage.phase(id).await, Some(Phase::Suspended));
    }
    stage.clock.advance(Duration::from_secs(3600));
    let refused = stage.beat(there.id).await.expect_err("suspended");
    assert_eq!((refused.kind, refused.reason), (ErrorKind::FailedPrecondition, "OFFICE_NOT_ACTIVE"));
    stage.settle(there.id).await;
    assert_eq!(stage.phase(there.id).await, Some(Phase::Suspended));

    // Who was heard of meanwhile is there at once.
    assert_eq!(unsettled(&stage).await, []);
    stage.apply(stage.office, 3, true, free_hiring()).await;
    for (id, phase) in [(there.id, Phase::Running), (away.id, Phase::Offline)] {
        stage.settle(id).await;
        assert_eq!(stage.phase(id).await, Some(phase));
    }
    let told: BTreeSet<String> = stage.event_counts("there").await.into_keys().collect();
    assert!(told.contains("agent.suspended") && told.contains("agent.online"), "{told:?}");
    assert_eq!(stage.agent(there.id).await.state, State::Online);
}

async fn a_removed_office_takes_it_along(stage: Stage) {
    let agent = stage.joined("robo").await;
    let handler = offices::grpc::Handler::new(stage.scheduler.clone());
    let remove = async || {
        let request = RemoveOfficeRequest { office_id: stage.office.to_string() };
        handler.remove_office(Request::new(request)).await.expect("answers").into_inner().done
    };
    assert!(!remove().await);
    stage.settle(agent.id).await;
    assert!(remove().await);
    let left = [stage.rows("agents").await, stage.rows("admissions").await, stage.rows("agent_keys").await];
    assert_eq!(left, [0, 0, 0]);
    let late = stage.admit(stage.office, InviteId::new(), "late", KEY).await.expect_err("gone");
    assert_eq!(late.kind, ErrorKind::NotFound);
}

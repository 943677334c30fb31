//! Agents that run elsewhere: let in once for each invite, seen by their heartbeats, and nothing else done to them.

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
    harness::{Harness, TRACE, counts, free_hiring},
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
    nothing_is_asked_of_an_instance_that_is_elsewhere,
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

impl Harness {
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

async fn an_invite_lets_one_agent_in(harness: Harness) {
    let invite = InviteId::new();
    let agent = harness.admit(harness.office, invite, "Robo", KEY).await.expect("admitted");
    assert_eq!((agent.name.as_str(), agent.phase(), agent.external), ("robo", Phase::Running, true));
    assert_eq!(harness.agent(agent.id).await, agent);
    let shown = wire::agent(&agent, Default::default());
    assert_eq!((shown.employee_type(), &shown.public_key[..]), (EmployeeType::External, &KEY[..]));
    let status = shown.status.expect("always there");
    assert_eq!((status.phase(), status.ready, status.sandbox), (AgentPhase::Running, true, None));

    // Sent again it answers the same agent; with anything else it is used.
    assert_eq!(harness.admit(harness.office, invite, "robo", KEY).await.expect("again"), agent);
    for (name, key) in [("robo", OTHER_KEY), ("other", KEY)] {
        let refused = harness.admit(harness.office, invite, name, key).await.expect_err("used");
        assert_eq!(refused.kind, ErrorKind::Unauthenticated);
    }
    let elsewhere = harness.open_office(1).await;
    harness.admit(elsewhere, InviteId::new(), "robo", OTHER_KEY).await.expect("a name is of one office");

    let events = harness.events().await;
    let told: Vec<_> = events.iter().filter(|event| event.office_id == harness.office).collect();
    let brief: Vec<(&str, &str)> = told.iter().map(|event| (event.kind.as_str(), event.category.as_str())).collect();
    assert_eq!(brief, [("invite.redeemed", "security"), ("agent.joined", "lifecycle"), ("access.granted", "security")]);
    assert!(told.iter().all(|event| event.trace_id == TRACE && event.agent == "robo"), "{told:?}");
    assert_eq!(told[0].metadata, serde_json::json!({ "agent_id": agent.id, "invite_id": invite }));
}

async fn of_sixteen_who_show_an_invite_one_wins(harness: Harness) {
    let invite = InviteId::new();
    let names: Vec<String> = (0..16).map(|number| format!("robo-{number}")).collect();
    let answers =
        join_all((0..16u8).zip(&names).map(|(key, name)| harness.admit(harness.office, invite, name, [key; 32])));
    let answers = answers.await;
    let won: Vec<&Agent> = answers.iter().flatten().collect();
    let [winner] = &won[..] else { panic!("{won:?}") };
    assert_eq!(harness.agent(winner.id).await, **winner);
    assert_eq!(harness.rows("agents").await, 1);
    let refused = answers.iter().filter_map(|answer| answer.as_ref().err());
    assert!(refused.clone().all(|error| error.kind == ErrorKind::Unauthenticated), "{answers:?}");
    assert_eq!(refused.count(), 15);
    assert_eq!(harness.event_counts(&winner.name).await["invite.redeemed"], 1);
}

async fn whatever_is_refused_leaves_the_invite_as_it_was(harness: Harness) {
    let invite = InviteId::new();
    let admit = async |name: &str| harness.admit(harness.office, invite, name, KEY).await;
    harness.hire("taken").await;
    let refused = admit("Taken").await.expect_err("a name is unique");
    assert_eq!(refused.kind, ErrorKind::AlreadyExists);
    for bad in ["no name", "Operator"] {
        assert_eq!(admit(bad).await.expect_err(bad).field, Some("name"));
    }
    harness.apply(harness.office, 2, true, OfficeSettings { max_agents: Some(1), ..free_hiring() }).await;
    assert_eq!(admit("robo").await.expect_err("full").reason, "MAX_AGENTS");
    harness.apply(harness.office, 3, false, free_hiring()).await;
    assert_eq!(admit("robo").await.expect_err("suspended").reason, "OFFICE_NOT_ACTIVE");
    let nowhere = harness.admit(OfficeId::new(), invite, "robo", KEY).await.expect_err("no office");
    assert_eq!(nowhere.kind, ErrorKind::NotFound);
    assert_eq!((harness.rows("admissions").await, harness.rows("agents").await), (0, 1));

    harness.apply(harness.office, 4, true, free_hiring()).await;
    let agent = admit("robo").await.expect("as good as before");
    // Whoever won may ask again even when nobody new would be let in.
    harness.apply(harness.office, 5, false, free_hiring()).await;
    assert_eq!(admit("robo").await.expect("again").id, agent.id);
}

async fn silence_is_offline_and_a_heartbeat_is_online_once_for_each_change(mut harness: Harness) {
    let agent = harness.joined("robo").await;
    let joined_at = harness.now();
    let told = async |harness: &Harness| {
        let counts = harness.event_counts("robo").await;
        ["agent.offline", "agent.online"].map(|kind| counts.get(kind).copied().unwrap_or_default())
    };
    assert_eq!(harness.settle(agent.id).await, Some(joined_at + Duration::from_secs(120)));
    harness.clock.advance(Duration::from_secs(100));
    harness.beat(agent.id).await.expect("taken");
    assert_eq!(harness.settle(agent.id).await, Some(harness.now() + Duration::from_secs(120)));
    harness.clock.advance(Duration::from_millis(119_999));
    harness.settle(agent.id).await;
    assert_eq!(harness.phase(agent.id).await, Some(Phase::Running));
    harness.clock.advance(Duration::from_millis(1));
    for _ in 0..3 {
        assert_eq!(harness.settle(agent.id).await, None);
    }
    let offline = harness.agent(agent.id).await;
    assert_eq!((offline.phase(), offline.message()), (Phase::Offline, "no heartbeat for two minutes"));
    assert_eq!(told(&harness).await, [1, 0]);

    // Another process forgets what was in memory, and nothing changes by that.
    harness.crash().await;
    harness.settle(agent.id).await;
    assert_eq!((harness.phase(agent.id).await, told(&harness).await), (Some(Phase::Offline), [1, 0]));

    harness.clock.advance(Duration::from_secs(3600));
    for answer in join_all((0..4).map(|_| harness.beat(agent.id))).await {
        answer.expect("taken");
    }
    let online = harness.agent(agent.id).await;
    assert_eq!((online.phase(), online.last_seen_at), (Phase::Running, Some(harness.now())));
    assert_eq!(told(&harness).await, [1, 1]);
    harness.clock.advance(Duration::from_secs(120));
    harness.settle(agent.id).await;
    assert_eq!((harness.phase(agent.id).await, told(&harness).await), (Some(Phase::Offline), [2, 1]));
    assert_eq!(harness.runtime.launches(), []);
}

async fn nothing_is_asked_of_an_instance_that_is_elsewhere(harness: Harness) {
    let agent = harness.joined("robo").await;
    let (scheduler, office) = (&harness.scheduler, harness.office.to_string());
    for refused in [
        scheduler.start(&harness.owner("StartAgent"), &office, "robo").await,
        scheduler.stop(&harness.owner("StopAgent"), &office, "robo").await,
        scheduler.restart(&harness.owner("RestartAgent"), &office, "robo").await,
        scheduler.rotate(&harness.owner("RotateAgentIdentity"), &office, "robo").await,
    ] {
        let refused = refused.expect_err("elsewhere");
        assert_eq!((refused.kind, refused.reason), (ErrorKind::FailedPrecondition, "EXTERNAL_AGENT"));
        assert!(refused.message.contains("join again with a new invite"), "{refused}");
    }
    assert_eq!(harness.agent(agent.id).await, agent);
    let promote = PromoteAgentRequest {
        office_id: office,
        name: "robo".into(),
        model_tier: "opus".into(),
        provider: String::new(),
    };
    scheduler.promote(&harness.owner("PromoteAgent"), promote).await.expect("promotes");
    harness.settle(agent.id).await;
    let promoted = harness.agent(agent.id).await;
    assert_eq!((promoted.generation, promoted.observed_generation, promoted.phase()), (2, 2, Phase::Running));
    assert_eq!(promoted.spec.model_tier, "opus");
    let expected = [("access.granted", 1), ("agent.joined", 1), ("agent.promoted", 1), ("invite.redeemed", 1)];
    assert_eq!(harness.event_counts("robo").await, counts(expected));
    assert_eq!(harness.runtime.launches(), []);
}

async fn a_fired_one_is_gone_at_once_and_its_invite_stays_used(harness: Harness) {
    let invite = InviteId::new();
    let agent = harness.admit(harness.office, invite, "robo", KEY).await.expect("admitted");
    harness.fire("robo", false).await;
    assert_eq!(harness.beat(agent.id).await.expect_err("fired").kind, ErrorKind::Unauthenticated);
    harness.settle(agent.id).await;
    assert_eq!(harness.find(agent.id).await, None);
    assert_eq!((harness.backups().await, harness.objects().await), (vec![], vec![]));
    assert_eq!(harness.rows("former_keys").await, 1);
    assert_eq!(harness.beat(agent.id).await.expect_err("gone").kind, ErrorKind::Unauthenticated);
    let counted = harness.event_counts("robo").await;
    assert_eq!((counted["access.revoked"], counted["agent.fired"]), (1, 1));
    let again = harness.admit(harness.office, invite, "robo", KEY).await.expect_err("used");
    assert_eq!(again.kind, ErrorKind::Unauthenticated);
    let dead =
        harness.admit(harness.office, InviteId::new(), "robo", KEY).await.expect_err("a revoked key stays revoked");
    assert_eq!((dead.kind, dead.reason), (ErrorKind::AlreadyExists, "KEY_IN_USE"));
    let back =
        harness.admit(harness.office, InviteId::new(), "robo", OTHER_KEY).await.expect("with a new invite and key");
    assert_ne!(back.id, agent.id);
}

async fn it_waits_while_the_office_is_suspended(harness: Harness) {
    let (there, away) = (harness.joined("there").await, harness.joined("away").await);
    harness.clock.advance(Duration::from_secs(60));
    harness.beat(there.id).await.expect("taken");
    harness.clock.advance(Duration::from_secs(60));
    harness.settle(away.id).await;
    // Whoever is there may fall silent; whoever is away is left alone until the office changes.
    assert_eq!(unsettled(&harness).await, [there.id]);
    harness.apply(harness.office, 2, false, free_hiring()).await;
    assert_eq!(unsettled(&harness).await, [there.id, away.id]);
    for id in [there.id, away.id] {
        harness.settle(id).await;
        assert_eq!(harness.phase(id).await, Some(Phase::Suspended));
    }
    harness.clock.advance(Duration::from_secs(3600));
    let refused = harness.beat(there.id).await.expect_err("suspended");
    assert_eq!((refused.kind, refused.reason), (ErrorKind::FailedPrecondition, "OFFICE_NOT_ACTIVE"));
    harness.settle(there.id).await;
    assert_eq!(harness.phase(there.id).await, Some(Phase::Suspended));

    // Who was heard of meanwhile is there at once.
    assert_eq!(unsettled(&harness).await, []);
    harness.apply(harness.office, 3, true, free_hiring()).await;
    for (id, phase) in [(there.id, Phase::Running), (away.id, Phase::Offline)] {
        harness.settle(id).await;
        assert_eq!(harness.phase(id).await, Some(phase));
    }
    let told: BTreeSet<String> = harness.event_counts("there").await.into_keys().collect();
    assert!(told.contains("agent.suspended") && told.contains("agent.online"), "{told:?}");
    assert_eq!(harness.agent(there.id).await.state, State::Online);
}

async fn a_removed_office_takes_it_along(harness: Harness) {
    let agent = harness.joined("robo").await;
    let handler = offices::grpc::Handler::new(harness.scheduler.clone());
    let remove = async || {
        let request = RemoveOfficeRequest { office_id: harness.office.to_string() };
        handler.remove_office(Request::new(request)).await.expect("answers").into_inner().done
    };
    assert!(!remove().await);
    harness.settle(agent.id).await;
    assert!(remove().await);
    let left = [harness.rows("agents").await, harness.rows("admissions").await, harness.rows("agent_keys").await];
    assert_eq!(left, [0, 0, 0]);
    let late = harness.admit(harness.office, InviteId::new(), "late", KEY).await.expect_err("gone");
    assert_eq!(late.kind, ErrorKind::NotFound);
}

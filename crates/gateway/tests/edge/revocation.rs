//! Credentials that die while calls are open, and refused ones that name an agent.

use std::time::Duration;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use mi_proto::{
    internal::v1::AgentKeyName,
    v1::{WatchActivityRequest, WatchActivityResponse},
};
use serde_json::json;
use tonic::{Code, Status, Streaming};

use crate::fake::{Edge, bearer, hang, unsigned};

/// What the platform promises.
const SOON: Duration = Duration::from_secs(1);
const LONG: Duration = Duration::from_secs(10);

/// Opens a stream and takes what comes at once.
async fn open(edge: &Edge, credential: &str) -> Streaming<WatchActivityResponse> {
    let request = bearer(WatchActivityRequest::default(), credential);
    let mut stream = edge.activity().watch_activity(request).await.expect("opens").into_inner();
    stream.message().await.expect("goes on").expect("one event");
    stream
}

async fn ended(stream: &mut Streaming<WatchActivityResponse>) -> Status {
    let ended = tokio::time::timeout(SOON, stream.message()).await.expect("ends within a second");
    ended.expect_err("ends with a status")
}

/// The fakes tell whoever listens at that moment.
async fn listening(edge: &Edge) {
    let listen = async {
        while edge.world.revoked_api_keys.receiver_count() == 0 || edge.world.revoked_agent_keys.receiver_count() == 0 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, listen).await.expect("the gateway listens");
}

#[tokio::test]
async fn open_streams_of_a_revoked_credential_end_and_others_go_on() {
    let edge = Edge::local();
    listening(&edge).await;
    edge.world.operator("mi_dead");
    edge.world.operator("mi_other");
    let (agent, other) = (edge.world.agent(), edge.world.agent());
    let token = |agent: &crate::fake::Agent| agent.token(&agent.header(), &agent.claims());
    let mut dying = vec![open(&edge, "mi_dead").await, open(&edge, "mi_dead").await, open(&edge, &token(&agent)).await];
    let mut staying = vec![open(&edge, "mi_other").await, open(&edge, &token(&other)).await];

    let id = edge.world.api_key_id("mi_dead");
    edge.world.revoked_api_keys.send(id).expect("heard");
    let key = AgentKeyName { agent_id: agent.id.to_string(), key_id: agent.kid.clone() };
    edge.world.revoked_agent_keys.send(key).expect("heard");
    for stream in &mut dying {
        let status = ended(stream).await;
        assert_eq!(status.code(), Code::Unauthenticated, "{status}");
        assert!(status.message().contains("revoked"), "{status}");
    }
    // Also for calls that a remembered answer would still let in.
    for credential in ["mi_dead", &token(&agent)] {
        assert_eq!(edge.who(&format!("Bearer {credential}")).await.expect_err("dead").code(), Code::Unauthenticated);
    }
    for stream in &mut staying {
        let nothing = tokio::time::timeout(Duration::from_millis(50), stream.message()).await;
        assert!(nothing.is_err(), "{nothing:?}");
    }
    edge.who("Bearer mi_other").await.expect("goes on");
}

#[tokio::test]
async fn unary_calls_that_are_open_are_left_to_their_deadline() {
    let edge = Edge::local();
    listening(&edge).await;
    edge.world.operator("mi_dead");
    let calling = edge.activity();
    let call = tokio::spawn(async move { calling.clone().list_activity(bearer(hang(), "mi_dead")).await });
    edge.world.inside(1).await;
    edge.world.revoked_api_keys.send(edge.world.api_key_id("mi_dead")).expect("heard");
    // Heard: a new call is refused, although the fake office would still know the key.
    let refused = async {
        while edge.who("Bearer mi_dead").await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(SOON, refused).await.expect("within a second");
    assert!(!call.is_finished());
    call.abort();
}

#[tokio::test]
async fn a_refused_token_is_reported_with_the_agent_that_it_names() {
    let edge = Edge::local();
    let (agent, fired) = (edge.world.agent(), edge.world.agent());
    edge.world.agents.lock().expect("unpoisoned").remove(&(fired.id.to_string(), fired.kid.clone()));
    let audience = |agent: &crate::fake::Agent| {
        let mut claims = agent.claims();
        claims["aud"] = json!("elsewhere");
        agent.token(&agent.header(), &claims)
    };
    let none = unsigned(&json!({"alg": "none", "kid": agent.kid}), &agent.claims());
    let expected = [
        (format!("{none}."), agent.id, "it does not parse"),
        (format!("{none}.{}", URL_SAFE_NO_PAD.encode([0; 64])), agent.id, "it does not parse"),
        (audience(&agent), agent.id, "aud is not mi"),
        (fired.token(&fired.header(), &fired.claims()), fired.id, "no such agent, or not its key"),
        (fired.token(&agent.header(), &agent.claims()), agent.id, "the signature is not the agent's"),
    ];
    let mut reported = edge.world.reported.subscribe();
    for (token, agent_id, problem) in expected {
        edge.world.reported.send_replace(Vec::new());
        edge.who(&format!("Bearer {token}")).await.expect_err(problem);
        let told = tokio::time::timeout(LONG, reported.wait_for(|all| !all.is_empty())).await.expect("reported");
        let told = told.expect("open")[0].clone();
        assert_eq!((told.agent_id, told.problem.as_str()), (agent_id.to_string(), problem));
        assert!(!token.is_empty() && !told.problem.contains(&token));
    }
    edge.world.reported.send_replace(Vec::new());
    for nobody in ["nonsense", "a.b.c", "mi_unknown"] {
        edge.who(&format!("Bearer {nobody}")).await.expect_err(nobody);
    }
    edge.who(&format!("Bearer {}", agent.token(&agent.header(), &agent.claims()))).await.expect("known");
    assert!(edge.world.reported.borrow().is_empty());
}

//! An agent is who it says it is, and only for as long as it may be.

use std::{sync::Arc, time::Duration};

use mi_client::{AgentKey, Client, Credential, KeyRing};
use mi_e2e::{LIMIT, World};
use mi_kernel::{AgentId, Clock, SystemClock};
use mi_proto::v1::{self, AgentPhase};
use mi_testkit::{Arrangement, Backend, on_both, until};
use tonic::{Code, Request, Status};

on_both! {
    a_rotated_key_is_dead_at_once_and_the_agent_goes_on_with_another,
    a_fired_agent_is_nobody_within_a_second,
    what_is_tried_with_a_wrong_credential_is_in_the_office_s_feed,
}

/// What the platform promises for the end of open streams.
const SOON: Duration = Duration::from_secs(1);

/// One process on SQLite, four under mutual TLS on Postgres.
async fn world(backend: Backend) -> World {
    let arrangement = match backend {
        Backend::Sqlite => Arrangement::OneProcess,
        Backend::Postgres => Arrangement::ProcessPerRole,
    };
    World::start(backend, arrangement).await
}

/// Calls as the agent does, with the key from its own storage: only the platform's user can read that.
fn as_agent(world: &World, agent: &v1::Agent) -> Client {
    let file = world.workspace(agent).with_file_name("identity").join("identity.key");
    let key = AgentKey::load(&file).expect("readable").expect("there");
    let agent_id: AgentId = agent.id.parse().expect("an id");
    let credential = Credential::Agent { agent_id, key: Arc::new(KeyRing::new(key)) };
    world.owner.with_credential(credential).expect("good")
}

/// Opens a stream as this caller; it says nothing until it ends.
async fn open(client: &Client, office: &str) -> tonic::Streaming<v1::WatchActivityResponse> {
    let request = v1::WatchActivityRequest { office_id: office.into(), agent: "nobody".into(), ..Default::default() };
    client.activity().watch_activity(request).await.expect("opens").into_inner()
}

async fn who(client: &Client) -> Result<String, Status> {
    let answer = client.access().who_am_i(v1::WhoAmIRequest {}).await?.into_inner();
    Ok(answer.principal.unwrap_or_default().agent)
}

async fn ends_as_revoked(mut stream: tonic::Streaming<v1::WatchActivityResponse>) {
    let ended = tokio::time::timeout(SOON, stream.message()).await.expect("ends within a second");
    assert_eq!(ended.expect_err("ends with a status").code(), Code::Unauthenticated);
}

async fn a_rotated_key_is_dead_at_once_and_the_agent_goes_on_with_another(backend: Backend) {
    let world = world(backend).await;
    let office = world.office("Careful").await;
    world.hire(&office, "analyst").await.expect("hired");
    let agent = world.settled(&office, "analyst", AgentPhase::Running).await;
    let old = as_agent(&world, &agent);
    assert_eq!(who(&old).await.expect("known"), "analyst");
    let stream = open(&old, &office).await;

    let rotate = v1::RotateAgentIdentityRequest { office_id: office.clone(), name: "analyst".into() };
    world.owner.agents().rotate_agent_identity(rotate).await.expect("rotated");
    ends_as_revoked(stream).await;
    assert_eq!(who(&old).await.expect_err("dead").code(), Code::Unauthenticated);

    let after = until("the agent has another key", LIMIT, async || {
        let now = world.agent(&office, "analyst").await.map_err(|status| status.to_string())?;
        let renewed = !now.public_key.is_empty() && now.public_key != agent.public_key;
        if renewed { Ok(Some(now)) } else { Err(format!("{:?}", now.status)) }
    })
    .await;
    // Online: the same instance, never restarted.
    let status = after.status.clone().expect("has one");
    assert_eq!((status.phase(), status.restarts, after.generation), (AgentPhase::Running, 0, agent.generation));
    assert_eq!(who(&as_agent(&world, &after)).await.expect("known"), "analyst");
    assert_eq!(who(&old).await.expect_err("still dead").code(), Code::Unauthenticated);
    world.happened(&office, "analyst", "agent.identity_rotated").await;
    world.happened(&office, "analyst", "credential.refused").await;
    let enrolments = world.count(&office, "analyst", "agent.enrolled").await;
    assert_eq!(enrolments, 2);
    // It works on: its heartbeats come under the new key.
    let seen = world.agent(&office, "analyst").await.expect("there").status.expect("has one").last_seen_at;
    until("a later sign of life", LIMIT, async || {
        let now = world.agent(&office, "analyst").await.map_err(|status| status.to_string())?;
        let last = now.status.and_then(|status| status.last_seen_at);
        let later = last.map(|time| (time.seconds, time.nanos)) > seen.as_ref().map(|time| (time.seconds, time.nanos));
        if later { Ok(Some(())) } else { Err(format!("{last:?}")) }
    })
    .await;
}

async fn a_fired_agent_is_nobody_within_a_second(backend: Backend) {
    let world = world(backend).await;
    let office = world.office("Strict").await;
    for name in ["leaver", "stayer"] {
        world.hire(&office, name).await.expect("hired");
        world.settled(&office, name, AgentPhase::Running).await;
    }
    let leaver = as_agent(&world, &world.agent(&office, "leaver").await.expect("there"));
    let stayer = as_agent(&world, &world.agent(&office, "stayer").await.expect("there"));
    let (leaving, mut staying) = (open(&leaver, &office).await, open(&stayer, &office).await);
    world.fire(&office, "leaver").await.expect("fired");
    ends_as_revoked(leaving).await;
    assert_eq!(who(&leaver).await.expect_err("dead").code(), Code::Unauthenticated);
    assert_eq!(who(&stayer).await.expect("known"), "stayer");
    world.gone(&office, "leaver").await;
    // Also when nothing else is left of it, its office hears of the attempt.
    assert_eq!(who(&leaver).await.expect_err("gone").code(), Code::Unauthenticated);
    world.happened(&office, "leaver", "credential.refused").await;
    let nothing = tokio::time::timeout(Duration::from_millis(10), staying.message()).await;
    assert!(nothing.is_err(), "{nothing:?}");
}

async fn what_is_tried_with_a_wrong_credential_is_in_the_office_s_feed(backend: Backend) {
    let world = world(backend).await;
    let (office, other) = (world.office("Watched").await, world.office("Other").await);
    for (office, name) in [(&office, "analyst"), (&other, "spy")] {
        world.hire(office, name).await.expect("hired");
        world.settled(office, name, AgentPhase::Running).await;
    }
    let analyst = world.agent(&office, "analyst").await.expect("there");
    let spy = as_agent(&world, &world.agent(&other, "spy").await.expect("there"));

    // A key that is not the agent's own.
    let dir = tempfile::tempdir().expect("made");
    let forged = AgentKey::generate(&dir.path().join("key")).expect("made");
    let token = forged.token(analyst.id.parse().expect("an id"), SystemClock.now()).expect("signed");
    let anonymous = world.owner.with_credential(Credential::None).expect("good");
    let mut request = Request::new(v1::WhoAmIRequest {});
    request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("ASCII"));
    assert_eq!(anonymous.access().who_am_i(request).await.expect_err("forged").code(), Code::Unauthenticated);
    world.happened(&office, "analyst", "credential.refused").await;

    // A token that nobody was given.
    let enrol = v1::EnrolAgentRequest {
        office_id: office.clone(),
        token: "a guess".into(),
        public_key: forged.public_key().to_vec().into(),
    };
    assert_eq!(anonymous.access().enrol_agent(enrol).await.expect_err("guessed").code(), Code::Unauthenticated);
    world.happened(&office, "", "enrolment.refused").await;

    // An agent of another office, and one that may not.
    let get = v1::GetOfficeRequest { office_id: office.clone() };
    assert_eq!(spy.offices().get_office(get).await.expect_err("foreign").code(), Code::NotFound);
    world.happened(&office, "", "access.refused").await;
    let suspend = v1::SuspendOfficeRequest { office_id: other.clone() };
    assert_eq!(spy.offices().suspend_office(suspend).await.expect_err("not its to do").code(), Code::PermissionDenied);
    world.happened(&other, "spy", "access.refused").await;

    let events = world.feed(&office).await;
    let refused: Vec<_> = events.iter().filter(|event| event.r#type.ends_with(".refused")).collect();
    assert!(refused.iter().all(|event| event.category == "security"), "{refused:?}");
    let texts = format!("{refused:?}");
    let spy_id = world.agent(&other, "spy").await.expect("there").id;
    for secret in [token.as_str(), "a guess", other.as_str(), spy_id.as_str()] {
        assert!(!texts.contains(secret), "the feed tells {secret}");
    }
}

//! Agents that run elsewhere, as programs in any language and as people at a shell bring them in.

use std::{
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Output, Stdio},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use futures::future::join_all;
use mi_client::{Client, Credential};
use mi_e2e::{LIMIT, World, refusal};
use mi_proto::v1::{self, AgentPhase, EmployeeType};
use mi_testkit::{Arrangement, Backend, on_both, until};
use ring::{
    digest::{SHA256, digest},
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};
use serde_json::{Value, json};
use tokio::process::Command;
use tonic::{Code, Request, Status};
use tonic_types::StatusExt;

on_both! { a_program_joins_signs_for_itself_and_is_out_when_it_is_fired, of_many_with_one_code_one_joins }

/// An agent that knows nothing but the specification.
struct Robo {
    pair: Ed25519KeyPair,
    client: Client,
    agent: v1::Agent,
}

impl Robo {
    async fn join(world: &World, code: &str, name: &str) -> Result<Self, Status> {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("randomness");
        let pair = Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).expect("own key");
        let client = nobody(world);
        let public_key = pair.public_key().as_ref().to_vec().into();
        let request = v1::JoinOfficeRequest { code: code.into(), name: name.into(), public_key };
        let agent = client.access().join_office(request).await?.into_inner().agent.expect("answered");
        Ok(Self { pair, client, agent })
    }

    /// The message with a fresh token.
    fn signed<T>(&self, message: T) -> Request<T> {
        let public = self.pair.public_key().as_ref();
        let hex: String = digest(&SHA256, public).as_ref()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let header = json!({ "alg": "EdDSA", "kid": format!("k{hex}") });
        let jti = uuid::Uuid::new_v4().to_string();
        let claims = json!({ "iss": self.agent.id, "aud": "mi", "iat": now, "exp": now + 120, "jti": jti });
        let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(header), part(claims));
        let token = format!("{text}.{}", URL_SAFE_NO_PAD.encode(self.pair.sign(text.as_bytes())));
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().expect("ASCII"));
        request
    }

    async fn who(&self) -> Result<v1::Principal, Status> {
        let answer = self.client.access().who_am_i(self.signed(v1::WhoAmIRequest {})).await?;
        Ok(answer.into_inner().principal.expect("answered"))
    }

    async fn beat(&self, office: &str) -> Result<(), Status> {
        let beat = v1::HeartbeatRequest { office_id: office.into() };
        self.client.access().heartbeat(self.signed(beat)).await.map(drop)
    }
}

fn nobody(world: &World) -> Client {
    world.owner.with_credential(Credential::None).expect("good")
}

async fn invite(world: &World, office: &str) -> v1::Invite {
    let request = v1::CreateInviteRequest { office_id: office.into() };
    world.owner.access().create_invite(request).await.expect("made").into_inner().invite.expect("answered")
}

async fn a_program_joins_signs_for_itself_and_is_out_when_it_is_fired(backend: Backend) {
    let world = World::start(backend, Arrangement::OneProcess).await;
    let (office, other) = (world.office("Open").await, world.office("Other").await);
    let invited = invite(&world, &office).await;
    let robo = Robo::join(&world, &invited.code.to_lowercase(), "Robo").await.expect("joins");
    assert_eq!((robo.agent.name.as_str(), robo.agent.employee_type()), ("robo", EmployeeType::External));
    let who = robo.who().await.expect("known");
    assert_eq!((&who.office_id, &who.agent_id, who.agent.as_str()), (&office, &robo.agent.id, "robo"));
    robo.beat(&office).await.expect("taken");
    for foreign in [&other, &uuid::Uuid::now_v7().to_string()] {
        let refused = robo.beat(foreign).await.expect_err("not its office");
        assert_eq!((refused.code(), refused.message()), (Code::NotFound, &*format!("office {foreign:?} not found")));
    }
    assert_eq!(refusal(Robo::join(&world, &invited.code, "late").await.map(drop)).0, Code::Unauthenticated);
    let seen = world.settled(&office, "robo", AgentPhase::Running).await;
    assert_eq!((seen.id, seen.public_key), (robo.agent.id.clone(), robo.agent.public_key.clone()));
    let stop = v1::StopAgentRequest { office_id: office.clone(), name: "robo".into() };
    let refused = refusal(world.owner.agents().stop_agent(stop).await);
    assert_eq!(refused, (Code::FailedPrecondition, "EXTERNAL_AGENT".into()));
    // Nothing was made for it here.
    assert_eq!(world.homes(), Vec::<std::path::PathBuf>::new());

    world.fire(&office, "robo").await.expect("fired");
    let fired = Instant::now();
    until("the fired agent is refused", LIMIT, async || {
        // However long an answer takes: a call that begins after a second is refused.
        let began = fired.elapsed();
        match robo.who().await {
            Err(status) if status.code() == Code::Unauthenticated => Ok(Some(())),
            Ok(who) if began > Duration::from_secs(1) => panic!("{who:?} was still let in after {began:?}"),
            other => Err(format!("{other:?}")),
        }
    })
    .await;
    world.gone(&office, "robo").await;
    assert_eq!(world.backups(&office).await, []);
    world.happened(&office, "robo", "credential.refused").await;
    world.happened(&office, "robo", "agent.fired").await;
    let feed = world.feed(&office).await;
    for (kind, category) in [
        ("invite.created", "security"),
        ("invite.redeemed", "security"),
        ("agent.joined", "lifecycle"),
        ("access.granted", "security"),
        ("access.revoked", "security"),
    ] {
        let found: Vec<&str> =
            feed.iter().filter(|event| event.r#type == kind).map(|event| event.category.as_str()).collect();
        assert_eq!(found, [category], "{kind}");
    }
    let code = &invited.code;
    assert!(!format!("{feed:?}").contains(code) && !world.platform.log().contains(code), "{code} was told");
}

async fn of_many_with_one_code_one_joins(backend: Backend) {
    let mut world = World::start(backend, Arrangement::ProcessPerRole).await;
    let office = world.office("Popular").await;
    let invited = invite(&world, &office).await;
    // Whatever is kept of an invite outlives the processes.
    world.crash().await;
    let names: Vec<String> = (0..16).map(|number| format!("robo-{number}")).collect();
    let joined = join_all(names.iter().map(|name| Robo::join(&world, &invited.code, name))).await;
    let mut won = Vec::new();
    for answer in joined {
        match answer {
            Ok(robo) => won.push(robo.agent.id),
            // All come from one address: past the tenth wrong code they are told to wait.
            Err(status) => {
                assert!(matches!(status.code(), Code::Unauthenticated | Code::ResourceExhausted), "{status}")
            }
        }
    }
    let there = world.owner.agents().list(&office).await.expect("listed");
    assert_eq!(there.into_iter().map(|agent| agent.id).collect::<Vec<_>>(), won);
    assert_eq!(won.len(), 1);
}

#[tokio::test]
async fn whoever_guesses_has_to_wait_and_a_good_code_does_not_help() {
    let world = World::start(Backend::Sqlite, Arrangement::OneProcess).await;
    let office = world.office("Guessed").await;
    let invited = invite(&world, &office).await;
    let wrong = if invited.code == "AAAAAA" { "BBBBBB" } else { "AAAAAA" };
    for _ in 0..10 {
        assert_eq!(refusal(Robo::join(&world, wrong, "robo").await.map(drop)).0, Code::Unauthenticated);
    }
    let Err(refused) = Robo::join(&world, &invited.code, "robo").await else { panic!("joined") };
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert_eq!(refused.get_details_error_info().expect("always there").reason, "TOO_MANY_GUESSES");
    let wait = refused.get_details_retry_info().expect("says when").retry_delay.expect("set");
    assert!(wait > Duration::ZERO && wait <= Duration::from_secs(60), "{wait:?}");
    assert_eq!(world.owner.agents().list(&office).await.expect("listed"), []);
}

async fn mi(world: &World, dir: &Path, args: &[&str]) -> Output {
    let mut command = command(world, dir);
    tokio::time::timeout(LIMIT, command.args(args).output()).await.expect("ends by itself").expect("ran")
}

fn command(world: &World, dir: &Path) -> Command {
    let mut command = Command::new(mi_testkit::platform::binary());
    command.env("MI_CONFIG_DIR", dir).env("MI_ENDPOINT", world.platform.endpoint()).env_remove("MI_API_KEY");
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

fn json_of(output: &Output) -> Value {
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).expect("JSON")
}

#[tokio::test]
async fn at_a_shell() {
    let world = World::start(Backend::Sqlite, Arrangement::OneProcess).await;
    let office = world.office("Shell").await;
    let operator = world.platform.config_dir();
    let invited = json_of(&mi(&world, &operator, &["invite", "--colony", &office, "-o", "json"]).await);
    let code = invited["code"].as_str().expect("a text");

    // The machine of somebody who has no API key.
    let elsewhere = tempfile::tempdir().expect("a directory");
    let join = ["join", code, "--name", "robo", "--once", "-o", "json"];
    let joined = json_of(&mi(&world, elsewhere.path(), &join).await);
    assert_eq!((&joined["name"], &joined["employee_type"]), (&"robo".into(), &"EMPLOYEE_TYPE_EXTERNAL".into()));
    let home = elsewhere.path().join("agents/robo");
    let mode = |path: &Path| std::fs::metadata(path).expect("there").permissions().mode() & 0o777;
    let modes = [&home, &home.join("identity.key"), &home.join("agent.json")].map(|path| mode(path));
    assert_eq!(modes, [0o700, 0o600, 0o600]);

    let again = mi(&world, elsewhere.path(), &join).await;
    let told = String::from_utf8_lossy(&again.stderr);
    assert!(again.status.code() == Some(1) && told.contains("holds the identity of agent"), "{told}");
    let unknown = mi(&world, elsewhere.path(), &["join", "--name", "nobody", "--once"]).await;
    let told = String::from_utf8_lossy(&unknown.stderr);
    assert!(unknown.status.code() == Some(1) && told.contains("nobody joined yet"), "{told}");

    let resume = command(&world, elsewhere.path()).args(["join", "--name", "robo"]).spawn().expect("started");
    let before = world.agent(&office, "robo").await.expect("there").status.expect("has one").last_seen_at;
    until("the agent is heard of", LIMIT, async || {
        let status = world.agent(&office, "robo").await.map_err(|status| status.to_string())?.status;
        let heard = status.as_ref().is_some_and(|status| status.last_seen_at != before);
        if heard { Ok(Some(())) } else { Err(format!("{status:?}")) }
    })
    .await;
    let pid = nix::unistd::Pid::from_raw(resume.id().expect("runs").try_into().expect("fits"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("sent");
    let ended = tokio::time::timeout(LIMIT, resume.wait_with_output()).await.expect("ends").expect("waited for");
    assert!(ended.status.success(), "{ended:?}");

    world.fire(&office, "robo").await.expect("fired");
    world.gone(&office, "robo").await;
    let out = mi(&world, elsewhere.path(), &["join", "--name", "robo"]).await;
    assert_eq!(out.status.code(), Some(1), "{out:?}");
}

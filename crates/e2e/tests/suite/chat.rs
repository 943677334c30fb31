//! Chat as its users meet it: followed over restarts, from the shell, and between agents that answer each other for ever.

use std::{process::Stdio, sync::Arc};

use mi_client::{AgentKey, Client, Credential, KeyRing};
use mi_e2e::{LIMIT, World, refusal};
use mi_kernel::AgentId;
use mi_proto::v1::{self, AgentPhase, ChatMessage};
use mi_testkit::{Arrangement, Backend, on_both, platform::binary, until};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};
use tonic::{Code, Status};

on_both! { a_chat_is_followed_over_restarts, agents_that_answer_each_other_for_ever_are_paused }

/// `mi chat` with these arguments; the platform is the one that the configuration names.
fn mi_chat(world: &World, args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.arg("chat").args(args).env("MI_CONFIG_DIR", world.platform.config_dir());
    command.env("MI_ENDPOINT", world.platform.endpoint()).env("MI_API_KEY", world.platform.admin_key());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    command
}

/// Runs it to its end: whether it succeeded, and what it printed.
async fn mi(world: &World, args: &[&str], input: &str) -> (bool, String, String) {
    let mut child = mi_chat(world, args).spawn().expect("started");
    child.stdin.take().expect("piped").write_all(input.as_bytes()).await.expect("written");
    let output = tokio::time::timeout(LIMIT, child.wait_with_output()).await.expect("ends").expect("ran");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (output.status.success(), text(output.stdout), text(output.stderr))
}

async fn send(client: &Client, office: &str, to: &str, body: &str) -> Result<ChatMessage, Status> {
    let request = v1::SendMessageRequest {
        office_id: office.into(),
        to_agent: to.into(),
        body: body.into(),
        request_id: String::new(),
    };
    Ok(client.chat().send_message(request).await?.into_inner().message.expect("answered"))
}

/// A follower at a shell, and what it showed.
struct Follower {
    lines: Lines<BufReader<ChildStdout>>,
    _process: Child,
}

impl Follower {
    fn start(world: &World, office: &str, args: &[&str]) -> Self {
        let all = [&["follow", "--colony", office, "-o", "json"], args].concat();
        let mut process = mi_chat(world, &all).stderr(Stdio::null()).spawn().expect("started");
        let lines = BufReader::new(process.stdout.take().expect("piped")).lines();
        Self { lines, _process: process }
    }

    /// The bodies of the next messages.
    async fn take(&mut self, count: usize) -> Vec<String> {
        let mut bodies = Vec::new();
        while bodies.len() < count {
            let line = tokio::time::timeout(LIMIT, self.lines.next_line()).await.expect("in time").expect("text");
            let message: Value = serde_json::from_str(&line.expect("it goes on")).expect("one object a line");
            bodies.push(message["body"].as_str().expect("a text").to_owned());
        }
        bodies
    }
}

async fn a_chat_is_followed_over_restarts(backend: Backend) {
    // The edge stays where it is, as it would for anybody's platform.
    let mut world = World::start(backend, Arrangement::ProcessPerRole).await;
    let office = world.office("Chatty").await;
    world.hire(&office, "analyst").await.expect("hired");
    let say = async |world: &World, range: std::ops::Range<i32>| {
        for number in range.clone() {
            send(&world.owner, &office, "", &number.to_string()).await.expect("sends");
            send(&world.owner, &office, "analyst", &format!("direct {number}")).await.expect("sends");
        }
        range.map(|number| number.to_string()).collect::<Vec<_>>()
    };
    let before = say(&world, 0..30).await;
    let mut group = Follower::start(&world, &office, &["--limit", "5"]);
    let mut direct = Follower::start(&world, &office, &["--with", "Analyst", "--limit", "0"]);
    let mut all = Follower::start(&world, &office, &["--all"]);
    assert_eq!(group.take(5).await, before[25..]);
    assert_eq!(all.take(60).await[58..], ["29", "direct 29"]);
    // Whoever begins with nothing is there once a message of its own comes. The first ones may come late.
    let mut pings = 0;
    let (known, last, mut heard) = until("the follower is there", LIMIT, async || {
        pings += 1;
        let ping = format!("ping {pings}");
        let message = send(&world.owner, &office, "analyst", &ping).await.map_err(|status| status.to_string())?;
        let heard = tokio::time::timeout(std::time::Duration::from_millis(200), direct.take(1)).await;
        Ok::<_, String>(heard.ok().map(|heard| (message.id, ping, heard)))
    })
    .await;
    while heard != [last.as_str()] {
        heard = direct.take(1).await;
    }
    let since =
        |messages: Vec<ChatMessage>| messages.into_iter().rev().filter(|m| m.id > known).map(|m| m.body).collect();

    for round in 0..2 {
        let now = say(&world, 100 * round..100 * round + 10).await;
        assert_eq!(group.take(10).await, now);
        match round {
            0 => world.crash().await,
            _ => world.platform.restart().await,
        }
        let later = say(&world, 100 * round + 10..100 * round + 20).await;
        assert_eq!(group.take(10).await, later);
    }
    let request = v1::ListMessagesRequest {
        office_id: office.clone(),
        with_agent: "analyst".into(),
        limit: Some(200),
        before_id: String::new(),
    };
    let listed = world.owner.chat().list_messages(request).await.expect("listed").into_inner().messages;
    let expected: Vec<String> = since(listed);
    assert_eq!(direct.take(expected.len()).await, expected);
    assert_eq!(expected.len(), 40);
}

/// An agent of somebody else's machine.
struct Robot {
    client: Client,
    name: &'static str,
    office: String,
}

impl Robot {
    async fn join(world: &World, office: &str, name: &'static str) -> Self {
        let request = v1::CreateInviteRequest { office_id: office.into() };
        let answer = world.owner.access().create_invite(request).await.expect("made").into_inner();
        let code = answer.invite.expect("answered").code;
        let directory = tempfile::tempdir().expect("a directory");
        let key = AgentKey::generate(&directory.path().join("identity.key")).expect("made");
        let public_key = key.public_key().to_vec().into();
        let request = v1::JoinOfficeRequest { code, name: name.into(), public_key };
        let joined = world.owner.access().join_office(request).await.expect("joins").into_inner();
        let agent_id = AgentId::parse(&joined.agent.expect("answered").id).expect("an id");
        let credential = Credential::Agent { agent_id, key: Arc::new(KeyRing::new(key)) };
        let client = world.owner.with_credential(credential).expect("good");
        Self { client, name, office: office.into() }
    }

    async fn claim(&self) -> Result<Option<v1::Task>, Status> {
        let wait = Some(prost_types::Duration { seconds: 10, nanos: 0 });
        let request = v1::ClaimTasksRequest { office_id: self.office.clone(), wait, ..Default::default() };
        Ok(self.client.tasks().claim_tasks(request).await?.into_inner().tasks.pop())
    }

    /// Answers whatever it was written, as it would for ever.
    async fn answer(&self, other: &str) -> Result<(), Status> {
        let task = self.claim().await?.expect("it was written to");
        send(&self.client, &self.office, other, "And a good day to you!").await?;
        let request = v1::CompleteTaskRequest {
            office_id: self.office.clone(),
            task_id: task.id,
            lease_id: task.lease_id,
            result: "answered".into(),
            ..Default::default()
        };
        self.client.tasks().complete_task(request).await.map(drop)
    }

    async fn beat(&self) -> Result<(), Status> {
        let request = v1::HeartbeatRequest { office_id: self.office.clone() };
        self.client.access().heartbeat(request).await.map(drop)
    }
}

async fn agents_that_answer_each_other_for_ever_are_paused(backend: Backend) {
    let mut world = World::start(backend, Arrangement::OneProcess).await;
    let office = world.office("Polite").await;
    let robots = [Robot::join(&world, &office, "ping").await, Robot::join(&world, &office, "pong").await];
    send(&world.owner, &office, "ping", "Wish pong a good day.").await.expect("sends");
    let mut turns = 0;
    let (looped, refused) = loop {
        let (one, other) = (&robots[turns % 2], &robots[(turns + 1) % 2]);
        if let Err(status) = one.answer(other.name).await {
            break (one, refusal(Err::<(), _>(status)));
        }
        turns += 1;
        assert!(turns < 20, "they go on");
    };
    assert_eq!(refused, (Code::FailedPrecondition, "LOOP_DETECTED".into()));
    let paused = world.settled(&office, looped.name, AgentPhase::Suspended).await;
    let message = paused.status.expect("has one").message;
    assert_eq!(message, "LOOP_DETECTED: 17 causes lead from here back to an operator, and 16 may");
    world.happened(&office, looped.name, "loop.detected").await;
    world.happened(&office, looped.name, "agent.paused").await;
    for kind in ["loop.detected", "agent.paused"] {
        assert_eq!(world.count(&office, looped.name, kind).await, 1, "{kind}");
    }

    // Nobody listens to it any more, also after a restart and when its office comes back.
    let heartbeat = refusal(looped.beat().await);
    assert_eq!(heartbeat, (Code::FailedPrecondition, "LOOP_DETECTED".into()));
    let words = refusal(send(&looped.client, &office, "", "But I was only polite!").await);
    assert_eq!(words, (Code::FailedPrecondition, "AGENT_NOT_WORKING".into()));
    let offices = world.owner.offices();
    offices.clone().suspend_office(v1::SuspendOfficeRequest { office_id: office.clone() }).await.expect("suspended");
    offices.clone().resume_office(v1::ResumeOfficeRequest { office_id: office.clone() }).await.expect("resumed");
    world.crash().await;
    world.settled(&office, looped.name, AgentPhase::Suspended).await;

    let start = v1::StartAgentRequest { office_id: office.clone(), name: looped.name.into() };
    world.owner.agents().start_agent(start).await.expect("started");
    world.settled(&office, looped.name, AgentPhase::Running).await;
}

#[tokio::test]
async fn at_a_shell() {
    let world = World::start(Backend::Sqlite, Arrangement::OneProcess).await;
    let office = world.office("Shell").await;
    world.hire(&office, "analyst").await.expect("hired");
    let text = "first line\n\u{1b}[2Jsecond\u{202e} line";
    let (sent, json, _) = mi(&world, &["send", "--colony", &office, "--to", "analyst", "-o", "json", "-"], text).await;
    assert!(sent);
    let message: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(
        (&message["from"], &message["to_agent"], &message["body"]),
        (&"operator".into(), &"analyst".into(), &text.into())
    );
    let again = ["send", "--colony", &office, "--request-id", "once", "Hello, @analyst."];
    let (_, first, _) = mi(&world, &again, "").await;
    assert_eq!(mi(&world, &again, "").await, (true, first.clone(), String::new()));
    assert!(first.contains("the group") && first.contains("Hello, @analyst."), "{first}");

    let (_, shown, _) = mi(&world, &["history", "--colony", &office, "--with", "analyst"], "").await;
    let (_, said) = shown.split_once("Z  ").expect("a time before it");
    assert_eq!(said, "operator -> analyst: first line\n    \\u{1b}[2Jsecond\\u{202e} line\n");
    let (_, json, _) = mi(&world, &["history", "--colony", &office, "-o", "json"], "").await;
    let listed: Value = serde_json::from_str(&json).expect("JSON");
    let bodies: Vec<&Value> = listed.as_array().expect("a list").iter().map(|message| &message["body"]).collect();
    assert_eq!(bodies, ["Hello, @analyst."]);

    for (args, told) in [
        (["send", "--colony", &office, " "], "error: body must not be blank"),
        (["history", "--colony", &office, "--with=ghost"], "error: agent \"ghost\" not found"),
        (["send", "--colony", &office, "--to=ghost"], "error: the following required arguments were not provided"),
    ] {
        let (succeeded, stdout, stderr) = mi(&world, &args, "").await;
        assert_eq!((succeeded, stdout.as_str()), (false, ""));
        assert!(stderr.starts_with(told), "{stderr}");
    }
}

//! Commands of operators inside agents, and copies from and to their workspaces.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
    process::Stdio,
};

use mi_client::{Client, Credential};
use mi_e2e::{LIMIT, World, refusal, wrong_field};
use mi_kernel::{
    exec::{CHUNK, WINDOW},
    secret::Secret,
};
use mi_proto::v1::{
    self, AgentPhase, ExecAgentRequest, ExecAgentResponse, ExecStart, Terminal, TerminalSize, exec_agent_request::Part,
    exec_agent_response::Part as Answer,
};
use mi_testkit::{Arrangement, Backend, on_both, platform::binary, until};
use nix::{
    pty::{Winsize, openpty},
    sys::{
        signal::{Signal, kill},
        termios::{LocalFlags, tcgetattr},
    },
    unistd::{Pid, write},
};
use prost_types::value::Kind;
use tokio::sync::{Semaphore, mpsc};
use tonic::{Code, Status, Streaming, codegen::tokio_stream::wrappers::ReceiverStream};

on_both! {
    a_command_reads_prints_ends_and_is_in_the_feed,
    what_cannot_run_is_refused,
    a_command_ends_with_whoever_wants_it_and_with_its_agent,
    the_command_line_runs_commands_and_copies_files,
}

/// One process on SQLite, four on Postgres; an office with a running agent.
async fn staffed(backend: Backend) -> (World, String, v1::Agent) {
    let arrangement = match backend {
        Backend::Sqlite => Arrangement::OneProcess,
        Backend::Postgres => Arrangement::ProcessPerRole,
    };
    let world = World::start(backend, arrangement).await;
    let office = world.office("Workshop").await;
    world.hire(&office, "worker").await.expect("hired");
    let agent = world.settled(&office, "worker", AgentPhase::Running).await;
    (world, office, agent)
}

fn of(office: &str, command: &[&str]) -> ExecStart {
    let command = command.iter().map(|word| (*word).to_owned()).collect();
    ExecStart { office_id: office.into(), name: "worker".into(), command, ..ExecStart::default() }
}

/// A command that runs.
struct Running {
    send: mpsc::Sender<ExecAgentRequest>,
    answers: Streaming<ExecAgentResponse>,
}

/// What came of a command.
#[derive(Debug, PartialEq, Eq)]
struct Ran {
    code: i32,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Ran {
    fn text(&self) -> (i32, &str, &str) {
        (self.code, str::from_utf8(&self.stdout).expect("text"), str::from_utf8(&self.stderr).expect("text"))
    }
}

impl Running {
    /// Once more when the agent's session is not up again yet: nothing was run then.
    async fn start(client: &Client, start: &ExecStart) -> Result<Self, Status> {
        until("the agent is reached", LIMIT, async || match Self::once(client, start).await {
            Err(status) if status.code() == Code::Unavailable => Err(status.to_string()),
            other => Ok(Some(other)),
        })
        .await
    }

    async fn once(client: &Client, start: &ExecStart) -> Result<Self, Status> {
        let (send, requests) = mpsc::channel(4);
        send.try_send(ExecAgentRequest { part: Some(Part::Start(start.clone())) }).expect("empty");
        let answers = client.agents().exec_agent(ReceiverStream::new(requests)).await?.into_inner();
        Ok(Self { send, answers })
    }

    /// The next bytes that it prints.
    async fn prints(&mut self) -> String {
        loop {
            match self.answers.message().await.expect("goes on").and_then(|answer| answer.part) {
                Some(Answer::Stdout(bytes)) => return String::from_utf8(bytes.to_vec()).expect("text"),
                Some(Answer::Consumed(_)) => {}
                other => panic!("printed nothing: {other:?}"),
            }
        }
    }

    /// Sends the input as there is room, uses all that is printed, and waits for the end.
    async fn run(self, input: &[u8]) -> Result<Ran, Status> {
        let Self { send, mut answers } = self;
        let room = Semaphore::new(WINDOW);
        let feed = async {
            for piece in input.chunks(CHUNK) {
                room.acquire_many(piece.len() as u32).await.expect("open").forget();
                let part = Some(Part::Stdin(piece.to_vec().into()));
                let _ = send.send(ExecAgentRequest { part }).await;
            }
            let _ = send.send(ExecAgentRequest { part: Some(Part::StdinClosed(true)) }).await;
        };
        let listen = async {
            let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
            while let Some(answer) = answers.message().await? {
                let used = match answer.part.expect("never empty") {
                    Answer::Stdout(bytes) => {
                        stdout.extend_from_slice(&bytes);
                        bytes.len()
                    }
                    Answer::Stderr(bytes) => {
                        stderr.extend_from_slice(&bytes);
                        bytes.len()
                    }
                    Answer::Consumed(bytes) => {
                        room.add_permits(usize::try_from(bytes).expect("positive"));
                        continue;
                    }
                    Answer::ExitCode(code) => return Ok(Ran { code, stdout, stderr }),
                };
                let part = Some(Part::Consumed(i32::try_from(used).expect("small")));
                let _ = send.send(ExecAgentRequest { part }).await;
            }
            Err(Status::data_loss("no exit code"))
        };
        let both = async { tokio::join!(listen, feed).0 };
        tokio::time::timeout(LIMIT, both).await.expect("ends in time")
    }
}

async fn run(client: &Client, start: &ExecStart, input: &[u8]) -> Result<Ran, Status> {
    Running::start(client, start).await?.run(input).await
}

/// A command that fails when there is no such process in the agent.
fn looks(office: &str, process: &str) -> ExecStart {
    of(office, &["sh", "-c", "kill -0 \"$1\"", "sh", process])
}

/// Events of this type, in order.
async fn events(world: &World, office: &str, kind: &str) -> Vec<v1::ActivityEvent> {
    world.feed(office).await.into_iter().filter(|event| event.r#type == kind).collect()
}

fn field(event: &v1::ActivityEvent, name: &str) -> Option<Kind> {
    event.metadata.as_ref().and_then(|metadata| metadata.fields.get(name)).and_then(|value| value.kind.clone())
}

async fn a_command_reads_prints_ends_and_is_in_the_feed(backend: Backend) {
    let (world, office, agent) = staffed(backend).await;
    let script = "echo out; echo err >&2; echo \"$MI_AGENT_NAME\" > left; test -z \"$MI_ENROL_TOKEN\" && exit 3";
    let ran = run(&world.owner, &of(&office, &["sh", "-c", script]), b"").await.expect("ran");
    assert_eq!(ran.text(), (3, "out\n", "err\n"));
    let left = fs::read_to_string(world.workspace(&agent).join("left")).expect("in the workspace");
    assert_eq!(left, "worker\n");
    // Without input it reads nothing; arguments are what they are, and no shell looks at them.
    let ran = run(&world.owner, &of(&office, &["cat"]), b"").await.expect("ran");
    assert_eq!(ran.text(), (0, "", ""));
    let ran = run(&world.owner, &of(&office, &["printf", "<%s>", "a b", "", "$HOME", "é\n"]), b"").await.expect("ran");
    assert_eq!(ran.text(), (0, "<a b><><$HOME><é\n>", ""));
    // Far more than may be on its way, both ways at once; bytes stay bytes.
    let input: Vec<u8> = (0..3_000_001_u32).map(|n| (n * 7 % 251) as u8).collect();
    let cat = ExecStart { stdin: true, ..of(&office, &["cat"]) };
    let ran = run(&world.owner, &cat, &input).await.expect("ran");
    assert!(ran.code == 0 && ran.stdout == input, "{} of {} bytes", ran.stdout.len(), input.len());
    // Two at once, and what one leaves running ends with it.
    let leaves = of(&office, &["sh", "-c", "setsid sleep 3600 & echo $!"]);
    let (one, two) = tokio::join!(run(&world.owner, &leaves, b""), run(&world.owner, &cat, b"planted-input"));
    assert_eq!(two.expect("ran").text(), (0, "planted-input", ""));
    let process = String::from_utf8(one.expect("ran").stdout).expect("text");
    assert_ne!(run(&world.owner, &looks(&office, process.trim()), b"").await.expect("ran").code, 0, "{process}");

    until("every end is in the feed", LIMIT, async || {
        let ended = events(&world, &office, "agent.exec_ended").await;
        if ended.len() == 7 { Ok(Some(())) } else { Err(format!("{ended:?}")) }
    })
    .await;
    let started = events(&world, &office, "agent.exec_started").await;
    let first = &started[0];
    assert_eq!((first.agent.as_str(), first.category.as_str()), ("worker", "security"));
    assert_eq!(first.summary, format!("An operator runs a command in agent \"worker\": sh -c {script}"));
    let who = world.owner.access().who_am_i(v1::WhoAmIRequest {}).await.expect("answered").into_inner();
    let account = format!("{who:?}").contains(&match field(first, "account_id") {
        Some(Kind::StringValue(account)) => account,
        other => panic!("{other:?} is no account"),
    });
    assert!(account, "{who:?}");
    let ends: BTreeMap<_, _> = events(&world, &office, "agent.exec_ended")
        .await
        .into_iter()
        .map(|event| (format!("{:?}", field(&event, "exec_id")), field(&event, "exit_code")))
        .collect();
    let end = &ends[&format!("{:?}", field(first, "exec_id"))];
    assert_eq!(end, &Some(Kind::NumberValue(3.0)));
    let feed = format!("{:?}", world.feed(&office).await);
    assert!(!feed.contains("planted-input"), "nothing of what went in or came out is in the feed");
}

/// Uses what a command prints until this is in it.
async fn shows(running: &mut Running, text: &str) -> String {
    let mut seen = String::new();
    while !seen.contains(text) {
        let printed = tokio::time::timeout(LIMIT, running.prints()).await;
        let printed = printed.unwrap_or_else(|_| panic!("{text:?} is not in {seen:?}"));
        let part = Some(Part::Consumed(i32::try_from(printed.len()).expect("small")));
        running.send.send(ExecAgentRequest { part }).await.expect("open");
        seen += &printed;
    }
    seen
}

#[tokio::test]
async fn a_command_has_a_terminal_of_its_own() {
    let (world, office, _) = staffed(Backend::Sqlite).await;
    let size = |rows, columns| TerminalSize { rows, columns };
    let script = "trap 'echo caught; exit 5' INT; test -t 0 && test -t 1 && test -t 2 && stty size; echo $TERM; \
        read line; stty size; echo got $line >&2; while :; do sleep 0.1; done";
    let terminal = Terminal { size: Some(size(24, 80)), kind: "vt100".into() };
    let start = ExecStart { stdin: true, terminal: Some(terminal), ..of(&office, &["sh", "-c", script]) };
    let mut running = Running::start(&world.owner, &start).await.expect("runs");
    assert_eq!(shows(&mut running, "vt100\r\n").await, "24 80\r\nvt100\r\n");
    for part in [Part::Resize(size(30, 100)), Part::Stdin("a line\n".into())] {
        running.send.send(ExecAgentRequest { part: Some(part) }).await.expect("open");
    }
    // What is typed is shown, as terminals do it; both outputs are one.
    assert_eq!(shows(&mut running, "got a line\r\n").await, "a line\r\n30 100\r\ngot a line\r\n");
    running.send.send(ExecAgentRequest { part: Some(Part::Stdin("\x03".into())) }).await.expect("open");
    let ran = running.run(b"").await.expect("ran");
    assert_eq!((ran.code, ran.stderr.len()), (5, 0));
    assert!(String::from_utf8_lossy(&ran.stdout).ends_with("caught\r\n"), "{ran:?}");
}

#[tokio::test]
async fn the_terminal_of_the_command_line_is_as_it_was_however_it_ends() {
    let (world, office, _) = staffed(Backend::Sqlite).await;
    let dir = tempfile::tempdir().expect("made");
    for (typed, signal, code) in
        [("exit 7\r", None, 7), ("", Some(Signal::SIGTERM), 130), ("", Some(Signal::SIGHUP), 130)]
    {
        let size = Winsize { ws_row: 24, ws_col: 80, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(Some(&size), None).expect("a terminal");
        let modes = || {
            let modes = tcgetattr(&pair.slave).expect("a terminal");
            (modes.input_flags, modes.output_flags, modes.local_flags)
        };
        let before = modes();
        let side = || Stdio::from(pair.slave.try_clone().expect("cloned"));
        let mut command = tokio::process::Command::new(binary());
        command.args(["agents", "exec", &office, "worker", "-it", "--", "sh"]).env_clear();
        command.env("MI_CONFIG_DIR", dir.path().join("no-config")).env("MI_ENDPOINT", world.platform.endpoint());
        command.env("MI_API_KEY", world.platform.admin_key()).stdin(side()).stdout(side()).stderr(side());
        let mut child = command.kill_on_drop(true).spawn().expect("started");
        until("keys go through as they are", LIMIT, async || {
            Ok::<_, String>((!modes().2.contains(LocalFlags::ICANON)).then_some(()))
        })
        .await;
        match signal {
            None => assert_eq!(write(&pair.master, typed.as_bytes()), Ok(typed.len())),
            Some(signal) => kill(Pid::from_raw(child.id().expect("runs") as i32), signal).expect("sent"),
        }
        let status = tokio::time::timeout(LIMIT, child.wait()).await.expect("ends").expect("ended");
        assert_eq!((status.code(), modes()), (Some(code), before), "{signal:?}");
    }
}

async fn what_cannot_run_is_refused(backend: Backend) {
    let (world, office, _) = staffed(backend).await;
    let owner = &world.owner;
    let refused = async |start: ExecStart| Running::start(owner, &start).await.map(drop);
    let long = "a".repeat(1 << 20);
    for command in [&[][..], &["a\0b"], &["ls", &long]] {
        assert_eq!(wrong_field(refused(of(&office, command)).await), "start.command");
    }
    let sized = Terminal { size: Some(TerminalSize { rows: 0, columns: 80 }), kind: String::new() };
    let bad = ExecStart { terminal: Some(sized), ..of(&office, &["ls"]) };
    assert_eq!(wrong_field(refused(bad).await), "start.terminal.size");
    let nobody = ExecStart { name: "nobody".into(), ..of(&office, &["ls"]) };
    assert_eq!(refusal(refused(nobody).await).0, Code::NotFound);
    let stranger = world.stranger().await;
    let foreign = Running::start(&stranger, &of(&office, &["ls"])).await.map(drop);
    let missing = Running::start(&stranger, &of(&uuid::Uuid::now_v7().to_string(), &["ls"])).await.map(drop);
    assert_eq!(refusal(foreign).0, Code::NotFound);
    assert_eq!(refusal(missing).0, Code::NotFound);
    // The first message says what it is about.
    let (send, requests) = mpsc::channel(1);
    send.try_send(ExecAgentRequest { part: Some(Part::Consumed(1)) }).expect("empty");
    let first = owner.agents().exec_agent(ReceiverStream::new(requests)).await.map(drop);
    assert_eq!(wrong_field(first), "start");
    assert!(events(&world, &office, "agent.exec_started").await.is_empty(), "nothing was run");

    let none = run(owner, &of(&office, &["no-such-program"]), b"").await.expect("answered");
    assert_eq!(none.text(), (127, "", "no-such-program: No such file or directory (os error 2)\n"));
    let plain = run(owner, &of(&office, &["sh", "-c", "echo > plain"]), b"").await.expect("ran");
    assert_eq!(plain.code, 0);
    let plain = run(owner, &of(&office, &["./plain"]), b"").await.expect("answered");
    assert_eq!(plain.code, 126, "{plain:?}");

    let mut open = Vec::new();
    for _ in 0..8 {
        open.push(Running::start(owner, &of(&office, &["sleep", "3600"])).await.expect("runs"));
    }
    let full = refusal(Running::start(owner, &of(&office, &["true"])).await.map(drop));
    assert_eq!(full, (Code::ResourceExhausted, "TOO_MANY_EXECS".to_owned()));
    drop(open);
    let code = until("there is room again", LIMIT, async || match run(owner, &of(&office, &["true"]), b"").await {
        Ok(ran) => Ok(Some(ran.code)),
        Err(status) => Err(status.to_string()),
    });
    assert_eq!(code.await, 0);

    let stop = v1::StopAgentRequest { office_id: office.clone(), name: "worker".into() };
    owner.agents().stop_agent(stop).await.expect("stopped");
    let stopped = refusal(refused(of(&office, &["ls"])).await);
    assert_eq!(stopped, (Code::FailedPrecondition, "AGENT_NOT_RUNNING".to_owned()));
}

/// A command that waits, and the id of its process among those of the agent.
async fn waiting(client: &Client, office: &str) -> (Running, String) {
    let mut running =
        Running::start(client, &of(office, &["sh", "-c", "echo $$; exec sleep 3600"])).await.expect("runs");
    let process = running.prints().await;
    (running, process.trim().to_owned())
}

async fn ends(world: &World, office: &str, process: &str) {
    until("the process is gone", LIMIT, async || {
        let looked = run(&world.owner, &looks(office, process), b"").await.map_err(|status| status.to_string())?;
        if looked.code == 0 { Err("it is there".to_owned()) } else { Ok(Some(())) }
    })
    .await;
}

async fn a_command_ends_with_whoever_wants_it_and_with_its_agent(backend: Backend) {
    let (world, office, agent) = staffed(backend).await;
    let (left, process) = waiting(&world.owner, &office).await;
    drop(left);
    ends(&world, &office, &process).await;

    // A client that says nothing and uses nothing stops the command, and nobody else.
    let mut silent = Running::start(&world.owner, &of(&office, &["cat", "/dev/zero"])).await.expect("runs");
    let mut printed = 0;
    // The next piece may be too large for what room is left.
    while printed <= WINDOW - CHUNK {
        printed += silent.prints().await.len();
    }
    assert_eq!(run(&world.owner, &of(&office, &["echo", "on"]), b"").await.expect("ran").text(), (0, "on\n", ""));
    drop(silent);

    let request = v1::CreateApiKeyRequest { name: "spare".into(), ..Default::default() };
    let key = world.owner.access().create_api_key(request).await.expect("created").into_inner();
    let spare = world.owner.with_credential(Credential::ApiKey(Secret::new(key.secret))).expect("good");
    let (revoked, process) = waiting(&spare, &office).await;
    let request = v1::RevokeApiKeyRequest { api_key_id: key.api_key.expect("answered").id };
    world.owner.access().revoke_api_key(request).await.expect("revoked");
    assert_eq!(revoked.run(b"").await.expect_err("revoked").code(), Code::Unauthenticated);
    ends(&world, &office, &process).await;

    let interrupted = (Code::Aborted, "EXEC_INTERRUPTED".to_owned());
    let (killed, _) = waiting(&world.owner, &office).await;
    crate::work::kill9(&agent.id);
    assert_eq!(refusal(killed.run(b"").await), interrupted);
    until("it runs again", LIMIT, async || match run(&world.owner, &of(&office, &["true"]), b"").await {
        Ok(_) => Ok(Some(())),
        Err(status) => Err(status.to_string()),
    })
    .await;
    let (stopped, _) = waiting(&world.owner, &office).await;
    let stop = v1::StopAgentRequest { office_id: office.clone(), name: "worker".into() };
    world.owner.agents().stop_agent(stop).await.expect("stopped");
    assert_eq!(refusal(stopped.run(b"").await), interrupted);
    until("each end is in the feed with how it came", LIMIT, async || {
        let mut outcomes = Vec::new();
        for event in events(&world, &office, "agent.exec_ended").await {
            match field(&event, "outcome") {
                Some(Kind::StringValue(outcome)) if outcome != "exited" => outcomes.push(outcome),
                _ => {}
            }
        }
        let expected = ["client_left", "client_left", "client_left", "interrupted", "interrupted"];
        if outcomes == expected { Ok(Some(())) } else { Err(format!("{outcomes:?}")) }
    })
    .await;
}

/// An upload that is broken off leaves nothing of what was not whole.
#[tokio::test]
async fn half_an_upload_is_tidied_away() {
    let (world, office, agent) = staffed(Backend::Sqlite).await;
    let made = of(&office, &["sh", "-c", "mkdir from; echo content > from/file"]);
    run(&world.owner, &made, b"").await.expect("ran");
    let archive = run(&world.owner, &of(&office, &["mi", "agent", "pack", "--", "from"]), b"").await.expect("ran");
    let unpack = ExecStart { stdin: true, ..of(&office, &["mi", "agent", "unpack", "--", "to", "from"]) };
    let running = Running::start(&world.owner, &unpack).await.expect("runs");
    let half = archive.stdout[..1024].to_vec().into();
    running.send.send(ExecAgentRequest { part: Some(Part::Stdin(half)) }).await.expect("open");
    let workspace = world.workspace(&agent);
    let staged = || {
        let names = fs::read_dir(&workspace).expect("dir").flatten().map(|it| it.file_name());
        names.filter(|name| name.as_encoded_bytes().starts_with(b".mi-cp-")).count()
    };
    until("it has begun", LIMIT, async || Ok::<_, String>((staged() == 1).then_some(()))).await;
    drop(running);
    until("nothing is left", LIMIT, async || Ok::<_, String>((staged() == 0).then_some(()))).await;
    assert!(!workspace.join("to").exists());
}

/// What a command of `mi` came to.
async fn mi(world: &World, dir: &Path, input: Stdio, args: &[&str]) -> (Option<i32>, Vec<u8>, String) {
    let mut command = tokio::process::Command::new(binary());
    command.args(args).env_clear().env("MI_CONFIG_DIR", dir.join("no-config"));
    command.env("MI_ENDPOINT", world.platform.endpoint()).env("MI_API_KEY", world.platform.admin_key());
    let output = command.current_dir(dir).stdin(input).kill_on_drop(true).output();
    let output = tokio::time::timeout(LIMIT, output).await.expect("ends by itself").expect("ran");
    (output.status.code(), output.stdout, String::from_utf8_lossy(&output.stderr).into_owned())
}

async fn the_command_line_runs_commands_and_copies_files(backend: Backend) {
    let (world, office, agent) = staffed(backend).await;
    let dir = tempfile::tempdir().expect("made");
    let path = |name: &str| dir.path().join(name);
    let none = Stdio::null;
    let script = "cat; printf 'a\\377\\0' >&2; exit 4";
    fs::write(path("input"), b"in\xff\0").expect("written");
    let input = || Stdio::from(fs::File::open(path("input")).expect("there"));
    let ran =
        mi(&world, dir.path(), input(), &["agents", "exec", &office, "worker", "-i", "--", "sh", "-c", script]).await;
    assert_eq!(ran, (Some(4), b"in\xff\0".to_vec(), "a\u{fffd}\0".to_owned()));
    let without = mi(&world, dir.path(), input(), &["agents", "exec", &office, "worker", "--", "cat"]).await;
    assert_eq!(without, (Some(0), Vec::new(), String::new()));
    let tty = mi(&world, dir.path(), none(), &["agents", "exec", &office, "worker", "-it", "--", "sh"]).await;
    assert!(tty.0 == Some(2) && tty.2.contains("-t needs standard input and output to be a terminal"), "{tty:?}");

    fs::create_dir_all(path("some files/deep")).expect("made");
    let big: Vec<u8> = (0..2_000_003_u32).map(|n| (n % 253) as u8).collect();
    fs::write(path("some files/deep/big.bin"), &big).expect("written");
    fs::write(path("some files/run me.sh"), "#!/bin/sh\necho ran\n").expect("written");
    fs::set_permissions(path("some files/run me.sh"), fs::Permissions::from_mode(0o750)).expect("set");
    symlink("run me.sh", path("some files/link")).expect("linked");
    let there = |path: &str| format!("{office}/worker:{path}");
    let copied = mi(&world, dir.path(), none(), &["cp", "some files", &there("")]).await;
    assert_eq!(copied, (Some(0), Vec::new(), String::new()));
    let workspace = world.workspace(&agent);
    assert_eq!(fs::read(workspace.join("some files/deep/big.bin")).expect("there"), big);
    let start = of(&office, &["some files/link"]);
    assert_eq!(run(&world.owner, &start, b"").await.expect("ran").text(), (0, "ran\n", ""));

    let copied = mi(&world, dir.path(), none(), &["cp", &there("some files"), "back"]).await;
    assert_eq!(copied, (Some(0), Vec::new(), String::new()));
    assert_eq!(fs::read(path("back/deep/big.bin")).expect("there"), big);
    let mode = |name: &str| fs::metadata(path(name)).expect("there").permissions().mode() & 0o777;
    assert_eq!(mode("back/run me.sh"), 0o750);
    assert_eq!(fs::read_link(path("back/link")).expect("a link"), Path::new("run me.sh"));
    // One file, over one that is there; and links that lead out stay there.
    fs::write(path("one"), "old").expect("written");
    let copied = mi(&world, dir.path(), none(), &["cp", &there("some files/run me.sh"), "one"]).await;
    assert_eq!(
        (copied.0, fs::read_to_string(path("one")).expect("there").as_str()),
        (Some(0), "#!/bin/sh\necho ran\n")
    );
    let evil = of(&office, &["sh", "-c", "mkdir evil; ln -s /etc/passwd evil/out; echo good > evil/good"]);
    run(&world.owner, &evil, b"").await.expect("ran");
    let copied = mi(&world, dir.path(), none(), &["cp", &there("evil"), "."]).await;
    assert_eq!(
        (copied.0, copied.2.as_str()),
        (Some(0), "left out: out: a link to /etc/passwd, which may lead outside of what is copied\n")
    );
    assert_eq!(fs::read_dir(path("evil")).expect("dir").count(), 1);

    let told = mi(&world, dir.path(), none(), &["cp", &there("nothing"), "new"]).await;
    assert!(told.0 == Some(1) && told.2.contains("nothing: No such file or directory"), "{told:?}");
    let told = mi(&world, dir.path(), none(), &["cp", "nothing", &there("new")]).await;
    assert!(told.0 == Some(1) && told.2.contains("nothing cannot be read"), "{told:?}");
    let (x, y) = (there("x"), there("y"));
    let (x, y) = (x.as_str(), y.as_str());
    for bad in [["-", x], [x, "-"], ["a", "b"], [x, y]] {
        let told = mi(&world, dir.path(), none(), &["cp", bad[0], bad[1]]).await;
        assert_eq!(told.0, Some(2), "{bad:?}: {told:?}");
    }
    assert!(!path("new").exists() && !workspace.join("new").exists());
    let left = |dir: &Path| {
        fs::read_dir(dir).expect("dir").flatten().any(|it| it.file_name().as_encoded_bytes().starts_with(b".mi-cp"))
    };
    assert!(!left(dir.path()) && !left(&workspace), "nothing unfinished is left");
}

//! What breaks around the platform: ports, directories, the database, clients, agents.

use std::{collections::BTreeSet, process::Stdio, time::Duration};

use mi_e2e::{LIMIT, World, refusal};
use mi_proto::v1::{self, AgentPhase};
use mi_testkit::{Arrangement, Backend, Platform, on_both, until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tonic::{Code, Status};
use tonic_types::StatusExt;

on_both! { a_killed_agent_comes_back, a_client_that_leaves_costs_nothing, streams_resume }

/// The compute of the platform's only agent.
fn compute_of(platform: &Platform) -> Pid {
    let children = std::fs::read_dir("/proc").expect("proc").flatten().filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        let parent = stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse::<u32>().ok()?;
        (parent == platform.pid()).then(|| Pid::from_raw(pid))
    });
    let children: Vec<Pid> = children.collect();
    assert_eq!(children.len(), 1, "{children:?}");
    children[0]
}

async fn a_killed_agent_comes_back(backend: Backend) {
    let world = World::start(backend, Arrangement::OneProcess).await;
    let office = world.office("Phoenix").await;
    world.hire(&office, "analyst").await.expect("hired");
    world.settled(&office, "analyst", AgentPhase::Running).await;
    kill(compute_of(&world.platform), Signal::SIGKILL).expect("killed");
    world.happened(&office, "analyst", "agent.crashed").await;
    let back = world.settled(&office, "analyst", AgentPhase::Running).await;
    assert_eq!((back.status.expect("has one").restarts, back.generation), (1, 1));
    let crash =
        world.feed(&office).await.into_iter().find(|event| event.r#type == "agent.crashed").expect("seen above");
    assert_eq!(crash.summary, "Agent \"analyst\" ended unasked: killed by SIGKILL");
}

async fn a_client_that_leaves_costs_nothing(backend: Backend) {
    let world = World::start(backend, Arrangement::OneProcess).await;
    let office = world.office("Hasty").await;
    // Calls are left at another moment each, later after one that was left and earlier after one that was answered, until
    // one was left that has happened all the same. None is half done.
    let (mut number, mut moment, mut left) = (0, Duration::from_micros(100), BTreeSet::new());
    until("a call that was left has happened", LIMIT, async || {
        number += 1;
        let name = format!("agent-{number}");
        match tokio::time::timeout(moment, world.hire(&office, &name)).await {
            Ok(answered) => {
                answered.map_err(|status| status.to_string())?;
                moment = moment * 4 / 5;
            }
            Err(_) => {
                left.insert(name);
                moment = moment * 6 / 5;
            }
        }
        let there = world.owner.agents().list(&office).await.map_err(|error| error.to_string())?;
        Ok::<_, String>(there.iter().any(|agent| left.contains(&agent.name)).then_some(()))
    })
    .await;
    for agent in world.owner.agents().list(&office).await.expect("listed") {
        world.settled(&office, &agent.name, AgentPhase::Running).await;
        assert_eq!(world.count(&office, &agent.name, "agent.hired").await, 1);
    }
    world.hire(&office, "patient").await.expect("the writer is free");
}

async fn streams_resume(backend: Backend) {
    let mut world = World::start(backend, Arrangement::OneProcess).await;
    let office = world.office("Stream").await;
    let watch =
        |after| v1::WatchActivityRequest { office_id: office.clone(), after_cursor: Some(after), ..Default::default() };
    let mut stream = world.owner.activity().watch_activity(watch(0)).await.expect("opened").into_inner();
    world.hire(&office, "one").await.expect("hired");
    let mut cursors = Vec::new();
    loop {
        let event = stream.message().await.expect("open").expect("endless").event.expect("has one");
        cursors.push(event.cursor);
        if event.r#type == "agent.running" {
            break;
        }
    }
    world.crash().await;
    until("the stream ended with its platform", LIMIT, async || match stream.message().await {
        Ok(Some(message)) => {
            cursors.push(message.event.expect("has one").cursor);
            Ok::<_, Status>(None)
        }
        Ok(None) | Err(_) => Ok(Some(())),
    })
    .await;
    world.settled(&office, "one", AgentPhase::Running).await;
    world.happened(&office, "one", "agent.restarted").await;
    let last = *cursors.last().expect("some");
    let mut stream = world.owner.activity().watch_activity(watch(last)).await.expect("opened").into_inner();
    let total = world.feed(&office).await.len();
    while cursors.len() < total {
        cursors.push(stream.message().await.expect("open").expect("endless").event.expect("has one").cursor);
    }
    assert_eq!(cursors, (1..=i64::try_from(total).expect("short")).collect::<Vec<_>>());
}

/// Runs `mi up` to its end and returns what it said.
async fn refused_start(args: &[&str]) -> String {
    let directory = tempfile::tempdir().expect("directory");
    let mut command = tokio::process::Command::new(mi_testkit::platform::binary());
    command
        .args(["up", "--metrics-listen", "127.0.0.1:0"])
        .args(args)
        .env("MI_CONFIG_DIR", directory.path())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .kill_on_drop(true);
    let output = tokio::time::timeout(LIMIT, command.output()).await.expect("ends by itself").expect("ran");
    assert_eq!(output.status.code(), Some(1));
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[tokio::test]
async fn starts_that_cannot_work_say_why() {
    let world = World::start(Backend::Sqlite, Arrangement::OneProcess).await;
    let fresh = tempfile::tempdir().expect("directory");
    let fresh_dir = fresh.path().join("data").display().to_string();

    let taken = world.platform.endpoint().trim_start_matches("http://");
    let told = refused_start(&["--data-dir", &fresh_dir, "--listen", taken]).await;
    assert!(told.contains(&format!("error: cannot listen on {taken} (--listen): it is in use")), "{told}");

    let used = world.platform.data_dir().display().to_string();
    let told = refused_start(&["--data-dir", &used, "--listen", "127.0.0.1:0"]).await;
    let holder = format!("is in use by process {}", world.platform.pid());
    assert!(told.contains(&holder) && told.contains("--data-dir"), "{told}");

    let file = fresh.path().join("file");
    std::fs::write(&file, "").expect("written");
    let told = refused_start(&["--data-dir", &file.display().to_string(), "--listen", "127.0.0.1:0"]).await;
    assert!(told.contains("cannot use the data directory"), "{told}");

    let told = refused_start(&["--data-dir", &fresh_dir, "--listen", "127.0.0.1:0", "--database", "mysql://x"]).await;
    assert!(told.contains("database must be a postgres:// URL"), "{told}");
    let unreachable = "postgres://nobody:hunter2@127.0.0.1:1/none";
    let told = refused_start(&["--data-dir", &fresh_dir, "--listen", "127.0.0.1:0", "--database", unreachable]).await;
    assert!(told.contains("cannot reach the Postgres database") && !told.contains("hunter2"), "{told}");
}

#[tokio::test]
async fn postgres_may_go_and_come_back() {
    let world = World::start(Backend::Postgres, Arrangement::OneProcess).await;
    let office = world.office("Patient").await;
    world.hire(&office, "analyst").await.expect("hired");
    world.settled(&office, "analyst", AgentPhase::Running).await;
    let database = world.platform.database_url().expect("on Postgres").rsplit('/').next().expect("named").to_owned();
    let server = std::env::var("MI_TEST_POSTGRES").expect("a Postgres test");
    let mut admin = <sqlx::PgConnection as sqlx::Connection>::connect(&server).await.expect("the server is there");
    let mut allow = async |allowed: bool| {
        let alter = format!("ALTER DATABASE \"{database}\" ALLOW_CONNECTIONS {allowed}");
        sqlx::query(sqlx::AssertSqlSafe(alter)).execute(&mut admin).await.expect("altered");
        if !allowed {
            let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1";
            sqlx::query(end).bind(&database).execute(&mut admin).await.expect("ended");
        }
    };
    allow(false).await;
    let down = until("calls answer UNAVAILABLE", LIMIT, async || match world.get_office(&office).await {
        Err(status) if status.code() == Code::Unavailable => Ok(Some(status)),
        other => Err(format!("{other:?}")),
    })
    .await;
    assert!(down.get_details_retry_info().and_then(|info| info.retry_delay).is_some(), "{down:?}");
    allow(true).await;
    until("calls are answered again", LIMIT, async || world.get_office(&office).await.map(Some)).await;
    // Each role finds its own dead connections, one call at a time: a client retries, under one request id.
    let request = v1::HireAgentRequest {
        office_id: office.clone(),
        name: "second".into(),
        request_id: "second".into(),
        ..Default::default()
    };
    until("hires are answered again", LIMIT, async || world.hire_as(request.clone()).await.map(Some)).await;
    world.settled(&office, "second", AgentPhase::Running).await;
    // The one that ran all the time was left alone.
    let first = world.settled(&office, "analyst", AgentPhase::Running).await;
    assert_eq!(first.status.expect("has one").restarts, 0);
    world.happened(&office, "second", "agent.running").await;
}

#[tokio::test]
async fn postgres_may_take_no_writes_for_a_while() {
    let server = mi_pgserver::Server::start().expect("starts");
    let world = World::on(Platform::builder().postgres(server.url()).start().await).await;
    let office = world.office("Patient").await;
    let mut admin =
        <sqlx::PgConnection as sqlx::Connection>::connect(&server.url()).await.expect("the server is there");
    let mut allow_writes = async |allowed: bool| {
        let only = if allowed { "off" } else { "on" };
        let alter = format!("ALTER SYSTEM SET default_transaction_read_only = {only}");
        sqlx::query(sqlx::AssertSqlSafe(alter)).execute(&mut admin).await.expect("altered");
        sqlx::query("SELECT pg_reload_conf()").execute(&mut admin).await.expect("told");
    };
    let request = v1::HireAgentRequest {
        office_id: office.clone(),
        name: "analyst".into(),
        request_id: "analyst".into(),
        ..Default::default()
    };
    let task = |title: &str| v1::CreateTaskRequest {
        office_id: office.clone(),
        title: title.into(),
        request_id: title.into(),
        ..Default::default()
    };
    allow_writes(false).await;
    let mut round = 0;
    let refused = until("the server takes no writes", LIMIT, async || {
        round += 1;
        let created = world.owner.tasks().create_task(task(&format!("Before {round}"))).await;
        Ok::<_, std::convert::Infallible>(created.err())
    })
    .await;
    for refused in [refused, world.hire_as(request.clone()).await.expect_err("no writes")] {
        assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
        assert!(refused.get_details_retry_info().and_then(|info| info.retry_delay).is_some(), "{refused:?}");
    }
    world.get_office(&office).await.expect("reads are answered");
    allow_writes(true).await;
    until("hires are answered again", LIMIT, async || world.hire_as(request.clone()).await.map(Some)).await;
    let created = async || world.owner.tasks().create_task(task("After")).await.map(Some);
    until("tasks are created again", LIMIT, created).await;
    world.settled(&office, "analyst", AgentPhase::Running).await;
    world.happened(&office, "analyst", "agent.running").await;
}

#[tokio::test]
async fn a_role_that_is_down_is_unavailable_not_a_hang() {
    let world = World::start(Backend::Sqlite, Arrangement::ProcessPerRole).await;
    let office = world.office("Partial").await;
    let activity = world.platform.pid_of("activity");
    kill(Pid::from_raw(i32::try_from(activity).expect("a pid")), Signal::SIGKILL).expect("killed");
    let list = || v1::ListActivityRequest { office_id: office.clone(), ..Default::default() };
    until("the feed is unavailable", LIMIT, async || match world.owner.activity().list_activity(list()).await {
        Err(status) if status.code() == Code::Unavailable => Ok(Some(())),
        other => Err(format!("{other:?}")),
    })
    .await;
    // The others go on.
    world.hire(&office, "analyst").await.expect("hired");
    world.settled(&office, "analyst", AgentPhase::Running).await;
    assert_eq!(refusal(world.owner.activity().list_activity(list()).await).0, Code::Unavailable);
}

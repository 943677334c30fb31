//! Agents that work, and whatever happens to them and to the platform meanwhile: every task is done, and once.

use std::{
    collections::{BTreeMap, BTreeSet},
    convert::Infallible,
    fs,
    time::Duration,
};

use mi_e2e::{LIMIT, World};
use mi_kernel::receipt::{Command, sha256_hex, verify};
use mi_proto::v1::{self, AgentPhase, TaskKind, TaskStatus};
use mi_testkit::{Arrangement, Backend, on_both, until};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use prost_types::value::Kind;

on_both! {
    agents_die_and_leave_and_their_tasks_are_done_by_others,
    a_pipeline_goes_on_whatever_stops_the_platform,
    what_agents_do_when_the_platform_is_stopped_goes_on_at_once_and_costs_no_attempt,
}

/// Leases of dead agents run out meanwhile, one after the other.
const LONG: Duration = Duration::from_secs(150);

/// One process on SQLite, four on Postgres.
async fn world(backend: Backend) -> World {
    let arrangement = match backend {
        Backend::Sqlite => Arrangement::OneProcess,
        Backend::Postgres => Arrangement::ProcessPerRole,
    };
    World::start(backend, arrangement).await
}

fn script(title: &str, script: &str) -> v1::CreateTaskRequest {
    v1::CreateTaskRequest {
        title: title.into(),
        description: script.into(),
        kind: TaskKind::Command.into(),
        max_attempts: Some(20),
        ..Default::default()
    }
}

async fn create(world: &World, office: &str, requests: Vec<v1::CreateTaskRequest>) -> Vec<v1::Task> {
    let batch = v1::BatchCreateTasksRequest { office_id: office.into(), requests };
    world.owner.tasks().batch_create_tasks(batch).await.expect("created").into_inner().tasks
}

async fn task(world: &World, office: &str, id: &str) -> Result<v1::Task, String> {
    let request = v1::GetTaskRequest { office_id: office.into(), task_id: id.into() };
    let answer = world.owner.tasks().get_task(request).await.map_err(|status| status.to_string())?;
    Ok(answer.into_inner().task.expect("an answer has its task"))
}

async fn until_task(world: &World, office: &str, id: &str, expected: TaskStatus) -> v1::Task {
    until(&format!("the task is {expected:?}"), LONG, async || {
        let task = task(world, office, id).await?;
        if task.status() == expected { Ok(Some(task)) } else { Err(format!("{task:?}")) }
    })
    .await
}

/// How many tasks are done.
async fn done(world: &World, office: &str, tasks: &[v1::Task]) -> Result<usize, String> {
    let mut count = 0;
    for known in tasks {
        let task = task(world, office, &known.id).await?;
        assert_ne!(task.status(), TaskStatus::Failed, "{task:?}");
        count += usize::from(task.status() == TaskStatus::Done);
    }
    Ok(count)
}

/// How often the feed says of each task that it was completed.
async fn completions(world: &World, office: &str) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for event in world.feed(office).await.into_iter().filter(|event| event.r#type == "task.completed") {
        let metadata = event.metadata.expect("has some");
        match metadata.fields["task_id"].kind.as_ref() {
            Some(Kind::StringValue(id)) => *counts.entry(id.clone()).or_default() += 1,
            other => panic!("{other:?} is no id"),
        }
    }
    counts
}

async fn each_is_completed_once(world: &World, office: &str, tasks: &[v1::Task]) {
    let expected: BTreeMap<String, usize> = tasks.iter().map(|task| (task.id.clone(), 1)).collect();
    until("the feed has each completion once", LIMIT, async || {
        let counts = completions(world, office).await;
        if counts == expected { Ok(Some(())) } else { Err(format!("{counts:?}")) }
    })
    .await;
}

/// The receipt holds without the platform's word, with nothing but the worker's public key.
async fn has_a_receipt(world: &World, office: &str, task: &v1::Task, script: &str) {
    let receipt = verify(&task.receipt, &task.receipt_public_key).expect("valid");
    assert_eq!(
        (receipt.task_id.as_str(), receipt.attempt, receipt.result_sha256.as_str(), receipt.commands.as_slice()),
        (
            task.id.as_str(),
            task.attempt,
            sha256_hex(task.result.as_bytes()).as_str(),
            [Command { sha256: sha256_hex(script.as_bytes()), exit_code: 0 }].as_slice()
        )
    );
    if let Ok(worker) = world.agent(office, &task.worker).await {
        assert_eq!((receipt.iss, task.receipt_public_key.to_vec()), (worker.id, worker.public_key.to_vec()));
    }
}

/// SIGKILL to the instance of an agent: what it has started goes with it.
pub(crate) fn kill9(agent_id: &str) {
    let mark = format!("MI_AGENT_ID={agent_id}");
    let instances = fs::read_dir("/proc").expect("proc").flatten().filter_map(|entry| {
        let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
        let environment = fs::read(entry.path().join("environ")).ok()?;
        let command = fs::read(entry.path().join("cmdline")).ok()?;
        let is_agent = command.split(|byte| *byte == 0).any(|word| word == b"agent");
        let is_its = environment.split(|byte| *byte == 0).any(|variable| variable == mark.as_bytes());
        (is_agent && is_its).then(|| Pid::from_raw(pid))
    });
    let instances: Vec<Pid> = instances.collect();
    assert!(!instances.is_empty(), "the agent {agent_id} has no instance");
    for instance in instances {
        // One may be gone with another.
        let _ = kill(instance, Signal::SIGKILL);
    }
}

async fn agents_die_and_leave_and_their_tasks_are_done_by_others(backend: Backend) {
    let world = world(backend).await;
    let office = world.office("Resilient").await;
    let mut agents = BTreeMap::new();
    for name in ["mortal", "leaver", "heir"] {
        let agent = world.hire(&office, name).await.expect("hired");
        world.settled(&office, name, AgentPhase::Running).await;
        agents.insert(name, agent.id);
    }
    // The first attempt never ends; an attempt that did not count is the first again, so that its worker is asked, too.
    let dies = "if [ \"$MI_ATTEMPT\" = 1 ]; then sleep 3600; fi; echo attempt $MI_ATTEMPT";
    let leaves = "if [ \"$MI_AGENT_NAME\" = leaver ]; then sleep 3600; fi; echo by $MI_AGENT_NAME";
    let requests = vec![
        v1::CreateTaskRequest { assigned_agent: "leaver".into(), ..script("leaves", leaves) },
        v1::CreateTaskRequest { assigned_agent: "mortal".into(), ..script("dies", dies) },
        script("short", "echo hello; echo there >&2"),
    ];
    let tasks = create(&world, &office, requests).await;
    let short = until_task(&world, &office, &tasks[2].id, TaskStatus::Done).await;
    assert_eq!(short.result, "exit code: 0\n--- stdout\nhello\n--- stderr\nthere\n");
    has_a_receipt(&world, &office, &short, "echo hello; echo there >&2").await;

    let held = until_task(&world, &office, &tasks[1].id, TaskStatus::Running).await;
    assert_eq!((held.worker.as_str(), held.attempt), ("mortal", 1));
    kill9(&agents["mortal"]);
    until_task(&world, &office, &tasks[0].id, TaskStatus::Running).await;
    world.fire(&office, "leaver").await.expect("fired");
    let inherited = until_task(&world, &office, &tasks[0].id, TaskStatus::Done).await;
    assert_ne!(inherited.worker, "leaver");
    assert_eq!(
        (inherited.result, inherited.attempt, inherited.assigned_agent.as_str()),
        (format!("exit code: 0\n--- stdout\nby {}\n", inherited.worker), 1, ""),
        "what a fired agent had is given to others, and the attempt does not count"
    );
    let died = until_task(&world, &office, &tasks[1].id, TaskStatus::Done).await;
    assert_eq!((died.result.as_str(), died.attempt), ("exit code: 0\n--- stdout\nattempt 2\n", 2));
    has_a_receipt(&world, &office, &died, dies).await;
    each_is_completed_once(&world, &office, &tasks).await;
    world.happened(&office, "mortal", "agent.crashed").await;
    world.gone(&office, "leaver").await;
    let backups: Vec<String> = world.backups(&office).await.into_iter().map(|backup| backup.agent).collect();
    assert_eq!(backups, ["leaver"]);
}

async fn what_agents_do_when_the_platform_is_stopped_goes_on_at_once_and_costs_no_attempt(backend: Backend) {
    let mut world = World::start(backend, Arrangement::OneProcess).await;
    let office = world.office("Laptop").await;
    world.hire(&office, "worker").await.expect("hired");
    let agent = world.settled(&office, "worker", AgentPhase::Running).await;
    let requests = vec![script("long", "if [ -e begun ]; then echo again; else touch begun; exec sleep 3600; fi")];
    let task = &create(&world, &office, requests).await[0];
    let begun = world.workspace(&agent).join("begun");
    until("the script runs", LIMIT, async || Ok::<_, Infallible>(begun.exists().then_some(()))).await;
    world.restart().await;
    let done = until_task(&world, &office, &task.id, TaskStatus::Done).await;
    assert_eq!((done.result.as_str(), done.attempt), ("exit code: 0\n--- stdout\nagain\n", 1));
    let agent = world.agent(&office, "worker").await.expect("is there");
    assert_eq!(agent.status.expect("a status").restarts, 1, "its end was no crash");
}

/// Inside the sandbox, where it has its own list of processes.
#[tokio::test]
async fn nothing_of_a_script_outlives_it() {
    let world = world(Backend::Sqlite).await;
    let office = world.office("Tidy").await;
    world.hire(&office, "worker").await.expect("hired");
    world.settled(&office, "worker", AgentPhase::Running).await;
    let leaves = "env -i setsid sh -c 'echo $$ > left; exec sleep 3600' > /dev/null 2>&1 &
        until [ -s left ]; do sleep 0.01; done; kill -0 $(cat left) && echo alive";
    let looks = "kill -0 $(cat left) 2> /dev/null || echo gone; grep -l '^State:.Z' /proc/[0-9]*/status | wc -l";
    let after = v1::CreateTaskRequest { depends_on: vec!["#0".into()], ..script("looks", looks) };
    let tasks = create(&world, &office, vec![script("leaves", leaves), after]).await;
    let looked = until_task(&world, &office, &tasks[1].id, TaskStatus::Done).await;
    let left = task(&world, &office, &tasks[0].id).await.expect("answered");
    assert_eq!(left.result, "exit code: 0\n--- stdout\nalive\n");
    assert_eq!(looked.result, "exit code: 0\n--- stdout\ngone\n0\n", "neither it nor its name is left");
}

/// Nobody outside finds anything to connect to, not even at the port of the agent's own relay.
#[tokio::test]
async fn a_script_listens_nowhere() {
    let world = world(Backend::Sqlite).await;
    let office = world.office("Quiet").await;
    world.hire(&office, "worker").await.expect("hired");
    world.settled(&office, "worker", AgentPhase::Running).await;
    let listens = r#"port=${OPENAI_BASE_URL#http://127.0.0.1:}; export PORT=${port%%/*}
        exec perl -MSocket -e 'socket(S, PF_INET, SOCK_STREAM, 0) or die;
            print bind(S, sockaddr_in($ENV{PORT}, inet_aton("127.0.0.2"))) ? "listens\n" : "$!\n"'"#;
    let tasks = create(&world, &office, vec![script("listens", listens)]).await;
    let tried = until_task(&world, &office, &tasks[0].id, TaskStatus::Done).await;
    assert_eq!(tried.result, "exit code: 0\n--- stdout\nPermission denied\n");
}

async fn a_pipeline_goes_on_whatever_stops_the_platform(backend: Backend) {
    const WAVES: usize = 5;
    const WIDTH: usize = 4;
    const SCRIPT: &str = "sleep 0.3; echo done";
    let mut world = world(backend).await;
    let office = world.office("Pipeline").await;
    for name in ["one", "two", "three"] {
        world.hire(&office, name).await.expect("hired");
        world.settled(&office, name, AgentPhase::Running).await;
    }
    let requests = (0..WAVES * WIDTH).map(|n| {
        let first = n / WIDTH * WIDTH;
        let before = first.saturating_sub(WIDTH)..first;
        let depends_on = before.map(|n| format!("#{n}")).collect();
        v1::CreateTaskRequest { depends_on, ..script(&format!("task {n}"), SCRIPT) }
    });
    let tasks = create(&world, &office, requests.collect()).await;
    // Stopped as soon as so many are done, in one way or the other.
    for stop in [1, 7, 13] {
        until("some tasks are done", LONG, async || {
            let count = done(&world, &office, &tasks).await?;
            if count >= stop { Ok(Some(())) } else { Err(format!("{count} of {stop}")) }
        })
        .await;
        if stop == 7 {
            let suspend = v1::SuspendOfficeRequest { office_id: office.clone() };
            world.owner.offices().suspend_office(suspend).await.expect("suspended");
            world.settled(&office, "one", AgentPhase::Suspended).await;
            let resume = v1::ResumeOfficeRequest { office_id: office.clone() };
            world.owner.offices().resume_office(resume).await.expect("resumed");
        } else {
            world.crash().await;
        }
    }
    until("the pipeline is done", LONG, async || {
        let count = done(&world, &office, &tasks).await?;
        if count == tasks.len() { Ok(Some(())) } else { Err(format!("{count} are done")) }
    })
    .await;
    each_is_completed_once(&world, &office, &tasks).await;
    let mut workers = BTreeSet::new();
    let mut ends = Vec::new();
    for known in &tasks {
        let task = task(&world, &office, &known.id).await.expect("answered");
        assert_eq!(task.result, "exit code: 0\n--- stdout\ndone\n");
        has_a_receipt(&world, &office, &task, SCRIPT).await;
        let time = |time: Option<prost_types::Timestamp>| time.map(|time| (time.seconds, time.nanos)).expect("has one");
        ends.push((time(task.claimed_at), time(task.finished_at)));
        workers.insert(task.worker);
    }
    // No wave began before the one before it was done.
    for (n, (claimed, _)) in ends.iter().enumerate().skip(WIDTH) {
        let first = n / WIDTH * WIDTH;
        assert!(ends[first - WIDTH..first].iter().all(|(_, finished)| finished <= claimed), "task {n}: {ends:?}");
    }
    assert!(workers.len() > 1, "all was done by {workers:?}");
}

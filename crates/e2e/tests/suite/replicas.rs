//! Several processes of each role: nobody notices when they are replaced, and others go on when one is gone.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

use mi_client::{Client, Credential};
use mi_e2e::{LIMIT, World};
use mi_kernel::secret::Secret;
use mi_kubesim::Matching;
use mi_proto::v1::{self, AgentPhase, TaskKind, TaskStatus, upload_file_request::Part};
use mi_testkit::{Arrangement, Backend, until};
use tonic::Status;

use crate::kubernetes::Cluster;

const ROLES: [&str; 5] = ["gateway", "office", "scheduler", "activity", "models"];
/// Who calls all the time.
const CALLERS: usize = 4;
/// More than the scheduler that stays has by chance.
const AGENTS: usize = 8;

/// Callers that do all kinds of calls, one after the other, without ever trying again, and what was refused.
#[derive(Clone)]
struct Load {
    office: String,
    endpoint: String,
    key: String,
    ends: Arc<AtomicBool>,
    calls: Arc<AtomicUsize>,
    failures: Arc<Mutex<Vec<String>>>,
}

impl Load {
    fn client(&self) -> Client {
        Client::connect(&self.endpoint, Credential::ApiKey(Secret::new(self.key.clone()))).expect("a good endpoint")
    }

    fn note<T>(&self, what: &str, outcome: Result<T, Status>) -> Option<T> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        let failed = |status: &Status| {
            let mut failures = self.failures.lock().expect("sound");
            failures.push(format!("{what}: {:?}: {} {:?}", status.code(), status.message(), status.source_text()));
        };
        outcome.inspect_err(failed).ok()
    }

    async fn run(self, number: usize) {
        let kept = self.client();
        let office_id = || self.office.clone();
        for round in 0.. {
            if self.ends.load(Ordering::SeqCst) {
                return;
            }
            // Half of them are programs that run for long, half are commands that connect, call and end.
            let fresh = (number % 2 == 1).then(|| self.client());
            let client = fresh.as_ref().unwrap_or(&kept);
            let request = v1::CreateTaskRequest {
                office_id: office_id(),
                title: format!("{number}/{round}"),
                ..Default::default()
            };
            let made = self.note("CreateTask", client.tasks().create_task(request).await);
            if let Some(task) = made.and_then(|answer| answer.into_inner().task) {
                let request = v1::GetTaskRequest { office_id: office_id(), task_id: task.id.clone() };
                self.note("GetTask", client.tasks().get_task(request).await);
                let request = v1::CancelTaskRequest { office_id: office_id(), task_id: task.id, ..Default::default() };
                self.note("CancelTask", client.tasks().cancel_task(request).await);
            }
            let request = v1::ListAgentsRequest { office_id: office_id(), ..Default::default() };
            self.note("ListAgents", client.agents().list_agents(request).await);
            let request = v1::ListActivityRequest { office_id: office_id(), ..Default::default() };
            self.note("ListActivity", client.activity().list_activity(request).await);
            let request = v1::SendMessageRequest { office_id: office_id(), body: "hello".into(), ..Default::default() };
            self.note("SendMessage", client.chat().send_message(request).await);
            let path = format!("file-{number}");
            let header =
                v1::UploadHeader { office_id: office_id(), path: path.clone(), force: true, ..Default::default() };
            let parts = [Part::Header(header), Part::Chunk(vec![7; 100_000].into())];
            let messages = parts.map(|part| v1::UploadFileRequest { part: Some(part) });
            self.note("UploadFile", client.drive().upload_file(futures::stream::iter(messages)).await);
            let request = v1::DownloadFileRequest { office_id: office_id(), path, offset: 0, length: 0 };
            let down = async {
                let mut stream = client.drive().download_file(request).await?.into_inner();
                let mut bytes = 0;
                while let Some(part) = stream.message().await? {
                    bytes += part.chunk.len();
                }
                Ok(bytes)
            };
            self.note("DownloadFile", down.await);
        }
    }
}

/// The cause of a status that never reached the platform.
trait SourceText {
    fn source_text(&self) -> Option<String>;
}

impl SourceText for Status {
    fn source_text(&self) -> Option<String> {
        std::error::Error::source(self).map(|cause| format!("{cause:?}"))
    }
}

/// Creates tasks for an agent, and returns their ids.
async fn commands(world: &World, office: &str, agent: &str, count: usize) -> Vec<String> {
    let mut ids = Vec::new();
    for number in 0..count {
        let request = v1::CreateTaskRequest {
            office_id: office.into(),
            title: "Script".into(),
            description: format!("echo {number} >> done-{number}"),
            kind: TaskKind::Command.into(),
            assigned_agent: agent.into(),
            ..Default::default()
        };
        let task = world.owner.tasks().create_task(request).await.expect("created").into_inner().task;
        ids.push(task.expect("a task").id);
    }
    ids
}

#[tokio::test]
async fn nobody_notices_that_every_process_is_replaced() {
    let mut cluster = Cluster::arranged(Backend::Postgres, "statefulset", Arrangement::Replicas(2)).await;
    let office = cluster.world.office("Rolling").await;
    cluster.world.hire(&office, "analyst").await.expect("hired");
    cluster.world.settled(&office, "analyst", AgentPhase::Running).await;

    let load = Load {
        office: office.clone(),
        endpoint: cluster.world.platform.endpoint().to_owned(),
        key: cluster.world.platform.admin_key().to_owned(),
        ends: Arc::default(),
        calls: Arc::default(),
        failures: Arc::default(),
    };
    let callers: Vec<_> = (0..CALLERS).map(|number| tokio::spawn(load.clone().run(number))).collect();
    for role in ROLES {
        let tasks = commands(&cluster.world, &office, "analyst", 5).await;
        let before = load.calls.load(Ordering::SeqCst);
        cluster.world.platform.roll(role).await;
        let failures = std::mem::take(&mut *load.failures.lock().expect("sound"));
        let calls = load.calls.load(Ordering::SeqCst) - before;
        assert_eq!(failures, Vec::<String>::new(), "of {calls} calls while the {role} was replaced");
        assert!(calls > 0, "nobody called while the {role} was replaced");
        for id in tasks {
            until("the task is done", LIMIT, async || {
                let request = v1::GetTaskRequest { office_id: office.clone(), task_id: id.clone() };
                let answer =
                    cluster.world.owner.tasks().get_task(request).await.map_err(|status| status.to_string())?;
                let task = answer.into_inner().task.expect("a task");
                assert!(task.attempt <= 1, "{task:?}");
                Ok::<_, String>((task.status() == TaskStatus::Done).then_some(()))
            })
            .await;
        }
    }
    load.ends.store(true, Ordering::SeqCst);
    for caller in callers {
        caller.await.expect("ends");
    }
    assert_eq!(*load.failures.lock().expect("sound"), Vec::<String>::new());
}

#[tokio::test]
async fn others_go_on_with_the_agents_of_a_scheduler_that_is_killed() {
    let mut cluster = Cluster::arranged(Backend::Postgres, "statefulset", Arrangement::Replicas(2)).await;
    let Cluster { world, sim, .. } = &mut cluster;
    let office = world.office("Orphans").await;
    let names: Vec<String> = (0..AGENTS).map(|number| format!("agent-{number}")).collect();
    for name in &names {
        world.hire(&office, name).await.expect("hired");
    }
    for name in &names {
        world.settled(&office, name, AgentPhase::Running).await;
    }
    sim.forget_requests();
    let killed = Instant::now();
    let pid = world.platform.replicas("scheduler")[0];
    world.platform.kill9_replica(pid);
    let id = v1::SuspendOfficeRequest { office_id: office.clone() };
    until("somebody takes it", LIMIT, async || world.owner.offices().suspend_office(id.clone()).await.map(Some)).await;
    for name in &names {
        world.settled(&office, name, AgentPhase::Suspended).await;
    }
    println!("all {AGENTS} agents had their owner after {:?}", killed.elapsed());
    let sets = Matching::all().writes().resource("statefulsets");
    let mut written: Vec<String> = sim.requests_of(&sets).into_iter().map(|request| request.name).collect();
    written.sort();
    let once = written.windows(2).all(|pair| pair[0] != pair[1]);
    assert!(once && written.len() == AGENTS, "each is scaled down once: {written:?}");
}

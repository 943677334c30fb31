//! Tests of the role as a whole, through its services as a guard serves them, on every database there is.

mod access;
mod blocks;
mod chain;
mod feed;
mod logs;
mod plans;
mod removal;
mod row_security;
mod storage;

use std::{
    convert::Infallible,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use chrono::TimeDelta;
use futures::future::BoxFuture;
use mi_base::Tasks;
use mi_kernel::{
    AccountId, Actor, AgentActor, AgentId, ApiKeyId, Clock, OfficeId, SystemClock,
    event::{Category, Event},
};
use mi_proto::{
    internal::v1::{
        AppendEventsRequest, ApplyOfficeRequest, RemoveOfficeRequest, ingest_service_client::IngestServiceClient,
        office_replica_service_client::OfficeReplicaServiceClient,
    },
    v1::{
        ListLogsRequest, LogLine, LogStream, activity_service_client::ActivityServiceClient,
        log_service_client::LogServiceClient,
    },
};
use mi_rpc::{Guard, HttpRequest, HttpResponse, PrincipalKey, Transport, convert};
use mi_testkit::{ManualClock, TestDb, on_both};
use object_store::{ObjectStore, local::LocalFileSystem};
use tempfile::TempDir;
use tonic::{Status, Streaming, codegen::Service};

use crate::{ActivityConfig, Parts};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// Far longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(20);

/// Calls the role as one caller.
#[derive(Clone)]
struct Client(Transport, Arc<Actor>);

impl Service<HttpRequest> for Client {
    type Response = HttpResponse;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<HttpResponse, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: HttpRequest) -> Self::Future {
        let Self(transport, actor) = self.clone();
        Box::pin(async move { Ok(transport.call(actor, request).await) })
    }
}

/// The role over one database and one directory of objects, with no maintenance but what a test calls.
struct World {
    parts: Parts,
    config: ActivityConfig,
    clock: ManualClock,
    tasks: Tasks,
    transport: Transport,
    /// Gone with the last replica.
    kept: Arc<(TestDb, TempDir)>,
}

impl World {
    async fn new(db: TestDb) -> Self {
        let dir = tempfile::tempdir().expect("directory");
        let objects = LocalFileSystem::new_with_prefix(dir.path()).expect("directory").with_automatic_cleanup(true);
        let config = ActivityConfig::new(db.target().clone(), Arc::new(objects));
        // The real time to begin with: the files of the objects have it.
        let clock = ManualClock::at(SystemClock.now());
        Self::start(config, clock, Arc::new((db, dir))).await
    }

    async fn start(config: ActivityConfig, clock: ManualClock, kept: Arc<(TestDb, TempDir)>) -> Self {
        let tasks = Tasks::new();
        let shared = clock.shared();
        let parts = Parts::open(&config, &shared, &tasks).await.expect("database");
        let guard = Guard::new(
            "activity",
            parts.routes(&shared, &tasks),
            PrincipalKey::random(),
            shared,
            tasks.clone(),
            mi_rpc::Refusals::default(),
        );
        Self { parts, config, clock, tasks, transport: Transport::local(guard), kept }
    }

    /// The process dies, without a word to anybody, and another one starts over the same data.
    async fn restart(self) -> Self {
        self.tasks.shutdown().cancel();
        self.replica().await
    }

    /// Another replica over the same data.
    async fn replica(&self) -> Self {
        Self::start(self.config.clone(), self.clock.clone(), self.kept.clone()).await
    }

    /// The replica where the database may have several; SQLite belongs to one process.
    fn other<'a>(&'a self, replica: &'a Self) -> &'a Self {
        if self.parts.db.is_shared() { replica } else { self }
    }

    fn client(&self, actor: Actor) -> Client {
        Client(self.transport.clone(), Arc::new(actor))
    }

    fn service(&self) -> Client {
        self.client(Actor::Service { role: "office".into() })
    }

    fn activity(&self, actor: &Actor) -> ActivityServiceClient<Client> {
        ActivityServiceClient::new(self.client(actor.clone()))
    }

    fn logs(&self, actor: &Actor) -> LogServiceClient<Client> {
        LogServiceClient::new(self.client(actor.clone()))
    }

    fn ingest(&self) -> IngestServiceClient<Client> {
        IngestServiceClient::new(self.service())
    }

    /// A fresh office that the role was told about, and its owner.
    async fn office(&self) -> (OfficeId, Actor) {
        let (office_id, account_id) = (OfficeId::new(), AccountId::new());
        self.apply(office_id, account_id, 1).await;
        (office_id, owner(account_id))
    }

    async fn apply(&self, office_id: OfficeId, account_id: AccountId, version: i64) {
        let request = ApplyOfficeRequest {
            office_id: office_id.to_string(),
            account_id: account_id.to_string(),
            version,
            ..Default::default()
        };
        OfficeReplicaServiceClient::new(self.service()).apply_office(request).await.expect("applied");
    }

    /// Removes an office to the end.
    async fn remove(&self, office_id: OfficeId) {
        let request = RemoveOfficeRequest { office_id: office_id.to_string() };
        for _ in 0..1000 {
            let answer = OfficeReplicaServiceClient::new(self.service()).remove_office(request.clone()).await;
            if answer.expect("removed").into_inner().done {
                return;
            }
        }
        panic!("removal does not come to its end");
    }

    async fn append_events(&self, events: &[Event]) {
        let events = events.iter().cloned().map(convert::event_to_wire).collect();
        self.ingest().append_events(AppendEventsRequest { events }).await.expect("appended");
    }

    fn event(&self, office_id: OfficeId, agent: &str, category: Category) -> Event {
        Event::lifecycle(office_id, agent, "thing.happened", "something happened", self.clock.now())
            .category(category)
            .with(serde_json::json!({"count": 3, "tags": ["a", null]}))
    }

    /// The texts of the last lines and their sequences.
    async fn list(&self, owner: &Actor, request: ListLogsRequest) -> Vec<(i64, String)> {
        let lines = self.logs(owner).list_logs(request).await.expect("listed").into_inner().lines;
        lines.into_iter().map(|line| (line.sequence, line.text)).collect()
    }

    /// Paths of all segments.
    async fn objects(&self) -> Vec<String> {
        use futures::TryStreamExt;
        let list = self.config.objects.list(Some(&"logs".into()));
        let mut paths: Vec<String> =
            list.map_ok(|object| object.location.to_string()).try_collect().await.expect("list");
        paths.sort();
        paths
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.tasks.shutdown().cancel();
    }
}

fn owner(account_id: AccountId) -> Actor {
    Actor::Operator { account_id, api_key_id: ApiKeyId::new(), administrator: false }
}

fn agent(office_id: OfficeId, name: &str) -> Actor {
    Actor::Agent(AgentActor { office_id, agent_id: AgentId::new(), name: name.into() })
}

fn line(text: impl Into<String>) -> LogLine {
    LogLine { stream: LogStream::Stdout.into(), text: text.into(), ..Default::default() }
}

/// The next message of a stream that does not end.
async fn next<T>(stream: &mut Streaming<T>) -> Result<T, Status> {
    let message = tokio::time::timeout(LIMIT, stream.message()).await.expect("a message in time")?;
    Ok(message.expect("the stream goes on"))
}

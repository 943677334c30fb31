//! All roles in this process, as `mi up` composes them, with a runtime in memory; and a role's services bare.

use std::{num::NonZeroU32, sync::Arc, time::Duration};

use mi_activity::ActivityConfig;
use mi_base::Tasks;
use mi_catalogue::{Catalogue, Catalogues};
use mi_gateway::{Backends, GatewayConfig, Limits};
use mi_kernel::{SystemClock, secret::Secret};
use mi_office::{OfficeConfig, Peers};
use mi_rpc::{
    Caller, Connections, Guard, PrincipalKey, Transport,
    server::{self, Listener},
};
use mi_runtime::{CapturedLine, fake::FakeRuntime};
use mi_scheduler::{AgentEndpoint, SchedulerConfig};
use mi_store::DbTarget;
use mi_testkit::{Backend, TestDb};
use object_store::memory::InMemory;
use tempfile::TempDir;
use tokio::{net::TcpListener, sync::mpsc};
use tonic::{
    service::Routes,
    transport::{Server, server::TcpIncoming},
};
use tower::util::MapRequestLayer;

use crate::Result;

const LOOPBACK: &str = "127.0.0.1:0";
/// How long the roles may take to end.
const PATIENCE: Duration = Duration::from_secs(20);
/// The check of the limits is measured; the limits themselves would end the measurement.
const UNREACHED: Limits = Limits {
    per_second: NonZeroU32::new(1_000_000).unwrap(),
    burst: NonZeroU32::new(1_000_000).unwrap(),
    concurrent: 4096,
};

/// A running platform.
pub(crate) struct Composition {
    /// URL of the gateway.
    pub(crate) endpoint: String,
    pub(crate) admin_key: Secret,
    /// The scheduler's services without their guard.
    pub(crate) scheduler: Routes,
    /// The way to the office role.
    pub(crate) office: Transport,
    pub(crate) tasks: Tasks,
    /// Nobody prints; the scheduler waits for lines all the same.
    _lines: mpsc::Sender<CapturedLine>,
    _dir: TempDir,
    _on: TestDb,
}

impl Composition {
    /// Starts all roles on SQLite, and serves the gateway.
    pub(crate) async fn start() -> Result<Self> {
        Self::start_on(Backend::Sqlite).await
    }

    /// The same on this database.
    pub(crate) async fn start_on(backend: Backend) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let on = TestDb::new(backend, "mi_unused").await;
        let database = |role: &'static str| match on.url() {
            None => DbTarget::Sqlite { path: dir.path().join(format!("{role}.db")) },
            Some(url) => DbTarget::Postgres { url: url.to_owned(), schema: role, process: None },
        };
        let (tasks, clock, key) = (Tasks::new(), SystemClock::shared(), PrincipalKey::random());
        let objects = Arc::new(InMemory::new());
        let local = |role: &'static str, routes: Routes| {
            Transport::local(Guard::new(role, routes, key.clone(), clock.clone(), tasks.clone(), Default::default()))
        };
        let (listener, endpoint) = listen().await?;

        let config = ActivityConfig::new(database("activity"), objects.clone());
        let activity = mi_activity::build(config, clock.clone(), &tasks).await?;
        let activity = local("activity", activity.routes);

        let (lines_in, lines) = mpsc::channel(1);
        let (to_office, promised) = Transport::promised();
        let catalogues = Catalogues::new(Catalogue::built_in()?);
        let config = SchedulerConfig {
            database: database("scheduler"),
            objects: objects.clone(),
            reserve: Default::default(),
            runtime: Arc::new(FakeRuntime::default()),
            lines,
            agent_endpoint: AgentEndpoint { url: endpoint.clone(), ca: None },
            catalogues: catalogues.clone(),
            holder: "bench".into(),
            office: to_office,
            activity: activity.clone(),
        };
        let bare = mi_scheduler::build(config, clock.clone(), &tasks).await?;
        let scheduler = local("scheduler", bare.clone());

        let config = OfficeConfig {
            database: database("office"),
            master_keys: Arc::new(mi_vault::FileKeys::new(dir.path().join("master.key"))),
            objects,
            drive: Default::default(),
            quotas: Default::default(),
            credits: Default::default(),
            reserve: Default::default(),
            catalogues,
        };
        let peers = Peers { scheduler: scheduler.clone(), activity: activity.clone() };
        let office = mi_office::build(config, peers, clock.clone(), &tasks).await?;
        let admin_key = office.accounts.ensure_administrator(&dir.path().join("admin.key")).await?;

        let office_guard =
            Guard::new("office", office.routes, key.clone(), clock.clone(), tasks.clone(), Default::default());
        promised.keep(office_guard.clone());
        let office = Transport::local(office_guard);
        let backends = Backends { office: office.clone(), scheduler, activity, models: None };
        let config = GatewayConfig { limits: UNREACHED, ..GatewayConfig::default() };
        let gateway = mi_gateway::build(config, backends, clock, Default::default(), &tasks);
        let connections = Connections::default();
        let listener = Listener { name: "gateway", socket: listener, tls: None, http1: true, connections };
        server::serve(&tasks, listener, gateway);
        Ok(Self { endpoint, admin_key, scheduler: bare, office, tasks, _lines: lines_in, _dir: dir, _on: on })
    }

    /// Ends all roles.
    pub(crate) async fn stop(self) -> Result {
        stop(&self.tasks).await
    }
}

/// Ends the tasks; an error when one had panicked.
pub(crate) async fn stop(tasks: &Tasks) -> Result {
    match tasks.stop(PATIENCE).await {
        None => Ok(()),
        Some(task) => Err(format!("the task {task} panicked").into()),
    }
}

/// Serves a role's services by tonic alone: every call comes from this caller. Windows are those of
/// [`mi_rpc::server::serve`], so that only what the platform adds makes a difference. Returns the URL.
pub(crate) async fn serve_bare(tasks: &Tasks, routes: Routes, caller: Caller) -> Result<String> {
    let (listener, endpoint) = listen().await?;
    let shutdown = tasks.shutdown();
    let insert = move |mut request: mi_rpc::HttpRequest| {
        request.extensions_mut().insert(caller.clone());
        request
    };
    tasks.spawn("bare", async move {
        let serving = Server::builder()
            .layer(MapRequestLayer::new(insert))
            .max_concurrent_streams(1024)
            .initial_connection_window_size(4 << 20)
            .initial_stream_window_size(1 << 20)
            .add_routes(routes.prepare())
            .serve_with_incoming(TcpIncoming::from(listener).with_nodelay(Some(true)));
        if let Err(error) = serving.await {
            eprintln!("error: the bare listener failed: {error}");
            shutdown.cancel();
        }
    });
    Ok(endpoint)
}

async fn listen() -> Result<(TcpListener, String)> {
    let listener = TcpListener::bind(LOOPBACK).await?;
    let endpoint = format!("http://{}", listener.local_addr()?);
    Ok((listener, endpoint))
}

//! Starts a whole platform in one process, or one role of it, and ends it in order.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use mi_base::{
    Tasks, metrics,
    telemetry::{self, TelemetryConfig},
};
use mi_gateway::Backends;
use mi_kernel::{Error, Result, SystemClock, secret::Secret};
use mi_rpc::{
    ConnectionLimits, Connections, PrincipalKey, Refusals, RoleTls, Transport,
    server::{self, Listener},
    tls::{self, KeyFiles, TlsAcceptor},
};
use mi_scheduler::AgentEndpoint;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    net::TcpListener,
    signal::unix::{SignalKind, signal},
};

use crate::{
    catalogue,
    config::{PlatformConfig, PlatformOptions, RoleName, ServeOptions},
    data_dir::DataDir,
    objects,
    ready::{Ready, reachable},
    roles::Parts,
};

/// How long shutdown may take in all: the drain of the listeners and the grace of the agents fit in.
const SHUTDOWN: Duration = Duration::from_secs(15);

/// The addresses of a process, taken before anything else is started: a port in use is the likeliest thing to go wrong.
struct Listeners {
    api: TcpListener,
    metrics: TcpListener,
}

impl Listeners {
    async fn bind(options: &PlatformOptions) -> Result<Self> {
        Ok(Self {
            api: server::bind("--listen", options.listen).await?,
            metrics: server::bind("--metrics-listen", options.metrics_listen).await?,
        })
    }

    fn ready(&self, tls: bool, api_key: Option<Secret>) -> Result<Ready> {
        let api = self.api.local_addr().map_err(Error::internal)?;
        let metrics = self.metrics.local_addr().map_err(Error::internal)?;
        Ok(Ready::new(api, tls, metrics, api_key))
    }
}

/// TLS of the listener for the public. Credentials in plaintext leave the machine only when that was asked for.
fn public_tls(options: &PlatformOptions) -> Result<Option<TlsAcceptor>> {
    let files = options.tls();
    if files.is_none() && !options.listen.ip().is_loopback() {
        if !options.allow_plaintext {
            let text = format!(
                "{} can be reached from other machines, and everything on it would be readable on the way: give --tls-cert \
                 and --tls-key, or --allow-plaintext when something in front of it speaks TLS",
                options.listen
            );
            return Err(Error::precondition("PLAINTEXT", text));
        }
        tracing::warn!(target: "mi::server", listen = %options.listen, "serving credentials in plaintext, as asked");
    }
    files.as_ref().map(tls::public_acceptor).transpose()
}

fn telemetry_of(options: &PlatformOptions, service: &str) -> TelemetryConfig {
    TelemetryConfig {
        service: service.to_owned(),
        format: options.log_format,
        otlp_endpoint: options.otlp_endpoint.clone(),
    }
}

/// What files a process may have open where the system does not say.
const USUAL_FILES: u64 = 1024;

/// Allows as many open files as the system lets us: an agent takes about three, and the usual soft limit is 1024. Returns
/// how many.
fn raise_file_limit() -> u64 {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((USUAL_FILES, USUAL_FILES));
    match setrlimit(Resource::RLIMIT_NOFILE, hard, hard) {
        Ok(()) => hard,
        Err(error) => {
            tracing::warn!(target: "mi::server", %error, "the limit of open files stays as it is");
            soft
        }
    }
}

/// Limits of the listener for metrics, apart from those of the API: it has to answer while that is flooded.
fn few() -> Connections {
    Connections::new(ConnectionLimits { total: 256, per_address: 256, ..ConnectionLimits::default() })
}

/// Runs the whole platform until SIGTERM or SIGINT. `told` is called once it serves.
///
/// # Errors
/// What keeps it from starting, in a sentence for the operator.
pub async fn up(config: PlatformConfig, told: impl FnOnce(&Ready) -> Result<()>) -> Result<()> {
    let _telemetry = telemetry::init(&telemetry_of(&config.options, "mi"))?;
    let limits = config.connection_limits(raise_file_limit());
    // Before anything listens.
    let tls = public_tls(&config.options)?;
    let data_dir = DataDir::open(&config.data_dir).await?;
    let listeners = Listeners::bind(&config.options).await?;
    let objects = objects::open(config.options.object_store.as_deref(), &config.data_dir)?;
    let tasks = Tasks::new();
    let parts = Parts {
        config: &config,
        node_id: &data_dir.node_id,
        key: PrincipalKey::random(),
        clock: SystemClock::shared(),
        tasks: &tasks,
        refusals: Refusals::default(),
        reserve: Parts::reserve_of(&config, &tasks),
        catalogues: catalogue::open(&config.options, &tasks)?,
    };
    // Agents of this machine need no certificate to trust: with TLS they have a listener of their own on loopback.
    let agents = match &tls {
        None => None,
        Some(_) => Some(server::bind("for agents", (Ipv4Addr::LOCALHOST, 0).into()).await?),
    };
    let agent_address = agents.as_ref().unwrap_or(&listeners.api).local_addr().map_err(Error::internal)?;
    let agent_endpoint = AgentEndpoint { url: reachable("http", agent_address), ca: None };
    let activity = Transport::local(parts.activity(objects.clone()).await?);
    parts.tell_refusals(&activity);
    // The scheduler and the office role call each other.
    let (to_office, promised) = Transport::promised();
    let scheduler = parts.scheduler(objects.clone(), to_office, activity.clone(), agent_endpoint).await?;
    let scheduler = Transport::local(scheduler);
    let key_file = config.data_dir.join("admin.key");
    let (office, key) = parts.office(objects, scheduler.clone(), activity.clone(), &key_file).await?;
    promised.keep(office.clone());
    let office = Transport::local(office);
    let models = Some(Transport::local(parts.models(office.clone(), scheduler.clone())?));
    let ready = listeners.ready(tls.is_some(), Some(key))?;
    let gateway = parts.gateway(Backends { office, scheduler, activity, models }, &ready.endpoint)?;
    if let Some(socket) = agents {
        // All agents have one address, and strangers must not take their room.
        let connections = Connections::new(ConnectionLimits { per_address: limits.total, ..limits });
        let listener = Listener { name: "gateway-agents", socket, tls: None, http1: true, connections };
        server::serve(&tasks, listener, gateway.clone());
    }
    let connections = Connections::new(limits);
    let listener = Listener { name: "gateway", socket: listeners.api, tls, http1: true, connections };
    server::serve(&tasks, listener, gateway);
    run(&tasks, listeners.metrics, &config, &ready, told).await
}

/// Runs one role until SIGTERM or SIGINT. `told` is called once it serves.
///
/// # Errors
/// What keeps it from starting, in a sentence for the operator.
pub async fn serve(
    config: ServeOptions,
    platform: PlatformConfig,
    told: impl FnOnce(&Ready) -> Result<()>,
) -> Result<()> {
    let platform = &platform;
    let _telemetry = telemetry::init(&telemetry_of(&platform.options, &format!("mi-{}", config.role.as_str())))?;
    let connections = Connections::new(platform.connection_limits(raise_file_limit()));
    let key_file = config.internal_key_file.as_deref();
    let key_file =
        key_file.ok_or_else(|| missing("internal_key_file", "--internal-key-file FILE, the same for all roles"))?;
    let key = PrincipalKey::from_file(key_file)?;
    let role_tls =
        match (&config.internal_tls_ca, config.internal_tls_cert.clone().zip(config.internal_tls_key.clone())) {
            (Some(ca), Some((cert, key))) => RoleTls::from_files(ca, KeyFiles { cert, key })?,
            _ => RoleTls::development(&key_file.with_file_name("internal-tls"), config.role.as_str())?,
        };
    let edge_tls = if config.role == RoleName::Gateway { public_tls(&platform.options)? } else { None };
    let data_dir = DataDir::open(&platform.data_dir).await?;
    let listeners = Listeners::bind(&platform.options).await?;
    let tasks = Tasks::new();
    let clock = SystemClock::shared();
    let peer = |field: &'static str, flag: &str, role: RoleName, url: &Option<String>| {
        let url = url.as_deref().ok_or_else(|| missing(field, &format!("{flag} https://HOST:PORT")))?;
        Transport::remote(field, url, Some(role_tls.client(role.as_str())?), key.clone(), clock.clone())
    };
    let office = || peer("office_url", "--office-url", RoleName::Office, &config.office_url);
    let scheduler = || peer("scheduler_url", "--scheduler-url", RoleName::Scheduler, &config.scheduler_url);
    let activity = || peer("activity_url", "--activity-url", RoleName::Activity, &config.activity_url);
    let models = || peer("models_url", "--models-url", RoleName::Models, &config.models_url);
    let objects = || objects::open(platform.options.object_store.as_deref(), &platform.data_dir);
    let parts = Parts {
        config: platform,
        node_id: &data_dir.node_id,
        key: key.clone(),
        clock: Arc::clone(&clock),
        tasks: &tasks,
        refusals: Refusals::default(),
        reserve: Parts::reserve_of(platform, &tasks),
        catalogues: catalogue::open(&platform.options, &tasks)?,
    };
    let mut admin_key = None;
    let guard = match config.role {
        RoleName::Gateway => {
            let models = config.models_url.as_ref().map(|_| models()).transpose()?;
            let backends = Backends { office: office()?, scheduler: scheduler()?, activity: activity()?, models };
            parts.tell_refusals(&backends.activity);
            let ready = listeners.ready(edge_tls.is_some(), None)?;
            let gateway = parts.gateway(backends, &ready.endpoint)?;
            let socket = listeners.api;
            let listener = Listener { name: "gateway", socket, tls: edge_tls, http1: true, connections };
            server::serve(&tasks, listener, gateway);
            return run(&tasks, listeners.metrics, platform, &ready, told).await;
        }
        RoleName::Activity => {
            let guard = parts.activity(objects()?).await?;
            parts.tell_refusals(&Transport::local(guard.clone()));
            guard
        }
        RoleName::Scheduler => {
            let endpoint = config.agent_endpoint.clone();
            let endpoint = endpoint
                .ok_or_else(|| missing("agent_endpoint", "--agent-endpoint URL, where agents reach the gateway"))?;
            let ca = config.agent_ca_file.as_deref().map(|file| {
                std::fs::read_to_string(file).map_err(|error| {
                    Error::invalid("agent_ca_file", format!("cannot be read: {}", file.display())).caused_by(error)
                })
            });
            let endpoint = AgentEndpoint { url: endpoint, ca: ca.transpose()? };
            parts.tell_refusals(&activity()?);
            parts.scheduler(objects()?, office()?, activity()?, endpoint).await?
        }
        RoleName::Office => {
            let key_file = config.admin_key_file.clone().unwrap_or_else(|| platform.data_dir.join("admin.key"));
            parts.tell_refusals(&activity()?);
            let (guard, key) = parts.office(objects()?, scheduler()?, activity()?, &key_file).await?;
            admin_key = Some(key);
            guard
        }
        RoleName::Models => parts.models(office()?, scheduler()?)?,
    };
    let ready = listeners.ready(true, admin_key)?;
    let (name, tls) = (config.role.as_str(), Some(role_tls.acceptor()?));
    server::serve(&tasks, Listener { name, socket: listeners.api, tls, http1: false, connections }, guard);
    run(&tasks, listeners.metrics, platform, &ready, told).await
}

fn missing(field: &'static str, flag: &str) -> Error {
    Error::invalid(field, format!("is required for this role: give {flag}"))
}

/// Serves metrics, tells the world, waits for the end to be asked for, and ends in order.
async fn run(
    tasks: &Tasks,
    metrics_listener: TcpListener,
    config: &PlatformConfig,
    ready: &Ready,
    told: impl FnOnce(&Ready) -> Result<()>,
) -> Result<()> {
    let shutdown = tasks.shutdown();
    let listener = Listener { name: "metrics", socket: metrics_listener, tls: None, http1: true, connections: few() };
    server::serve_http(tasks, listener, metrics::router());
    let mut terminate = signal(SignalKind::terminate()).map_err(Error::internal)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(Error::internal)?;
    if let Some(file) = &config.ready_file {
        ready.write(file)?;
    }
    tracing::info!(target: "mi::server", endpoint = ready.endpoint, metrics = ready.metrics_endpoint, "serving");
    told(ready)?;
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        // A background task panicked.
        () = shutdown.cancelled() => {}
    }
    tracing::info!(target: "mi::server", "stopping");
    match tasks.stop(SHUTDOWN).await {
        None => Ok(()),
        Some(task) => Err(Error::internal(format!("the background task {task} panicked"))),
    }
}

//! The scheduler role: agents from intent to instance, their identities and their backups.
//!
//! [`agents::intent`] writes what should be, [`plan`] says what to do next, [`reconcile`] does it and records what is.

pub mod agents;
mod backups;
mod cluster;
mod compute;
mod exec;
mod idle;
mod launch;
mod liveness;
mod logs;
mod offices;
pub mod plan;
mod reconcile;
mod registry;
mod release;
mod sessions;
mod shards;
mod sweep;
#[cfg(test)]
mod tests;
mod workspaces;

use std::sync::Arc;

use agents::Agent;
use mi_base::{Tasks, disk_reserve::DiskReserve, failure_backoff::FailureBackoff};
use mi_catalogue::Catalogues;
use mi_kernel::{AgentId, Clock, Error, Result};
use mi_proto::{
    internal::v1::{
        agent_registry_service_server::AgentRegistryServiceServer, ingest_service_client::IngestServiceClient,
        metering_service_client::MeteringServiceClient, office_replica_service_server::OfficeReplicaServiceServer,
        secret_service_client::SecretServiceClient,
    },
    v1::agent_service_server::AgentServiceServer,
};
use mi_rpc::{Access, Caller, EventSink, RoleClient, Transport, compressed};
use mi_runtime::{CapturedLine, Runtime};
use mi_store::{Db, DbTarget, Migrations, OfficeConn, Topic, lease::Lease, outbox, step};
use object_store::ObjectStore;
use tokio::sync::{Notify, mpsc};
use tonic::service::Routes;

const MIGRATIONS: &Migrations = &[
    step!(100, "0100", "agents"),
    step!(101, "0101", "office_wall"),
    step!(102, "0102", "former_keys"),
    step!(103, "0103", "external"),
    step!(110, "0110", "backup_removals"),
    step!(111, "0111", "next_look"),
    step!(117, "0117", "agent_keys"),
    step!(118, "0118", "backups_shown"),
    step!(130, "0130", "hirers"),
    step!(200, "0200", "agent_budget"),
    step!(205, "0205", "broke"),
    step!(210, "0210", "agent_model"),
    step!(211, "0211", "cluster"),
    step!(212, "0212", "shards"),
    step!(216, "0216", "backup_uploads"),
    step!(220, "0220", "roster_changes"),
    step!(230, "0230", "roster_positions"),
];

/// Where agents reach the gateway.
#[derive(Debug, Clone)]
pub struct AgentEndpoint {
    /// The URL of the gateway.
    pub url: String,
    /// PEM certificates of the CA that vouches for it; none: the public ones.
    pub ca: Option<String>,
}

/// What the role needs to start.
pub struct SchedulerConfig {
    /// Where its tables are.
    pub database: DbTarget,
    /// Where backups are kept.
    pub objects: Arc<dyn ObjectStore>,
    /// What is given up for deletions on a full disk.
    pub reserve: DiskReserve,
    /// Where agents run.
    pub runtime: Arc<dyn Runtime>,
    /// What the runtime's instances print.
    pub lines: mpsc::Receiver<CapturedLine>,
    /// Where agents reach the gateway.
    pub agent_endpoint: AgentEndpoint,
    /// What can be hired.
    pub catalogues: Catalogues,
    /// Names this process among those over the same database; the same after a restart.
    pub holder: String,
    /// The office role, which keeps credits and secrets.
    pub office: Transport,
    /// The activity role.
    pub activity: Transport,
}

/// The role's state, shared by its services and tasks.
pub(crate) struct Scheduler {
    db: Db,
    clock: Arc<dyn Clock>,
    catalogues: Catalogues,
    runtime: Arc<dyn Runtime>,
    objects: Arc<dyn ObjectStore>,
    reserve: DiskReserve,
    agent_endpoint: AgentEndpoint,
    holder: String,
    outbox: Notify,
    queue: reconcile::Queue,
    /// The agents that are this process's to look after.
    shards: Arc<shards::Shards>,
    seen: liveness::Seen,
    /// Agents of which a step failed.
    failure_backoff: FailureBackoff<AgentId>,
    execs: Arc<exec::Execs>,
    saving: workspaces::Saving,
    /// Who can pay, and what they pay for.
    metering: MeteringServiceClient<RoleClient>,
    /// What integrations of agents take.
    secrets: SecretServiceClient<RoleClient>,
    /// Commands of operators, each of which sees its own end through.
    tasks: Tasks,
}

impl Scheduler {
    /// The connection's office and how the caller entered it.
    async fn enter(&self, conn: &mut OfficeConn, caller: &Caller) -> Result<(offices::Office, Access)> {
        let id = conn.office_id();
        let office = offices::repo::office_get(conn).await?.ok_or_else(|| Error::not_found("office", id))?;
        let access = caller.enter(id, office.account_id)?;
        Ok((office, access))
    }

    /// A row of this agent was committed: wakes whoever waits for that.
    fn changed(&self, agent: &Agent) {
        self.seen.doubt(agent.id);
        self.execs.keep(agent);
        self.outbox.notify_one();
        self.queue.push(agent.id);
        self.db.notify(Topic::of(agent.office_id, agents::TOPIC));
        if !self.shards.holds(agent.id) {
            self.db.notify(shards::topic());
        }
    }
}

/// Opens the database, starts the background tasks and builds the services.
///
/// # Errors
/// What [`Db::open`] answers, and `OTHER_CLUSTER` where agents of this database live in another cluster than it is started on.
pub async fn build(config: SchedulerConfig, clock: Arc<dyn Clock>, tasks: &Tasks) -> Result<Routes> {
    let activity = RoleClient::new(config.activity, "scheduler");
    let office = RoleClient::new(config.office, "scheduler");
    let (ingest, feed) = (IngestServiceClient::new(activity.clone()), EventSink::new(activity));
    let db = Db::open(&config.database, MIGRATIONS).await?;
    let probed = db.clone();
    tasks.need("database", move || probed.clone().answers());
    let shards = Arc::new(shards::Shards::new(db.is_shared(), clock.clone()));
    let scheduler = Arc::new(Scheduler {
        db,
        clock,
        catalogues: config.catalogues,
        runtime: config.runtime,
        objects: config.objects,
        reserve: config.reserve,
        agent_endpoint: config.agent_endpoint,
        holder: config.holder,
        outbox: Notify::new(),
        queue: reconcile::Queue::default(),
        shards,
        seen: liveness::Seen::default(),
        failure_backoff: FailureBackoff::new(reconcile::RETRY),
        execs: Arc::default(),
        saving: workspaces::Saving::default(),
        metering: MeteringServiceClient::new(office.clone()),
        secrets: SecretServiceClient::new(office),
        tasks: tasks.clone(),
    });

    if let Some(cluster) = scheduler.runtime.cluster() {
        match scheduler.join(cluster).await {
            Err(error) if error.reason == cluster::OTHER_CLUSTER => return Err(error),
            // One that cannot be reached now is waited for, and refused later if it is another one.
            Ok(()) | Err(_) => {}
        }
    }
    tasks.spawn("scheduler-changes", scheduler.db.clone().exchange_changes());
    tasks.spawn("scheduler-reconcile", reconcile::run(scheduler.clone()));
    tasks.spawn("scheduler-heartbeats", liveness::flush_forever(scheduler.clone()));
    tasks.spawn("scheduler-logs", logs::ship(config.lines, ingest));
    tasks.spawn("scheduler-idle", idle::run(scheduler.clone()));
    let ends = || tasks.shutdown().cancelled_owned();
    let lease = |name, ttl| Lease::new(scheduler.db.clone(), scheduler.clock.clone(), name, ttl);
    let run = scheduler.clone();
    let cluster = lease("cluster-pass", cluster::LEASE).until_end(ends(), |lease| cluster::run(run, lease));
    tasks.spawn_to_end("scheduler-cluster", cluster);
    let run = scheduler.clone();
    let compute = lease("compute", compute::LEASE).until_end(ends(), |lease| compute::run(run, lease));
    tasks.spawn_to_end("scheduler-compute", compute);
    let run = scheduler.clone();
    let sweep = lease("sweep", sweep::LEASE).until_end(ends(), |lease| sweep::run(run, lease));
    tasks.spawn_to_end("scheduler-sweep", sweep);
    let (relayed, lease) = (scheduler.clone(), outbox::lease(scheduler.db.clone(), scheduler.clock.clone()));
    let relay = async move |lease| {
        outbox::relay(relayed.db.clone(), lease, &relayed.outbox, |events| feed.clone().append(events)).await;
    };
    tasks.spawn_to_end("scheduler-outbox", lease.until_end(ends(), relay));
    let leaving = scheduler.clone();
    tasks.ends_first(async move {
        // Nobody is to mend that they end.
        leaving.shards.resigned.cancel();
        // They give back what they work on, to a platform that still answers.
        leaving.runtime.shut_down().await;
    });
    tasks.spawn_to_end("scheduler-shards", shards::keep(scheduler.clone(), tasks.shutdown()));

    Ok(Routes::new(compressed!(AgentServiceServer::new(agents::grpc::Handler::new(scheduler.clone()))))
        .add_service(compressed!(AgentRegistryServiceServer::new(registry::Handler::new(scheduler.clone()))))
        .add_service(compressed!(OfficeReplicaServiceServer::new(offices::grpc::Handler::new(scheduler)))))
}

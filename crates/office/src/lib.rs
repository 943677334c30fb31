//! The office role: what makes one role of accounts, offices, integrations, credits, the drive, tasks and chat.
//!
//! Each of those is a crate of its own. Here they are put together, over one database with one list of migrations, and here
//! offices are made and removed with all that belongs to them.

mod grpc;
mod lifecycle;
mod retention;
#[cfg(test)]
#[expect(clippy::disallowed_methods, reason = "tests join what they spawn, and compare with the time of this machine")]
mod tests;

use std::{sync::Arc, time::Duration};

use mi_base::{Tasks, disk_reserve::DiskReserve};
use mi_catalogue::Catalogues;
use mi_chat::Chat;
pub use mi_credits::CreditRules;
use mi_credits::Credits;
pub use mi_drive::DriveLimits;
use mi_drive::{
    Drive,
    storage::{self, Storage},
};
use mi_integrations::{DataKeys, Integrations};
use mi_kernel::{Clock, Result};
use mi_proto::{
    internal::v1::{
        agent_registry_service_client::AgentRegistryServiceClient, credential_service_server::CredentialServiceServer,
        metering_service_server::MeteringServiceServer, office_replica_service_client::OfficeReplicaServiceClient,
        secret_service_server::SecretServiceServer,
    },
    v1::{
        access_service_server::AccessServiceServer, chat_service_server::ChatServiceServer,
        credit_service_server::CreditServiceServer, drive_service_server::DriveServiceServer,
        integration_service_server::IntegrationServiceServer, office_service_server::OfficeServiceServer,
        task_service_server::TaskServiceServer,
    },
};
use mi_rpc::{EventSink, RoleClient, Transport, compressed};
use mi_store::{Db, DbTarget, Migrations, idempotency, lease::Lease, outbox, step};
use mi_tasks::Members;
pub use mi_tenancy::Quotas;
use mi_tenancy::{OfficePart, Offices, RoleContext, accounts::Accounts, invites::Invites};
use mi_vault::KeyWrapper;
use object_store::ObjectStore;
use tokio::sync::Notify;
use tonic::service::Routes;

use self::{
    lifecycle::{Lifecycle, Replicas},
    retention::Retention,
};

const MIGRATIONS: &Migrations = &[
    step!(100, "0100", "offices"),
    step!(101, "0101", "office_wall"),
    step!(102, "0102", "revocations"),
    step!(103, "0103", "invites"),
    step!(110, "0110", "secrets"),
    step!(120, "0120", "tasks"),
    step!(121, "0121", "task_history"),
    step!(130, "0130", "drive"),
    step!(140, "0140", "chat"),
    step!(150, "0150", "tasks_json"),
    step!(151, "0151", "task_queues"),
    step!(152, "0152", "task_requests"),
    step!(153, "0153", "task_parts"),
    step!(154, "0154", "wakes"),
    step!(160, "0160", "drive_trash_size"),
    step!(170, "0170", "task_sweeps"),
    step!(175, "0175", "task_graph"),
    step!(176, "0176", "task_consequences"),
    step!(177, "0177", "task_agents"),
    step!(180, "0180", "drive_paths"),
    step!(183, "0183", "drive_trash_tries"),
    step!(186, "0186", "quotas"),
    step!(187, "0187", "retention"),
    step!(188, "0188", "drive_trash_order"),
    step!(190, "0190", "credits"),
    step!(200, "0200", "metering"),
    step!(205, "0205", "broke"),
    step!(210, "0210", "task_contexts"),
    step!(220, "0220", "queue_look"),
    step!(230, "0230", "queue_memory"),
];
/// How often old request ids and invites are forgotten.
const SWEEP_INTERVAL: Duration = Duration::from_secs(3600);
/// Of several processes over one database one forgets. Two at once would be slow, not wrong.
const SWEEP_LEASE: Duration = Duration::from_secs(60);

/// What the role needs to start.
#[derive(Debug)]
pub struct OfficeConfig {
    /// Where its tables are.
    pub database: DbTarget,
    /// What holds the master key.
    pub master_keys: Arc<dyn KeyWrapper>,
    /// Where the content of files is kept.
    pub objects: Arc<dyn ObjectStore>,
    /// How much a drive may hold.
    pub drive: DriveLimits,
    /// How much an account and an office may have of everything else.
    pub quotas: Quotas,
    /// What offices begin with, and whether a balance refuses anything.
    pub credits: CreditRules,
    /// What is given up for deletions on a full disk.
    pub reserve: DiskReserve,
    /// What can be integrated.
    pub catalogues: Catalogues,
}

/// The roles it talks to.
pub struct Peers {
    /// The scheduler.
    pub scheduler: Transport,
    /// The activity role.
    pub activity: Transport,
}

/// The role, ready to be served.
pub struct OfficeRole {
    /// Its services.
    pub routes: Routes,
    /// Accounts and keys, for the first start.
    pub accounts: Accounts,
}

/// What offices have, over one database.
struct Resources {
    accounts: Accounts,
    offices: Offices,
    invites: Arc<Invites>,
    keys: DataKeys,
    integrations: Integrations,
    storage: Storage,
    drive: Drive,
    tasks: mi_tasks::Tasks,
    chat: Chat,
    credits: Credits,
    retention: Retention,
}

impl Resources {
    async fn open(
        config: OfficeConfig,
        context: &RoleContext,
        registry: &AgentRegistryServiceClient<RoleClient>,
        background: &Tasks,
    ) -> Result<Self> {
        let OfficeConfig { master_keys, objects, drive: limits, quotas, credits, reserve, catalogues, .. } = config;
        let (context, registry) = (|| context.clone(), || registry.clone());
        let accounts = Accounts::new(context(), quotas);
        let offices = Offices::new(context().db);
        let invites = Arc::new(Invites::new(context(), offices.clone(), registry()));
        let keys = DataKeys::open(context(), master_keys).await?;
        let integrations = Integrations::new(context(), offices.clone(), keys.clone(), catalogues, registry());
        let storage = Storage::new(context().db, context().clock, objects, reserve);
        let drive = Drive::new(context(), offices.clone(), storage.clone(), limits, background.clone());
        let (members, running) = (Members::new(registry()), background.clone());
        let credits = Credits::new(context(), offices.clone(), registry(), background.clone(), credits);
        let deps = mi_tasks::Deps { members: members.clone(), registry: registry(), credits: credits.clone(), quotas };
        let tasks = mi_tasks::Tasks::new(context(), offices.clone(), deps, running);
        let chat = Chat::new(context(), offices.clone(), members, tasks.clone(), background.clone());
        let retention = Retention::new(context());
        Ok(Self { accounts, offices, invites, keys, integrations, storage, drive, tasks, chat, credits, retention })
    }

    /// Everything that an office has: the queue before the chat, since that is the order of their locks; the credits and
    /// the account last, since the account's row is one that many offices share.
    fn parts(&self) -> Vec<Arc<dyn OfficePart>> {
        vec![
            Arc::new(self.tasks.clone()),
            Arc::new(self.chat.clone()),
            Arc::new(self.drive.clone()),
            Arc::new(self.integrations.clone()),
            self.invites.clone(),
            Arc::new(self.retention.clone()),
            Arc::new(self.credits.clone()),
            Arc::new(self.accounts.clone()),
        ]
    }
}

/// Opens the database, starts the background tasks and builds the services.
///
/// # Errors
/// What [`Db::open`] answers, and `FailedPrecondition` when the master key that secrets are under is not there.
pub async fn build(config: OfficeConfig, peers: Peers, clock: Arc<dyn Clock>, tasks: &Tasks) -> Result<OfficeRole> {
    let db = Db::open(&config.database, MIGRATIONS).await?;
    let probed = db.clone();
    tasks.need("database", move || probed.clone().answers());
    let context = RoleContext { db: db.clone(), clock: clock.clone(), outbox: Arc::new(Notify::new()) };
    let scheduler = RoleClient::new(peers.scheduler, "office");
    let activity = RoleClient::new(peers.activity, "office");
    let registry = AgentRegistryServiceClient::new(scheduler.clone());
    let reserve = config.reserve.clone();
    let resources = Resources::open(config, &context, &registry, tasks).await?;
    let parts = resources.parts();
    let Resources {
        accounts,
        offices,
        invites,
        keys,
        integrations,
        storage,
        drive,
        tasks: queues,
        chat,
        credits,
        retention,
    } = resources;
    queues.start().await?;
    let lifecycle = Lifecycle::new(lifecycle::Deps {
        context: context.clone(),
        offices: offices.clone(),
        replicas: Replicas {
            scheduler: OfficeReplicaServiceClient::new(scheduler),
            activity: OfficeReplicaServiceClient::new(activity.clone()),
        },
        registry: registry.clone(),
        tasks: tasks.clone(),
        reserve,
        parts,
    });

    let (converging, relay_db, metered, sweeping) = (lifecycle.clone(), db.clone(), db.clone(), db.clone());
    let feed = EventSink::new(activity);
    // What one process does for all of them, until this one ends.
    let ends = || tasks.shutdown().cancelled_owned();
    let lease = |name, ttl| Lease::new(db.clone(), clock.clone(), name, ttl);
    let converge =
        lease("converge", lifecycle::CONVERGE_LEASE).until_end(ends(), |lease| converging.converge_forever(lease));
    tasks.spawn_to_end("office-converge", converge);
    let relay = outbox::lease(db.clone(), clock.clone()).until_end(ends(), async move |lease| {
        outbox::relay(relay_db, lease, &context.outbox, |events| feed.clone().append(events)).await;
    });
    tasks.spawn_to_end("office-outbox", relay);
    tasks.spawn("office-changes", db.clone().exchange_changes());
    let now = clock.clone();
    let forget = lease("sweep", SWEEP_LEASE).until_end(ends(), |lease| sweep(sweeping, now, lease));
    tasks.spawn_to_end("office-sweep", forget);
    let shorten = lease("retention", retention::LEASE).until_end(ends(), |lease| retention.sweep_forever(lease));
    tasks.spawn_to_end("office-retention", shorten);
    let empty = lease("drive-sweep", storage::SWEEP_LEASE).until_end(ends(), |lease| storage.sweep_forever(lease));
    tasks.spawn_to_end("drive-sweep", empty);
    let spent = credits.clone();
    let settle = lease("credit-sweep", mi_credits::SWEEP_LEASE).until_end(ends(), |lease| spent.sweep_forever(lease));
    tasks.spawn_to_end("credit-sweep", settle);

    let metering = grpc::metering::Handler::new(metered, credits.clone(), queues.clone(), integrations.clone());
    let access = grpc::access::Handler::new(accounts.clone(), keys, offices.clone(), invites, registry.clone());
    let offices = grpc::offices::Handler::new(lifecycle, offices, registry);
    let routes = Routes::new(compressed!(OfficeServiceServer::new(offices)))
        .add_service(compressed!(IntegrationServiceServer::new(integrations.clone())))
        .add_service(compressed!(SecretServiceServer::new(integrations)))
        .add_service(compressed!(TaskServiceServer::new(queues)))
        .add_service(compressed!(DriveServiceServer::new(drive)))
        .add_service(compressed!(ChatServiceServer::new(chat)))
        .add_service(compressed!(CreditServiceServer::new(credits)))
        .add_service(compressed!(MeteringServiceServer::new(metering)))
        .add_service(compressed!(AccessServiceServer::new(access)))
        .add_service(compressed!(CredentialServiceServer::new(accounts.clone())));
    Ok(OfficeRole { routes, accounts })
}

/// Forgets for ever what is too old to matter.
async fn sweep(db: Db, clock: Arc<dyn Clock>, lease: Lease) {
    loop {
        let now = clock.now();
        if lease.held().await.unwrap_or_default() {
            let requests = ("old request ids", idempotency::sweep(&db, now).await);
            for (what, swept) in [requests, ("old invites", Invites::sweep(&db, now).await)] {
                if let Err(error) = swept {
                    tracing::warn!(target: "mi::office", what, %error, "could not be forgotten; next try in an hour");
                }
            }
        }
        tokio::time::sleep(SWEEP_INTERVAL).await;
    }
}

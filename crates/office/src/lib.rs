//! The office role: accounts and API keys, offices, their settings and invites, integrations and their secrets, tasks,
//! the drive and chat.
//!
//! Other roles keep a copy of what they need to know of an office; this role pushes it (see [`offices::converge`]).

pub mod accounts;
mod budget;
mod chat;
mod data_keys;
pub mod drive;
pub mod integrations;
mod members;
pub mod offices;
pub mod quotas;
mod retention;
mod tasks;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use mi_base::{Tasks, reserve::Reserve, signals::Signals};
use mi_kernel::{Clock, Result};
use mi_proto::{
    internal::v1::{
        agent_registry_service_client::AgentRegistryServiceClient, credential_service_server::CredentialServiceServer,
        office_replica_service_client::OfficeReplicaServiceClient,
    },
    v1::{
        access_service_server::AccessServiceServer, chat_service_server::ChatServiceServer,
        drive_service_server::DriveServiceServer, integration_service_server::IntegrationServiceServer,
        office_service_server::OfficeServiceServer, task_service_server::TaskServiceServer,
    },
};
use mi_rpc::{EventSink, RoleClient, Transport, compressed};
use mi_store::{Db, DbTarget, Migrations, idempotency, outbox, step};
use mi_vault::KeyWrapper;
use object_store::ObjectStore;
use tokio::sync::{Notify, watch};
use tonic::service::Routes;

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
];
/// How often old request ids and invites are forgotten.
const SWEEP_INTERVAL: std::time::Duration = std::time::Duration::from_secs(3600);

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
    pub drive: drive::DriveLimits,
    /// How much an account and an office may have of everything else.
    pub quotas: quotas::Quotas,
    /// What is given up for deletions on a full disk.
    pub reserve: Reserve,
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
    pub accounts: accounts::Accounts,
}

/// Opens the database, starts the background tasks and builds the services.
///
/// # Errors
/// What [`Db::open`] answers, and `FailedPrecondition` when the master key that secrets are under is not there.
pub async fn build(config: OfficeConfig, peers: Peers, clock: Arc<dyn Clock>, tasks: &Tasks) -> Result<OfficeRole> {
    let db = Db::open(&config.database, MIGRATIONS).await?;
    let scheduler = RoleClient::new(peers.scheduler, "office");
    let activity = RoleClient::new(peers.activity, "office");
    let outbox = Arc::new(Notify::new());

    let accounts = accounts::Accounts::new(db.clone(), clock.clone(), outbox.clone(), config.quotas);
    // Wakes those who watch an office's chat.
    let sent = Signals::new();
    // Wakes those who watch a drive.
    let files = watch::Sender::new(());
    // Offices in which somebody may wait for work that there is no more, or again.
    let moved = tasks::notices::Pending::default();
    let replicas = offices::converge::Replicas {
        scheduler: OfficeReplicaServiceClient::new(scheduler.clone()),
        activity: OfficeReplicaServiceClient::new(activity.clone()),
    };
    let storage = drive::storage::Storage::new(db.clone(), clock.clone(), config.objects, config.reserve.clone());
    let registry = AgentRegistryServiceClient::new(scheduler);
    let offices = offices::Offices::new(offices::Parts {
        db: db.clone(),
        clock: clock.clone(),
        replicas,
        registry: registry.clone(),
        quotas: config.quotas,
        outbox: outbox.clone(),
        storage: storage.clone(),
        tasks: tasks.clone(),
        sent: sent.clone(),
        files: files.clone(),
        moved: moved.clone(),
    });
    let keys = data_keys::DataKeys::open(db.clone(), clock.clone(), config.master_keys, outbox.clone()).await?;
    let integrations =
        integrations::Integrations::new(db.clone(), clock.clone(), outbox.clone(), offices.clone(), keys.clone())?;
    let drive = drive::Drive {
        db: db.clone(),
        clock: clock.clone(),
        outbox: outbox.clone(),
        offices: offices.clone(),
        storage: storage.clone(),
        limits: config.drive,
        changed: files,
    };
    let invites = offices::invites::Invites::new(offices.clone(), registry.clone());
    let members = members::Members::new(registry.clone());
    let queues = tasks::Tasks::new(tasks::Parts {
        db: db.clone(),
        clock: clock.clone(),
        outbox: outbox.clone(),
        offices: offices.clone(),
        members: members.clone(),
        registry: registry.clone(),
        background: tasks.clone(),
        quotas: config.quotas,
        moved,
    });
    queues.start().await?;
    let chat = chat::Chat::new(chat::Parts {
        db: db.clone(),
        clock: clock.clone(),
        outbox: outbox.clone(),
        offices: offices.clone(),
        members,
        tasks: queues.clone(),
        sent,
    });

    let converging = offices.clone();
    tasks.spawn("office-converge", async move { converging.converge_forever().await });
    let (relay_db, written, feed) = (db.clone(), outbox.clone(), EventSink::new(activity));
    tasks.spawn("office-outbox", async move {
        outbox::relay(relay_db, &written, |events| feed.clone().append(events)).await;
    });
    let retention = retention::Retention { db: db.clone(), clock: clock.clone(), outbox: outbox.clone() };
    tasks.spawn("office-sweep", sweep(db, clock));
    tasks.spawn("office-retention", retention.sweep_forever());
    tasks.spawn("drive-sweep", storage.sweep_forever());

    let access = accounts::grpc::Handler::new(accounts.clone(), keys, offices.clone(), invites, registry.clone());
    let offices = offices::grpc::Handler::new(offices, registry, config.drive);
    let routes = Routes::new(compressed!(OfficeServiceServer::new(offices)))
        .add_service(compressed!(IntegrationServiceServer::new(integrations::grpc::Handler::new(integrations))))
        .add_service(compressed!(TaskServiceServer::new(tasks::grpc::Handler::new(queues))))
        .add_service(compressed!(DriveServiceServer::new(drive::grpc::Handler::new(drive))))
        .add_service(compressed!(ChatServiceServer::new(chat::grpc::Handler::new(chat, tasks.clone()))))
        .add_service(compressed!(AccessServiceServer::new(access)))
        .add_service(compressed!(CredentialServiceServer::new(accounts::credentials::Handler::new(accounts.clone()))));
    Ok(OfficeRole { routes, accounts })
}

/// Forgets for ever what is too old to matter.
async fn sweep(db: Db, clock: Arc<dyn Clock>) {
    loop {
        let now = clock.now();
        for (what, swept) in [
            ("old request ids", idempotency::sweep(&db, now).await),
            ("old invites", offices::invites::repo::invite_sweep(&db, now).await),
        ] {
            if let Err(error) = swept {
                tracing::warn!(target: "mi::office", what, %error, "could not be forgotten; next try in an hour");
            }
        }
        tokio::time::sleep(SWEEP_INTERVAL).await;
    }
}

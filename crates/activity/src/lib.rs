//! The activity role: the feed of what happened in each office, and the logs of its agents.
//!
//! Other roles report events and captured lines, agents append their own; operators and agents list and follow.
//! Events and fresh lines live in the role's database, older lines in object storage.

mod config;
mod feed;
mod grpc;
mod logs;
mod maintenance;
mod offices;
mod packed;
mod removal;
mod span;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use mi_base::Tasks;
use mi_kernel::{Clock, Result};
use mi_store::{Db, Migrations, lease::Lease, step};

pub use config::ActivityConfig;
use feed::Feed;
use logs::Logs;
use maintenance::Maintenance;
use offices::Offices;

const MIGRATIONS: &Migrations = &[
    step!(100, "0100", "activity"),
    step!(101, "0101", "log_offices"),
    step!(102, "0102", "office_wall"),
    step!(110, "0110", "chain"),
    step!(111, "0111", "segments_by_age"),
    step!(120, "0120", "events_age"),
    step!(130, "0130", "feed_blocks"),
];

/// The role, ready to be served.
#[derive(Debug)]
pub struct ActivityRole {
    /// LogService, ActivityService and the internal IngestService and OfficeReplicaService; to be put behind a guard.
    pub routes: tonic::service::Routes,
}

/// The parts of the role, before anything is served.
struct Parts {
    db: Db,
    offices: Offices,
    feed: Feed,
    logs: Logs,
}

impl Parts {
    /// Opens the database, and starts the exchange of changes with other processes and the writer of the logs.
    async fn open(config: &ActivityConfig, clock: &Arc<dyn Clock>, tasks: &Tasks) -> Result<Self> {
        let db = Db::open(&config.db, MIGRATIONS).await?;
        let probed = db.clone();
        tasks.need("database", move || probed.clone().answers());
        tasks.spawn("activity-changes", db.clone().exchange_changes());
        let offices = Offices::new(db.clone());
        let feed = Feed::new(db.clone(), clock.clone(), offices.clone(), config.retention_age);
        let logs = Logs::new(db.clone(), config.objects.clone(), clock.clone(), offices.clone(), tasks);
        Ok(Self { db, offices, feed, logs })
    }

    fn routes(&self, clock: &Arc<dyn Clock>, tasks: &Tasks) -> tonic::service::Routes {
        grpc::routes(&self.db, &self.offices, &self.feed, &self.logs, clock, tasks)
    }
}

/// Opens the role's database, brings it up to date, and starts its background tasks.
///
/// # Errors
/// `Unavailable` when the database cannot be opened, `FailedPrecondition` when a newer binary migrated it.
pub async fn build(config: ActivityConfig, clock: Arc<dyn Clock>, tasks: &Tasks) -> Result<ActivityRole> {
    let parts = Parts::open(&config, &clock, tasks).await?;
    let routes = parts.routes(&clock, tasks);
    let ends = tasks.shutdown().cancelled_owned();
    let lease = Lease::new(parts.db, clock.clone(), "maintenance", maintenance::LEASE);
    let maintenance = lease.until_end(ends, move |lease| {
        let maintenance = Maintenance {
            lease,
            clock,
            feed: parts.feed,
            logs: parts.logs,
            retention_age: config.retention_age,
            retention_bytes: config.retention_bytes,
        };
        maintenance.run()
    });
    tasks.spawn_to_end("activity-maintenance", maintenance);
    Ok(ActivityRole { routes })
}

//! The role's services on the wire. The only module that knows tonic.

mod activity;
mod ingest;
mod logs;
mod replica;

use std::{ops::Range, sync::Arc};

use mi_base::Tasks;
use mi_kernel::{Clock, Result, Time};
use mi_proto::{
    internal::v1::{
        ingest_service_server::IngestServiceServer, office_replica_service_server::OfficeReplicaServiceServer,
    },
    v1::{activity_service_server::ActivityServiceServer, log_service_server::LogServiceServer},
};
use mi_rpc::{compressed, convert};
use mi_store::Db;
use prost_types::Timestamp;
use tonic::service::Routes;

use crate::{feed::Feed, logs::Logs, offices::Offices, removal::Removal, span};

/// Largest request: a batch of log lines with what the encoding adds.
const MAX_REQUEST: usize = 4 << 20;
/// Largest request of another role: batches of several instances.
const MAX_INGEST: usize = 16 << 20;
/// Messages that wait for a client; one holds at most one line or event.
const BUFFER: usize = 64;

/// All services of the role.
pub(crate) fn routes(
    db: &Db,
    offices: &Offices,
    feed: &Feed,
    logs: &Logs,
    clock: &Arc<dyn Clock>,
    tasks: &Tasks,
) -> Routes {
    let (offices, feed, logs, clock) = (offices.clone(), feed.clone(), logs.clone(), clock.clone());
    let removal = Removal { offices: offices.clone(), feed: feed.clone(), logs: logs.clone() };
    let activity = activity::Activity { offices: offices.clone(), feed: feed.clone(), tasks: tasks.clone() };
    let own_logs = logs::LogApi { offices, logs: logs.clone(), clock: clock.clone(), tasks: tasks.clone() };
    let ingest = ingest::Ingest { feed, logs, clock };
    Routes::new(compressed!(ActivityServiceServer::new(activity)))
        .add_service(compressed!(LogServiceServer::new(own_logs).max_decoding_message_size(MAX_REQUEST)))
        .add_service(compressed!(OfficeReplicaServiceServer::new(replica::Replica { db: db.clone(), removal })))
        .add_service(compressed!(IngestServiceServer::new(ingest).max_decoding_message_size(MAX_INGEST)))
}

/// The time span of a request.
fn time_span(start: Option<&Timestamp>, end: Option<&Timestamp>) -> Result<Range<Time>> {
    let start = start.map(|time| convert::time("start_time", time)).transpose()?;
    let end = end.map(|time| convert::time("end_time", time)).transpose()?;
    span::span(start, end)
}

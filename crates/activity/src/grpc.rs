//! The role's services on the wire. The only module that knows tonic.

mod activity;
mod ingest;
mod logs;
mod replica;

use std::{ops::Range, pin::pin, sync::Arc};

use futures::{Stream, StreamExt};
use mi_base::Tasks;
use mi_kernel::{Clock, Result, Time};
use mi_proto::{
    internal::v1::{
        ingest_service_server::IngestServiceServer, office_replica_service_server::OfficeReplicaServiceServer,
    },
    v1::{activity_service_server::ActivityServiceServer, log_service_server::LogServiceServer},
};
use mi_rpc::convert;
use mi_store::Db;
use prost_types::Timestamp;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, codegen::BoxStream, service::Routes};

use crate::{feed::Feed, logs::Logs, offices::Offices, removal::Removal, span};

/// Largest request: a batch of log lines with what the encoding adds.
const MAX_REQUEST: usize = 4 << 20;
/// Largest request of another role: batches of several computes.
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
    Routes::new(ActivityServiceServer::new(activity))
        .add_service(LogServiceServer::new(own_logs).max_decoding_message_size(MAX_REQUEST))
        .add_service(OfficeReplicaServiceServer::new(replica::Replica { db: db.clone(), removal }))
        .add_service(IngestServiceServer::new(ingest).max_decoding_message_size(MAX_INGEST))
}

/// The time span of a request.
fn time_span(start: Option<&Timestamp>, end: Option<&Timestamp>) -> Result<Range<Time>> {
    let start = start.map(|time| convert::time("start_time", time)).transpose()?;
    let end = end.map(|time| convert::time("end_time", time)).transpose()?;
    span::span(start, end)
}

/// Messages for a client, from a task of their own: left to the client's pace, a stream would stop in the middle of a
/// query and keep its connection from everybody else. Ends soon after the client is gone.
fn outgoing<W: Send + 'static>(
    tasks: &Tasks,
    messages: impl Stream<Item = Result<W, Status>> + Send + 'static,
) -> BoxStream<W> {
    let (sender, receiver) = mpsc::channel(BUFFER);
    tasks.spawn("stream", async move {
        let mut messages = pin!(messages);
        loop {
            let message = tokio::select! {
                () = sender.closed() => return,
                message = messages.next() => message,
            };
            let Some(message) = message else { return };
            if sender.send(message).await.is_err() {
                return;
            }
        }
    });
    Box::pin(ReceiverStream::new(receiver))
}

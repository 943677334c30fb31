//! Sends what instances print to the activity role, in batches, each line once.

use std::{collections::HashMap, time::Duration};

use mi_kernel::{InstanceId, backoff::Backoff};
use mi_proto::{
    internal::v1::{AppendCapturedLogsRequest, CapturedLogs, ingest_service_client::IngestServiceClient},
    v1::{LogLine, LogStream},
};
use mi_rpc::{RoleClient, convert::timestamp};
use mi_runtime::{CapturedLine, Output};
use tokio::sync::mpsc;

/// Lines are at most 64 KiB, so a batch stays below the 16 MiB that the activity role takes.
const BATCH_LINES: usize = 200;
/// Writers whose position is kept; beyond, all are forgotten but those of the batch at hand.
const MAX_SOURCES: usize = 20_000;
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(50), most: Duration::from_secs(5) };

/// Ships for ever. While the activity role cannot be reached the channel fills up, and instances wait with printing.
pub(crate) async fn ship(mut lines: mpsc::Receiver<CapturedLine>, ingest: IngestServiceClient<RoleClient>) {
    let mut positions: HashMap<(InstanceId, i32), i64> = HashMap::new();
    let mut received = Vec::with_capacity(BATCH_LINES);
    while lines.recv_many(&mut received, BATCH_LINES).await > 0 {
        if positions.len() > MAX_SOURCES {
            positions.retain(|from, _| received.iter().any(|line| (line.instance, line.run) == *from));
        }
        let request = AppendCapturedLogsRequest { batches: batches(received.drain(..), &mut positions) };
        let mut failures = 0;
        // The same batch until it is taken: the other end leaves out what it has.
        while let Err(status) = ingest.clone().append_captured_logs(request.clone()).await {
            failures += 1;
            tracing::warn!(target: "mi::scheduler", %status, failures, "log lines wait for the activity role");
            tokio::time::sleep(BACKOFF.after(failures)).await;
        }
    }
}

/// Sorts lines by the run of an instance that they come from and numbers them on.
fn batches(
    lines: impl Iterator<Item = CapturedLine>,
    positions: &mut HashMap<(InstanceId, i32), i64>,
) -> Vec<CapturedLogs> {
    let mut batches: Vec<CapturedLogs> = Vec::new();
    let mut places: HashMap<(InstanceId, i32), usize> = HashMap::new();
    for line in lines {
        let from = (line.instance, line.run);
        let position = positions.entry(from).or_insert(0);
        *position += 1;
        let at = *places.entry(from).or_insert_with(|| {
            batches.push(CapturedLogs {
                office_id: line.place.office_id.to_string(),
                agent_id: line.place.agent_id.to_string(),
                agent: line.name.clone(),
                // Apart from the instance's own source, which carries the bare id.
                source: match line.run {
                    0 => format!("{}/out", line.instance),
                    run => format!("{}/out/{run}", line.instance),
                },
                first_index: *position,
                lines: Vec::new(),
            });
            batches.len() - 1
        });
        batches[at].lines.push(LogLine {
            sequence: 0,
            time: Some(timestamp(line.time)),
            stream: match line.output {
                Output::Stdout => LogStream::Stdout,
                Output::Stderr => LogStream::Stderr,
            }
            .into(),
            text: line.text,
        });
    }
    batches
}

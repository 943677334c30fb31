//! Reads what a compute prints, line by line, into the log.

use std::sync::Arc;

use mi_kernel::{Clock, InstanceId};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::Child,
    sync::mpsc,
};

use crate::{CapturedLine, Output, Place};

/// Longest line; what is longer continues on the next one.
const MAX_LINE: usize = 64 << 10;

/// Who prints, and where it goes.
#[derive(Clone)]
pub(super) struct Source {
    pub(super) place: Place,
    pub(super) name: String,
    pub(super) instance: InstanceId,
    pub(super) lines: mpsc::Sender<CapturedLine>,
    pub(super) clock: Arc<dyn Clock>,
}

pub(super) fn start(child: &mut Child, source: &Source) {
    if let Some(stdout) = child.stdout.take() {
        tokio::spawn(read(stdout, Output::Stdout, source.clone()));
    }
    if let Some(stderr) = child.stderr.take() {
        tokio::spawn(read(stderr, Output::Stderr, source.clone()));
    }
}

async fn read(pipe: impl AsyncRead + Unpin, output: Output, source: Source) {
    let mut reader = BufReader::with_capacity(4 << 10, pipe);
    let mut line = Vec::new();
    loop {
        let (ended, used) = match reader.fill_buf().await {
            Ok([]) | Err(_) => (true, 0),
            Ok(bytes) => {
                let room = MAX_LINE - line.len();
                let upto = bytes.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
                let take = upto.unwrap_or(bytes.len()).min(room);
                line.extend_from_slice(&bytes[..take]);
                (false, take)
            }
        };
        reader.consume(used);
        let complete = line.ends_with(b"\n") || line.len() >= MAX_LINE || (ended && !line.is_empty());
        if complete {
            let text = String::from_utf8_lossy(&line);
            let captured = CapturedLine {
                place: source.place,
                name: source.name.clone(),
                instance: source.instance,
                time: source.clock.now(),
                output,
                text: text.trim_end_matches(['\n', '\r']).to_owned(),
            };
            line.clear();
            if source.lines.send(captured).await.is_err() {
                return;
            }
        }
        if ended {
            return;
        }
    }
}

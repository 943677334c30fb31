//! The agent's own log lines on their way to the platform.
//!
//! One batch is under way at a time; what is said meanwhile makes the next one. A batch whose answer was lost is sent
//! again under the same index, which the platform stores once.

use std::{
    collections::VecDeque,
    io::Write,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use mi_client::{Client, jittered};
use mi_kernel::{Clock, SystemClock};
use mi_proto::v1::{AppendLogsRequest, AppendLogsResponse, LogLine, LogStream};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};

use crate::{
    config::AgentConfig,
    retry::{BACKOFF, soon},
};

/// Lines that may wait; what is said beyond them is counted and dropped, never the memory of the machine.
const WAITING: usize = 256;
/// Longest line, a rule of the platform.
pub(crate) const MAX_LINE: usize = 64 << 10;
/// Largest batch, a rule of the platform, less room for what a line carries beside its text.
const MAX_BATCH: usize = 960 << 10;
/// A stream that has nothing to carry is closed after this long: thousands of idle agents hold none.
const LINGER: Duration = Duration::from_secs(5);

/// How long a line may wait for room, if whoever says it can wait.
const PATIENCE: Duration = Duration::from_secs(1);

/// Takes lines; cheap to clone, never blocks.
#[derive(Debug, Clone)]
pub(crate) struct Log {
    lines: mpsc::Sender<LogLine>,
    dropped: Arc<AtomicU64>,
}

impl Log {
    /// Logs a line of the agent's own.
    pub(crate) fn say(&self, mut text: String) {
        text.truncate(text.floor_char_boundary(MAX_LINE));
        // Closed: the shipper has given up and said so.
        if let Err(mpsc::error::TrySendError::Full(_)) = self.lines.try_send(line(LogStream::Agent, text)) {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Passes on a line that a program of the agent printed; waits a moment for room if `patient`. False: there is none.
    pub(crate) async fn pass(&self, stream: LogStream, mut text: String, patient: bool) -> bool {
        text.truncate(text.floor_char_boundary(MAX_LINE));
        let patience = if patient { PATIENCE } else { Duration::ZERO };
        // What is tried without patience is tried once.
        let passed = self.lines.send_timeout(line(stream, text), patience).await;
        let full = matches!(passed, Err(mpsc::error::SendTimeoutError::Timeout(_)));
        if full {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
        !full
    }
}

fn line(stream: LogStream, text: String) -> LogLine {
    let time = prost_types::Timestamp::from(SystemTime::from(SystemClock.now()));
    LogLine { sequence: 0, time: Some(time), stream: stream.into(), text }
}

/// Says on standard error, which the platform captures, what cannot be said by the log itself.
pub(crate) fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

/// Starts the shipper. It ends when the last [`Log`] is gone and every line is durable.
pub(crate) fn start(client: Client, config: &AgentConfig) -> (Log, JoinHandle<()>) {
    let (send, lines) = mpsc::channel(WAITING);
    let dropped = Arc::new(AtomicU64::new(0));
    let shipper = Shipper {
        queue: Queue { lines, dropped: dropped.clone(), over: VecDeque::new() },
        office_id: config.office_id.clone(),
        source: config.instance_id.clone(),
        client,
    };
    let log = Log { lines: send, dropped };
    #[expect(clippy::disallowed_methods, reason = "the agent waits for it at its end")]
    let shipping = tokio::spawn(shipper.run());
    (log, shipping)
}

struct Queue {
    lines: mpsc::Receiver<LogLine>,
    dropped: Arc<AtomicU64>,
    /// Taken out of the channel, but too much for the last batch.
    over: VecDeque<LogLine>,
}

impl Queue {
    /// Waits for a line, then takes all that has piled up; none: nobody is left to say anything.
    async fn batch(&mut self) -> Option<Vec<LogLine>> {
        if self.over.is_empty() {
            self.over.push_back(self.lines.recv().await?);
        }
        while self.over.len() < WAITING
            && let Ok(line) = self.lines.try_recv()
        {
            self.over.push_back(line);
        }
        let dropped = self.dropped.swap(0, Ordering::Relaxed);
        if dropped > 0 {
            self.over.push_back(line(LogStream::Agent, format!("{dropped} log lines were dropped: too many at once")));
        }
        let mut bytes = 0;
        let fits = self.over.iter().take_while(|line| {
            bytes += line.text.len() + 32;
            bytes <= MAX_BATCH
        });
        let count = fits.count();
        Some(self.over.drain(..count).collect())
    }
}

struct Shipper {
    queue: Queue,
    office_id: String,
    source: String,
    client: Client,
}

/// An open call of AppendLogs.
struct Open {
    send: mpsc::Sender<AppendLogsRequest>,
    answers: Streaming<AppendLogsResponse>,
}

impl Shipper {
    async fn run(mut self) {
        let mut open = None;
        let mut first_index = 1;
        loop {
            let waiting = tokio::time::timeout(LINGER, self.queue.batch());
            let batch = match waiting.await {
                Ok(batch) => batch,
                Err(_) => {
                    open = None;
                    self.queue.batch().await
                }
            };
            let Some(lines) = batch else { return };
            let next_index = first_index + lines.len() as i64;
            let request = AppendLogsRequest {
                office_id: self.office_id.clone(),
                source: self.source.clone(),
                first_index,
                lines,
            };
            if let Err(status) = self.deliver(&mut open, request, next_index - 1).await {
                complain(&format!("log lines are no longer shipped: {}", status.message()));
                return;
            }
            first_index = next_index;
        }
    }

    /// Sends a batch until the platform has it. A key that is refused is replaced by the session, or ends it.
    async fn deliver(
        &self,
        open: &mut Option<Open>,
        request: AppendLogsRequest,
        last_index: i64,
    ) -> Result<(), Status> {
        let mut failures = 0;
        loop {
            let Err(status) = self.attempt(open, request.clone(), last_index).await else { return Ok(()) };
            *open = None;
            if !soon(status.code()) && status.code() != Code::Ok {
                return Err(status);
            }
            failures += 1;
            tokio::time::sleep(jittered(BACKOFF.after(failures))).await;
        }
    }

    async fn attempt(
        &self,
        open: &mut Option<Open>,
        request: AppendLogsRequest,
        last_index: i64,
    ) -> Result<(), Status> {
        let ended = || Status::unavailable("the log stream ended");
        let stream = match open {
            Some(stream) => {
                stream.send.send(request).await.map_err(|_| ended())?;
                stream
            }
            None => {
                let (send, requests) = mpsc::channel(1);
                // Queued before the call: the platform may answer the call only once it has seen a message.
                send.send(request).await.map_err(|_| ended())?;
                let answers = self.client.logs().append_logs(ReceiverStream::new(requests)).await?.into_inner();
                open.insert(Open { send, answers })
            }
        };
        while let Some(answer) = stream.answers.message().await? {
            if answer.durable_index >= last_index {
                return Ok(());
            }
        }
        Err(ended())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(capacity: usize) -> (Log, Queue) {
        let (send, lines) = mpsc::channel(capacity);
        let dropped = Arc::new(AtomicU64::new(0));
        let log = Log { lines: send, dropped: dropped.clone() };
        let over = VecDeque::new();
        (log, Queue { lines, dropped, over })
    }

    fn texts(batch: Option<Vec<LogLine>>) -> Vec<String> {
        batch.expect("a batch").into_iter().map(|line| line.text).collect()
    }

    #[tokio::test]
    async fn what_piled_up_goes_together_and_the_end_is_told() {
        let (log, mut queue) = queue(8);
        log.say("a".into());
        log.say("b".into());
        assert_eq!(texts(queue.batch().await), ["a", "b"]);
        log.say("c".into());
        drop(log);
        assert_eq!(texts(queue.batch().await), ["c"]);
        assert_eq!(queue.batch().await, None);
    }

    #[tokio::test]
    async fn too_many_lines_are_counted_not_kept() {
        let (log, mut queue) = queue(2);
        for text in ["a", "b", "c", "d"] {
            log.say(text.into());
        }
        assert_eq!(texts(queue.batch().await), ["a", "b", "2 log lines were dropped: too many at once"]);
    }

    #[tokio::test]
    async fn a_batch_stays_below_the_limit_and_keeps_the_order() {
        let (log, mut queue) = queue(64);
        for index in 0..32 {
            log.say(format!("{index:02}{}", "é".repeat(MAX_LINE)));
        }
        drop(log);
        let mut seen = Vec::new();
        while let Some(batch) = queue.batch().await {
            assert!(batch.iter().map(|line| line.text.len()).sum::<usize>() <= MAX_BATCH);
            assert!(batch.iter().all(|line| line.text.len() <= MAX_LINE));
            seen.extend(batch.into_iter().map(|line| line.text[..2].to_owned()));
        }
        assert_eq!(seen, (0..32).map(|index| format!("{index:02}")).collect::<Vec<_>>());
    }
}

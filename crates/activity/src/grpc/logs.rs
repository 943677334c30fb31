//! `mi.v1.LogService`.

use std::sync::Arc;

use futures::{TryStreamExt, stream};
use mi_base::Tasks;
use mi_kernel::{AgentActor, Clock, Error, Result, page, text};
use mi_proto::v1::{
    AppendLogsRequest, AppendLogsResponse, ListLogsRequest, ListLogsResponse, TailLogsRequest, TailLogsResponse,
    log_service_server::LogService,
};
use mi_rpc::{Caller, Reply, handle, outgoing, status};
use tonic::{Request, Response, Streaming, codegen::BoxStream};

use super::{BUFFER, time_span};
use crate::{
    logs::{Batch, Logs, read::Start, source::Source},
    offices::Offices,
};

const DEFAULT_LINES: i32 = 100;
const DEFAULT_PAST_LINES: i32 = 10;
const MAX_LINES: i32 = 10_000;
/// Text of one batch, line ends included.
const MAX_BATCH: usize = 1 << 20;

/// Logs as agents and their readers see them.
pub(super) struct LogApi {
    pub(super) offices: Offices,
    pub(super) logs: Logs,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) tasks: Tasks,
}

#[tonic::async_trait]
impl LogService for LogApi {
    async fn list_logs(&self, request: Request<ListLogsRequest>) -> Reply<ListLogsResponse> {
        handle!(request, |caller, body| self.list(&caller, body).await?)
    }

    type TailLogsStream = BoxStream<TailLogsResponse>;

    async fn tail_logs(&self, request: Request<TailLogsRequest>) -> Reply<Self::TailLogsStream> {
        handle!(request, |caller, body| self.tail(&caller, body).await?)
    }

    type AppendLogsStream = BoxStream<AppendLogsResponse>;

    async fn append_logs(&self, request: Request<Streaming<AppendLogsRequest>>) -> Reply<Self::AppendLogsStream> {
        let caller = Caller::of(&request)?;
        let appender = Appender {
            caller,
            entered: None,
            offices: self.offices.clone(),
            logs: self.logs.clone(),
            clock: self.clock.clone(),
        };
        // One batch at a time: were a later one stored while an earlier one fails, the earlier one, sent again, would
        // be taken for stored.
        let batches = (appender, request.into_inner());
        let answers = stream::try_unfold(batches, |(mut appender, mut requests)| async move {
            let Some(request) = requests.message().await? else {
                return Ok(None);
            };
            let durable_index = appender.append(request).await.map_err(status)?;
            Ok(Some((AppendLogsResponse { durable_index }, (appender, requests))))
        });
        Ok(Response::new(outgoing(&self.tasks, BUFFER, answers)))
    }
}

impl LogApi {
    async fn list(&self, caller: &Caller, request: ListLogsRequest) -> Result<ListLogsResponse> {
        let office_id = self.offices.enter(caller, &request.office_id).await?.office_id();
        let agent = text::lookup_name("agent", &request.agent)?;
        let limit = page::bounded("limit", request.limit, DEFAULT_LINES, MAX_LINES)?;
        let span = time_span(request.start_time.as_ref(), request.end_time.as_ref())?;
        let lines = self.logs.last(&(office_id, agent), usize::try_from(limit).unwrap_or_default(), span).await?;
        Ok(ListLogsResponse { lines })
    }

    async fn tail(&self, caller: &Caller, request: TailLogsRequest) -> Result<BoxStream<TailLogsResponse>> {
        let office_id = self.offices.enter(caller, &request.office_id).await?.office_id();
        let agent = text::lookup_name("agent", &request.agent)?;
        let start = match (request.after_sequence, request.limit) {
            (Some(sequence), _) if sequence >= 0 => Start::After(sequence),
            (Some(_), _) => {
                return Err(Error::invalid("after_sequence", "must be the sequence of a line, or 0 for the whole log"));
            }
            (None, Some(0)) => Start::Last(0),
            (None, limit) => {
                let limit = page::bounded("limit", limit, DEFAULT_PAST_LINES, MAX_LINES)?;
                Start::Last(usize::try_from(limit).unwrap_or_default())
            }
        };
        let lines = self.logs.follow((office_id, agent), start).await?;
        let messages = lines.map_ok(|line| TailLogsResponse { line: Some(line) });
        Ok(outgoing(&self.tasks, BUFFER, messages.map_err(status)))
    }
}

/// One agent's open call to append.
struct Appender {
    caller: Caller,
    /// The office of the batch before, in which the caller was found to be this agent.
    entered: Option<(String, AgentActor)>,
    offices: Offices,
    logs: Logs,
    clock: Arc<dyn Clock>,
}

impl Appender {
    async fn append(&mut self, request: AppendLogsRequest) -> Result<i64> {
        let agent = self.agent(&request.office_id).await?;
        // Counted before anything is copied.
        if request.lines.iter().map(|line| line.text.len() + 1).sum::<usize>() > MAX_BATCH {
            return Err(Error::invalid("lines", "must have at most 1 MiB together; send them in several batches"));
        }
        let source = Source::Agent(request.source).checked()?;
        let batch = Batch::new(agent, source, request.first_index, request.lines, self.clock.as_ref()).await?;
        self.logs.append(batch).await
    }

    /// Who appends: never what the request says, always who the caller is.
    async fn agent(&mut self, office_id: &str) -> Result<AgentActor> {
        if let Some((entered, agent)) = &self.entered
            && entered == office_id
        {
            return Ok(agent.clone());
        }
        let access = self.offices.enter(&self.caller, office_id).await?;
        let agent = access.agent().ok_or_else(|| Error::denied("only agents append to logs, each to its own"))?;
        self.entered = Some((office_id.to_owned(), agent.clone()));
        Ok(agent.clone())
    }
}

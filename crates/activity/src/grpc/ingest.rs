//! `mi.internal.v1.IngestService`.

use std::{collections::BTreeMap, sync::Arc};

use futures::future::try_join_all;
use mi_kernel::{AgentActor, AgentId, Clock, OfficeId, Result, text};
use mi_proto::internal::v1::{
    AppendCapturedLogsRequest, AppendCapturedLogsResponse, AppendEventsRequest, AppendEventsResponse, CapturedLogs,
    ingest_service_server::IngestService,
};
use mi_rpc::{Reply, convert, handle};
use tonic::Request;

use crate::{
    feed::Feed,
    logs::{Batch, Logs, source::Source},
};

/// What other roles report.
pub(super) struct Ingest {
    pub(super) feed: Feed,
    pub(super) logs: Logs,
    pub(super) clock: Arc<dyn Clock>,
}

#[tonic::async_trait]
impl IngestService for Ingest {
    async fn append_events(&self, request: Request<AppendEventsRequest>) -> Reply<AppendEventsResponse> {
        handle!(request, |_, body| {
            let events = body.events.into_iter().map(convert::event_from_wire);
            let events = events.collect::<Result<_>>()?;
            self.feed.append(events).await?;
            AppendEventsResponse {}
        })
    }

    async fn append_captured_logs(
        &self,
        request: Request<AppendCapturedLogsRequest>,
    ) -> Reply<AppendCapturedLogsResponse> {
        handle!(request, |_, body| {
            self.captured(body.batches).await?;
            AppendCapturedLogsResponse {}
        })
    }
}

impl Ingest {
    async fn captured(&self, batches: Vec<CapturedLogs>) -> Result<()> {
        // Sources side by side, the batches of one in order: see AppendLogs.
        let mut sources: BTreeMap<(AgentId, String), Vec<CapturedLogs>> = BTreeMap::new();
        for batch in batches {
            let agent_id = AgentId::parse(&batch.agent_id)?;
            sources.entry((agent_id, batch.source.clone())).or_default().push(batch);
        }
        try_join_all(sources.into_values().map(async |batches| {
            for batch in batches {
                self.append(batch).await?;
            }
            Ok(())
        }))
        .await
        .map(drop)
    }

    async fn append(&self, batch: CapturedLogs) -> Result<()> {
        let agent = AgentActor {
            office_id: OfficeId::parse(&batch.office_id)?,
            agent_id: AgentId::parse(&batch.agent_id)?,
            name: text::agent_name("agent", &batch.agent)?,
        };
        let source = Source::Compute(batch.source).checked()?;
        let batch = Batch::new(agent, source, batch.first_index, batch.lines, self.clock.as_ref()).await?;
        match self.logs.append(batch).await {
            // The office is removed: its lines go with it, and the sender has nothing to repeat.
            Err(error) if error.kind == mi_kernel::ErrorKind::NotFound => Ok(()),
            other => other.map(drop),
        }
    }
}

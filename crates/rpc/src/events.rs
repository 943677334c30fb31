//! The way of events to the feed.

use mi_kernel::{Result, event::Event};
use mi_proto::internal::v1::{AppendEventsRequest, ingest_service_client::IngestServiceClient};

use crate::{RoleClient, convert, status::from_status};

/// Appends events to the feeds, which the activity role keeps. Cheap to clone.
#[derive(Clone)]
pub struct EventSink(IngestServiceClient<RoleClient>);

impl EventSink {
    /// By calls to the activity role.
    pub fn new(activity: RoleClient) -> Self {
        Self(IngestServiceClient::new(activity))
    }

    /// Appends; those that are there already are left out.
    ///
    /// # Errors
    /// What the activity role answers.
    pub async fn append(mut self, events: Vec<Event>) -> Result<()> {
        let events = events.into_iter().map(convert::event_to_wire).collect();
        self.0.append_events(AppendEventsRequest { events }).await.map_err(|status| from_status(&status))?;
        Ok(())
    }
}

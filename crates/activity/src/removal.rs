//! Takes an office out of everything the role keeps.

use mi_kernel::{OfficeId, Result};

use crate::{feed::Feed, logs::Logs, offices::Offices};

/// Batches of events, and logs, that one call deletes: a call stays short, whatever the size of the office.
const EVENT_BATCHES: usize = 10;
const LOGS: i64 = 50;

/// What knows of offices.
#[derive(Clone)]
pub(crate) struct Removal {
    pub(crate) offices: Offices,
    pub(crate) feed: Feed,
    pub(crate) logs: Logs,
}

impl Removal {
    /// Does a part of the work; none: nothing is left, else what still is. What comes for the office later is dropped.
    pub(crate) async fn remove(&self, office_id: OfficeId) -> Result<Option<&'static str>> {
        self.offices.bury(office_id).await?;
        if !self.feed.remove(office_id, EVENT_BATCHES).await? {
            return Ok(Some("events of the feed"));
        }
        if !self.logs.remove(office_id, LOGS).await? {
            return Ok(Some("logs of agents"));
        }
        Ok(None)
    }
}

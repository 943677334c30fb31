//! How many tasks an office has of each status. The queue's row carries it, and whoever changes tasks has that locked.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// By the statuses' names.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct StatusCounts(BTreeMap<String, i64>);

impl StatusCounts {
    /// One more has this status, or one fewer.
    pub(super) fn add(&mut self, status: &str, count: i64) {
        match self.0.get_mut(status) {
            Some(known) => *known += count,
            None => drop(self.0.insert(status.to_owned(), count)),
        }
    }

    /// How many have this status.
    pub(crate) fn of(&self, status: &str) -> i64 {
        self.0.get(status).copied().unwrap_or_default()
    }

    /// Tasks that are not finished.
    pub(crate) fn open(&self) -> i64 {
        let open = ["blocked", "queued", "running", "verifying"];
        open.into_iter().map(|status| self.of(status)).sum()
    }

    /// Statuses that some task has, with how many have it.
    pub(crate) fn counts(&self) -> impl Iterator<Item = (&str, i64)> {
        self.0.iter().filter(|(_, count)| **count != 0).map(|(status, count)| (status.as_str(), *count))
    }
}

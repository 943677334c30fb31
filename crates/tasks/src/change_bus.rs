//! The change bus: which queues changed, for those who wait for it here and in other processes over one Postgres. Those are
//! notified in batches, and each listens for all offices over one connection.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use mi_kernel::OfficeId;
use mi_store::{DbResult, Heard};
use tokio::sync::Notify;
use uuid::Uuid;

use super::Tasks;

const CHANNEL: &str = "mi_tasks";
/// While changes keep coming, those of this time are told together: the first of them at once.
const COALESCE: Duration = Duration::from_millis(10);
/// Offices in one notification: 37 bytes each, and Postgres takes 8,000.
const MAX_OFFICES: usize = 200;
/// After a failure.
const PAUSE: Duration = Duration::from_secs(1);

/// Offices that something is to be done about, each once however often it was put in.
#[derive(Clone, Default)]
struct Pending(Arc<(Mutex<HashSet<OfficeId>>, Notify)>);

impl Pending {
    fn put(&self, offices: impl IntoIterator<Item = OfficeId>) {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner).extend(offices);
        self.0.1.notify_one();
    }

    /// At most so many of them.
    fn take(&self, most: usize) -> Vec<OfficeId> {
        let mut offices = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        let taken: Vec<OfficeId> = offices.iter().copied().take(most).collect();
        for id in &taken {
            offices.remove(id);
        }
        taken
    }

    /// Waits until something was put in since the last time.
    async fn some(&self) {
        self.0.1.notified().await;
    }
}

/// The offices whose changes other processes are to be notified of.
#[derive(Clone)]
pub(super) struct ChangeBus {
    /// Identifies this process, which passes over its own notifications.
    node: Uuid,
    changed: Pending,
}

impl Default for ChangeBus {
    fn default() -> Self {
        Self { node: Uuid::new_v4(), changed: Pending::default() }
    }
}

impl Tasks {
    /// An office's tasks changed: whoever watches them looks again, here and in other processes.
    pub(crate) fn changed(&self, office_id: OfficeId) {
        self.signals.wake(&office_id);
        if self.db.is_shared() {
            self.change_bus.changed.put([office_id]);
        }
    }

    /// Notifies other processes, for ever.
    pub(super) async fn notify_forever(&self) {
        loop {
            self.change_bus.changed.some().await;
            loop {
                let offices = self.change_bus.changed.take(MAX_OFFICES);
                if offices.is_empty() {
                    break;
                }
                let ids: Vec<String> = offices.iter().map(ToString::to_string).collect();
                let text = format!("{} {}", self.change_bus.node, ids.join(","));
                if let Err(error) = self.db.tell(CHANNEL, &text).await {
                    tracing::warn!(target: "mi::tasks", %error, "other processes could not be told of new work yet");
                    self.change_bus.changed.put(offices);
                    tokio::time::sleep(PAUSE).await;
                }
            }
            tokio::time::sleep(COALESCE).await;
        }
    }

    /// Listens to other processes, for ever.
    pub(super) async fn listen_forever(&self) {
        loop {
            if let Err(error) = self.listen().await {
                tracing::warn!(target: "mi::tasks", %error, "cannot hear of new work from other processes");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn listen(&self) -> DbResult<()> {
        let Some(mut listener) = self.db.listen(CHANNEL).await? else {
            return std::future::pending().await;
        };
        self.look_again();
        loop {
            match listener.next().await? {
                Heard::Gap => self.look_again(),
                Heard::Text(text) => {
                    let Some((node, ids)) = text.split_once(' ') else { continue };
                    if node == self.change_bus.node.to_string() {
                        continue;
                    }
                    for id in ids.split(',').filter_map(|id| OfficeId::parse(id).ok()) {
                        self.signals.wake(&id);
                        self.kick(id);
                    }
                }
            }
        }
    }

    /// Something may have been missed.
    pub(super) fn look_again(&self) {
        self.signals.wake_all(|_| true);
        self.group_commit.waited_for().into_iter().for_each(|id| self.kick(id));
    }
}

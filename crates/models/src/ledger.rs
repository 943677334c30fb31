//! Credits: set aside before a call, settled after it.

use std::{sync::Arc, time::Duration};

use mi_base::Tasks;
use mi_kernel::{Error, ErrorKind, Result, backoff::Backoff};
use mi_proto::internal::v1::{
    ReserveCreditsRequest, SettleCreditsRequest, metering_service_client::MeteringServiceClient,
};
use mi_rpc::{RoleClient, Transport, status::from_status};
use tokio::{sync::Semaphore, time::Instant};

/// How long a settlement may hold the end of an answer up.
const PATIENCE: Duration = Duration::from_secs(2);
/// Settlements that wait for the office role at once. What finds no room is settled when its reservation ends.
const WAITING: usize = 10_000;
const BACKOFF: Backoff = Backoff { first: Duration::from_millis(100), most: Duration::from_secs(10) };

/// Keeps credits in the office role. Clones share what waits.
#[derive(Clone)]
pub(crate) struct Ledger {
    service: MeteringServiceClient<RoleClient>,
    tasks: Tasks,
    waiting: Arc<Semaphore>,
    settled_within: Duration,
}

impl Ledger {
    pub(crate) fn new(office: Transport, own: &'static str, settled_within: Duration, tasks: &Tasks) -> Self {
        Self {
            service: MeteringServiceClient::new(RoleClient::new(office, own)),
            tasks: tasks.clone(),
            waiting: Arc::new(Semaphore::new(WAITING)),
            settled_within,
        }
    }

    /// Sets credits aside, or puts the end of a reservation off. Answers the task that pays; empty: none.
    ///
    /// # Errors
    /// `Exhausted` when they are not there.
    pub(crate) async fn reserve(&self, reservation: ReserveCreditsRequest) -> Result<String> {
        match self.service.clone().reserve_credits(reservation).await {
            Ok(reserved) => Ok(reserved.into_inner().task_id),
            Err(status) => Err(from_status(&status)),
        }
    }

    /// Settles. While the office role is away it is tried again in the background, and the caller goes on.
    pub(crate) async fn settle(&self, settlement: SettleCreditsRequest) {
        match tokio::time::timeout(PATIENCE, self.try_once(settlement.clone())).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) if is_lasting(&error) => refused(&settlement, &error),
            Ok(Err(_)) | Err(_) => self.settle_later(settlement),
        }
    }

    fn settle_later(&self, settlement: SettleCreditsRequest) {
        let Ok(permit) = Arc::clone(&self.waiting).try_acquire_owned() else {
            tracing::warn!(
                target: "mi::models",
                call_id = settlement.call_id,
                "too many settlements wait; this one is settled when its reservation ends"
            );
            return;
        };
        let (ledger, shutdown) = (self.clone(), self.tasks.shutdown());
        self.tasks.spawn_to_end("models-settle", async move {
            let _permit = permit;
            let (started, mut failures) = (Instant::now(), 0);
            loop {
                failures += 1;
                let stopping = tokio::select! {
                    () = tokio::time::sleep(BACKOFF.after(failures)) => false,
                    () = shutdown.cancelled() => true,
                };
                match ledger.try_once(settlement.clone()).await {
                    Ok(()) => return,
                    Err(error) if stopping || is_lasting(&error) || started.elapsed() > ledger.settled_within => {
                        return refused(&settlement, &error);
                    }
                    Err(_) => {}
                }
            }
        });
    }

    async fn try_once(&self, settlement: SettleCreditsRequest) -> Result<()> {
        let settled = self.service.clone().settle_credits(settlement).await;
        settled.map(|_| ()).map_err(|status| from_status(&status))
    }
}

/// Whether the same settlement would be refused again.
fn is_lasting(error: &Error) -> bool {
    !error.retryable() && error.kind != ErrorKind::Internal
}

fn refused(settlement: &SettleCreditsRequest, error: &Error) {
    tracing::error!(
        target: "mi::models",
        call_id = settlement.call_id,
        error = %error.chain(),
        "a call could not be settled; it is when its reservation ends"
    );
}

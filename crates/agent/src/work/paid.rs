//! Whether somebody pays for the model. While nobody does, no work is claimed: it would only be given back.

use std::time::Duration;

use tokio::sync::watch;

use super::SLOW;

/// How often in a row the model was refused for want of credits.
#[derive(Default)]
pub(super) struct Paid(watch::Sender<u32>);

impl Paid {
    /// An answer came.
    pub(super) fn paid(&self) {
        self.0.send_if_modified(|refusals| std::mem::take(refusals) > 0);
    }

    /// The credits or a budget are used up. To be called before the task is given back, so that this agent does not
    /// take it again at once.
    pub(super) fn refused(&self) {
        self.0.send_modify(|refusals| *refusals = refusals.saturating_add(1));
    }

    /// Whether the model was not refused last.
    pub(super) fn pays(&self) -> bool {
        *self.0.borrow() == 0
    }

    /// Where to hear of refusals.
    pub(super) fn refusals(&self) -> Refusals {
        Refusals(self.0.subscribe())
    }
}

/// Refusals that were not heard of yet.
pub(super) struct Refusals(watch::Receiver<u32>);

impl Refusals {
    /// Waits for one: how long not to ask for work after it, before jitter.
    pub(super) async fn next(&mut self) -> Duration {
        loop {
            // The other end lives as long as what is shared by all work.
            if self.0.changed().await.is_err() {
                return std::future::pending().await;
            }
            let refusals = *self.0.borrow_and_update();
            if refusals > 0 {
                return SLOW.after(refusals);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn refusals_in_a_row_make_longer_and_longer_pauses() {
        let paid = Paid::default();
        let mut refusals = paid.refusals();
        let mut pauses = Vec::new();
        for _ in 0..3 {
            paid.refused();
            pauses.push(refusals.next().await.as_secs());
        }
        paid.paid();
        paid.refused();
        pauses.push(refusals.next().await.as_secs());
        assert_eq!(pauses, [5, 10, 20, 5]);
    }
}

//! The operations of one office that wait for a transaction.

use std::collections::VecDeque;

use super::{PendingOp, TaskCommand};

/// Bytes that one transaction takes in, unless its first operation is more: it holds up the office, and on SQLite
/// everybody.
pub(super) const MAX_BATCH_BYTES: usize = 8 << 20;

/// What is asked of the queue of one office.
#[derive(Default)]
pub(super) struct PendingOps {
    pub(super) ops: VecDeque<PendingOp>,
    /// Claims that found nothing, in the order in which they came.
    pub(super) waiting: Vec<PendingOp>,
    /// Whether they are to look again: another process may have something for them.
    pub(super) kicked: bool,
    /// Whether they will be kicked, since a transaction failed.
    pub(super) retries: bool,
    pub(super) running: bool,
}

impl PendingOps {
    /// Adds to what is to be done. What nobody waits for comes first: time has passed already.
    pub(super) fn push(&mut self, op: PendingOp) {
        match op.command {
            TaskCommand::Expire(_) => self.ops.push_front(op),
            // One is enough.
            TaskCommand::Settle if self.ops.iter().any(|op| matches!(op.command, TaskCommand::Settle)) => {}
            _ => self.ops.push_back(op),
        }
    }

    /// Takes out what one transaction does.
    pub(super) fn pop(&mut self) -> Vec<PendingOp> {
        let mut cost = 0;
        let fits = |op: &&PendingOp| {
            let is_first = cost == 0;
            cost += op.command.cost();
            is_first || cost <= MAX_BATCH_BYTES
        };
        let count = self.ops.iter().take_while(fits).count();
        self.ops.drain(..count).collect()
    }
}

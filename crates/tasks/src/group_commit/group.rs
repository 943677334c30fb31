//! What shares a transaction, and how it is parted when something of it is at fault.

use super::PendingOp;

/// What shares a transaction. Where a fault of ours shows in it, such as a row that cannot be read or a panic, it is
/// halved until what is at fault is alone: that one hears of it, and everything else is done.
pub(super) struct Group {
    pub(super) ops: Vec<PendingOp>,
    /// Claims that found nothing before.
    pub(super) waiting: Vec<PendingOp>,
    /// Whether they are to look again.
    pub(super) kicked: bool,
}

impl Group {
    pub(super) fn len(&self) -> usize {
        self.ops.len() + self.waiting.len()
    }

    /// The two halves, the later one first. Claims that wait look again by themselves, after everything else.
    pub(super) fn halves(mut self) -> [Self; 2] {
        let waits = self.ops.is_empty();
        let later = match waits {
            true => Self { ops: Vec::new(), waiting: self.waiting.split_off(self.waiting.len() / 2), kicked: true },
            false if self.waiting.is_empty() => {
                let ops = self.ops.split_off(self.ops.len() / 2);
                Self { ops, waiting: Vec::new(), kicked: false }
            }
            false => Self { ops: Vec::new(), waiting: std::mem::take(&mut self.waiting), kicked: true },
        };
        [later, Self { kicked: waits, ..self }]
    }
}

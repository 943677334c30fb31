//! Bytes that a process holds for all offices together: uploads that are received, and what waits in queues.
//!
//! An office may hold as much as is left for everybody: alone a half, beside another one a third, and so on. However much
//! one asks for, the next one finds room.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use mi_kernel::OfficeId;

/// A number of bytes that offices share. Clones share it, too.
#[derive(Clone)]
pub struct Budget {
    most: usize,
    held: Arc<Mutex<Held>>,
}

#[derive(Default)]
struct Held {
    all: usize,
    by_office: HashMap<OfficeId, usize>,
}

impl Budget {
    /// At most so many bytes at a time.
    pub fn new(most: usize) -> Self {
        Self { most, held: Arc::default() }
    }

    // The sums are right between any two statements.
    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A share for an office, of nothing yet.
    pub fn share(&self, office_id: OfficeId) -> Share {
        Share { budget: self.clone(), office_id, bytes: 0 }
    }

    /// A share of so many bytes; none: there is no room.
    pub fn take(&self, office_id: OfficeId, bytes: usize) -> Option<Share> {
        let mut share = self.share(office_id);
        share.grow(bytes).then_some(share)
    }
}

/// What is held for an office; given back when it is dropped.
pub struct Share {
    budget: Budget,
    office_id: OfficeId,
    bytes: usize,
}

impl Share {
    /// How much it is.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Adds to it; false: there is no room.
    pub fn grow(&mut self, bytes: usize) -> bool {
        let mut held = self.budget.lock();
        let own = held.by_office.get(&self.office_id).copied().unwrap_or_default();
        let left = self.budget.most.saturating_sub(held.all.saturating_add(bytes));
        if bytes > 0 && own.saturating_add(bytes) > left {
            return false;
        }
        if bytes > 0 {
            held.by_office.insert(self.office_id, own + bytes);
            held.all += bytes;
            self.bytes += bytes;
        }
        true
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.budget.lock();
        held.all -= self.bytes;
        if let Some(own) = held.by_office.get_mut(&self.office_id) {
            *own -= self.bytes;
            if *own == 0 {
                held.by_office.remove(&self.office_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_comes_next_finds_room_and_together_they_hold_no_more_than_there_is() {
        let budget = Budget::new(1200);
        let offices: Vec<OfficeId> = (0..20).map(|_| OfficeId::new()).collect();
        let mut shares = Vec::new();
        for (place, office) in offices.iter().enumerate() {
            // As much as there is for it, byte by byte.
            let mut share = budget.share(*office);
            while share.grow(1) {}
            assert!(share.bytes > 0 || place > 9, "{place} found no room");
            assert!(budget.lock().all <= 1200);
            shares.push(share);
        }
        assert_eq!([shares[0].bytes, shares[1].bytes, shares[2].bytes], [600, 300, 150]);
        assert!(budget.take(offices[0], 1).is_none(), "it has its part");
        drop(shares);
        let held = budget.lock();
        assert_eq!((held.all, held.by_office.len()), (0, 0));
    }

    #[test]
    fn what_does_not_fit_leaves_the_share_as_it_was() {
        let (budget, office) = (Budget::new(100), OfficeId::new());
        let mut share = budget.take(office, 40).expect("fits");
        assert!(!share.grow(11) && share.grow(10) && !share.grow(usize::MAX));
        assert!(budget.take(office, 1).is_none());
        let other = budget.take(OfficeId::new(), 25).expect("fits");
        drop(share);
        assert_eq!(budget.lock().all, 25);
        drop(other);
        assert!(budget.take(office, 50).is_some());
    }
}

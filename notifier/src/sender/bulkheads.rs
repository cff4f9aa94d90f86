//! Bulkheads: reserved concurrency per priority class, against head-of-line blocking.

use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::Notify;

use crate::notice::Urgency;
use platform::sync::MutexExt as _;

const CLASSES: usize = Urgency::ALL.len();

/// The permits of one channel. A share is reserved for each class, so that its messages
/// start at once while another class has a backlog; the rest are taken first come, first served.
pub(super) struct Bulkheads {
    total: usize,
    /// Slots reserved for each class.
    reserved: [usize; CLASSES],
    taken: Mutex<[usize; CLASSES]>,
    /// Wakes the send loop.
    freed: Notify,
    /// Wakes all that wait in [`Bulkheads::acquire`].
    available: Notify,
}

/// Slots taken ahead of a claim, as an iterator of them. Those left over are released without
/// waking the send loop, which is the one that reserved them.
pub(super) struct Reserved {
    bulkheads: Arc<Bulkheads>,
    urgency: Urgency,
    left: usize,
}

/// Guard of one message in flight; dropping it returns the permit.
pub(super) struct Permit {
    bulkheads: Arc<Bulkheads>,
    urgency: Urgency,
}

impl Bulkheads {
    /// Creates `total` permits. A quarter is reserved for the most urgent class and an eighth for
    /// each of the others, at least one each if there are enough.
    pub(super) fn new(total: usize) -> Arc<Self> {
        let share = |part: usize| (total / part).max(usize::from(total >= CLASSES));
        Arc::new(Self {
            total,
            reserved: [share(4), share(8), share(8)],
            taken: Mutex::default(),
            freed: Notify::new(),
            available: Notify::new(),
        })
    }

    fn free_in(&self, taken: &[usize; CLASSES], urgency: Urgency) -> usize {
        let others = (0..CLASSES).filter(|class| *class != urgency as usize);
        let reserved: usize = others
            .map(|class| self.reserved[class].saturating_sub(taken[class]))
            .sum();
        let under_way: usize = taken.iter().sum();
        self.total.saturating_sub(under_way + reserved)
    }

    /// Takes up to `most` of the permits available to a class.
    pub(super) fn reserve(self: &Arc<Self>, urgency: Urgency, most: usize) -> Reserved {
        let mut taken = self.lock();
        let left = self.free_in(&taken, urgency).min(most);
        taken[urgency as usize] += left;
        drop(taken);
        Reserved {
            bulkheads: Arc::clone(self),
            urgency,
            left,
        }
    }

    /// Waits for a permit of a class.
    pub(super) async fn acquire(self: &Arc<Self>, urgency: Urgency) -> Permit {
        loop {
            // Before the look, so that no release in between is missed.
            let available = self.available.notified();
            if let Some(permit) = self.reserve(urgency, 1).next() {
                return permit;
            }
            available.await;
        }
    }

    /// Returns true if no permit is taken.
    pub(super) fn are_empty(&self) -> bool {
        self.lock().iter().all(|taken| *taken == 0)
    }

    /// Completes once a permit was returned since the last call.
    pub(super) async fn freed(&self) {
        self.freed.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, [usize; CLASSES]> {
        self.taken.lock_unpoisoned()
    }
}

impl Reserved {
    /// The number of permits left.
    pub(super) fn left(&self) -> usize {
        self.left
    }
}

impl Iterator for Reserved {
    type Item = Permit;

    fn next(&mut self) -> Option<Permit> {
        self.left = self.left.checked_sub(1)?;
        Some(Permit {
            bulkheads: Arc::clone(&self.bulkheads),
            urgency: self.urgency,
        })
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if self.left > 0 {
            self.bulkheads.lock()[self.urgency as usize] -= self.left;
            self.bulkheads.available.notify_waiters();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.bulkheads.lock()[self.urgency as usize] -= 1;
        self.bulkheads.freed.notify_one();
        self.bulkheads.available.notify_waiters();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_of_one_class_leaves_permits_for_the_others() {
        let bulkheads = Bulkheads::new(16);
        let all = |urgency| bulkheads.reserve(urgency, usize::MAX);
        let mut news: Vec<_> = all(Urgency::News).collect();
        assert_eq!(news.len(), 10);
        let held: Vec<_> = all(Urgency::Deadline).collect();
        assert_eq!((held.len(), all(Urgency::Ticket).left()), (2, 4));
        drop(news.pop());
        assert_eq!(all(Urgency::Ticket).left(), 5);
    }

    #[test]
    fn permits_reserved_and_not_used_are_free_again() {
        let bulkheads = Bulkheads::new(16);
        let mut reserved = bulkheads.reserve(Urgency::Ticket, 3);
        let used = reserved.next();
        drop(reserved);
        assert_eq!(bulkheads.reserve(Urgency::Ticket, usize::MAX).left(), 11);
        drop(used);
        assert!(bulkheads.are_empty());
    }

    #[test]
    fn a_single_permit_serves_every_class() {
        let bulkheads = Bulkheads::new(1);
        for urgency in Urgency::ALL {
            let reserved = bulkheads.reserve(urgency, usize::MAX);
            assert_eq!(reserved.left(), 1);
            let is_full = |other| bulkheads.reserve(other, 1).left() == 0;
            assert!(Urgency::ALL.into_iter().all(is_full));
            drop(reserved);
        }
        assert!(bulkheads.are_empty());
    }
}

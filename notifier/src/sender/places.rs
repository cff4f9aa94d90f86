//! Bulkheads: reserved concurrency per priority class, against head-of-line blocking.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::notice::Urgency;

const CLASSES: usize = Urgency::ALL.len();

/// The concurrency slots of one channel. A share is reserved for each class, so that its messages
/// start at once while another class has a backlog; the rest are taken first come, first served.
pub(super) struct Places {
    total: usize,
    /// Slots reserved for each class.
    kept: [usize; CLASSES],
    taken: Mutex<[usize; CLASSES]>,
    freed: Notify,
}

/// Guard of a slot; dropping it frees the slot.
pub(super) struct Place {
    places: Arc<Places>,
    urgency: Urgency,
}

impl Places {
    /// Creates `total` slots. A quarter is reserved for the most urgent class and an eighth for
    /// each of the others, at least one each if there are enough.
    pub(super) fn new(total: usize) -> Arc<Self> {
        let share = |part: usize| (total / part).max(usize::from(total >= CLASSES));
        Arc::new(Self {
            total,
            kept: [share(4), share(8), share(8)],
            taken: Mutex::default(),
            freed: Notify::new(),
        })
    }

    /// Returns the number of slots available to a class.
    pub(super) fn free_for(&self, urgency: Urgency) -> usize {
        self.free_in(&self.lock(), urgency)
    }

    fn free_in(&self, taken: &[usize; CLASSES], urgency: Urgency) -> usize {
        let others = (0..CLASSES).filter(|class| *class != urgency as usize);
        let kept: usize = others
            .map(|class| self.kept[class].saturating_sub(taken[class]))
            .sum();
        let under_way: usize = taken.iter().sum();
        self.total.saturating_sub(under_way + kept)
    }

    /// Acquires a slot. The caller must be the channel's only sender and have checked that one is
    /// free.
    pub(super) fn take(self: &Arc<Self>, urgency: Urgency) -> Place {
        self.lock()[urgency as usize] += 1;
        Place {
            places: Arc::clone(self),
            urgency,
        }
    }

    /// Returns true if no slot is taken.
    pub(super) fn are_empty(&self) -> bool {
        self.lock().iter().all(|taken| *taken == 0)
    }

    /// Completes once a slot was freed since the last call.
    pub(super) async fn freed(&self) {
        self.freed.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, [usize; CLASSES]> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.lock()[self.urgency as usize] -= 1;
        self.places.freed.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backlog_of_one_class_leaves_places_for_the_others() {
        let places = Places::new(16);
        let mut news = Vec::new();
        while places.free_for(Urgency::News) > 0 {
            news.push(places.take(Urgency::News));
        }
        assert_eq!(news.len(), 10);
        let held: Vec<_> = (0..places.free_for(Urgency::Deadline))
            .map(|_| places.take(Urgency::Deadline))
            .collect();
        assert_eq!((held.len(), places.free_for(Urgency::Ticket)), (2, 4));
        drop(news.pop());
        assert_eq!(places.free_for(Urgency::Ticket), 5);
    }

    #[test]
    fn a_single_place_serves_every_class() {
        let places = Places::new(1);
        for urgency in Urgency::ALL {
            assert_eq!(places.free_for(urgency), 1);
            let place = places.take(urgency);
            assert!(
                Urgency::ALL
                    .iter()
                    .all(|other| places.free_for(*other) == 0)
            );
            drop(place);
        }
        assert!(places.are_empty());
    }
}

//! Bulkheads: how many messages of each class may be under way at once.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::notice::Urgency;

const CLASSES: usize = Urgency::ALL.len();

/// The places of one channel. Some are kept free for each class, so that a message of one class
/// begins at once while another has a backlog; the rest go to whoever comes.
pub(super) struct Places {
    total: usize,
    /// What is kept for each class, whatever the others have to send.
    kept: [usize; CLASSES],
    taken: Mutex<[usize; CLASSES]>,
    freed: Notify,
}

/// A message that is under way; dropping it frees the place.
pub(super) struct Place {
    places: Arc<Places>,
    urgency: Urgency,
}

impl Places {
    /// With up to `total` messages under way. A quarter is kept for what is most urgent, an eighth
    /// for each of the others: at least one for each class where there are that many.
    pub(super) fn new(total: usize) -> Arc<Self> {
        let share = |part: usize| (total / part).max(usize::from(total >= CLASSES));
        Arc::new(Self {
            total,
            kept: [share(4), share(8), share(8)],
            taken: Mutex::default(),
            freed: Notify::new(),
        })
    }

    /// How many more messages of this class may begin.
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

    /// Takes a place. Only the one sender of a channel takes places, and no more than are free.
    pub(super) fn take(self: &Arc<Self>, urgency: Urgency) -> Place {
        self.lock()[urgency as usize] += 1;
        Place {
            places: Arc::clone(self),
            urgency,
        }
    }

    /// Whether nothing is under way.
    pub(super) fn are_empty(&self) -> bool {
        self.lock().iter().all(|taken| *taken == 0)
    }

    /// Returns when a place was freed since the last time.
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

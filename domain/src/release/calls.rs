//! Places that were called and have not claimed.

use std::collections::{HashMap, HashSet, VecDeque};

use chrono::{DateTime, TimeDelta, Utc};

use crate::Place;
use crate::line::Run;

/// A called place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Call {
    /// When it was called.
    pub(super) at: DateTime<Utc>,
    /// Whether it tried to claim, and entered the ready line.
    pub(super) has_arrived: bool,
}

#[derive(Debug, Clone, Default)]
pub(super) struct Calls {
    open: HashMap<Place, Call>,
    /// Calls by time, oldest first.
    queue: VecDeque<(DateTime<Utc>, Vec<Run>)>,
    /// Their claim window expired while they were in the ready line.
    late: Vec<Place>,
    ready: HashSet<Place>,
}

impl Calls {
    pub(super) fn add(&mut self, at: DateTime<Utc>, runs: &[Run]) {
        for place in runs.iter().flat_map(|run| run.places()) {
            let has_arrived = false;
            self.open.insert(place, Call { at, has_arrived });
        }
        if !runs.is_empty() {
            self.queue.push_back((at, runs.to_vec()));
        }
    }

    /// Removes and returns the call of a place that claimed, left or missed it.
    pub(super) fn remove(&mut self, place: Place) -> Option<Call> {
        self.ready.remove(&place);
        self.open.remove(&place)
    }

    /// Replaces the ready line. Returns the call times of new arrivals.
    pub(super) fn set_ready(&mut self, places: &[Place]) -> Vec<DateTime<Utc>> {
        self.ready.clear();
        let mut came = Vec::new();
        for place in places {
            let Some(call) = self.open.get_mut(place) else {
                continue;
            };
            self.ready.insert(*place);
            if !std::mem::replace(&mut call.has_arrived, true) {
                came.push(call.at);
            }
        }
        came
    }

    /// Returns whether `place` was called at `at` and has not claimed.
    pub(super) fn is_called_at(&self, place: Place, at: DateTime<Utc>) -> bool {
        self.open.get(&place).is_some_and(|call| call.at == at)
    }

    /// Length of the ready line.
    pub(super) fn ready(&self) -> usize {
        self.ready.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// Places called at or before `now - window` that neither claimed nor wait to.
    pub(super) fn expire(&mut self, now: DateTime<Utc>, window: TimeDelta) -> Vec<Place> {
        let mut over = std::mem::take(&mut self.late);
        while self
            .queue
            .front()
            .is_some_and(|(at, _)| now - *at >= window)
        {
            let (_, runs) = self.queue.pop_front().expect("there is a first");
            over.extend(runs.iter().flat_map(|run| run.places()));
        }
        over.retain(|place| self.open.contains_key(place));
        let (late, missed) = over
            .into_iter()
            .partition(|place| self.ready.contains(place));
        self.late = late;
        for place in &missed {
            self.open.remove(place);
        }
        missed
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::tests::at;

    fn called() -> Calls {
        let mut calls = Calls::default();
        let run = |first, last| Run {
            first: Place(first),
            last: Place(last),
        };
        calls.add(at(0), &[run(1, 3)]);
        calls.add(at(250), &[run(4, 4)]);
        calls
    }

    #[test]
    fn a_call_is_of_one_moment() {
        let calls = called();
        assert!(calls.is_called_at(Place(3), at(0)) && calls.is_called_at(Place(4), at(250)));
        assert!(!calls.is_called_at(Place(3), at(250)) && !calls.is_called_at(Place(5), at(0)));
    }

    #[test]
    fn a_place_in_the_ready_line_arrives_once() {
        let mut calls = called();
        let ready = [1, 4, 9].map(Place);
        assert_eq!(calls.set_ready(&ready), [at(0), at(250)]);
        assert_eq!((calls.ready(), calls.set_ready(&ready).len()), (2, 0));
        calls.remove(Place(4));
        assert_eq!(calls.ready(), 1);
        assert!(calls.set_ready(&[]).is_empty());
        assert_eq!(calls.ready(), 0);
    }

    #[test]
    fn a_place_in_the_ready_line_is_no_no_show() {
        let mut calls = called();
        let window = TimeDelta::seconds(60);
        calls.set_ready(&[Place(2)]);
        assert_eq!(calls.expire(at(59_999), window), []);
        assert_eq!(calls.expire(at(60_000), window), [1, 3].map(Place));
        assert_eq!(calls.expire(at(60_250), window), [Place(4)]);
        calls.set_ready(&[]);
        assert_eq!(calls.expire(at(60_500), window), [Place(2)]);
        assert!(calls.is_empty());
    }
}

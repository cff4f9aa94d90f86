//! Allowed silence of each place before it counts as absent, by the poll interval published when it
//! may have polled last.
//!
//! Poll intervals grow with the people ahead, so the places with a given allowance are all those up
//! to one place. A table of these places is stored for each second in which somebody may have
//! polled last, and the most patient one counts.

use std::collections::VecDeque;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::presence::depth;
use crate::Place;
use crate::ahead::Steps;
use crate::queue::{PlaceState, SEEN_SLOTS, Wait, poll_after_ms, silence};

/// Retention of presence, in slots: a place with a longer allowance always counts as present.
#[expect(clippy::cast_possible_truncation, reason = "some dozens")]
const DEPTHS: usize = SEEN_SLOTS.unsigned_abs() as usize;
/// Sampling interval of the published waits.
const NOTED: TimeDelta = TimeDelta::seconds(1);
/// Polls come late by as much.
const LATE: Duration = Duration::from_secs(4);
/// Upper bound of the poll interval of a called place, with a margin.
const LONGEST_PAUSE: TimeDelta = TimeDelta::seconds(40);
/// More people than ever wait.
const MOST_PEOPLE: i64 = 1 << 40;

/// The last place that may be silent for `n + 1` slots at most, at index n. Never falls.
type Reach = [i64; DEPTHS];

#[derive(Debug, Clone)]
struct Sample {
    at: DateTime<Utc>,
    /// Until when somebody may act on it.
    until: DateTime<Utc>,
    reach: Reach,
    /// Slots of silence allowed to the foremost place.
    front: usize,
}

/// Recently published waits.
#[derive(Debug, Clone, Default)]
pub(super) struct Patience {
    samples: VecDeque<Sample>,
}

impl Patience {
    /// Samples the waits published at `now`: `wait` returns the wait by the number of people ahead,
    /// and `steps` has that number by place; places after `last` joined since.
    pub(super) fn sample(
        &mut self,
        now: DateTime<Utc>,
        steps: &Steps,
        last: Place,
        wait: impl Fn(i64) -> Wait,
    ) {
        self.samples.retain(|sample| now < sample.until);
        if self
            .samples
            .back()
            .is_some_and(|sample| now - sample.at < NOTED)
        {
            return;
        }
        let total = steps.of(Place(last.0 + 1));
        let depth_at = |people| depth(silence(wait(people)));
        let reach = std::array::from_fn(|n| {
            let people = most_with(n + 1, depth_at);
            match people {
                None => i64::MIN,
                Some(people) if people >= MOST_PEOPLE => i64::MAX,
                Some(people) if people >= total => last.0 + 1 + people - total,
                Some(people) => steps.place_behind(people).map_or(last.0, |place| place.0),
            }
        });
        let longest = poll_after_ms(PlaceState::Waiting, wait(total), 1.0);
        let longest = Duration::from_millis(longest.into()) + LATE;
        self.samples.push_back(Sample {
            at: now,
            until: now + longest,
            reach,
            front: depth_at(0),
        });
    }

    /// Time until a called place learns of its call: the longest published poll interval, with a
    /// margin.
    pub(super) fn hears_within(&self) -> TimeDelta {
        let pauses = self.samples.iter().map(|sample| sample.until - sample.at);
        pauses.max().unwrap_or_default().min(LONGEST_PAUSE)
    }

    /// Slots of silence allowed to a called place. Not more than in a line that stands: a lobby
    /// that opens early had poll intervals of two minutes, and misses no call meanwhile.
    pub(super) fn front(&self) -> usize {
        let fronts = self.samples.iter().map(|sample| sample.front);
        fronts.max().unwrap_or_else(standing).min(standing())
    }

    /// Slots of silence allowed to each place.
    pub(super) fn depths(&self) -> Depths {
        let mut reach = [i64::MAX; DEPTHS];
        if self.samples.is_empty() {
            reach[..standing() - 1].fill(i64::MIN);
        }
        for sample in &self.samples {
            for (least, one) in reach.iter_mut().zip(sample.reach) {
                *least = one.min(*least);
            }
        }
        Depths(reach)
    }
}

fn standing() -> usize {
    depth(silence(Wait::Standing))
}

/// The most people that somebody may have before them who may be silent for `depth` slots at most.
fn most_with(depth: usize, depth_at: impl Fn(i64) -> usize) -> Option<i64> {
    if depth_at(0) > depth {
        return None;
    }
    let (mut least, mut most) = (0, MOST_PEOPLE);
    while least < most {
        let middle = least + (most - least + 1) / 2;
        if depth_at(middle) <= depth {
            least = middle;
        } else {
            most = middle - 1;
        }
    }
    Some(least)
}

/// Slots of silence allowed to each place.
#[derive(Debug, Clone, Copy)]
pub(super) struct Depths(Reach);

impl Depths {
    /// The slots of `place`; `None` when it counts as present whatever was seen.
    fn of(&self, place: i64) -> Option<usize> {
        let shorter = self.0.partition_point(|reach| *reach < place);
        (shorter < DEPTHS).then_some(shorter + 1)
    }

    /// Of the 64 places from `start` on, a bit each: who was `seen` within the slots they may be
    /// silent. `seen` has those seen in so many of the last slots, `None` everybody.
    pub(super) fn present(&self, start: i64, seen: impl Fn(Option<usize>) -> u64) -> u64 {
        let (mut at, end) = (start, start + 63);
        let mut present = 0;
        while at <= end {
            let depth = self.of(at);
            let last = depth.map_or(end, |depth| self.0[depth - 1].min(end));
            let bits = u64::MAX << (at - start) & u64::MAX >> (end - last);
            present |= seen(depth) & bits;
            at = last + 1;
        }
        present
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ahead::Ahead;
    use crate::queue::Pace;
    use crate::release::tests::at;

    fn pace(per_second: u32) -> impl Fn(i64) -> Wait {
        let pace = Pace {
            p50_per_hour: per_second * 3_600,
            p90_per_hour: per_second * 3_600,
        };
        move |people| Wait::Call(pace.eta(people))
    }

    fn steps(people: i64) -> Steps {
        Ahead::count(Place(1), Place(people), (1..=people).map(Place)).steps()
    }

    /// The allowance of a place by its own poll interval.
    fn own(wait: &impl Fn(i64) -> Wait, place: i64) -> Option<usize> {
        let own = depth(silence(wait(place - 1)));
        (own <= DEPTHS).then_some(own)
    }

    #[test]
    fn every_place_may_be_silent_as_long_as_it_was_told_itself() {
        let wait = pace(1);
        let mut patience = Patience::default();
        patience.sample(at(0), &steps(60), Place(60), &wait);
        for place in 1..=400 {
            assert_eq!(patience.depths().of(place), own(&wait, place), "{place}");
        }
        assert_eq!(patience.front(), depth(Duration::from_secs(6)));
    }

    #[test]
    fn what_was_told_counts_until_it_was_acted_on() {
        let mut patience = Patience::default();
        let (slow, quick) = (pace(1), pace(100));
        patience.sample(at(0), &steps(200), Place(200), &slow);
        patience.sample(at(1_000), &steps(200), Place(200), &quick);
        let depth_of = |patience: &Patience| patience.depths().of(200);
        assert_eq!(depth_of(&patience), own(&slow, 200));
        // 20 s and a fifth, and some.
        patience.sample(at(28_000), &steps(200), Place(200), &quick);
        assert_eq!(depth_of(&patience), own(&slow, 200));
        patience.sample(at(29_000), &steps(200), Place(200), &quick);
        assert_eq!(depth_of(&patience), own(&quick, 200));
    }

    #[test]
    fn who_may_be_silent_for_longer_than_presence_is_kept_is_present() {
        let mut patience = Patience::default();
        let opening = |_| Wait::Opening(Duration::from_secs(3_600));
        patience.sample(at(0), &steps(10), Place(10), opening);
        assert_eq!(patience.depths().of(3), None);
        let seen = |depth: Option<usize>| if depth.is_none() { 0b1010 } else { 0 };
        assert_eq!(patience.depths().present(0, seen), 0b1010);
        assert_eq!(patience.front(), standing(), "but is not called unseen");
    }

    #[test]
    fn a_word_is_parted_where_patience_changes() {
        let mut reach = [i64::MAX; DEPTHS];
        (reach[0], reach[1]) = (-5, 65);
        // Places 64 and 65 for two slots, those after them for three.
        let seen = |depth: Option<usize>| match depth {
            Some(2) => u64::MAX,
            Some(3) => 1 << 2 | 1 << 63,
            _ => panic!("{depth:?}"),
        };
        assert_eq!(Depths(reach).present(64, seen), 0b111 | 1 << 63);
    }
}

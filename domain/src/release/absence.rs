//! Absence timeouts: the silence after which each place counts as absent, by the poll interval that
//! was published when it may have polled last.
//!
//! Poll intervals grow with the people ahead, so the places with a given timeout are all those up
//! to one place. A table of these places is stored for each second in which somebody may have
//! polled last, and the longest timeout counts.

use std::collections::VecDeque;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};

use super::presence::depth;
use crate::Place;
use crate::ahead::Steps;
use crate::queue::{PlaceState, SEEN_SLOTS, Wait, absence_timeout, poll_after_ms};

/// Retention of presence, in slots: a place with a longer timeout always counts as present.
#[expect(clippy::cast_possible_truncation, reason = "some dozens")]
const DEPTHS: usize = SEEN_SLOTS.unsigned_abs() as usize;
/// Sampling interval of the published waits.
const SAMPLE_PERIOD: TimeDelta = TimeDelta::seconds(1);
/// Allowed delay of a poll.
const POLL_MARGIN: Duration = Duration::from_secs(4);
/// Upper bound of the poll interval of a called place, with a margin.
const MAX_NOTICE_DELAY: TimeDelta = TimeDelta::seconds(40);
/// Upper bound of the people who wait.
const MAX_PEOPLE: i64 = 1 << 40;

/// At index n, the last place that may be silent for `n + 1` slots at most. Never falls.
type Reach = [i64; DEPTHS];

#[derive(Debug, Clone)]
struct Sample {
    at: DateTime<Utc>,
    /// End of the longest poll interval that followed from it.
    until: DateTime<Utc>,
    reach: Reach,
    /// Slots of silence allowed to the foremost place.
    front: usize,
}

/// Recently published waits.
#[derive(Debug, Clone, Default)]
pub(super) struct AbsenceTimeouts {
    samples: VecDeque<Sample>,
}

impl AbsenceTimeouts {
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
            .is_some_and(|sample| now - sample.at < SAMPLE_PERIOD)
        {
            return;
        }
        let total = steps.of(Place(last.0 + 1));
        let depth_at = |people| depth(absence_timeout(wait(people)));
        let reach = std::array::from_fn(|n| {
            let people = most_with(n + 1, depth_at);
            match people {
                None => i64::MIN,
                Some(people) if people >= MAX_PEOPLE => i64::MAX,
                Some(people) if people >= total => last.0 + 1 + people - total,
                Some(people) => steps.place_behind(people).map_or(last.0, |place| place.0),
            }
        });
        let longest = poll_after_ms(PlaceState::Waiting, wait(total), 1.0);
        let longest = Duration::from_millis(longest.into()) + POLL_MARGIN;
        self.samples.push_back(Sample {
            at: now,
            until: now + longest,
            reach,
            front: depth_at(0),
        });
    }

    /// Time until a called place notices its call: the longest published poll interval, with a
    /// margin.
    pub(super) fn notice_delay(&self) -> TimeDelta {
        let pauses = self.samples.iter().map(|sample| sample.until - sample.at);
        pauses.max().unwrap_or_default().min(MAX_NOTICE_DELAY)
    }

    /// Slots of silence allowed to a called place. Not more than with an unknown wait: a lobby
    /// that opens early had poll intervals of two minutes, and misses no call meanwhile.
    pub(super) fn front(&self) -> usize {
        let fronts = self.samples.iter().map(|sample| sample.front);
        fronts
            .max()
            .unwrap_or_else(unknown_wait)
            .min(unknown_wait())
    }

    /// Slots of silence allowed to each place.
    pub(super) fn depths(&self) -> Depths {
        let mut reach = [i64::MAX; DEPTHS];
        if self.samples.is_empty() {
            reach[..unknown_wait() - 1].fill(i64::MIN);
        }
        for sample in &self.samples {
            for (least, one) in reach.iter_mut().zip(sample.reach) {
                *least = one.min(*least);
            }
        }
        Depths(reach)
    }
}

fn unknown_wait() -> usize {
    depth(absence_timeout(Wait::Unknown))
}

/// The most people ahead with which a place may be silent for `depth` slots at most.
fn most_with(depth: usize, depth_at: impl Fn(i64) -> usize) -> Option<i64> {
    if depth_at(0) > depth {
        return None;
    }
    let (mut least, mut most) = (0, MAX_PEOPLE);
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
    /// The slots of `place`; `None` when it always counts as present.
    fn of(&self, place: i64) -> Option<usize> {
        let shorter = self.0.partition_point(|reach| *reach < place);
        (shorter < DEPTHS).then_some(shorter + 1)
    }

    /// Returns the present ones of the 64 places from `start` on, a bit each. `seen` returns those
    /// seen in so many of the last slots; all for `None`.
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
        let own = depth(absence_timeout(wait(place - 1)));
        (own <= DEPTHS).then_some(own)
    }

    #[test]
    fn each_place_times_out_by_its_own_poll_interval() {
        let wait = pace(1);
        let mut timeouts = AbsenceTimeouts::default();
        timeouts.sample(at(0), &steps(60), Place(60), &wait);
        for place in 1..=400 {
            assert_eq!(timeouts.depths().of(place), own(&wait, place), "{place}");
        }
        assert_eq!(timeouts.front(), depth(Duration::from_secs(6)));
    }

    #[test]
    fn a_published_wait_counts_until_polls_have_followed_it() {
        let mut timeouts = AbsenceTimeouts::default();
        let (slow, quick) = (pace(1), pace(100));
        timeouts.sample(at(0), &steps(200), Place(200), &slow);
        timeouts.sample(at(1_000), &steps(200), Place(200), &quick);
        let depth_of = |timeouts: &AbsenceTimeouts| timeouts.depths().of(200);
        assert_eq!(depth_of(&timeouts), own(&slow, 200));
        // 20 s and a fifth, and some.
        timeouts.sample(at(28_000), &steps(200), Place(200), &quick);
        assert_eq!(depth_of(&timeouts), own(&slow, 200));
        timeouts.sample(at(29_000), &steps(200), Place(200), &quick);
        assert_eq!(depth_of(&timeouts), own(&quick, 200));
    }

    #[test]
    fn a_place_with_a_timeout_beyond_retention_is_present() {
        let mut timeouts = AbsenceTimeouts::default();
        let opening = |_| Wait::Opening(Duration::from_secs(3_600));
        timeouts.sample(at(0), &steps(10), Place(10), opening);
        assert_eq!(timeouts.depths().of(3), None);
        let seen = |depth: Option<usize>| if depth.is_none() { 0b1010 } else { 0 };
        assert_eq!(timeouts.depths().present(0, seen), 0b1010);
        assert_eq!(timeouts.front(), unknown_wait(), "but is not called unseen");
    }

    #[test]
    fn a_word_is_split_where_the_timeout_changes() {
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

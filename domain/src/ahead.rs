//! People ahead of a place: a quantile sketch, published to everyone in about two kilobytes.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Place;

/// Most buckets of equal width in a table.
pub const MAX_BUCKETS: usize = 128;
/// Relative resolution: a bucket holds one in `GROUPS` of the people before it, plus one, so that a
/// count within it is right to 1.6 %, and exact for the first `GROUPS`.
const GROUPS: i64 = 64;

/// A quantile sketch of the places that wait, from the first one. Places whose holder is absent or
/// has left are not counted. A million waiters take about two kilobytes as JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ahead {
    /// The first place counted.
    pub from: Place,
    /// The last place counted; before `from` when there is none.
    pub last: Place,
    /// Places in one bucket, at least 1.
    pub step: i64,
    /// People in each bucket. As JSON: LEB128 numbers, one after the other, in unpadded URL-safe
    /// base64.
    #[serde(serialize_with = "pack", deserialize_with = "unpack")]
    pub counts: Vec<u32>,
    /// Number of places that each group of people takes, from `from` on: a group has one person,
    /// and one more for every 64 before it. Packed like `counts`; empty in snapshots of older
    /// versions.
    #[serde(default, serialize_with = "pack", deserialize_with = "unpack")]
    pub gaps: Vec<u32>,
}

impl Default for Ahead {
    fn default() -> Self {
        Self::empty(Place(1), Place(0))
    }
}

impl Ahead {
    /// Counts the places `present`, which come in order; those not within `from..=last` are left
    /// out.
    #[must_use]
    pub fn count(from: Place, last: Place, present: impl Iterator<Item = Place>) -> Self {
        let mut builder = AheadBuilder::new(from, last);
        for place in present.filter(|place| (from..=last).contains(place)) {
            builder.add(place.0, 1);
        }
        builder.finish()
    }

    /// The sketch of `from..=last` without anybody.
    #[must_use]
    pub fn empty(from: Place, last: Place) -> Self {
        let places = (last.0 - from.0 + 1).max(0);
        let buckets = i64::try_from(MAX_BUCKETS).expect("a few hundred");
        let step = div_ceil(places, buckets).max(1);
        Self {
            from,
            last,
            step,
            counts: vec![0; usize::try_from(div_ceil(places, step)).unwrap_or(0)],
            gaps: Vec::new(),
        }
    }

    fn bucket(&self, place: i64) -> Option<usize> {
        usize::try_from((place - self.from.0).div_euclid(self.step)).ok()
    }

    /// Number of people ahead of `place`, excluding it. For many lookups use
    /// [`steps`](Self::steps).
    #[must_use]
    pub fn of(&self, place: Place) -> i64 {
        self.steps().of(place)
    }

    /// Number of people counted.
    #[must_use]
    pub fn total(&self) -> i64 {
        self.counts.iter().map(|n| i64::from(*n)).sum()
    }

    /// Converts the sketch for lookups by binary search.
    #[must_use]
    pub fn steps(&self) -> Steps {
        let total = self.total();
        let mut points = Vec::with_capacity(self.gaps.len() + self.counts.len() + 2);
        let (mut place, mut people) = (self.from.0, 0);
        points.push((place, people));
        if self.gaps.is_empty() {
            for count in &self.counts {
                place += self.step.max(1);
                people += i64::from(*count);
                points.push((place.min(self.last.0 + 1), people));
            }
        } else {
            for gap in &self.gaps {
                place += i64::from(*gap);
                people += group(people);
                points.push((place, people.min(total)));
            }
        }
        points.push((self.last.0.max(place - 1) + 1, total));
        Steps { points }
    }
}

fn div_ceil(a: i64, b: i64) -> i64 {
    a.div_euclid(b) + i64::from(a.rem_euclid(b) > 0)
}

/// Size of the group that has `people` ahead of it.
fn group(people: i64) -> i64 {
    1 + people / GROUPS
}

/// Builds an [`Ahead`] from the front to the back.
#[derive(Debug)]
pub struct AheadBuilder {
    ahead: Ahead,
    people: i64,
    /// Number still missing in the current group, and its first place.
    missing: i64,
    began: i64,
}

impl AheadBuilder {
    /// An empty sketch of `from..=last`.
    #[must_use]
    pub fn new(from: Place, last: Place) -> Self {
        Self {
            ahead: Ahead::empty(from, last),
            people: 0,
            missing: group(0),
            began: from.0,
        }
    }

    /// Counts the places `start + n` whose bit n of `word` is set; words come in order, and with
    /// no place outside of what is counted.
    pub fn add(&mut self, start: i64, word: u64) {
        self.fill_buckets(start, word);
        let mut rest = word;
        while i64::from(rest.count_ones()) >= self.missing {
            for _ in 1..self.missing {
                rest &= rest - 1;
            }
            let end = start + i64::from(rest.trailing_zeros()) + 1;
            rest &= rest - 1;
            let gap = u32::try_from(end - self.began).unwrap_or(u32::MAX);
            self.ahead.gaps.push(gap);
            self.people += group(self.people);
            self.began = end;
            self.missing = group(self.people);
            if rest == 0 {
                return;
            }
        }
        self.missing -= i64::from(rest.count_ones());
    }

    fn fill_buckets(&mut self, start: i64, word: u64) {
        let ahead = &mut self.ahead;
        let (first, last) = (ahead.bucket(start), ahead.bucket(start + 63));
        if let Some(at) = first.filter(|_| first == last) {
            if let Some(count) = ahead.counts.get_mut(at) {
                *count += word.count_ones();
            }
            return;
        }
        let mut rest = word;
        while rest != 0 {
            let place = start + i64::from(rest.trailing_zeros());
            rest &= rest - 1;
            let count = ahead.bucket(place).and_then(|at| ahead.counts.get_mut(at));
            if let Some(count) = count {
                *count += 1;
            }
        }
    }

    /// Returns the sketch.
    #[must_use]
    pub fn finish(self) -> Ahead {
        self.ahead
    }
}

/// People ahead of each place: a piecewise linear function, exact at its corners and in proportion
/// between two of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Steps {
    /// A place, and how many people are before it; both never fall.
    points: Vec<(i64, i64)>,
}

impl Steps {
    /// Number of people ahead of `place`, excluding it.
    #[must_use]
    pub fn of(&self, place: Place) -> i64 {
        let after = self.points.partition_point(|(at, _)| *at <= place.0);
        let Some((at, before)) = after.checked_sub(1).map(|index| self.points[index]) else {
            return 0;
        };
        let (end, people) = self.points.get(after).copied().unwrap_or((at + 1, before));
        before + (people - before) * (place.0 - at) / (end - at)
    }

    /// Returns the place with `people` people ahead; `None` when there is none.
    #[must_use]
    pub fn place_behind(&self, people: i64) -> Option<Place> {
        let after = self.points.partition_point(|(_, before)| *before <= people);
        let (end, upto) = self.points.get(after).copied()?;
        let (at, before) = self.points[after.checked_sub(1)?];
        Some(Place(
            at + (people - before + 1) * (end - at) / (upto - before) - 1,
        ))
    }
}

fn pack<S: Serializer>(counts: &[u32], serializer: S) -> Result<S::Ok, S::Error> {
    let mut bytes = Vec::with_capacity(counts.len() * 2);
    for &count in counts {
        let mut rest = count;
        loop {
            let low = u8::try_from(rest & 0x7f).expect("seven bits");
            rest >>= 7;
            if rest == 0 {
                bytes.push(low);
                break;
            }
            bytes.push(low | 0x80);
        }
    }
    serializer.serialize_str(&URL_SAFE_NO_PAD.encode(bytes))
}

fn unpack<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<u32>, D::Error> {
    let text = String::deserialize(deserializer)?;
    let bytes = URL_SAFE_NO_PAD.decode(text).map_err(D::Error::custom)?;
    let mut counts = Vec::new();
    let (mut count, mut shift) = (0_u32, 0);
    for byte in bytes {
        if shift > 28 || (shift == 28 && byte > 0x0f) {
            return Err(D::Error::custom("a count has more than 32 bits"));
        }
        count |= u32::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            counts.push(count);
            (count, shift) = (0, 0);
        }
    }
    if shift > 0 {
        return Err(D::Error::custom("the last count is cut off"));
    }
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_million_waiters_take_about_two_kilobytes() {
        let ahead = Ahead::count(Place(1), Place(1_000_000), (1..=1_000_000).map(Place));
        let json = serde_json::to_string(&ahead).unwrap();
        assert!(json.len() < 2_300, "{}", json.len());
        assert_eq!(ahead.of(Place(1_000_001)), 1_000_000);
    }

    #[test]
    fn a_short_line_is_counted_exactly() {
        let present = [3, 5, 9].map(Place);
        let ahead = Ahead::count(Place(3), Place(12), present.into_iter());
        let before = [1, 3, 4, 5, 6, 10, 500].map(|place| ahead.of(Place(place)));
        assert_eq!(before, [0, 0, 1, 1, 2, 3, 3]);
        let behind = [0, 1, 2, 3].map(|people| ahead.steps().place_behind(people));
        assert_eq!(
            behind,
            [Some(Place(3)), Some(Place(5)), Some(Place(9)), None]
        );
    }

    #[test]
    fn a_table_of_buckets_alone_is_exact_at_their_edges_and_in_proportion_within() {
        // Buckets of 10, the last of 5.
        let ahead = Ahead {
            from: Place(101),
            last: Place(125),
            step: 10,
            counts: vec![4, 10, 5],
            gaps: Vec::new(),
        };
        let before = [101, 106, 111, 114, 121, 123, 126].map(|place| ahead.of(Place(place)));
        assert_eq!(before, [0, 2, 4, 7, 14, 16, 19]);
    }

    #[test]
    fn buckets_are_as_many_as_fit_and_hold_everybody() {
        let empty = |last| Ahead::empty(Place(11), Place(last));
        let shape = |ahead: &Ahead| (ahead.step, ahead.counts.len());
        assert_eq!(shape(&empty(10)), (1, 0));
        assert_eq!(shape(&empty(138)), (1, 128));
        assert_eq!(shape(&empty(139)), (2, 65));
        let ahead = Ahead::count(Place(11), Place(139), (11..=139).map(Place));
        assert_eq!(
            (ahead.counts[0], ahead.counts[64], ahead.total()),
            (2, 1, 129)
        );
    }

    #[test]
    fn text_that_is_no_table_is_refused() {
        let read = |counts: &str| {
            let json = format!(r#"{{"from":1,"last":9,"step":1,"counts":"{counts}"}}"#);
            serde_json::from_str::<Ahead>(&json)
        };
        // A number cut off, one of 33 bits, one of six bytes, no base64.
        for counts in ["gA", "_____x8", "gICAgIAA", "!"] {
            assert!(read(counts).is_err(), "{counts}");
        }
        assert_eq!(read("_____w8").unwrap().counts, [u32::MAX]);
    }

    proptest! {
        #[test]
        fn nobody_is_lost_between_writing_and_reading(
            counts in prop::collection::vec(any::<u32>(), 0..600),
            from in 1_i64..1_000_000,
        ) {
            let gaps = counts.iter().rev().copied().collect();
            let ahead = Ahead { from: Place(from), last: Place(from + 99), step: 7, counts, gaps };
            let json = serde_json::to_string(&ahead).unwrap();
            prop_assert_eq!(serde_json::from_str::<Ahead>(&json).unwrap(), ahead);
        }

        #[test]
        fn more_places_are_never_fewer_people(
            present in prop::collection::btree_set(1_i64..5_000, 0..400),
            last in 1_i64..5_000,
        ) {
            let ahead = Ahead::count(Place(1), Place(last), present.iter().copied().map(Place));
            let all: Vec<i64> = (1..=last + 1).map(|place| ahead.of(Place(place))).collect();
            prop_assert!(all.is_sorted());
            let counted = present.iter().filter(|place| **place <= last).count();
            prop_assert_eq!(ahead.total(), i64::try_from(counted).unwrap());
            prop_assert_eq!(ahead.of(Place(last + 1)), ahead.total());
        }

        #[test]
        fn people_ahead_are_right_to_two_percent_wherever_they_stand(
            gaps in prop::collection::vec(1_i64..4, 1..400),
            runs in prop::collection::vec((1_i64..3_000, 0_i64..3_000), 1..8),
        ) {
            // Scattered people, and then crowds with deserts between them.
            let mut at = 7;
            let mut present = Vec::new();
            for gap in gaps {
                at += gap;
                present.push(at);
            }
            for (crowd, desert) in runs {
                present.extend(at + 1..=at + crowd);
                at += crowd + desert;
            }
            let first = present[0];
            let all = present.iter().copied().map(Place);
            let steps = Ahead::count(Place(first), Place(at), all).steps();
            for (truth, place) in (0..).zip(&present) {
                let shown = steps.of(Place(*place));
                prop_assert!((shown - truth).abs() * 50 <= truth, "{shown} at {truth}");
                let found = steps.place_behind(truth).expect("somebody stands there");
                let index = present.partition_point(|one| *one < found.0);
                let index = i64::try_from(index).unwrap();
                prop_assert!((index - truth).abs() * 50 <= truth, "{index} at {truth}");
            }
        }
    }
}

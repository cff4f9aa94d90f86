//! How many people wait before a place, told to everyone in about two kilobytes.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Place;

/// Most buckets in a table: with a million waiters each is under 2,000 places wide and takes two
/// bytes.
pub const MAX_BUCKETS: usize = 512;

/// How many people wait in each stretch of places, from the first place that waits. Whoever is
/// absent or left is not counted.
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
}

impl Default for Ahead {
    fn default() -> Self {
        Self {
            from: Place(1),
            last: Place(0),
            step: 1,
            counts: Vec::new(),
        }
    }
}

impl Ahead {
    /// Counts the places `present`, which may come in any order; those not within
    /// `from..=last` are left out.
    #[must_use]
    pub fn count(from: Place, last: Place, present: impl Iterator<Item = Place>) -> Self {
        let places = (last.0 - from.0 + 1).max(0);
        let buckets = i64::try_from(MAX_BUCKETS).expect("a few hundred");
        let step = places.div_euclid(buckets) + i64::from(places.rem_euclid(buckets) > 0);
        let step = step.max(1);
        let used = places.div_euclid(step) + i64::from(places.rem_euclid(step) > 0);
        let mut counts = vec![0_u32; usize::try_from(used).unwrap_or(0)];
        for place in present.filter(|place| (from..=last).contains(place)) {
            let at = usize::try_from((place.0 - from.0) / step).expect("not before the first");
            counts[at] += 1;
        }
        Self {
            from,
            last,
            step,
            counts,
        }
    }

    /// How many people wait before `place`, not counting it: exact at the edge of a bucket, in
    /// proportion within one.
    #[must_use]
    pub fn of(&self, place: Place) -> i64 {
        if place > self.last {
            return self.total();
        }
        let step = self.step.max(1);
        let offset = (place.0 - self.from.0).max(0);
        let whole = usize::try_from(offset / step).unwrap_or(usize::MAX);
        let whole = whole.min(self.counts.len());
        let before: i64 = self.counts[..whole].iter().map(|n| i64::from(*n)).sum();
        let own = self.counts.get(whole).map_or(0, |n| i64::from(*n));
        let start = self.from.0 + offset - offset % step;
        let width = step.min(self.last.0 - start + 1).max(1);
        before + own * (offset % step) / width
    }

    /// Everybody counted.
    #[must_use]
    pub fn total(&self) -> i64 {
        self.counts.iter().map(|n| i64::from(*n)).sum()
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
        assert!(json.len() < 2_048, "{}", json.len());
        assert_eq!(ahead.of(Place(1_000_001)), 1_000_000);
    }

    #[test]
    fn a_short_line_is_counted_exactly() {
        let present = [3, 5, 9].map(Place);
        let ahead = Ahead::count(Place(3), Place(12), present.into_iter());
        let before = [1, 3, 4, 5, 6, 10, 500].map(|place| ahead.of(Place(place)));
        assert_eq!(before, [0, 0, 1, 1, 2, 3, 3]);
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
            let ahead = Ahead { from: Place(from), last: Place(from + 99), step: 7, counts };
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
    }
}

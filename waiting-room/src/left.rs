//! Which places have left, so that they don't count as people ahead.

use bytes::Bytes;
use domain::Place;

/// Places in one block of the index.
const BLOCK_BITS: usize = 512;
const BLOCK_BYTES: usize = BLOCK_BITS / 8;

/// A bitmap as Redis keeps it (bit 0 is the highest of byte 0) with an index, so that counting a
/// range takes the same time however long it is.
#[derive(Debug, Clone, Default)]
pub struct LeftPlaces {
    bits: Bytes,
    /// Bits set before each block.
    before: Vec<i64>,
}

impl LeftPlaces {
    /// Indexes `bits`.
    #[must_use]
    pub fn new(bits: Bytes) -> Self {
        let mut total = 0;
        let before = bits
            .chunks(BLOCK_BYTES)
            .map(|block| {
                let start = total;
                total += ones(block);
                start
            })
            .collect();
        Self { bits, before }
    }

    /// Whether `place` has left.
    #[must_use]
    pub fn contains(&self, place: Place) -> bool {
        let Ok(bit) = usize::try_from(place.0) else {
            return false;
        };
        self.bits
            .get(bit / 8)
            .is_some_and(|byte| byte & (0x80 >> (bit % 8)) != 0)
    }

    /// How many places after `after` and before `before` have left.
    #[must_use]
    pub fn count_between(&self, after: Place, before: Place) -> i64 {
        (self.count_below(before.0) - self.count_below(after.0.saturating_add(1))).max(0)
    }

    /// How many bits below `end` are set.
    fn count_below(&self, end: i64) -> i64 {
        let end = usize::try_from(end).unwrap_or(0).min(self.bits.len() * 8);
        let block = end / BLOCK_BITS;
        // The end of a bitmap of whole blocks is in a block that is not there: start one before.
        let block = block.min(self.before.len().saturating_sub(1));
        let Some(&counted) = self.before.get(block) else {
            return 0;
        };
        let rest = &self.bits[block * BLOCK_BYTES..end / 8];
        let last = self.bits.get(end / 8).map_or(0, |byte| {
            let mask = !(0xff_u8
                .checked_shr(u32::try_from(end % 8).unwrap_or(0))
                .unwrap_or(0));
            i64::from((byte & mask).count_ones())
        });
        counted + ones(rest) + last
    }
}

fn ones(bytes: &[u8]) -> i64 {
    bytes.iter().map(|byte| i64::from(byte.count_ones())).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng, SeedableRng};

    fn bitmap(places: &[i64]) -> LeftPlaces {
        let length = places.iter().max().map_or(0, |max| max / 8 + 1);
        let mut bits = vec![0_u8; usize::try_from(length).unwrap()];
        for &place in places {
            bits[usize::try_from(place / 8).unwrap()] |= 0x80 >> (place % 8);
        }
        LeftPlaces::new(bits.into())
    }

    #[test]
    fn the_count_leaves_out_both_ends() {
        let left = bitmap(&[3, 5, 8]);
        assert_eq!(left.count_between(Place(3), Place(8)), 1);
        assert_eq!(left.count_between(Place(2), Place(9)), 3);
        assert_eq!(left.count_between(Place(8), Place(3)), 0);
        assert_eq!(left.count_between(Place(0), Place(i64::MAX)), 3);
    }

    #[test]
    fn without_a_bitmap_nobody_has_left() {
        let left = LeftPlaces::default();
        assert_eq!(left.count_between(Place(0), Place(1_000)), 0);
        assert!(!left.contains(Place(1)));
    }

    #[test]
    fn the_index_agrees_with_counting_one_by_one() {
        let seed = rand::random();
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let end = random.random_range(1..5_000);
        let places: Vec<i64> = (1..=end).filter(|_| random.random_bool(0.3)).collect();
        let left = bitmap(&places);
        for _ in 0..200 {
            let (a, b) = (random.random_range(0..6_000), random.random_range(0..6_000));
            let slow = places
                .iter()
                .filter(|&&place| a < place && place < b)
                .count();
            let fast = left.count_between(Place(a), Place(b));
            assert_eq!(usize::try_from(fast).unwrap(), slow, "between {a} and {b}");
            assert_eq!(left.contains(Place(a)), places.contains(&a));
        }
    }
}

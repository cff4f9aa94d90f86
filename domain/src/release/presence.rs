//! Presence of places, in sliding time slots.

use std::collections::VecDeque;
use std::time::Duration;

use super::bits::{BitSet, index, members};
use crate::lottery::Permutation;
use crate::queue::{SEEN_PART, SEEN_SLOT_SECONDS, SEEN_SLOTS};
use crate::{Number, Place};

/// One set of places for each of the last slots of time, the newest first. Slots in which nothing
/// could be read are not there, so that nobody counts as absent because nobody looked.
#[derive(Debug, Clone, Default)]
pub(super) struct Presence {
    slots: VecDeque<(i64, BitSet)>,
}

impl Presence {
    /// Begins `slot`, if it has not begun.
    pub(super) fn begin(&mut self, slot: i64) {
        if self.slots.front().is_none_or(|newest| newest.0 < slot) {
            self.slots.push_front((slot, BitSet::default()));
            self.slots
                .truncate(usize::try_from(SEEN_SLOTS).expect("a few"));
        }
    }

    /// Records presence in `slot`: a Redis bitmap of the numbers of `part`. A slot that is too old
    /// is ignored.
    pub(super) fn record(&mut self, slot: i64, part: i64, bitmap: &[u8], order: &Permutation) {
        self.begin(slot);
        let Some((_, bits)) = self.slots.iter_mut().find(|retained| retained.0 == slot) else {
            return;
        };
        let first = index(part * SEEN_PART);
        for (at, chunk) in bitmap.chunks(8).enumerate() {
            let at = first + at;
            let mut bytes = [0; 8];
            bytes[..chunk.len()].copy_from_slice(chunk);
            let word = u64::from_be_bytes(bytes).reverse_bits();
            if word == 0 {
                continue;
            }
            let last = i64::try_from(at).expect("as many words as memory has") * 64;
            if last > order.lobby() {
                bits.insert_word(at, word);
            } else {
                for number in members(at, word) {
                    bits.insert(order.place_of(Number(number)).0);
                }
            }
        }
    }

    /// Counts `first..=last` as seen in the newest slot.
    pub(super) fn mark(&mut self, first: i64, last: i64) {
        if let Some((_, bits)) = self.slots.front_mut() {
            bits.insert_range(first, last);
        }
    }

    /// Returns whether no slot has started.
    pub(super) fn has_no_slot(&self) -> bool {
        self.slots.is_empty()
    }

    /// Returns whether nobody was seen in any retained slot.
    pub(super) fn is_empty(&self) -> bool {
        self.slots.iter().all(|(_, bits)| bits.words() == 0)
    }

    /// Applies the draw: numbers become places.
    pub(super) fn reorder(&mut self, order: &Permutation) {
        for (_, bits) in &mut self.slots {
            *bits = bits.map(|number| order.place_of(Number(number)).0);
        }
    }

    /// Returns whether it was seen in the last `depth` slots.
    pub(super) fn has(&self, place: Place, depth: usize) -> bool {
        self.slots
            .iter()
            .take(depth)
            .any(|(_, bits)| bits.contains(place.0))
    }

    /// Returns those of the word `at` that were seen in the last `depth` slots.
    pub(super) fn word(&self, at: usize, depth: usize) -> u64 {
        self.slots
            .iter()
            .take(depth)
            .fold(0, |word, (_, bits)| word | bits.word(at))
    }
}

/// Number of slots that cover `silence` from anywhere in the newest.
pub(super) fn depth(silence: Duration) -> usize {
    let slot = u64::try_from(SEEN_SLOT_SECONDS).expect("seconds");
    let whole = silence.as_millis().div_ceil(u128::from(slot) * 1_000);
    usize::try_from(whole).expect("a few") + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_redis_bitmap_are_seen_for_as_long_as_slots_reach() {
        let mut presence = Presence::default();
        // Numbers 1, 10 and 71.
        presence.record(
            7,
            0,
            &[0b0100_0000, 0b0010_0000, 0, 0, 0, 0, 0, 0, 1],
            &Permutation::identity(),
        );
        assert_eq!(presence.word(0, 1), 1 << 1 | 1 << 10);
        assert_eq!(presence.word(1, 1), 1 << 7);
        presence.record(7, 64, &[0b0100_0000], &Permutation::identity());
        assert!(presence.has(Place(64 * SEEN_PART + 1), 1));
        presence.begin(8);
        assert_eq!((presence.word(1, 1), presence.word(1, 2)), (0, 1 << 7));
    }

    #[test]
    fn slots_that_nobody_could_read_make_nobody_absent() {
        let mut presence = Presence::default();
        presence.begin(7);
        presence.mark(1, 3);
        presence.begin(1_000);
        assert_eq!(presence.word(0, 2), 0b1110);
    }

    #[test]
    fn a_silence_is_covered_from_anywhere_in_a_slot() {
        let depths = [0, 5, 6, 93].map(|seconds| depth(Duration::from_secs(seconds)));
        assert_eq!(depths, [1, 2, 3, 20]);
    }
}

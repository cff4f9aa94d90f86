//! Per-number polling state, in a few bytes of this node's memory each: the earliest next poll, the
//! fewest people ahead that were reported, and a presence bit.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, RwLock};
use std::time::Duration;

use domain::Number;
use domain::queue::SEEN_PART;

use platform::sync::RwLockExt as _;

/// Numbers that share one allocation.
const CHUNK: usize = 1 << 16;
/// Allocations of the first 67 million numbers, which are reached without a lock.
const NEAR_CHUNKS: usize = 1 << 10;
/// Maximum number of allocations of later numbers; the lowest is evicted for another.
const MAX_FAR_CHUNKS: usize = 1 << 7;
/// Exclusive bound of numbers: places are stored in 32 bits.
const MAX_NUMBERS: usize = u32::MAX as usize;
const WORD_BITS: usize = 64;
/// Exceeds every poll interval: a longer wait is an artefact of the clock's wraparound.
const MAX_WAIT_MS: u32 = 160_000;
/// Marks a number that has not polled.
const NEVER: u32 = 0;

/// Polling state of one sale's numbers.
pub(crate) struct Polls {
    near: Box<[OnceLock<Box<Chunk>>]>,
    far: RwLock<BTreeMap<usize, Arc<Chunk>>>,
}

struct Chunk {
    /// Earliest next poll of each number, in milliseconds that wrap around after 49 days.
    next: Box<[AtomicU32]>,
    /// One more than the fewest people ahead that were reported; 0 for none.
    least: Box<[AtomicU32]>,
    /// Numbers present since the last [`Polls::take_presence`]. Number n is bit 63 - n % 64 of its
    /// word, so that the words in big-endian order form a Redis bitmap.
    seen: Box<[AtomicU64]>,
}

/// Presence of one part of [`SEEN_PART`] numbers, as a Redis bitmap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PresencePart {
    pub(crate) part: i64,
    pub(crate) bitmap: Vec<u8>,
}

impl Default for Polls {
    fn default() -> Self {
        Self {
            near: (0..NEAR_CHUNKS).map(|_| OnceLock::new()).collect(),
            far: RwLock::default(),
        }
    }
}

impl Polls {
    /// Marks the holder of `number` as present.
    pub(crate) fn mark_present(&self, number: Number) {
        self.with(number, |chunk, at| {
            let (word, bit) = (&chunk.seen[at / WORD_BITS], bit(at));
            // Usually set already, and a load does not invalidate other cores' cache lines.
            if word.load(Ordering::Relaxed) & bit == 0 {
                word.fetch_or(bit, Ordering::Relaxed);
            }
        });
    }

    /// Returns the time until `number` may poll again; `None` when it may now.
    pub(crate) fn retry_after(&self, number: Number, now_ms: u32) -> Option<Duration> {
        let next = self.with(number, |chunk, at| chunk.next[at].load(Ordering::Relaxed));
        let next = next.filter(|next| *next != NEVER)?;
        let wait = next.wrapping_sub(now_ms);
        (1..=MAX_WAIT_MS)
            .contains(&wait)
            .then(|| Duration::from_millis(wait.into()))
    }

    /// Sets the earliest next poll of `number`.
    pub(crate) fn set_next(&self, number: Number, next_ms: u32) {
        let next = next_ms.max(NEVER + 1);
        self.with(number, |chunk, at| {
            chunk.next[at].store(next, Ordering::Relaxed);
        });
    }

    /// Returns the people ahead to report to `number`: `ahead`, but never more than was reported
    /// before. Somebody who returns to an earlier place does not set it back.
    pub(crate) fn clamp_ahead(&self, number: Number, ahead: i64) -> i64 {
        let rendered = self.with(number, |chunk, at| {
            let mine = u32::try_from(ahead + 1).unwrap_or(u32::MAX);
            let before = chunk.least[at].load(Ordering::Relaxed);
            if before == 0 || mine < before {
                chunk.least[at].store(mine, Ordering::Relaxed);
                return ahead;
            }
            i64::from(before) - 1
        });
        rendered.unwrap_or(ahead)
    }

    /// Takes the presence since the last call, and clears it; parts without anybody are left out.
    pub(crate) fn take_presence(&self) -> Vec<PresencePart> {
        let mut parts: BTreeMap<i64, Vec<u8>> = BTreeMap::new();
        let mut take = |index: usize, chunk: &Chunk| {
            let Some(bytes) = chunk.take_presence() else {
                return;
            };
            let per_part = usize::try_from(SEEN_PART).expect("a million") / CHUNK;
            let part = i64::try_from(index / per_part).expect("few");
            let bitmap = parts.entry(part).or_default();
            bitmap.resize(index % per_part * CHUNK / 8, 0);
            bitmap.extend(bytes);
        };
        for (index, chunk) in self.near.iter().enumerate() {
            if let Some(chunk) = chunk.get() {
                take(index, chunk);
            }
        }
        let far = self.far.read_unpoisoned();
        for (index, chunk) in &*far {
            take(*index, chunk);
        }
        let seen = parts.into_iter();
        seen.map(|(part, bitmap)| PresencePart { part, bitmap })
            .collect()
    }

    /// Restores presence that was taken with [`take_presence`](Self::take_presence) but not stored.
    pub(crate) fn restore(&self, seen: &PresencePart) {
        for (nth, bytes) in seen.bitmap.chunks(CHUNK / 8).enumerate() {
            let nth = i64::try_from(nth * CHUNK).expect("few");
            self.with(Number(seen.part * SEEN_PART + nth), |chunk, _| {
                chunk.restore(bytes);
            });
        }
    }

    fn with<R>(&self, number: Number, work: impl FnOnce(&Chunk, usize) -> R) -> Option<R> {
        let number = usize::try_from(number.0).ok()?;
        if number >= MAX_NUMBERS {
            return None;
        }
        let (index, at) = (number / CHUNK, number % CHUNK);
        match self.near.get(index) {
            Some(chunk) => Some(work(chunk.get_or_init(Box::default), at)),
            None => Some(work(&self.far(index), at)),
        }
    }

    fn far(&self, index: usize) -> Arc<Chunk> {
        let far = self.far.read_unpoisoned();
        if let Some(chunk) = far.get(&index) {
            return Arc::clone(chunk);
        }
        drop(far);
        let mut far = self.far.write_unpoisoned();
        if far.len() >= MAX_FAR_CHUNKS && !far.contains_key(&index) {
            far.pop_first();
        }
        Arc::clone(far.entry(index).or_default())
    }
}

impl Default for Chunk {
    fn default() -> Self {
        Self {
            next: (0..CHUNK).map(|_| AtomicU32::new(NEVER)).collect(),
            least: (0..CHUNK).map(|_| AtomicU32::new(0)).collect(),
            seen: (0..CHUNK / WORD_BITS).map(|_| AtomicU64::new(0)).collect(),
        }
    }
}

impl Chunk {
    /// Takes the bitmap up to its last non-zero byte.
    fn take_presence(&self) -> Option<Vec<u8>> {
        let mut bitmap = Vec::new();
        for (at, word) in self.seen.iter().enumerate() {
            if word.load(Ordering::Relaxed) == 0 {
                continue;
            }
            bitmap.resize(at * 8, 0);
            bitmap.extend(word.swap(0, Ordering::Relaxed).to_be_bytes());
        }
        let last = bitmap.iter().rposition(|byte| *byte != 0)?;
        bitmap.truncate(last + 1);
        Some(bitmap)
    }

    fn restore(&self, bitmap: &[u8]) {
        for (word, bytes) in self.seen.iter().zip(bitmap.chunks(8)) {
            let mut whole = [0; 8];
            whole[..bytes.len()].copy_from_slice(bytes);
            word.fetch_or(u64::from_be_bytes(whole), Ordering::Relaxed);
        }
    }
}

fn bit(at: usize) -> u64 {
    1 << (WORD_BITS - 1 - at % WORD_BITS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_waits_for_its_next_poll_and_others_do_not() {
        let polls = Polls::default();
        polls.set_next(Number(5), 1_500);
        assert_eq!(
            polls.retry_after(Number(5), 1_000),
            Some(Duration::from_millis(500))
        );
        assert_eq!(polls.retry_after(Number(5), 1_500), None);
        assert_eq!(polls.retry_after(Number(6), 1_000), None);
    }

    #[test]
    fn a_clock_that_wraps_around_extends_no_wait() {
        let polls = Polls::default();
        polls.set_next(Number(5), 10);
        let before = u32::MAX - 9;
        assert_eq!(
            polls.retry_after(Number(5), before),
            Some(Duration::from_millis(20))
        );
        // Never polled, and half a wraparound later.
        assert_eq!(polls.retry_after(Number(7), u32::MAX / 2 + 9), None);
    }

    #[test]
    fn a_number_that_has_not_polled_never_waits() {
        let polls = Polls::default();
        for now in [0, u32::MAX - 60_000, u32::MAX] {
            assert_eq!(polls.retry_after(Number(7), now), None);
        }
        // A time that coincides with the marker for never.
        polls.set_next(Number(7), 0);
        assert!(polls.retry_after(Number(7), u32::MAX - 60_000).is_some());
    }

    /// Returns the numbers set in a bitmap.
    fn numbers(seen: &PresencePart) -> Vec<i64> {
        (0..seen.bitmap.len() * 8)
            .filter(|n| seen.bitmap[n / 8] & (0x80 >> (n % 8)) != 0)
            .map(|n| seen.part * SEEN_PART + i64::try_from(n).unwrap())
            .collect()
    }

    #[test]
    fn the_bitmap_has_the_bit_order_of_redis() {
        let polls = Polls::default();
        for number in [1, 7, 8, 70_000] {
            polls.mark_present(Number(number));
        }
        let seen = polls.take_presence();
        assert_eq!((seen.len(), seen[0].bitmap.len()), (1, 70_000 / 8 + 1));
        assert_eq!(numbers(&seen[0]), [1, 7, 8, 70_000]);
        assert!(polls.take_presence().is_empty(), "each is taken once");
        polls.restore(&seen[0]);
        polls.mark_present(Number(2));
        assert_eq!(numbers(&polls.take_presence()[0]), [1, 2, 7, 8, 70_000]);
    }

    #[test]
    fn high_numbers_are_seen_and_cost_no_more_than_low_ones() {
        let polls = Polls::default();
        let high = [10_000_000, 70_000_000, 70_000_001, 4_000_000_000];
        for number in high {
            polls.mark_present(Number(number));
            polls.set_next(Number(number), 5_000);
            assert!(polls.retry_after(Number(number), 1_000).is_some());
        }
        let seen = polls.take_presence();
        assert!(seen.iter().all(|seen| seen.bitmap.len() <= 128 * 1_024));
        assert_eq!(seen.iter().flat_map(numbers).collect::<Vec<_>>(), high);
        for seen in &seen {
            polls.restore(seen);
        }
        let again: Vec<i64> = polls.take_presence().iter().flat_map(numbers).collect();
        assert_eq!(again, high);
    }

    #[test]
    fn the_reported_people_ahead_never_rise() {
        let polls = Polls::default();
        let reported = [9, 12, 8, 0, 3].map(|ahead| polls.clamp_ahead(Number(5), ahead));
        assert_eq!(reported, [9, 9, 8, 0, 0]);
        assert_eq!(polls.clamp_ahead(Number(6), 12), 12);
    }

    #[test]
    fn numbers_that_nobody_has_take_no_memory() {
        let polls = Polls::default();
        for number in [-1, i64::MAX, 1 << 32] {
            polls.mark_present(Number(number));
            polls.set_next(Number(number), 9);
            assert_eq!(polls.retry_after(Number(number), 1), None);
        }
        assert!(polls.take_presence().is_empty());
        for chunk in 0..2 * MAX_FAR_CHUNKS {
            let number = (NEAR_CHUNKS + chunk) * CHUNK;
            polls.mark_present(Number(i64::try_from(number).unwrap()));
        }
        assert_eq!(polls.far.read().unwrap().len(), MAX_FAR_CHUNKS);
    }
}

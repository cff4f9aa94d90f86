//! When each number may ask again, and who has asked: a few bits of this node's memory for each.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use domain::Number;

/// Numbers that share one allocation.
const CHUNK: usize = 1 << 16;
/// Most allocations: numbers beyond 67 million are neither limited nor seen.
const CHUNKS: usize = 1 << 10;
const WORD_BITS: usize = 64;
/// Longer than anybody is told to wait: what looks like more is a clock that went around, or
/// nobody's time at all.
const LONGEST_WAIT_MS: u32 = 120_000;

/// What is kept of the numbers of one sale.
pub(crate) struct Asked {
    chunks: Box<[OnceLock<Box<Chunk>>]>,
}

struct Chunk {
    /// When each number may ask again: milliseconds, which go around after 49 days.
    next: Box<[AtomicU32]>,
    /// Who has asked since the last [`Asked::take_seen`]. Number n is bit 63 - n % 64 of its word,
    /// so that the words, big end first, are a bitmap as Redis keeps it.
    seen: Box<[AtomicU64]>,
}

impl Default for Asked {
    fn default() -> Self {
        Self {
            chunks: (0..CHUNKS).map(|_| OnceLock::new()).collect(),
        }
    }
}

impl Asked {
    /// Notes that the holder of `number` is here.
    pub(crate) fn see(&self, number: Number) {
        let Some((chunk, at)) = self.chunk(number) else {
            return;
        };
        let (word, bit) = (&chunk.seen[at / WORD_BITS], bit(at));
        // Mostly set already, and reading does not take the line from other cores.
        if word.load(Ordering::Relaxed) & bit == 0 {
            word.fetch_or(bit, Ordering::Relaxed);
        }
    }

    /// How long `number` is still to wait before it may ask, at `now_ms`.
    pub(crate) fn wait(&self, number: Number, now_ms: u32) -> Option<Duration> {
        let (chunk, at) = self.chunk(number)?;
        let next = chunk.next[at].load(Ordering::Relaxed);
        let wait = next.wrapping_sub(now_ms);
        (1..=LONGEST_WAIT_MS)
            .contains(&wait)
            .then(|| Duration::from_millis(wait.into()))
    }

    /// From `next_ms` on `number` may ask again.
    pub(crate) fn tell(&self, number: Number, next_ms: u32) {
        if let Some((chunk, at)) = self.chunk(number) {
            chunk.next[at].store(next_ms, Ordering::Relaxed);
        }
    }

    /// Who has asked since the last time, as a bitmap for Redis; empty when nobody did.
    pub(crate) fn take_seen(&self) -> Vec<u8> {
        let used = self.chunks.iter().rposition(|chunk| chunk.get().is_some());
        let mut bitmap = Vec::new();
        for chunk in &self.chunks[..used.map_or(0, |last| last + 1)] {
            let Some(chunk) = chunk.get() else {
                bitmap.resize(bitmap.len() + CHUNK / 8, 0);
                continue;
            };
            for word in &chunk.seen {
                let seen = match word.load(Ordering::Relaxed) {
                    0 => 0,
                    _ => word.swap(0, Ordering::Relaxed),
                };
                bitmap.extend_from_slice(&seen.to_be_bytes());
            }
        }
        let length = bitmap.iter().rposition(|byte| *byte != 0);
        bitmap.truncate(length.map_or(0, |last| last + 1));
        bitmap
    }

    /// Takes back what [`take_seen`](Self::take_seen) gave and nobody got.
    pub(crate) fn put_back(&self, bitmap: &[u8]) {
        for (chunk, bytes) in self.chunks.iter().zip(bitmap.chunks(CHUNK / 8)) {
            let Some(chunk) = chunk.get() else { continue };
            for (word, bytes) in chunk.seen.iter().zip(bytes.chunks(8)) {
                let mut whole = [0; 8];
                whole[..bytes.len()].copy_from_slice(bytes);
                word.fetch_or(u64::from_be_bytes(whole), Ordering::Relaxed);
            }
        }
    }

    fn chunk(&self, number: Number) -> Option<(&Chunk, usize)> {
        let number = usize::try_from(number.0).ok()?;
        let chunk = self.chunks.get(number / CHUNK)?;
        Some((chunk.get_or_init(Box::default), number % CHUNK))
    }
}

impl Default for Chunk {
    fn default() -> Self {
        Self {
            next: (0..CHUNK).map(|_| AtomicU32::new(0)).collect(),
            seen: (0..CHUNK / WORD_BITS).map(|_| AtomicU64::new(0)).collect(),
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
    fn whoever_was_told_to_wait_waits_and_others_do_not() {
        let asked = Asked::default();
        asked.tell(Number(5), 1_500);
        assert_eq!(
            asked.wait(Number(5), 1_000),
            Some(Duration::from_millis(500))
        );
        assert_eq!(asked.wait(Number(5), 1_500), None);
        assert_eq!(asked.wait(Number(6), 1_000), None);
    }

    #[test]
    fn a_clock_that_goes_around_keeps_nobody_waiting() {
        let asked = Asked::default();
        asked.tell(Number(5), 10);
        let before = u32::MAX - 9;
        assert_eq!(
            asked.wait(Number(5), before),
            Some(Duration::from_millis(20))
        );
        // Never told anything, and half the clock's circle later.
        assert_eq!(asked.wait(Number(7), u32::MAX / 2 + 9), None);
    }

    #[test]
    fn the_bitmap_is_one_as_redis_keeps_it() {
        let asked = Asked::default();
        for number in [1, 7, 8, 70_000] {
            asked.see(Number(number));
        }
        let bitmap = asked.take_seen();
        assert_eq!(bitmap.len(), 70_000 / 8 + 1);
        let set: Vec<usize> = (0..bitmap.len() * 8)
            .filter(|n| bitmap[n / 8] & (0x80 >> (n % 8)) != 0)
            .collect();
        assert_eq!(set, [1, 7, 8, 70_000]);
        assert!(asked.take_seen().is_empty(), "each is told once");
        asked.put_back(&bitmap);
        asked.see(Number(2));
        let again = asked.take_seen();
        assert_eq!(again[0], bitmap[0] | 0x20);
        assert_eq!(again[1..], bitmap[1..]);
    }

    #[test]
    fn numbers_that_nobody_has_take_no_memory() {
        let asked = Asked::default();
        for number in [-1, i64::MAX] {
            asked.see(Number(number));
            asked.tell(Number(number), 9);
            assert_eq!(asked.wait(Number(number), 1), None);
        }
        assert!(asked.take_seen().is_empty());
    }
}

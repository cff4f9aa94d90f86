//! The swap-or-not shuffle of a whole list.
//!
//! In each round a pivot pairs every position with its mirror image, and a bit of a hash says
//! whether the two change places. Going through the pairs side by side takes one hash for every
//! 256 positions, where looking up one position after the other would take one for each.

use sha2::{Digest, Sha256};

/// Positions whose bits are in one hash.
const BLOCK: usize = 256;

/// Puts at each position of `0..count` the index that the shuffle brings there.
///
/// Indices, not things: `compute_shuffled_index` of the specification takes an index to a
/// position, and this is its inverse.
pub(super) fn shuffled(count: u32, seed: &[u8; 32], rounds: u8) -> Vec<u32> {
    let mut list: Vec<u32> = (0..count).collect();
    if count == 0 {
        return list;
    }
    for round in 0..rounds {
        let hash = Sha256::new().chain_update(seed).chain_update([round]);
        let first: [u8; 8] = hash.clone().finalize()[..8]
            .try_into()
            .expect("eight bytes");
        let pivot = u64::from_le_bytes(first) % u64::from(count);
        let pivot = usize::try_from(pivot).expect("below the count");
        let (before, after) = list.split_at_mut(pivot + 1);
        mirror(before, 0, &hash);
        mirror(after, pivot + 1, &hash);
    }
    list
}

/// Swaps the first with the last, the second with the last but one, and so on, where the bit of
/// the later position says so. `part` begins at position `start` of the list.
fn mirror(part: &mut [u32], start: usize, round: &Sha256) {
    let half = part.len() / 2;
    // The middle one of an odd number is its own mirror image, and stays.
    let (lows, highs) = part.split_at_mut(part.len() - half);
    let mut position = start + lows.len() + half;
    let mut bits = [0; 32];
    let mut known = None;
    for (low, high) in lows.iter_mut().zip(highs.iter_mut().rev()) {
        position -= 1;
        let block = position / BLOCK;
        if known != Some(block) {
            bits = source(round, block);
            known = Some(block);
        }
        let bit = position % BLOCK;
        let swaps = u32::from(bits[bit / 8] >> (bit % 8) & 1);
        // No branch, which would be guessed wrong half of the time.
        let change = (*low ^ *high) & swaps.wrapping_neg();
        *low ^= change;
        *high ^= change;
    }
}

fn source(round: &Sha256, block: usize) -> [u8; 32] {
    let block = u32::try_from(block).expect("fewer than 2^40 positions");
    round
        .clone()
        .chain_update(block.to_le_bytes())
        .finalize()
        .into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// The specification's function, word for word: where the shuffle puts the thing at `index`.
    fn shuffled_index(index: u64, count: u64, seed: &[u8; 32], rounds: u8) -> u64 {
        (0..rounds).fold(index, |index, round| {
            let pivot = Sha256::new().chain_update(seed).chain_update([round]);
            let pivot: [u8; 8] = pivot.finalize()[..8].try_into().unwrap();
            let flip = (u64::from_le_bytes(pivot) % count + count - index) % count;
            let position = index.max(flip);
            let source = Sha256::new()
                .chain_update(seed)
                .chain_update([round])
                .chain_update(u32::try_from(position / 256).unwrap().to_le_bytes())
                .finalize();
            let byte = source[usize::try_from(position % 256 / 8).unwrap()];
            if byte >> (position % 8) & 1 == 1 {
                flip
            } else {
                index
            }
        })
    }

    fn inverse(list: &[u32]) -> Vec<u32> {
        let mut inverse = vec![0; list.len()];
        for (at, index) in (0..).zip(list) {
            inverse[*index as usize] = at;
        }
        inverse
    }

    /// A vector's file as the specification's generator writes it.
    fn yaml(seed: &str, count: u32, mapping: &[u32]) -> String {
        const WIDTH: usize = 80;
        let mut text = format!("seed: '0x{seed}'\ncount: {count}\n");
        let mut line = "mapping: [".to_owned();
        for (at, value) in mapping.iter().enumerate() {
            if at > 0 {
                line.push(',');
                if line.len() > WIDTH {
                    text.push_str(&line);
                    text.push('\n');
                    " ".clone_into(&mut line);
                }
                line.push(' ');
            }
            line.push_str(&value.to_string());
        }
        text + &line + "]\n"
    }

    fn hex(text: &str) -> [u8; 32] {
        let byte = |at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).unwrap();
        std::array::from_fn(byte)
    }

    #[test]
    fn the_specifications_vectors_hold() {
        let vectors = include_str!("vectors.txt").lines();
        let mut held = 0;
        for vector in vectors.filter(|line| !line.starts_with('#')) {
            let mut words = vector.splitn(5, ' ');
            let mut word = || words.next().unwrap();
            let (rounds, seed, count, sha256) = (word(), word(), word(), word());
            let (rounds, count) = (rounds.parse().unwrap(), count.parse().unwrap());
            let mapping = inverse(&shuffled(count, &hex(seed), rounds));
            if let Some(expected) = words.next() {
                assert_eq!(format!("{mapping:?}"), expected, "{seed} of {count}");
            }
            let file = yaml(seed, count, &mapping);
            let digest = Sha256::digest(file);
            assert_eq!(digest[..], hex(sha256), "{seed} of {count}");
            held += 1;
        }
        assert_eq!(held, 8);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]

        #[test]
        fn everything_goes_where_the_specification_puts_it(
            count in 1_u32..800,
            seed: [u8; 32],
            rounds in 0_u8..100,
        ) {
            let list = shuffled(count, &seed, rounds);
            for (position, index) in (0..).zip(&list) {
                let put = shuffled_index(u64::from(*index), count.into(), &seed, rounds);
                prop_assert_eq!(put, position);
            }
        }

        #[test]
        fn nothing_is_lost_or_doubled(count in 0_u32..5_000, seed: [u8; 32]) {
            let mut list = shuffled(count, &seed, 90);
            prop_assert_eq!(inverse(&inverse(&list)), list.clone());
            list.sort_unstable();
            prop_assert_eq!(list, (0..count).collect::<Vec<_>>());
        }
    }
}

//! The lottery of a lobby: a verifiable random permutation of the numbers issued before the
//! opening, which nobody could choose and anybody can repeat.
//!
//! The permutation is the swap-or-not shuffle of Ethereum's consensus specification
//! (`compute_shuffled_index`, 90 rounds), whose published test vectors hold here, too.

mod entries;
mod shuffle;
mod stage;

use sha2::{Digest, Sha256};

use crate::{Number, Place};

pub use entries::{EntriesDigest, Entry, EntryError};
pub use stage::Stage;

/// Rounds of the shuffle, as on Ethereum's main network.
pub const ROUNDS: u8 = 90;

/// The inputs that determine the order of one lobby.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Draw {
    /// Number of participants: `1..=lobby`.
    pub lobby: i64,
    /// The seed whose SHA-256 was published before the lobby opened.
    pub seed: [u8; 32],
    /// The value of the public source that was announced beforehand; empty without one.
    pub entropy: String,
}

/// The commitment published before the lobby opens: it fixes the seed without revealing it.
#[must_use]
pub fn commitment(seed: &[u8; 32]) -> [u8; 32] {
    Sha256::digest(seed).into()
}

impl Draw {
    /// The seed of the shuffle: SHA-256 of the seed followed by the entropy's UTF-8 bytes.
    #[must_use]
    pub fn shuffle_seed(&self) -> [u8; 32] {
        Sha256::new()
            .chain_update(self.seed)
            .chain_update(self.entropy.as_bytes())
            .finalize()
            .into()
    }

    /// Computes the place of each number: number n + 1 gets place p + 1 when the shuffle puts index
    /// n at position p.
    #[must_use]
    pub fn permutation(&self) -> Permutation {
        Permutation::new(&self.shuffle_seed(), self.lobby)
    }
}

/// The bijection of numbers and places. Without a lottery it is the identity.
#[derive(Debug, Clone, Default)]
pub struct Permutation {
    /// Place of number n + 1, less one.
    places: Vec<u32>,
    /// Number of place n + 1, less one.
    numbers: Vec<u32>,
}

impl Permutation {
    /// The order of joining: each number is its place.
    #[must_use]
    pub fn identity() -> Self {
        Self::default()
    }

    fn new(seed: &[u8; 32], lobby: i64) -> Self {
        let count = u32::try_from(lobby.max(0)).expect("a lobby of fewer than 2^32");
        let numbers = shuffle::shuffled(count, seed, ROUNDS);
        let mut places = vec![0; numbers.len()];
        for (place, number) in (0..count).zip(&numbers) {
            places[*number as usize] = place;
        }
        Self { places, numbers }
    }

    /// Number of permuted numbers: `1..=lobby`.
    #[must_use]
    pub fn lobby(&self) -> i64 {
        i64::try_from(self.places.len()).expect("fewer than 2^32")
    }

    /// The place of `number`.
    #[must_use]
    pub fn place_of(&self, number: Number) -> Place {
        Place(moved(&self.places, number.0))
    }

    /// The number at `place`.
    #[must_use]
    pub fn number_of(&self, place: Place) -> Number {
        Number(moved(&self.numbers, place.0))
    }
}

fn moved(table: &[u32], from: i64) -> i64 {
    usize::try_from(from - 1)
        .ok()
        .and_then(|at| table.get(at))
        .map_or(from, |to| i64::from(*to) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_one_place_and_every_place_one_number() {
        let draw = Draw {
            lobby: 1_000,
            seed: [7; 32],
            entropy: "4 8 15 16 23 42".to_owned(),
        };
        let order = draw.permutation();
        let mut places: Vec<_> = (1..=1_000).map(|n| order.place_of(Number(n)).0).collect();
        assert!((1..=1_000).all(|n| order.number_of(order.place_of(Number(n))) == Number(n)));
        assert!(!places.is_sorted());
        places.sort_unstable();
        assert_eq!(places, (1..=1_000).collect::<Vec<_>>());
    }

    #[test]
    fn the_commitment_is_the_sha_256_of_the_seed() {
        assert_eq!(
            crate::hex::encode(&commitment(&[0; 32])),
            "66687aadf862bd776c8fc18b8e9f8e20089714856ee233b3902a591d0d5f2925"
        );
    }

    #[test]
    fn an_order_knows_how_many_it_moved() {
        let draw = Draw {
            lobby: 3,
            seed: [1; 32],
            entropy: String::new(),
        };
        assert_eq!(
            (draw.permutation().lobby(), Permutation::identity().lobby()),
            (3, 0)
        );
    }

    #[test]
    fn other_entropy_gives_another_order() {
        let places = |entropy: &str| {
            let order = Draw {
                lobby: 100,
                seed: [7; 32],
                entropy: entropy.to_owned(),
            }
            .permutation();
            (1..=100).map(move |n| order.place_of(Number(n))).collect()
        };
        let (first, second): (Vec<_>, Vec<_>) = (places("4 8 15"), places("4 8 16"));
        assert_ne!(first, second);
    }

    #[test]
    fn a_number_after_the_lobby_is_its_place() {
        let draw = Draw {
            lobby: 3,
            seed: [1; 32],
            entropy: String::new(),
        };
        assert_eq!(draw.permutation().place_of(Number(4)), Place(4));
        assert_eq!(Permutation::identity().place_of(Number(2)), Place(2));
    }
}

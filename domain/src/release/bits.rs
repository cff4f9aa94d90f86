//! Bit set of places, processed 64 at a time.

/// A set of small positive numbers.
#[derive(Debug, Clone, Default)]
pub(super) struct BitSet(Vec<u64>);

impl BitSet {
    /// Number of words.
    pub(super) fn words(&self) -> usize {
        self.0.len()
    }

    /// The lowest member.
    pub(super) fn first(&self) -> Option<i64> {
        let at = self.0.iter().position(|word| *word != 0)?;
        members(at, self.0[at]).next()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.iter().all(|word| *word == 0)
    }

    /// The members `64 * at ..= 64 * at + 63`, the lowest in the lowest bit.
    pub(super) fn word(&self, at: usize) -> u64 {
        self.0.get(at).copied().unwrap_or(0)
    }

    pub(super) fn contains(&self, member: i64) -> bool {
        position(member).is_some_and(|(at, bit)| self.word(at) & bit != 0)
    }

    pub(super) fn insert(&mut self, member: i64) {
        if let Some((at, bit)) = position(member) {
            self.insert_word(at, bit);
        }
    }

    /// Adds the members of a word.
    pub(super) fn insert_word(&mut self, at: usize, word: u64) {
        if word == 0 {
            return;
        }
        if self.0.len() <= at {
            self.0.resize(at + 1, 0);
        }
        self.0[at] |= word;
    }

    /// Returns whether it was a member.
    pub(super) fn remove(&mut self, member: i64) -> bool {
        let Some((at, bit)) = position(member).filter(|(at, _)| *at < self.0.len()) else {
            return false;
        };
        let was = self.0[at] & bit != 0;
        self.0[at] &= !bit;
        was
    }

    /// Adds `first..=last`.
    pub(super) fn insert_range(&mut self, first: i64, last: i64) {
        let Some((mut at, _)) = position(first).filter(|_| first <= last) else {
            return;
        };
        let (end, _) = position(last).expect("not below the first");
        while at <= end {
            let mut word = u64::MAX;
            if at == index(first) {
                word &= u64::MAX << (first & 63);
            }
            if at == end {
                word &= u64::MAX >> (63 - (last & 63));
            }
            self.insert_word(at, word);
            at += 1;
        }
    }

    /// Returns the set of the members as mapped by `to`.
    pub(super) fn map(&self, to: impl Fn(i64) -> i64) -> Self {
        let mut moved = Self(Vec::with_capacity(self.0.len()));
        for at in 0..self.words() {
            for member in members(at, self.word(at)) {
                moved.insert(to(member));
            }
        }
        moved
    }
}

/// The members of a word, from the lowest.
pub(super) fn members(at: usize, mut word: u64) -> impl Iterator<Item = i64> {
    let first = i64::try_from(at).expect("as many words as memory has") * 64;
    std::iter::from_fn(move || {
        let bit = word.trailing_zeros();
        (bit < 64).then(|| {
            word &= word - 1;
            first + i64::from(bit)
        })
    })
}

/// The word that has `member`.
pub(super) fn index(member: i64) -> usize {
    usize::try_from(member.max(0) / 64).expect("fits the address space")
}

fn position(member: i64) -> Option<(usize, u64)> {
    (member > 0).then(|| (index(member), 1 << (member & 63)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_run_is_filled_and_emptied_exactly(first in 1_i64..300, length in 0_i64..300) {
            let mut bits = BitSet::default();
            bits.insert_range(first, first + length - 1);
            let has: Vec<i64> = (0..700).filter(|n| bits.contains(*n)).collect();
            prop_assert_eq!(&has, &(first..first + length).collect::<Vec<_>>());
            let listed: Vec<i64> = (0..bits.words()).flat_map(|at| members(at, bits.word(at))).collect();
            prop_assert_eq!(&listed, &has);
            prop_assert!(has.iter().all(|n| bits.remove(*n) && !bits.contains(*n)));
        }
    }
}

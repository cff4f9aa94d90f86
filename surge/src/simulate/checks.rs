//! Oracle of the simulation: checks the invariants from outside, without the release loop's state.

use std::collections::VecDeque;

use domain::Place;
use domain::line::Move;

/// A violated invariant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// I7: a higher place was called before a lower one that was present.
    #[error("place {higher} was called while {lower} waited and was present")]
    Order {
        /// The place that waited.
        lower: i64,
        /// The place that was called.
        higher: i64,
    },
    /// I8: a place was called that nobody holds, or that had been called before.
    #[error("place {0} was called though it could not be")]
    Call(i64),
    /// I8: two numbers share a place, or a place changed.
    #[error("place {0} was lost, changed or given twice")]
    Place(i64),
    /// I9: too many claims in 60 s.
    #[error("{claims} claims in 60 s, at a rate of {rate}")]
    Rate {
        /// Claims in 60 s.
        claims: u64,
        /// Claims allowed.
        rate: u32,
    },
    /// I9: too many shoppers.
    #[error("{shopping} people shop, at a cap of {cap}")]
    Cap {
        /// Shoppers.
        shopping: u32,
        /// Shoppers allowed.
        cap: u32,
    },
    /// I12: a place claimed again.
    #[error("place {0} claimed twice")]
    Pass(i64),
    /// Fewer people ahead were reported than there were.
    #[error("place {place} was shown {shown} people ahead, when {truth} were there")]
    Ahead {
        /// The place that polled.
        place: i64,
        /// People ahead that were reported.
        shown: i64,
        /// People ahead that had polled recently.
        truth: i64,
    },
    /// The seq of a move did not grow.
    #[error("move {0} does not follow the one before")]
    Sequence(i64),
    /// The sale did not finish in time.
    #[error("{0} people still wait although the sale has had time for all")]
    Stall(i64),
}

/// True state of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stand {
    Nobody,
    Waiting,
    Called,
    Claimed,
    GivenUp,
}

/// True state of all places.
pub(super) struct Truth {
    pub(super) stands: Vec<Stand>,
    /// Bitmap of the waiting places.
    waiting: Vec<u64>,
    seq: i64,
    highest: i64,
}

impl Truth {
    pub(super) fn new(places: u32) -> Self {
        let places = places as usize + 1;
        Self {
            stands: vec![Stand::Nobody; places],
            waiting: vec![0; places / 64 + 1],
            seq: 0,
            highest: 0,
        }
    }

    pub(super) fn of(&self, place: i64) -> Stand {
        at(place)
            .and_then(|at| self.stands.get(at))
            .copied()
            .unwrap_or(Stand::Nobody)
    }

    pub(super) fn set(&mut self, place: i64, stand: Stand) {
        let at = at(place).expect("places are positive");
        self.stands[at] = stand;
        if stand == Stand::Waiting {
            self.waiting[at / 64] |= 1 << (at % 64);
        } else {
            self.waiting[at / 64] &= !(1 << (at % 64));
        }
    }

    /// Applies a move. `is_present` returns whether a waiting place was certainly seen.
    pub(super) fn apply(
        &mut self,
        moved: &Move,
        is_present: impl Fn(i64) -> bool,
    ) -> Result<(), Broken> {
        if moved.seq <= self.seq {
            return Err(Broken::Sequence(moved.seq));
        }
        self.seq = moved.seq;
        for place in moved.called.iter().flat_map(|run| run.places()) {
            if self.of(place.0) != Stand::Waiting {
                return Err(Broken::Call(place.0));
            }
            self.set(place.0, Stand::Called);
            self.highest = self.highest.max(place.0);
        }
        for Place(place) in &moved.missed {
            if matches!(self.of(*place), Stand::Waiting | Stand::Called) {
                self.set(*place, Stand::GivenUp);
            }
        }
        match moved.called.last() {
            Some(last) => self.order(last.last.0, is_present),
            None => Ok(()),
        }
    }

    /// Checks that nobody present waits before `called`.
    fn order(&self, called: i64, is_present: impl Fn(i64) -> bool) -> Result<(), Broken> {
        let end = at(called).expect("places are positive");
        for (index, word) in self.waiting[..=end / 64].iter().enumerate() {
            let mut word = *word;
            while word != 0 {
                let place =
                    i64::try_from(index * 64).expect("few") + i64::from(word.trailing_zeros());
                word &= word - 1;
                if place < called && is_present(place) {
                    return Err(Broken::Order {
                        lower: place,
                        higher: called,
                    });
                }
            }
        }
        Ok(())
    }

    pub(super) fn waiting(&self) -> impl Iterator<Item = i64> {
        let stands = self.stands.iter().enumerate();
        stands
            .filter(|(_, stand)| **stand == Stand::Waiting)
            .map(|(place, _)| i64::try_from(place).expect("few"))
    }
}

fn at(place: i64) -> Option<usize> {
    usize::try_from(place).ok().filter(|at| *at > 0)
}

/// Sliding window of claims over 60 s, exact to the tick.
#[derive(Default)]
pub(super) struct Minute {
    claims: VecDeque<(i64, u64)>,
    sum: u64,
}

impl Minute {
    pub(super) fn add(&mut self, millis: i64, claims: u64, rate: u32) -> Result<(), Broken> {
        while self
            .claims
            .front()
            .is_some_and(|(then, _)| *then <= millis - 60_000)
        {
            self.sum -= self.claims.pop_front().map_or(0, |(_, claims)| claims);
        }
        self.sum += claims;
        self.claims.push_back((millis, claims));
        if claims > 0 && self.sum > u64::from(rate) {
            return Err(Broken::Rate {
                claims: self.sum,
                rate,
            });
        }
        Ok(())
    }
}

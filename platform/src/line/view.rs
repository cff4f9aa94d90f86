//! An immutable view of a line at one seq.

use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use domain::line::{Line, Standing};
use domain::lottery::{Draw, Permutation};
use domain::queue::{Drawn, PlaceState, Snapshot};
use domain::sale::SaleState;
use domain::{Number, Place};

/// A view of a line. All of it is of the same `seq`.
#[derive(Debug)]
pub struct View {
    /// The shared snapshot.
    pub snapshot: Snapshot,
    /// The state of every place.
    pub line: Line,
    order: Option<Arc<Permutation>>,
}

impl View {
    pub(super) fn new(snapshot: Snapshot, line: Line, order: Option<Arc<Permutation>>) -> Self {
        Self {
            snapshot,
            line,
            order,
        }
    }

    /// Returns the same view with its order.
    pub(super) fn ordered(&self, order: Arc<Permutation>) -> Self {
        Self::new(self.snapshot.clone(), self.line.clone(), Some(order))
    }

    /// The place of `number`; `None` before the lottery is drawn, and for the moment that ordering
    /// the lobby takes.
    #[must_use]
    pub fn place_of(&self, number: Number) -> Option<Place> {
        match (&self.snapshot.lottery.drawn, &self.order) {
            (None, _) if self.awaits_draw() => None,
            (Some(drawn), None) if number.0 <= drawn.lobby => None,
            (_, Some(order)) => Some(order.place_of(number)),
            (_, None) => Some(Place(number.0)),
        }
    }

    /// Returns whether the draw is pending: also while the sale is postponed, or closed before it.
    fn awaits_draw(&self) -> bool {
        self.snapshot.state == SaleState::Lobby || self.snapshot.lottery.is_awaited()
    }

    /// The number at `place`; `None` as for [`place_of`](Self::place_of).
    #[must_use]
    pub fn number_of(&self, place: Place) -> Option<Number> {
        self.place_of(Number(place.0))?;
        Some(match &self.order {
            Some(order) => order.number_of(place),
            None => Number(place.0),
        })
    }

    /// Returns the state of `number`.
    #[must_use]
    pub fn state_of(&self, number: Number) -> PlaceState {
        self.state_at(number, self.place_of(number))
    }

    /// [`state_of`](Self::state_of) for a number whose place is known.
    #[must_use]
    pub fn state_at(&self, number: Number, place: Option<Place>) -> PlaceState {
        let standing = place.map_or(Standing::Waiting, |place| self.line.standing(place));
        match standing {
            Standing::Claimed | Standing::Over => PlaceState::Claimed,
            _ if self.line.has_left(number) => PlaceState::Left,
            Standing::Missed => PlaceState::Missed,
            Standing::Called(_) => PlaceState::Ready,
            Standing::Waiting => PlaceState::Waiting,
        }
    }

    /// Returns the end of the claim window of `place`, if it is called.
    #[must_use]
    pub fn claim_until(&self, place: Place) -> Option<DateTime<Utc>> {
        match self.line.standing(place) {
            Standing::Called(at) => {
                let window = self.snapshot.claim_window_seconds;
                Some(at + TimeDelta::seconds(i64::from(window)))
            }
            _ => None,
        }
    }

    /// Returns whether `number` can neither be called nor shop again: its holder may rejoin.
    #[must_use]
    pub fn is_used_up(&self, number: Number) -> bool {
        let standing = self
            .place_of(number)
            .map_or(Standing::Waiting, |place| self.line.standing(place));
        match standing {
            Standing::Over | Standing::Missed => true,
            Standing::Claimed => false,
            Standing::Called(_) | Standing::Waiting => self.line.has_left(number),
        }
    }
}

/// The draw that everyone may know; `None` when its seed is not one.
pub(super) fn draw(drawn: &Drawn) -> Option<Draw> {
    let digits = drawn.seed.as_bytes();
    if digits.len() != 64 {
        return None;
    }
    let mut seed = [0; 32];
    for (byte, pair) in seed.iter_mut().zip(digits.chunks_exact(2)) {
        let pair = std::str::from_utf8(pair).ok()?;
        *byte = u8::from_str_radix(pair, 16).ok()?;
    }
    Some(Draw {
        lobby: drawn.lobby,
        seed,
        entropy: drawn.entropy.clone(),
    })
}

//! The state of each place of a line, event-sourced: admission's release leader appends changes as
//! [`Move`]s; every node folds them, in order, into its own [`Line`], and answers from memory.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{Number, Place};

/// Places `first..=last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// The first.
    pub first: Place,
    /// The last, not before the first.
    pub last: Place,
}

impl Run {
    /// Every place of the run.
    pub fn places(self) -> impl Iterator<Item = Place> {
        (self.first.0..=self.last.0).map(Place)
    }
}

/// The changes of a line in one step of the release leader. Applying one twice is idempotent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// Grows with every move of the sale; the snapshot of the same `seq` includes it.
    pub seq: i64,
    /// When it happened.
    pub at: DateTime<Utc>,
    /// Places called.
    pub called: Vec<Run>,
    /// Their claim window expired.
    pub missed: Vec<Place>,
    /// They claimed their pass.
    pub claimed: Vec<Place>,
    /// Their pass ended, was given back or revoked.
    pub over: Vec<Place>,
    /// Holders of these numbers left.
    pub left: Vec<Number>,
}

impl Move {
    /// An empty move.
    #[must_use]
    pub fn empty(seq: i64, at: DateTime<Utc>) -> Self {
        Self {
            seq,
            at,
            called: Vec::new(),
            missed: Vec::new(),
            claimed: Vec::new(),
            over: Vec::new(),
            left: Vec::new(),
        }
    }

    /// Returns whether it is empty.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let places = [&self.missed, &self.claimed, &self.over];
        self.called.is_empty() && self.left.is_empty() && places.iter().all(|p| p.is_empty())
    }
}

/// State of a place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Not called: the cursor has not reached it, or passed it while it was absent.
    Waiting,
    /// Called at this time; it may claim.
    Called(DateTime<Utc>),
    /// The claim window expired.
    Missed,
    /// Has a running pass.
    Claimed,
    /// Its pass has ended.
    Over,
}

const WAITING: u8 = 0;
const CALLED: u8 = 1;
const MISSED: u8 = 2;
const CLAIMED: u8 = 3;
const OVER: u8 = 4;

/// One sale's line: a byte for each place that was called, and a bit for each number that left.
#[derive(Debug, Clone, Default)]
pub struct Line {
    seq: i64,
    /// When the last move happened.
    at: DateTime<Utc>,
    /// Standing of place n at index n.
    standings: Vec<u8>,
    /// When those were called that may still claim.
    called_at: HashMap<Place, DateTime<Utc>>,
    /// Bit n of word n / 64: number n left.
    left: Vec<u64>,
    left_count: i64,
}

impl Line {
    /// The seq of the last move that was applied.
    #[must_use]
    pub fn seq(&self) -> i64 {
        self.seq
    }

    /// Applies a move; idempotent.
    pub fn apply(&mut self, moved: &Move) {
        if moved.seq <= self.seq {
            return;
        }
        self.seq = moved.seq;
        self.at = moved.at;
        for place in moved.called.iter().flat_map(|run| run.places()) {
            self.set(place, CALLED);
            self.called_at.insert(place, moved.at);
        }
        let ended = [
            (&moved.missed, MISSED),
            (&moved.claimed, CLAIMED),
            (&moved.over, OVER),
        ];
        for (places, standing) in ended {
            for place in places {
                self.set(*place, standing);
                self.called_at.remove(place);
            }
        }
        for number in &moved.left {
            self.leave(*number);
        }
    }

    /// Compacts the log into a checkpoint: a few moves that replace all that were applied. Applying
    /// them after any prefix of those results in the same line as applying all.
    ///
    /// The last has the seq of the last move and every place that is done; those before it call
    /// again, at their own times, the places that may still claim.
    #[must_use]
    pub fn checkpoint(&self) -> Vec<Move> {
        let mut open: BTreeMap<DateTime<Utc>, Vec<Place>> = BTreeMap::new();
        for (place, at) in self.called() {
            open.entry(at).or_default().push(place);
        }
        let mut moves: Vec<Move> = (self.seq + 1 - i64::try_from(open.len()).unwrap_or(0)..)
            .zip(open)
            .map(|(seq, (at, places))| Move {
                called: runs(places),
                ..Move::empty(seq, at)
            })
            .collect();
        if moves.is_empty() {
            moves.push(Move::empty(self.seq, self.at));
        }
        let last = moves.last_mut().expect("there is one");
        for (place, standing) in (0..).map(Place).zip(&self.standings) {
            match *standing {
                MISSED => last.missed.push(place),
                CLAIMED => last.claimed.push(place),
                OVER => last.over.push(place),
                _ => (),
            }
        }
        last.left = (0..)
            .zip(&self.left)
            .flat_map(|(at, word)| (0..64).map(move |bit| (at * 64 + bit, word >> bit & 1)))
            .filter_map(|(number, has_left)| (has_left == 1).then_some(Number(number)))
            .collect();
        moves
    }

    /// Returns the state of `place`.
    #[must_use]
    pub fn standing(&self, place: Place) -> Standing {
        match index(place.0).and_then(|at| self.standings.get(at)) {
            Some(&CALLED) => self
                .called_at
                .get(&place)
                .map_or(Standing::Missed, |at| Standing::Called(*at)),
            Some(&MISSED) => Standing::Missed,
            Some(&CLAIMED) => Standing::Claimed,
            Some(&OVER) => Standing::Over,
            _ => Standing::Waiting,
        }
    }

    /// Places that may still claim, and when each was called, in no order.
    pub fn called(&self) -> impl Iterator<Item = (Place, DateTime<Utc>)> {
        self.called_at.iter().map(|(place, at)| (*place, *at))
    }

    /// Returns whether the holder of `number` has left.
    #[must_use]
    pub fn has_left(&self, number: Number) -> bool {
        index(number.0)
            .and_then(|at| {
                self.left
                    .get(at / 64)
                    .map(|word| word >> (at % 64) & 1 == 1)
            })
            .unwrap_or(false)
    }

    /// Number of holders that have left.
    #[must_use]
    pub fn left_count(&self) -> i64 {
        self.left_count
    }

    fn set(&mut self, place: Place, standing: u8) {
        let Some(at) = index(place.0) else { return };
        if self.standings.len() <= at {
            self.standings.resize(at + 1, WAITING);
        }
        self.standings[at] = standing;
    }

    fn leave(&mut self, number: Number) {
        let Some(at) = index(number.0) else { return };
        if self.left.len() <= at / 64 {
            self.left.resize(at / 64 + 1, 0);
        }
        let bit = 1 << (at % 64);
        if self.left[at / 64] & bit == 0 {
            self.left[at / 64] |= bit;
            self.left_count += 1;
        }
    }
}

fn runs(mut places: Vec<Place>) -> Vec<Run> {
    places.sort_unstable();
    let mut runs: Vec<Run> = Vec::new();
    for place in places {
        match runs.last_mut().filter(|run| run.last.0 + 1 == place.0) {
            Some(run) => run.last = place,
            None => runs.push(Run {
                first: place,
                last: place,
            }),
        }
    }
    runs
}

fn index(number: i64) -> Option<usize> {
    usize::try_from(number).ok().filter(|at| *at > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(second, 0).unwrap()
    }

    fn empty(seq: i64) -> Move {
        Move::empty(seq, at(seq))
    }

    fn run(first: i64, last: i64) -> Run {
        Run {
            first: Place(first),
            last: Place(last),
        }
    }

    #[test]
    fn a_place_waits_is_called_and_claims_misses_or_is_over() {
        let mut line = Line::default();
        assert_eq!(line.standing(Place(5)), Standing::Waiting);
        line.apply(&Move {
            called: vec![run(1, 3), run(6, 6)],
            ..empty(1)
        });
        assert_eq!(line.standing(Place(3)), Standing::Called(at(1)));
        assert_eq!(line.standing(Place(5)), Standing::Waiting);
        line.apply(&Move {
            missed: vec![Place(1)],
            claimed: vec![Place(2), Place(3)],
            over: vec![Place(3)],
            ..empty(2)
        });
        let standings = [1, 2, 3, 6].map(|place| line.standing(Place(place)));
        use Standing::{Called, Claimed, Missed, Over};
        assert_eq!(standings, [Missed, Claimed, Over, Called(at(1))]);
        assert_eq!(line.called().collect::<Vec<_>>(), [(Place(6), at(1))]);
    }

    #[test]
    fn a_move_that_comes_again_changes_nothing() {
        let mut line = Line::default();
        let first = Move {
            called: vec![run(1, 1)],
            left: vec![Number(4)],
            ..empty(1)
        };
        line.apply(&first);
        line.apply(&Move {
            claimed: vec![Place(1)],
            ..empty(2)
        });
        line.apply(&first);
        assert_eq!(line.standing(Place(1)), Standing::Claimed);
        assert_eq!((line.left_count(), line.has_left(Number(4))), (1, true));
    }

    /// Twenty places are called two by two; some claim, some are over, some miss, some leave.
    fn history() -> Vec<Move> {
        (1..=20)
            .map(|seq| {
                let done = seq - 8;
                let is = |n: i64| done > 0 && done % 4 == n;
                Move {
                    called: vec![run(seq * 2 - 1, seq * 2)],
                    claimed: is(1).then_some(Place(done)).into_iter().collect(),
                    missed: is(2).then_some(Place(done)).into_iter().collect(),
                    over: is(1).then_some(Place(done - 4)).into_iter().collect(),
                    left: is(3).then_some(Number(done + 60)).into_iter().collect(),
                    ..empty(seq)
                }
            })
            .collect()
    }

    fn known(line: &Line) -> (i64, Vec<Standing>, Vec<bool>, i64) {
        let standings = (0..60).map(|n| line.standing(Place(n))).collect();
        let left = (0..200).map(|n| line.has_left(Number(n))).collect();
        (line.seq(), standings, left, line.left_count())
    }

    #[test]
    fn a_checkpoint_after_any_prefix_is_the_whole_history() {
        let history = history();
        for until in 1..=history.len() {
            let mut whole = Line::default();
            history[..until].iter().for_each(|moved| whole.apply(moved));
            let checkpoint = whole.checkpoint();
            assert!(checkpoint.len() <= until && checkpoint[0].seq > 0);
            for read in 0..=until {
                let mut line = Line::default();
                history[..read].iter().for_each(|moved| line.apply(moved));
                checkpoint.iter().for_each(|moved| line.apply(moved));
                assert_eq!(known(&line), known(&whole), "{read} of {until}");
            }
        }
    }

    #[test]
    fn a_checkpoint_of_a_checkpoint_and_later_moves_is_the_whole_history() {
        let history = history();
        let mut whole = Line::default();
        history.iter().for_each(|moved| whole.apply(moved));
        let mut line = Line::default();
        history[..9].iter().for_each(|moved| line.apply(moved));
        let mut again = Line::default();
        for moved in line.checkpoint().iter().chain(&history[9..]) {
            again.apply(moved);
        }
        assert_eq!(again.checkpoint(), whole.checkpoint());
    }

    #[test]
    fn numbers_that_nobody_has_stand_nowhere() {
        let mut line = Line::default();
        line.apply(&Move {
            left: vec![Number(0), Number(-3)],
            ..empty(1)
        });
        assert_eq!(line.standing(Place(-1)), Standing::Waiting);
        assert!(!line.has_left(Number(-3)) && line.left_count() == 0);
    }

    #[test]
    fn each_thing_that_happens_makes_a_move_that_is_written() {
        assert!(empty(1).is_empty());
        let places = vec![Place(1)];
        let moves = [
            Move {
                called: vec![run(1, 1)],
                ..empty(1)
            },
            Move {
                missed: places.clone(),
                ..empty(1)
            },
            Move {
                claimed: places.clone(),
                ..empty(1)
            },
            Move {
                over: places,
                ..empty(1)
            },
            Move {
                left: vec![Number(1)],
                ..empty(1)
            },
        ];
        assert!(moves.iter().all(|moved| !moved.is_empty()));
    }

    #[test]
    fn every_number_leaves_by_itself() {
        let mut line = Line::default();
        let left = [1, 63, 64, 65, 200].map(Number);
        line.apply(&Move {
            left: left.to_vec(),
            ..empty(7)
        });
        let found: Vec<i64> = (1..300).filter(|n| line.has_left(Number(*n))).collect();
        assert_eq!(found, [1, 63, 64, 65, 200]);
        assert_eq!((line.left_count(), line.seq()), (5, 7));
    }
}

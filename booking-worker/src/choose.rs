//! Best-available search: which of the free seats a buyer gets.

use std::ops::Range;

use domain::SeatId;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FreeSeat {
    pub(crate) id: SeatId,
    /// Order of preference in the section.
    pub(crate) rank: i32,
    /// Its row; `None` in general admission.
    pub(crate) row: Option<String>,
    /// Its number in the row; `None` in general admission.
    pub(crate) number: Option<i32>,
}

/// Seats chosen from a list of free ones.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    /// Their indices in the list.
    pub(crate) range: Range<usize>,
    pub(crate) quality: Quality,
}

/// Quality of a choice, the worst first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Quality {
    /// Not adjacent.
    Apart,
    /// Adjacent, leaving a single free seat beside them.
    LeavesOrphan,
    /// Adjacent. General admission always counts as such.
    Good,
}

/// Chooses `wanted` of `free`, which is in order of rank: adjacent seats that leave no orphan, else
/// adjacent seats, else the foremost. `None` when there are too few.
pub(crate) fn choose(free: &[FreeSeat], wanted: usize) -> Option<Choice> {
    if wanted == 0 || free.len() < wanted {
        return None;
    }
    let mut best = Choice {
        range: 0..wanted,
        quality: Quality::Apart,
    };
    for run in runs(free) {
        let range = run.start..run.start + wanted;
        let is_numbered = free[run.start].row.is_some();
        let quality = match run.len().checked_sub(wanted) {
            None => continue,
            // General admission has no orphans.
            Some(1) if is_numbered => Quality::LeavesOrphan,
            Some(_) => Quality::Good,
        };
        if quality > best.quality {
            best = Choice { range, quality };
        }
        if quality == Quality::Good {
            break;
        }
    }
    Some(best)
}

/// Maximal runs of adjacent seats.
fn runs(free: &[FreeSeat]) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    free.chunk_by(are_neighbours).map(move |run| {
        let range = start..start + run.len();
        start = range.end;
        range
    })
}

fn are_neighbours(left: &FreeSeat, right: &FreeSeat) -> bool {
    match (&left.row, &right.row) {
        (None, None) => true,
        (left_row, right_row) => left_row == right_row && left.rank + 1 == right.rank,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::{Just, Strategy, any, prop_assert, prop_assert_eq, proptest};

    use super::*;

    fn seat(row: u8, number: i32) -> FreeSeat {
        let rank = i32::from(row) * 1000 + number - 1;
        let row = Some(char::from(b'A' + row).to_string());
        FreeSeat {
            id: SeatId(rank.into()),
            rank,
            row,
            number: Some(number),
        }
    }

    fn house(seats: &[(u8, i32)]) -> Vec<FreeSeat> {
        seats
            .iter()
            .map(|(row, number)| seat(*row, *number))
            .collect()
    }

    fn chosen(seats: &[(u8, i32)], wanted: usize) -> Option<(Range<usize>, Quality)> {
        choose(&house(seats), wanted).map(|choice| (choice.range, choice.quality))
    }

    #[test]
    fn neighbours_are_preferred_to_better_seats_apart() {
        assert_eq!(
            chosen(&[(0, 1), (0, 3), (0, 7), (0, 8)], 2),
            Some((2..4, Quality::Good))
        );
    }

    #[test]
    fn the_last_seat_of_a_row_is_no_neighbour_of_the_first_of_the_next() {
        assert_eq!(
            chosen(&[(0, 1000), (1, 1), (1, 2)], 2),
            Some((1..3, Quality::Good))
        );
    }

    #[test]
    fn no_seat_is_left_alone_where_that_can_be_avoided() {
        assert_eq!(
            chosen(&[(0, 1), (0, 2), (0, 3), (1, 1), (1, 2)], 2),
            Some((3..5, Quality::Good))
        );
        assert_eq!(
            chosen(&[(0, 1), (0, 2), (0, 3)], 2),
            Some((0..2, Quality::LeavesOrphan))
        );
    }

    #[test]
    fn seats_apart_are_better_than_none() {
        assert_eq!(
            chosen(&[(0, 1), (0, 3), (0, 5)], 2),
            Some((0..2, Quality::Apart))
        );
    }

    #[test]
    fn general_admission_takes_the_foremost_whatever_their_ranks() {
        let free: Vec<_> = [1, 5, 9]
            .map(|rank| FreeSeat {
                id: SeatId(rank.into()),
                rank,
                row: None,
                number: None,
            })
            .into();
        assert_eq!(
            choose(&free, 2),
            Some(Choice {
                range: 0..2,
                quality: Quality::Good
            })
        );
    }

    fn any_house() -> impl Strategy<Value = Vec<FreeSeat>> {
        proptest::collection::vec(any::<bool>(), 0..60).prop_flat_map(|free| {
            let seats = free
                .iter()
                .enumerate()
                .filter(|(_, free)| **free)
                .map(|(index, _)| {
                    let index = u8::try_from(index).unwrap();
                    seat(index / 10, i32::from(index % 10) + 1)
                });
            Just(seats.collect())
        })
    }

    proptest! {
        #[test]
        fn somebody_gets_seats_exactly_when_there_are_enough(
            free in any_house(), wanted in 1_usize..8,
        ) {
            let choice = choose(&free, wanted);
            prop_assert_eq!(choice.is_some(), free.len() >= wanted);
            if let Some(choice) = choice {
                prop_assert_eq!(choice.range.len(), wanted);
                prop_assert!(choice.range.end <= free.len());
            }
        }

        #[test]
        fn seats_are_together_whenever_they_can_be(free in any_house(), wanted in 1_usize..8) {
            let possible = free.windows(wanted).any(|seats| seats.is_sorted_by(are_neighbours));
            if let Some(choice) = choose(&free, wanted) {
                prop_assert_eq!(choice.quality != Quality::Apart, possible);
                let seats = &free[choice.range];
                prop_assert_eq!(seats.is_sorted_by(are_neighbours), possible);
            }
        }

        #[test]
        fn a_single_seat_is_left_only_when_every_choice_leaves_one(
            free in any_house(), wanted in 1_usize..8,
        ) {
            let is_avoidable = runs(&free)
                .any(|run| run.len() == wanted || run.len() >= wanted + 2);
            if let Some(choice) = choose(&free, wanted) {
                prop_assert_eq!(choice.quality == Quality::Good, is_avoidable);
            }
        }
    }
}

//! State machine of a sale's lottery, by which a line gets its order.

use chrono::{DateTime, Utc};

use crate::queue::Lottery;
use crate::sale::SaleSettings;

/// The next step of a sale's lottery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Numbers are places.
    None,
    /// A seed is committed to; nobody has a place yet.
    Committed,
    /// The participants are to be fixed, and drawn once the announced entropy is entered.
    Due,
    /// Drawn for good.
    Drawn,
    /// Nobody took part in the draw, and the sale opens later than it was drawn: the lobby that
    /// comes needs another seed.
    Renewed,
}

impl Stage {
    /// Derives the stage of `sale` at `now` from the stored `lottery`; `has_called` says whether a
    /// place of the line was ever called.
    ///
    /// A lottery in which somebody takes part is never undone, whatever is set afterwards.
    #[must_use]
    pub fn of(
        sale: &SaleSettings,
        now: DateTime<Utc>,
        lottery: &Lottery,
        has_called: bool,
    ) -> Self {
        let takes_part = lottery.fixed.as_ref().is_some_and(|fixed| fixed.lobby > 0);
        let is_drawn = lottery.drawn.is_some();
        if takes_part {
            return if is_drawn { Self::Drawn } else { Self::Due };
        }
        if sale.lobby_seconds == 0 {
            return Self::None;
        }
        let is_ahead = now < sale.opens_at;
        match &lottery.fixed {
            Some(_) if is_ahead && !has_called => Self::Renewed,
            Some(_) if is_drawn => Self::Drawn,
            _ if is_ahead || sale.closed => Self::Committed,
            _ => Self::Due,
        }
    }
}

impl Lottery {
    /// Returns whether the places of numbers are still unknown.
    #[must_use]
    pub fn is_awaited(&self) -> bool {
        !self.commitment.is_empty() && self.drawn.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::queue::{Drawn, Fixed};
    use crate::sale::tests::{at, settings};

    fn committed() -> Lottery {
        Lottery {
            commitment: "07".repeat(32),
            ..Lottery::default()
        }
    }

    fn fixed(lobby: i64) -> Lottery {
        let entries_digest = String::new();
        Lottery {
            fixed: Some(Fixed {
                lobby,
                entries_digest,
            }),
            ..committed()
        }
    }

    fn drawn(lobby: i64) -> Lottery {
        Lottery {
            drawn: Some(Drawn {
                lobby,
                seed: String::new(),
                entropy: String::new(),
                entries_digest: String::new(),
            }),
            ..fixed(lobby)
        }
    }

    fn without_lobby() -> SaleSettings {
        SaleSettings {
            lobby_seconds: 0,
            ..settings()
        }
    }

    #[test]
    fn a_lottery_is_committed_to_before_the_opening_and_due_at_it() {
        let of = |second, lottery: &Lottery| Stage::of(&settings(), at(second), lottery, false);
        assert_eq!(of(-90, &Lottery::default()), Stage::Committed);
        assert_eq!(of(-1, &committed()), Stage::Committed);
        assert_eq!(of(0, &committed()), Stage::Due);
        assert_eq!(of(0, &fixed(0)), Stage::Due, "the entropy is awaited");
        assert_eq!(of(1, &drawn(9)), Stage::Drawn);
        assert_eq!(of(1, &drawn(0)), Stage::Drawn);
        let closed = SaleSettings {
            closed: true,
            ..settings()
        };
        assert_eq!(
            Stage::of(&closed, at(1), &committed(), false),
            Stage::Committed
        );
    }

    #[test]
    fn a_draw_of_nobody_is_made_anew_when_the_opening_is_put_off() {
        for lottery in [fixed(0), drawn(0)] {
            assert_eq!(
                Stage::of(&settings(), at(-1), &lottery, false),
                Stage::Renewed
            );
        }
        assert_eq!(
            Stage::of(&settings(), at(-1), &drawn(0), true),
            Stage::Drawn
        );
        assert_eq!(
            Stage::of(&without_lobby(), at(-1), &drawn(0), false),
            Stage::None
        );
    }

    #[test]
    fn a_lottery_in_which_somebody_takes_part_stays_whatever_is_set() {
        for sale in [settings(), without_lobby()] {
            for second in [-90, -1, 1] {
                assert_eq!(Stage::of(&sale, at(second), &drawn(1), false), Stage::Drawn);
                assert_eq!(Stage::of(&sale, at(second), &fixed(1), true), Stage::Due);
            }
        }
    }

    #[test]
    fn places_are_awaited_from_the_commitment_to_the_draw() {
        let awaited = [Lottery::default(), committed(), fixed(3), drawn(3)];
        assert_eq!(
            awaited.map(|lottery| lottery.is_awaited()),
            [false, true, true, false]
        );
    }
}

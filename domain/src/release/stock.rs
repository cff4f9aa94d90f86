//! Number of people that the remaining stock suffices for.

use crate::sale::Stock;

/// The prior of tickets per admitted person.
const TICKETS_AT_FIRST: f64 = 1.5;
/// Weight of the prior, in people.
const AT_FIRST_WEIGHT: f64 = 20.0;
/// Of those who shop, so many have not yet taken what they will.
const UNDECIDED: f64 = 0.5;

/// Estimate of tickets per person.
#[derive(Debug, Clone, Default)]
pub(super) struct Appetite {
    /// Tickets held or sold before anybody was admitted.
    taken_before: Option<i64>,
    claims: u64,
}

impl Appetite {
    pub(super) fn claimed(&mut self, people: usize) {
        self.claims += people as u64;
    }

    /// Room for more people, including those called, until the available stock is spoken for.
    pub(super) fn room(&mut self, stock: Stock, shopping: i64) -> f64 {
        let taken = stock.held + stock.sold;
        let before = *self.taken_before.get_or_insert(taken);
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let (taken, claims, shopping, available) = (
            (taken - before).max(0) as f64,
            self.claims as f64,
            shopping as f64,
            stock.available as f64,
        );
        let decided = (claims - shopping * UNDECIDED).max(0.0);
        let each = (taken + TICKETS_AT_FIRST * AT_FIRST_WEIGHT) / (decided + AT_FIRST_WEIGHT);
        (available / each.max(0.05) - shopping * UNDECIDED).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_shoppers_will_take_is_spoken_for() {
        let mut appetite = Appetite::default();
        let stock = |available| Stock {
            available,
            held: 0,
            sold: 1_000 - available,
        };
        assert!((appetite.room(stock(1_000), 0) - 1_000.0 / 1.5).abs() < 1e-6);
        appetite.claimed(300);
        // 600 tickets by the 250 who are taken to have decided, and 30 by the 20 at first.
        let each = 630.0 / 270.0;
        let room = appetite.room(stock(400), 100);
        assert!((room - (400.0 / each - 50.0)).abs() < 1e-6, "{room}");
        assert!(appetite.room(stock(100), 100) < 1e-6);
        assert!(appetite.room(stock(0), 0) < 1e-6);
    }
}

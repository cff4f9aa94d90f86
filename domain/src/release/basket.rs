//! Basket size: a Bayesian estimate of the tickets that one admitted person takes, and the number
//! of people for whom the remaining stock suffices.

use crate::sale::Stock;

/// Prior of tickets per admitted person.
const PRIOR_TICKETS: f64 = 1.5;
/// Weight of the prior, in people.
const PRIOR_WEIGHT: f64 = 20.0;
/// Share of the shoppers that have taken no tickets yet.
const UNDECIDED_SHARE: f64 = 0.5;

/// Estimate of tickets per admitted person.
#[derive(Debug, Clone, Default)]
pub(super) struct BasketSize {
    /// Tickets held or sold before anybody was admitted.
    taken_before: Option<i64>,
    claims: u64,
}

impl BasketSize {
    pub(super) fn add_claims(&mut self, people: usize) {
        self.claims += people as u64;
    }

    /// Headroom for more people, including those called, until the available stock is expected to
    /// be taken.
    pub(super) fn headroom(&mut self, stock: Stock, shopping: i64) -> f64 {
        let taken = stock.held + stock.sold;
        let before = *self.taken_before.get_or_insert(taken);
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let (taken, claims, shopping, available) = (
            (taken - before).max(0) as f64,
            self.claims as f64,
            shopping as f64,
            stock.available as f64,
        );
        let decided = (claims - shopping * UNDECIDED_SHARE).max(0.0);
        let each = (taken + PRIOR_TICKETS * PRIOR_WEIGHT) / (decided + PRIOR_WEIGHT);
        (available / each.max(0.05) - shopping * UNDECIDED_SHARE).max(0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stock_that_shoppers_are_expected_to_take_is_reserved() {
        let mut basket = BasketSize::default();
        let stock = |available| Stock {
            available,
            held: 0,
            sold: 1_000 - available,
        };
        assert!((basket.headroom(stock(1_000), 0) - 1_000.0 / 1.5).abs() < 1e-6);
        basket.add_claims(300);
        // 600 tickets by the 250 who are taken to have decided, and 30 by the 20 at first.
        let each = 630.0 / 270.0;
        let headroom = basket.headroom(stock(400), 100);
        assert!(
            (headroom - (400.0 / each - 50.0)).abs() < 1e-6,
            "{headroom}"
        );
        assert!(basket.headroom(stock(100), 100) < 1e-6);
        assert!(basket.headroom(stock(0), 0) < 1e-6);
    }
}

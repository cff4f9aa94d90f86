//! Scripts of simulated buyers, and the mix in which a crowd has them.

use std::time::Duration;

use rand::Rng;

/// A card, as one of Stripe's public test payment methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Card {
    /// Is authorised at once.
    Good,
    /// Is declined.
    Declined,
    /// Requires 3-D Secure, which the buyer passes.
    ThreeDSecure,
}

impl Card {
    /// Returns Stripe's id of the test payment method.
    #[must_use]
    pub fn payment_method(self) -> &'static str {
        match self {
            Self::Good => "pm_card_visa",
            Self::Declined => "pm_card_visa_chargeDeclined",
            Self::ThreeDSecure => "pm_card_threeDSecure2Required",
        }
    }
}

/// The course of one buyer's purchase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plan {
    /// Pays with this card.
    Buy(Card),
    /// Is declined once, then pays with another card.
    BuyWithSecondCard,
    /// Pays, then cancels and is refunded.
    BuyThenCancel,
    /// Holds seats and walks away.
    AbandonHold,
    /// Holds seats and cancels the hold.
    CancelHold,
    /// Never claims the pass.
    NoShow,
    /// Leaves the queue after joining.
    LeaveQueue,
}

/// Disturbances on the way, as people with browsers, phones and mailboxes have them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Habits {
    /// Signs in at the opening, on another device than the one used to sign up.
    pub signs_in_at_the_opening: bool,
    /// Number of page reloads while waiting.
    pub reloads: u32,
    /// Duration of a network loss while waiting.
    pub offline: Duration,
    /// Pays on another device, from the link in the mail, after signing in there.
    pub pays_from_the_mail: bool,
}

impl Habits {
    /// Draws the habits of a member of a crowd: most wait without incident.
    pub fn draw(rng: &mut impl Rng) -> Self {
        let mut is_one_in = |n: u32| rng.random_range(0..n) == 0;
        Self {
            signs_in_at_the_opening: is_one_in(10),
            reloads: if is_one_in(5) { 3 } else { 0 },
            offline: if is_one_in(20) {
                Duration::from_secs(10)
            } else {
                Duration::ZERO
            },
            pays_from_the_mail: is_one_in(20),
        }
    }
}

/// Shares of the plans in per cent; the rest buy with a good card.
#[derive(Debug, Clone, Copy)]
pub struct PlanMix {
    /// Share of [`Plan::Buy`] with 3-D Secure.
    pub three_d_secure: u32,
    /// Share of [`Plan::Buy`] with a card that is declined.
    pub declined: u32,
    /// Share of [`Plan::BuyWithSecondCard`].
    pub second_card: u32,
    /// Share of [`Plan::BuyThenCancel`].
    pub cancel: u32,
    /// Share of [`Plan::AbandonHold`].
    pub abandon: u32,
    /// Share of [`Plan::CancelHold`].
    pub cancel_hold: u32,
    /// Share of [`Plan::NoShow`].
    pub no_show: u32,
    /// Share of [`Plan::LeaveQueue`].
    pub leave: u32,
}

impl Default for PlanMix {
    /// The mix of a flash sale.
    fn default() -> Self {
        Self {
            three_d_secure: 10,
            declined: 4,
            second_card: 5,
            cancel: 3,
            abandon: 5,
            cancel_hold: 2,
            no_show: 5,
            leave: 3,
        }
    }
}

impl PlanMix {
    /// Everybody buys with a good card.
    #[must_use]
    pub fn all_buy() -> Self {
        Self {
            three_d_secure: 0,
            declined: 0,
            second_card: 0,
            cancel: 0,
            abandon: 0,
            cancel_hold: 0,
            no_show: 0,
            leave: 0,
        }
    }

    /// Draws a plan from the mix.
    pub fn draw(&self, rng: &mut impl Rng) -> Plan {
        let shares = [
            (self.three_d_secure, Plan::Buy(Card::ThreeDSecure)),
            (self.declined, Plan::Buy(Card::Declined)),
            (self.second_card, Plan::BuyWithSecondCard),
            (self.cancel, Plan::BuyThenCancel),
            (self.abandon, Plan::AbandonHold),
            (self.cancel_hold, Plan::CancelHold),
            (self.no_show, Plan::NoShow),
            (self.leave, Plan::LeaveQueue),
        ];
        let mut ball = rng.random_range(0..100);
        for (share, plan) in shares {
            if ball < share {
                return plan;
            }
            ball -= share;
        }
        Plan::Buy(Card::Good)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    #[test]
    fn a_mix_draws_every_plan_about_as_often_as_it_says() {
        let mut rng = StdRng::seed_from_u64(1);
        let mix = PlanMix::default();
        let drawn: Vec<_> = (0..10_000).map(|_| mix.draw(&mut rng)).collect();
        let count = |plan| drawn.iter().filter(|other| **other == plan).count();
        assert!((400..600).contains(&count(Plan::NoShow)));
        assert!((200..400).contains(&count(Plan::BuyThenCancel)));
        assert!((6000..6600).contains(&count(Plan::Buy(Card::Good))));
    }
}

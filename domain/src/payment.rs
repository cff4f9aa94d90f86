//! Payments and refunds: their states, the reasons to void a payment, the policy of cancellation
//! fees, and the events of Stripe that are handled. Transitions are in [`machine`].

pub mod machine;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{Currency, Money};

/// The types of Stripe's events that the payment worker handles. A webhook endpoint at Stripe is
/// subscribed to these.
pub const STRIPE_EVENTS: [&str; 11] = [
    "payment_intent.amount_capturable_updated",
    "payment_intent.succeeded",
    "payment_intent.canceled",
    "payment_intent.requires_action",
    "payment_intent.payment_failed",
    "refund.created",
    "refund.updated",
    "refund.failed",
    "charge.refund.updated",
    "charge.refunded",
    "charge.dispute.created",
];

/// State of a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PaymentState {
    /// The buyer has not authorised it.
    Pending,
    /// The buyer's bank requires another step.
    RequiresAction,
    /// The money is reserved.
    Authorised,
    /// The money is taken.
    Captured,
    /// It can't be taken any more.
    Failed,
    /// Cancelled before anything was captured.
    Voided,
}

impl PaymentState {
    /// Every state.
    pub const ALL: [Self; 6] = [
        Self::Pending,
        Self::RequiresAction,
        Self::Authorised,
        Self::Captured,
        Self::Failed,
        Self::Voided,
    ];

    /// The word used on the wire and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::RequiresAction => "requires_action",
            Self::Authorised => "authorised",
            Self::Captured => "captured",
            Self::Failed => "failed",
            Self::Voided => "voided",
        }
    }

    /// The state with this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// Returns whether it can still be authorised.
    #[must_use]
    pub fn is_due(self) -> bool {
        matches!(self, Self::Pending | Self::RequiresAction)
    }
}

/// State of a refund.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefundState {
    /// Requested.
    Pending,
    /// The money is on its way back.
    Succeeded,
    /// Refused for good; staff must look.
    Failed,
}

impl RefundState {
    /// Every state.
    pub const ALL: [Self; 3] = [Self::Pending, Self::Succeeded, Self::Failed];

    /// The state with this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// The word used on the wire and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }
}

/// Reason for voiding a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VoidReason {
    /// The hold expired. An authorisation made by then wins the race and retains the seats.
    HoldExpired,
    /// The buyer or staff cancelled. An authorisation is released too.
    Cancelled,
}

impl VoidReason {
    /// The word used on the wire and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HoldExpired => "hold_expired",
            Self::Cancelled => "cancelled",
        }
    }

    /// The reason with this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::HoldExpired, Self::Cancelled]
            .into_iter()
            .find(|reason| reason.as_str() == word)
    }
}

/// The refund policy of cancellations by buyers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct RefundPolicy {
    /// Last moment of a refund; none: the event's start.
    pub until: Option<DateTime<Utc>>,
    /// Fee, of the sum paid, in percent from 0 to 100, rounded down.
    pub fee_percent: u8,
    /// Fixed fee, in minor units, from 0.
    pub fee_minor: i64,
    /// The currency of `fee_minor`, which is not retained of payments in others. `None`: that of
    /// the payment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fee_currency: Option<Currency>,
}

impl RefundPolicy {
    /// Full refunds at any time.
    pub const EVERYTHING: Self = Self {
        until: None,
        fee_percent: 0,
        fee_minor: 0,
        fee_currency: None,
    };

    /// The part of `paid` retained when a buyer cancels at `at`, in minor units; from 0 to all. A
    /// fee is rounded down to the currency's step, so that the rest can go back.
    #[must_use]
    pub fn fee(&self, paid: Money, at: DateTime<Utc>) -> i64 {
        let paid_minor = paid.amount_minor;
        if self.until.is_some_and(|until| at > until) {
            return paid_minor;
        }
        let percent = i128::from(paid_minor) * i128::from(self.fee_percent) / 100;
        let fee = i64::try_from(percent).unwrap_or(i64::MAX);
        let is_its = |currency: &Currency| *currency == paid.currency;
        let fixed = match self.fee_currency.as_ref().is_none_or(is_its) {
            true => self.fee_minor,
            false => 0,
        };
        let fee = fee.saturating_add(fixed).clamp(0, paid_minor);
        Money::new(fee, paid.currency).rounded_down().amount_minor
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Currency;

    #[test]
    fn a_policy_keeps_its_fee_and_after_its_end_everything() {
        let at = |seconds: i64| DateTime::from_timestamp(1_800_000_000 + seconds, 0).unwrap();
        let policy = RefundPolicy {
            until: Some(at(0)),
            fee_percent: 10,
            fee_minor: 250,
            fee_currency: Some(Currency::EUR),
        };
        let euros = |minor| Money::new(minor, Currency::EUR);
        assert_eq!(policy.fee(euros(9_999), at(0)), 999 + 250);
        assert_eq!(policy.fee(euros(9_999), at(1)), 9_999);
        assert_eq!(
            policy.fee(euros(200), at(0)),
            200,
            "never more than was paid"
        );
        let yen = Money::new(9_999, "jpy".try_into().unwrap());
        assert_eq!(policy.fee(yen, at(0)), 999, "cents are no yen");
        assert_eq!(RefundPolicy::EVERYTHING.fee(euros(9_999), at(1)), 0);
        let of_dinars = RefundPolicy {
            fee_currency: None,
            ..policy
        };
        let dinars = Money::new(4_510, Currency::try_from("kwd").unwrap());
        assert_eq!(
            of_dinars.fee(dinars, at(0)),
            700,
            "451 + 250, but for the last digit"
        );
        let all = RefundPolicy {
            fee_percent: 100,
            ..RefundPolicy::EVERYTHING
        };
        assert_eq!(all.fee(euros(i64::MAX), at(0)), i64::MAX);
    }
}

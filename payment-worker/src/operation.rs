//! An operation: a call that changes something at Stripe, stored with its idempotency key before it
//! is made.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::payment::{PaymentState, VoidReason};
use domain::{BookingId, Currency, OperationId, RefundId};
use platform::backoff::Backoff;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::stripe::{Assignment, Failure, NewIntent, NewRefund};

/// Lifetime of an idempotency key. Stripe may forget it after 24 h.
pub(crate) const KEY_LIFETIME: TimeDelta = TimeDelta::hours(23);
/// Age from which "no such PaymentIntent" is believed: the key of another account has the same
/// effect, and is noticed within minutes.
pub(crate) const MISSING_AFTER: TimeDelta = TimeDelta::minutes(10);
/// Backoff of an operation whose outcome is uncertain.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(500), Duration::from_secs(60));

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Create,
    Capture,
    Cancel,
    Refund,
    /// Attach the PaymentIntent to the buyer's customer.
    Assign,
}

impl Kind {
    pub(crate) const ALL: [Self; 5] = [
        Self::Create,
        Self::Capture,
        Self::Cancel,
        Self::Refund,
        Self::Assign,
    ];

    /// The word in the database.
    #[must_use]
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Capture => "capture",
            Self::Cancel => "cancel",
            Self::Refund => "refund",
            Self::Assign => "assign",
        }
    }
}

/// Parameters of a call. Stored, so that every repeat of a key sends the same request.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(crate) enum Request {
    Create(NewIntent),
    /// Capture the authorised amount.
    Capture {
        amount_minor: i64,
        /// Its currency; absent in requests stored before amounts had their own unit at Stripe.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        currency: Option<Currency>,
    },
    Cancel,
    Refund(NewRefund),
    /// Attach the PaymentIntent to the buyer's customer.
    Assign(Assignment),
}

impl Request {
    #[must_use]
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Create(_) => Kind::Create,
            Self::Capture { .. } => Kind::Capture,
            Self::Cancel => Kind::Cancel,
            Self::Refund(_) => Kind::Refund,
            Self::Assign(_) => Kind::Assign,
        }
    }

    /// Our id of the refund that it makes.
    #[must_use]
    pub(crate) fn refund_id(&self) -> Option<RefundId> {
        match self {
            Self::Refund(new) => Some(new.refund_id),
            Self::Create(_) | Self::Capture { .. } | Self::Cancel | Self::Assign(_) => None,
        }
    }
}

/// A leased operation, with its payment as it was then.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    pub id: OperationId,
    pub booking_id: BookingId,
    /// Its idempotency key.
    pub key: String,
    pub request: Request,
    /// Counts the keys of its kind, from 1.
    pub attempt: i32,
    /// Counts the leases, this one included: the fencing token.
    pub tries: i32,
    /// When it was written; its key is not older.
    pub created_at: DateTime<Utc>,
    pub intent_id: Option<String>,
    /// Why the payment is to be released, if it is.
    pub void_reason: Option<VoidReason>,
    pub payment_state: PaymentState,
}

impl Operation {
    /// The PaymentIntent, for an operation that can't go without.
    pub(crate) fn intent_id(&self) -> Result<&str, Failure> {
        self.intent_id.as_deref().ok_or_else(|| Failure::Refused {
            code: "no_intent".to_owned(),
            message: "the payment has no PaymentIntent".to_owned(),
        })
    }

    /// Returns `true` if it is old enough that a missing PaymentIntent does not exist.
    pub(crate) fn is_old(&self, now: DateTime<Utc>) -> bool {
        now - self.created_at > MISSING_AFTER
    }

    /// Returns `true` if Stripe may have forgotten the key of an earlier try.
    pub(crate) fn key_may_be_forgotten(&self, now: DateTime<Utc>) -> bool {
        self.tries > 1 && now - self.created_at > KEY_LIFETIME
    }
}

/// The backoff after so many tries, from 1.
pub(crate) fn backoff(tries: i32, id: Uuid) -> Duration {
    BACKOFF.jittered(u32::try_from(tries).unwrap_or(1), id)
}

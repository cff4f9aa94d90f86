//! Data model: the objects behind Stripe's JSON.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::cards::{Card, Decline};

/// Stripe's PaymentIntent.
#[derive(Clone, Debug)]
pub struct PaymentIntent {
    /// `pi_…`.
    pub id: String,
    /// Secret with which the buyer may confirm.
    pub client_secret: String,
    /// In the currency's smallest unit.
    pub amount: i64,
    /// Three lower-case letters.
    pub currency: String,
    /// Current status.
    pub status: Status,
    /// Automatic or manual capture.
    pub capture_method: CaptureMethod,
    /// Captured so far, in the currency's smallest unit.
    pub amount_received: i64,
    /// Metadata set by the caller.
    pub metadata: BTreeMap<String, String>,
    /// Time of creation.
    pub created: DateTime<Utc>,
    /// Time of cancellation.
    pub canceled_at: Option<DateTime<Utc>>,
    /// Stripe's cancellation reason.
    pub cancellation_reason: Option<String>,
    /// Latest charge, successful or not: `ch_…`.
    pub latest_charge: Option<String>,
    /// Failure of the last attempt.
    pub last_error: Option<FailedAttempt>,
    /// Paying customer, `cus_…`.
    pub customer: Option<String>,
    /// Purpose for which the card is saved for the customer, if any.
    pub setup_future_usage: Option<FutureUsage>,
    pub(crate) description: Option<String>,
    pub(crate) receipt_email: Option<String>,
    /// URL for authentication, while that is required.
    pub(crate) authentication_url: Option<String>,
    /// URL to return to after authentication.
    pub(crate) return_url: Option<String>,
    pub(crate) payment_method: Option<PaymentMethod>,
    /// `None` when the caller lists the payment methods.
    pub(crate) automatic_payment_methods: Option<AllowRedirects>,
}

impl PaymentIntent {
    /// Amount that can be captured now, in the currency's smallest unit.
    pub fn amount_capturable(&self) -> i64 {
        if self.status == Status::RequiresCapture {
            self.amount
        } else {
            0
        }
    }
}

/// Stripe's `status` of a PaymentIntent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// Needs a card.
    RequiresPaymentMethod,
    /// Has a card, needs confirmation.
    RequiresConfirmation,
    /// The buyer must authenticate.
    RequiresAction,
    /// Authorised, to be captured.
    RequiresCapture,
    /// Captured.
    Succeeded,
    /// Cancelled; nothing is or will be charged.
    Canceled,
}

impl Status {
    /// Returns Stripe's spelling.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::RequiresPaymentMethod => "requires_payment_method",
            Self::RequiresConfirmation => "requires_confirmation",
            Self::RequiresAction => "requires_action",
            Self::RequiresCapture => "requires_capture",
            Self::Succeeded => "succeeded",
            Self::Canceled => "canceled",
        }
    }
}

/// Stripe's `automatic_payment_methods[allow_redirects]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum AllowRedirects {
    /// Includes payment methods that redirect.
    Always,
    /// Excludes them.
    Never,
}

/// Stripe's `capture_method`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CaptureMethod {
    /// Captured with the authorisation.
    Automatic,
    /// Captured with the authorisation, asynchronously; Stripe's default.
    AutomaticAsync,
    /// Captured by a separate call.
    Manual,
}

/// Stripe's `setup_future_usage`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FutureUsage {
    /// For payments with the buyer present.
    OnSession,
    /// For payments with the buyer possibly absent.
    OffSession,
}

/// Stripe's Customer.
#[derive(Clone, Debug)]
pub struct Customer {
    /// `cus_…`.
    pub id: String,
    /// Metadata set by the caller.
    pub metadata: BTreeMap<String, String>,
    /// Time of creation.
    pub created: DateTime<Utc>,
    /// Deleted customers accept no further operations.
    pub is_deleted: bool,
    pub(crate) email: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
}

/// Stripe's PaymentMethod: a card of a PaymentIntent or a customer.
#[derive(Clone, Debug)]
pub struct PaymentMethod {
    /// `pm_…`.
    pub id: String,
    /// The test card.
    pub card: Card,
    /// Owner, if it is saved.
    pub customer: Option<String>,
    /// Time of creation.
    pub created: DateTime<Utc>,
    /// Used without being saved, or detached: it can't be used again.
    pub is_spent: bool,
}

/// A failed payment attempt.
#[derive(Clone, Debug)]
pub struct FailedAttempt {
    /// Reason.
    pub decline: Decline,
    /// Card used.
    pub payment_method: PaymentMethod,
    /// The failed charge; `None` if it failed before.
    pub charge: Option<String>,
}

/// Stripe's Charge: an attempt to charge a card.
#[derive(Clone, Debug)]
pub struct Charge {
    /// `ch_…`.
    pub id: String,
    /// PaymentIntent of the attempt.
    pub payment_intent: String,
    /// Authorised, in the currency's smallest unit.
    pub amount: i64,
    /// Captured, in the currency's smallest unit.
    pub amount_captured: i64,
    /// Refunded, in the currency's smallest unit.
    pub amount_refunded: i64,
    /// Three lower-case letters.
    pub currency: String,
    /// Time of the attempt.
    pub created: DateTime<Utc>,
    /// Reason of failure.
    pub failure: Option<Decline>,
    /// Its authorisation was released before a capture.
    pub is_released: bool,
    /// The buyer has opened a dispute.
    pub is_disputed: bool,
    pub(crate) payment_method: PaymentMethod,
    pub(crate) metadata: BTreeMap<String, String>,
}

/// Stripe's Refund.
#[derive(Clone, Debug)]
pub struct Refund {
    /// `re_…`.
    pub id: String,
    /// Refunded PaymentIntent.
    pub payment_intent: String,
    /// Refunded charge.
    pub charge: String,
    /// In the currency's smallest unit.
    pub amount: i64,
    /// Three lower-case letters.
    pub currency: String,
    /// Current status.
    pub status: RefundStatus,
    /// Stripe's reason.
    pub reason: Option<String>,
    /// Metadata set by the caller.
    pub metadata: BTreeMap<String, String>,
    /// Time of creation.
    pub created: DateTime<Utc>,
    /// Pending until the account's balance covers it.
    pub waits_for_balance: bool,
}

/// Stripe's Dispute: the buyer claims a charge back at the bank.
#[derive(Clone, Debug)]
pub struct Dispute {
    /// `du_…`.
    pub id: String,
    /// Disputed PaymentIntent.
    pub payment_intent: String,
    /// Disputed charge.
    pub charge: String,
    /// In the currency's smallest unit.
    pub amount: i64,
    /// Three lower-case letters.
    pub currency: String,
    /// Time of opening.
    pub created: DateTime<Utc>,
    /// Current status.
    pub status: DisputeStatus,
}

/// Stripe's `status` of a Dispute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DisputeStatus {
    /// The seller must respond.
    NeedsResponse,
    /// Decided for the seller.
    Won,
    /// Decided for the buyer.
    Lost,
}

/// Stripe's `status` of a Refund.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RefundStatus {
    /// In progress.
    Pending,
    /// Paid to the buyer.
    Succeeded,
    /// Returned to the account's balance.
    Failed,
}

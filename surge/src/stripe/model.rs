//! What the stand-in knows of a payment: the objects behind Stripe's JSON.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::cards::{Card, Decline};

/// Stripe's PaymentIntent.
#[derive(Clone, Debug)]
pub struct PaymentIntent {
    /// `pi_…`.
    pub id: String,
    /// With it the buyer may confirm.
    pub client_secret: String,
    /// In the currency's smallest unit.
    pub amount: i64,
    /// Three lower-case letters.
    pub currency: String,
    /// Where it stands.
    pub status: Status,
    /// When the money is taken.
    pub capture_method: CaptureMethod,
    /// Captured so far, in the currency's smallest unit.
    pub amount_received: i64,
    /// What the caller attached.
    pub metadata: BTreeMap<String, String>,
    /// When it was created.
    pub created: DateTime<Utc>,
    /// When it was cancelled, if it was.
    pub canceled_at: Option<DateTime<Utc>>,
    /// Why it was cancelled, in Stripe's words.
    pub cancellation_reason: Option<String>,
    /// The last charge tried, successful or not: `ch_…`.
    pub latest_charge: Option<String>,
    /// Why the last attempt to pay failed.
    pub last_error: Option<FailedAttempt>,
    /// The customer who pays, `cus_…`.
    pub customer: Option<String>,
    /// Whether the card is kept for the customer, and for what.
    pub setup_future_usage: Option<FutureUsage>,
    pub(crate) description: Option<String>,
    pub(crate) receipt_email: Option<String>,
    /// Where the buyer authenticates, while that is due.
    pub(crate) authentication_url: Option<String>,
    /// Where the buyer wants to go afterwards.
    pub(crate) return_url: Option<String>,
    pub(crate) payment_method: Option<PaymentMethod>,
    /// `None` when the caller lists the means of payment.
    pub(crate) automatic_payment_methods: Option<AllowRedirects>,
}

impl PaymentIntent {
    /// What a capture could take now, in the currency's smallest unit.
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
    /// Waits for a card.
    RequiresPaymentMethod,
    /// Has a card, waits for the confirmation.
    RequiresConfirmation,
    /// The buyer must authenticate.
    RequiresAction,
    /// Authorised; the money waits to be captured.
    RequiresCapture,
    /// The money is taken.
    Succeeded,
    /// Given up; nothing is or will be taken.
    Canceled,
}

impl Status {
    /// Stripe's word.
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
    /// Means of payment that leave the page are offered, too.
    Always,
    /// They are not.
    Never,
}

/// Stripe's `capture_method`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CaptureMethod {
    /// Taken with the authorisation.
    Automatic,
    /// Taken with the authorisation, Stripe's default.
    AutomaticAsync,
    /// Taken by a call of its own.
    Manual,
}

/// Stripe's `setup_future_usage`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum FutureUsage {
    /// The buyer will be there.
    OnSession,
    /// The buyer may not be there.
    OffSession,
}

/// Stripe's Customer.
#[derive(Clone, Debug)]
pub struct Customer {
    /// `cus_…`.
    pub id: String,
    /// What the caller attached.
    pub metadata: BTreeMap<String, String>,
    /// When it was created.
    pub created: DateTime<Utc>,
    /// Whether it is deleted; then nothing can be done with it any more.
    pub is_deleted: bool,
    pub(crate) email: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) description: Option<String>,
}

/// Stripe's PaymentMethod: a card, as a PaymentIntent or a customer has it.
#[derive(Clone, Debug)]
pub struct PaymentMethod {
    /// `pm_…`.
    pub id: String,
    /// Which test card it is.
    pub card: Card,
    /// Whose it is, if it is kept.
    pub customer: Option<String>,
    /// When it was created.
    pub created: DateTime<Utc>,
    /// It was used without being kept, or is not kept any more: it is good for nothing.
    pub is_spent: bool,
}

/// An attempt to pay that failed.
#[derive(Clone, Debug)]
pub struct FailedAttempt {
    /// Why.
    pub decline: Decline,
    /// With which card.
    pub payment_method: PaymentMethod,
    /// The charge that failed; none if it did not come to a charge.
    pub charge: Option<String>,
}

/// Stripe's Charge: one attempt to take money.
#[derive(Clone, Debug)]
pub struct Charge {
    /// `ch_…`.
    pub id: String,
    /// Whose attempt it is.
    pub payment_intent: String,
    /// Authorised, in the currency's smallest unit.
    pub amount: i64,
    /// Captured, in the currency's smallest unit.
    pub amount_captured: i64,
    /// Given back, in the currency's smallest unit.
    pub amount_refunded: i64,
    /// Three lower-case letters.
    pub currency: String,
    /// When it was tried.
    pub created: DateTime<Utc>,
    /// Why it failed, if it did.
    pub failure: Option<Decline>,
    /// Whether it was given up before it was captured.
    pub is_released: bool,
    /// Whether the buyer asked the bank for the money.
    pub is_disputed: bool,
    pub(crate) payment_method: PaymentMethod,
    pub(crate) metadata: BTreeMap<String, String>,
}

/// Stripe's Refund.
#[derive(Clone, Debug)]
pub struct Refund {
    /// `re_…`.
    pub id: String,
    /// What is given back.
    pub payment_intent: String,
    /// The charge that is given back.
    pub charge: String,
    /// In the currency's smallest unit.
    pub amount: i64,
    /// Three lower-case letters.
    pub currency: String,
    /// Where it stands.
    pub status: RefundStatus,
    /// Why, in Stripe's words.
    pub reason: Option<String>,
    /// What the caller attached.
    pub metadata: BTreeMap<String, String>,
    /// When it was created.
    pub created: DateTime<Utc>,
    /// Whether it waits until the account's balance covers it.
    pub waits_for_balance: bool,
}

/// Stripe's Dispute: the buyer asks the bank for the money of a charge.
#[derive(Clone, Debug)]
pub struct Dispute {
    /// `du_…`.
    pub id: String,
    /// What is disputed.
    pub payment_intent: String,
    /// The charge that is disputed.
    pub charge: String,
    /// In the currency's smallest unit.
    pub amount: i64,
    /// Three lower-case letters.
    pub currency: String,
    /// When it was opened.
    pub created: DateTime<Utc>,
    /// Where it stands.
    pub status: DisputeStatus,
}

/// Stripe's `status` of a Dispute.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DisputeStatus {
    /// The seller must answer.
    NeedsResponse,
    /// The money is the seller's.
    Won,
    /// The money is the buyer's.
    Lost,
}

/// Stripe's `status` of a Refund.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RefundStatus {
    /// On its way.
    Pending,
    /// Given back.
    Succeeded,
    /// Came back: the money is still ours.
    Failed,
}

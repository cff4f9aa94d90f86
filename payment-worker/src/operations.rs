//! The five things the worker does at Stripe. Each has a `call`, which talks to Stripe and to
//! nothing else; a `look_up`, which finds out from Stripe's objects whether it was done; and a
//! `record`, which only changes the database.

mod assign;
mod cancel;
mod capture;
mod create;
mod refund;

use chrono::{DateTime, TimeDelta, Utc};
use domain::payment::{PaymentState, VoidReason};
use domain::{BookingId, Currency, Money, Wire};
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::moves::{self, Step};
use crate::store::findings;
use crate::store::payments::Payment;
use crate::stripe::{
    Assignment, Failure, Intent, IntentStatus, NewIntent, NewRefund, Refund, Stripe,
};

/// Stripe may forget a key after 24 h; an hour before, it is not trusted any more.
pub(crate) const KEY_LIFETIME: TimeDelta = TimeDelta::hours(23);
/// How often a key that gives the same useless answer is repeated before the object is read.
pub(crate) const SPOILT_REPEATS: i32 = 3;
/// How long Stripe must have denied to know a PaymentIntent until that is believed. The key of
/// another account has the same effect, and whoever set it notices within minutes.
const MISSING_AFTER: TimeDelta = TimeDelta::minutes(10);
/// How far Stripe's clock and ours may be apart.
pub(crate) const CLOCK_DIFFERENCE: TimeDelta = TimeDelta::minutes(5);

/// The kinds of operations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Create the PaymentIntent.
    Create,
    /// Take the money.
    Capture,
    /// Give the PaymentIntent up.
    Cancel,
    /// Give money back.
    Refund,
    /// Give the PaymentIntent to the buyer's customer.
    Assign,
}

impl Kind {
    /// Every kind.
    pub(crate) const ALL: [Self; 5] = [
        Self::Create,
        Self::Capture,
        Self::Cancel,
        Self::Refund,
        Self::Assign,
    ];

    /// The word used in the database.
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

/// What is asked of Stripe. Stored, so that every repeat of a key is the same request.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub(crate) enum Request {
    /// Create the PaymentIntent.
    Create(NewIntent),
    /// Take the money.
    Capture {
        /// How much, in minor units.
        amount_minor: i64,
        /// Of which currency; absent in requests written before amounts had a unit of their own at
        /// Stripe.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        currency: Option<Currency>,
    },
    /// Give the PaymentIntent up.
    Cancel,
    /// Give money back.
    Refund(NewRefund),
    /// Give the PaymentIntent to the buyer's customer.
    Assign(Assignment),
}

impl Request {
    /// Its kind.
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

    /// The refund it makes.
    #[must_use]
    pub(crate) fn refund_id(&self) -> Option<Uuid> {
        match self {
            Self::Refund(new) => Some(new.refund_id),
            Self::Create(_) | Self::Capture { .. } | Self::Cancel | Self::Assign(_) => None,
        }
    }
}

/// A leased operation, with what is known of its payment.
#[derive(Debug, Clone)]
pub(crate) struct Operation {
    /// Its id.
    pub id: Uuid,
    /// The booking whose payment it moves.
    pub booking_id: BookingId,
    /// Its idempotency key.
    pub key: String,
    /// What is asked of Stripe.
    pub request: Request,
    /// Which key of its kind it has, from 1.
    pub attempt: i32,
    /// How often it was leased, this time included; tells leases apart.
    pub tries: i32,
    /// When it was written. Its key is not older.
    pub created_at: DateTime<Utc>,
    /// The PaymentIntent, once it exists.
    pub intent_id: Option<String>,
    /// Why the payment is to be given up, if it is.
    pub void_reason: Option<VoidReason>,
    /// Where the payment stood when the operation was leased.
    pub payment_state: PaymentState,
}

impl Operation {
    /// The PaymentIntent of an operation that needs one.
    fn intent_id(&self) -> Result<&str, Failure> {
        self.intent_id.as_deref().ok_or_else(|| Failure::Refused {
            code: "no_intent".to_owned(),
            message: "the payment has no PaymentIntent".to_owned(),
        })
    }

    /// Whether it was begun so long ago that what Stripe does not know does not exist.
    fn is_old(&self, now: DateTime<Utc>) -> bool {
        now - self.created_at > MISSING_AFTER
    }

    /// Whether Stripe may have forgotten a key that it has seen.
    fn key_may_be_forgotten(&self, now: DateTime<Utc>) -> bool {
        self.tries > 1 && now - self.created_at > KEY_LIFETIME
    }
}

/// What Stripe was found to have done.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The PaymentIntent as it is.
    Intent(Intent),
    /// The refund as it is.
    Refund(Refund),
    /// It was not done and can't be.
    Impossible(String),
    /// Stripe has denied for a while to know the PaymentIntent.
    Missing(String),
    /// It was not done, and its key is of no use any more: try with a new one.
    NotDone(String),
}

/// How an operation goes on after its outcome is recorded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// It reached its end.
    Succeeded,
    /// It ended without effect.
    Failed(String),
    /// Look again later, with the same key.
    Wait(String),
    /// Try again with a new key.
    Retry(String),
}

/// Does it at Stripe, or finds out what became of it. Touches no database.
///
/// # Errors
/// While nothing certain is known: repeat it later.
pub(crate) async fn perform(
    stripe: &Stripe,
    operation: &Operation,
    now: DateTime<Utc>,
) -> Result<Outcome, Failure> {
    let reason = if operation.key_may_be_forgotten(now) {
        "its key is too old to be repeated".to_owned()
    } else {
        match call(stripe, operation, now).await {
            Err(spoilt @ Failure::KeySpoilt { .. }) if operation.tries >= SPOILT_REPEATS => {
                spoilt.to_string()
            }
            outcome => return outcome,
        }
    };
    let found = look_up(stripe, operation, now).await?;
    Ok(found.unwrap_or(Outcome::NotDone(reason)))
}

async fn call(
    stripe: &Stripe,
    operation: &Operation,
    now: DateTime<Utc>,
) -> Result<Outcome, Failure> {
    match &operation.request {
        Request::Create(new) => create::call(stripe, operation, new).await,
        Request::Capture {
            amount_minor,
            currency,
        } => capture::call(stripe, operation, wire(*amount_minor, *currency), now).await,
        Request::Cancel => cancel::call(stripe, operation, now).await,
        Request::Refund(new) => refund::call(stripe, operation, new, now).await,
        Request::Assign(assignment) => assign::call(stripe, operation, assignment).await,
    }
}

/// The amount in Stripe's unit.
fn wire(amount_minor: i64, currency: Option<Currency>) -> Wire {
    currency.map_or(Wire(amount_minor), |currency| {
        Money::new(amount_minor, currency).into()
    })
}

async fn look_up(
    stripe: &Stripe,
    operation: &Operation,
    now: DateTime<Utc>,
) -> Result<Option<Outcome>, Failure> {
    match &operation.request {
        Request::Create(_) => Ok(create::look_up()),
        Request::Capture { .. } => capture::look_up(stripe, operation, now).await,
        Request::Cancel => cancel::look_up(stripe, operation, now).await,
        Request::Refund(new) => refund::look_up(stripe, operation, new, now).await,
        Request::Assign(_) => Ok(assign::look_up()),
    }
}

/// What Stripe says of the PaymentIntent of an operation.
enum Read {
    /// It is so.
    Intent(Intent),
    /// Stripe has denied for [`MISSING_AFTER`] to know it.
    Missing(String),
}

/// Reads the PaymentIntent of an operation.
async fn read(stripe: &Stripe, operation: &Operation, now: DateTime<Utc>) -> Result<Read, Failure> {
    match stripe.retrieve(operation.intent_id()?).await {
        Ok(intent) => Ok(Read::Intent(intent)),
        Err(missing) if missing.is_missing() && operation.is_old(now) => {
            Ok(Read::Missing(missing.to_string()))
        }
        Err(failure) => Err(failure),
    }
}

/// Notes for staff that Stripe does not know a PaymentIntent. Nobody can pay by it, then.
async fn note_missing(
    conn: &mut PgConnection,
    payment: &Payment,
    reason: &str,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let id = payment.intent_id.as_deref().unwrap_or("no PaymentIntent");
    let detail = format!("Stripe does not know what we have from it: {reason}");
    let (kind, booking_id) = (findings::Kind::Missing, Some(payment.booking_id));
    findings::note(conn, kind, id, booking_id, &detail, now).await
}

/// Writes down what was found, and says how the operation goes on. `payment` is locked.
///
/// # Errors
/// What the database says.
pub(crate) async fn record(
    conn: &mut PgConnection,
    payment: &Payment,
    request: &Request,
    outcome: &Outcome,
    now: DateTime<Utc>,
) -> Result<Next, sqlx::Error> {
    if let Outcome::NotDone(reason) = outcome {
        return Ok(Next::Retry(reason.clone()));
    }
    match request {
        Request::Create(_) => create::record(conn, payment, outcome, now).await,
        Request::Capture { .. } => capture::record(conn, payment, outcome, now).await,
        Request::Cancel => cancel::record(conn, payment, outcome, now).await,
        Request::Refund(new) => refund::record(conn, payment, new, outcome, now).await,
        Request::Assign(_) => Ok(assign::record(outcome)),
    }
}

/// What the outcome of an operation comes to, when that is as simple as it mostly is, and can be
/// written down for many operations together.
#[derive(Debug)]
pub(crate) enum Simple<'a> {
    /// The payment has its PaymentIntent.
    Created(&'a Intent),
    /// The payment takes a step.
    Moved(Step),
}

/// The simple success of an operation; `None` when [`record`] must look closer.
pub(crate) fn simple<'a>(
    payment: &Payment,
    request: &Request,
    outcome: &'a Outcome,
) -> Option<Simple<'a>> {
    let Outcome::Intent(intent) = outcome else {
        return None;
    };
    match request {
        Request::Create(_) => create::is_simple(payment, intent).then_some(Simple::Created(intent)),
        Request::Capture { .. } if intent.status == IntentStatus::Succeeded => {
            moves::step(payment, intent).map(Simple::Moved)
        }
        _ => None,
    }
}

/// Why an operation that got this outcome waits.
fn unexpected(outcome: &Outcome) -> Next {
    Next::Wait(format!("Stripe gave an unexpected answer: {outcome:?}"))
}

//! The five kinds of calls that change something at Stripe. Each has a `call`, which only talks to
//! Stripe; a `look_up`, which reads the outcome from Stripe's objects; and a `record`, which only
//! writes to the database.

mod assign;
mod cancel;
mod capture;
mod create;
mod refund;

use chrono::{DateTime, TimeDelta, Utc};
use domain::payment::machine::PaymentCommand;
use domain::{Currency, Money, Wire};
use sqlx::PgConnection;

use crate::operation::{Operation, Request};
use crate::payments;
use crate::payments::rules::{self, Source, Step};
use crate::store::findings;
use crate::store::payments::Payment;
use crate::stripe::{Failure, Intent, IntentStatus, Refund, Stripe};

/// Repeats of a key whose saved answer is inconclusive before the object itself is read.
pub(crate) const FAILED_KEY_REPEATS: i32 = 3;
/// Largest tolerated difference between Stripe's clock and ours.
pub(crate) const CLOCK_DIFFERENCE: TimeDelta = TimeDelta::minutes(5);

/// Effect of an operation at Stripe.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The PaymentIntent as it is.
    Intent(Intent),
    /// The refund as it is.
    Refund(Refund),
    /// It was not done, and can't be.
    Impossible(String),
    /// Stripe has not known the PaymentIntent for
    /// [`MISSING_AFTER`](crate::operation::MISSING_AFTER).
    Missing(String),
    /// It was not done, and its key is spent: retry with a new one.
    NotDone(String),
}

/// State of an operation after its outcome is recorded.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// It ended with its effect.
    Succeeded,
    /// It ended without effect.
    Failed(String),
    /// Retry later, with the same key.
    Wait(String),
    /// Retry with a new key.
    Retry(String),
}

/// Performs it at Stripe, or reads its outcome. Does not touch the database.
///
/// # Errors
/// While the outcome is unknown: repeat it later.
pub(crate) async fn perform(
    stripe: &Stripe,
    operation: &Operation,
    now: DateTime<Utc>,
) -> Result<Outcome, Failure> {
    let reason = if operation.key_may_be_forgotten(now) {
        "its key is too old to be repeated".to_owned()
    } else {
        match call(stripe, operation, now).await {
            Err(failure @ Failure::KeyConsumed { .. }) if operation.tries >= FAILED_KEY_REPEATS => {
                failure.to_string()
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

/// Converts an amount to Stripe's unit.
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

/// A PaymentIntent that was read for an operation.
enum Read {
    Intent(Intent),
    /// Stripe has not known it for [`MISSING_AFTER`](crate::operation::MISSING_AFTER).
    Missing(String),
}

async fn read(stripe: &Stripe, operation: &Operation, now: DateTime<Utc>) -> Result<Read, Failure> {
    match stripe.retrieve(operation.intent_id()?).await {
        Ok(intent) => Ok(Read::Intent(intent)),
        Err(missing) if missing.is_missing() && operation.is_old(now) => {
            Ok(Read::Missing(missing.to_string()))
        }
        Err(failure) => Err(failure),
    }
}

/// Records a finding: Stripe does not know the PaymentIntent, so nobody can pay by it.
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

/// Records an outcome and returns what becomes of the operation. `payment` is locked.
///
/// # Errors
/// When the database fails.
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

/// A plain success, which is recorded for many operations by one statement.
#[derive(Debug)]
pub(crate) enum Simple<'a> {
    /// The payment has got its PaymentIntent.
    Created(&'a Intent),
    /// The payment takes a plain step.
    Moved(Step),
}

/// The plain success that an outcome is; `None` when it needs [`record`].
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
            rules::follow(payment, intent, Source::Read)
                .filter(Step::is_plain)
                .map(Simple::Moved)
        }
        _ => None,
    }
}

/// Refuses money of another amount or currency than is due, which was read just now; `false` when
/// it is what is due, or none.
async fn refuse_other_money(
    conn: &mut PgConnection,
    payment: &Payment,
    intent: &Intent,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let Some(step) = rules::refuse_other_money(payment, intent, Source::Read) else {
        return Ok(false);
    };
    payments::advance_one(conn, payment, step, now).await?;
    Ok(true)
}

/// Records that the money can't be captured.
async fn fail(
    conn: &mut PgConnection,
    payment: &Payment,
    reason: &str,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let reason = reason.to_owned();
    payments::transition(conn, payment, PaymentCommand::Fail { reason }, now).await?;
    Ok(())
}

/// Retries an operation whose outcome does not fit it.
fn unexpected(outcome: &Outcome) -> Next {
    Next::Wait(format!("Stripe gave an unexpected answer: {outcome:?}"))
}

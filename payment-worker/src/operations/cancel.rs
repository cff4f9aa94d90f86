//! Cancels the PaymentIntent, unless the buyer authorised before the hold expired.

use chrono::{DateTime, Utc};
use domain::payment::machine::PaymentCommand;
use domain::payment::{PaymentState, VoidReason};
use sqlx::PgConnection;

use super::{Next, Operation, Outcome, Read, note_missing, read, refuse_other_money, unexpected};
use crate::payments::{self, rules};
use crate::store::payments::Payment;
use crate::stripe::{Failure, IntentStatus, Stripe};

/// Returns `true` if a buyer who has authorised keeps the seats: the hold expired, and no capture
/// has failed since.
fn may_be_authorised(operation: &Operation) -> bool {
    operation.void_reason == Some(VoidReason::HoldExpired)
        && operation.payment_state != PaymentState::Failed
}

pub(super) async fn call(
    stripe: &Stripe,
    operation: &Operation,
    now: DateTime<Utc>,
) -> Result<Outcome, Failure> {
    let intent_id = operation.intent_id()?;
    if may_be_authorised(operation) {
        let intent = match read(stripe, operation, now).await? {
            Read::Intent(intent) => intent,
            Read::Missing(reason) => return Ok(Outcome::Missing(reason)),
        };
        if intent.status == IntentStatus::RequiresCapture || intent.status.is_final() {
            return Ok(Outcome::Intent(intent));
        }
    }
    match stripe.cancel(&operation.key, intent_id).await {
        Ok(intent) => Ok(Outcome::Intent(intent)),
        Err(refused @ Failure::Refused { .. }) => match read(stripe, operation, now).await? {
            Read::Intent(intent) if intent.status.is_final() => Ok(Outcome::Intent(intent)),
            Read::Intent(_) => Ok(Outcome::NotDone(refused.to_string())),
            Read::Missing(reason) => Ok(Outcome::Missing(reason)),
        },
        Err(failure) => Err(failure),
    }
}

pub(super) async fn look_up(
    stripe: &Stripe,
    operation: &Operation,
    now: DateTime<Utc>,
) -> Result<Option<Outcome>, Failure> {
    let intent = match read(stripe, operation, now).await? {
        Read::Intent(intent) => intent,
        Read::Missing(reason) => return Ok(Some(Outcome::Missing(reason))),
    };
    let is_settled = intent.status.is_final()
        || (intent.status == IntentStatus::RequiresCapture && may_be_authorised(operation));
    Ok(is_settled.then_some(Outcome::Intent(intent)))
}

pub(super) async fn record(
    conn: &mut PgConnection,
    payment: &Payment,
    outcome: &Outcome,
    now: DateTime<Utc>,
) -> Result<Next, sqlx::Error> {
    let intent = match outcome {
        Outcome::Intent(intent) => intent,
        Outcome::Missing(reason) => {
            note_missing(conn, payment, reason, now).await?;
            payments::transition(conn, payment, PaymentCommand::Void, now).await?;
            return Ok(Next::Failed(reason.clone()));
        }
        other => return Ok(unexpected(other)),
    };
    if refuse_other_money(conn, payment, intent, now).await? {
        let reason = "the PaymentIntent has another amount or currency than is due".to_owned();
        // Repeated, it releases what is reserved, since the payment has failed.
        return Ok(match intent.status {
            IntentStatus::RequiresCapture => Next::Wait(reason),
            _ => Next::Failed(reason),
        });
    }
    match intent.status {
        IntentStatus::Canceled => {
            payments::transition(conn, payment, PaymentCommand::Void, now).await?;
            Ok(Next::Succeeded)
        }
        IntentStatus::Succeeded => {
            payments::transition(conn, payment, rules::capture(intent), now).await?;
            Ok(Next::Succeeded)
        }
        IntentStatus::RequiresCapture => {
            payments::transition(conn, payment, PaymentCommand::Authorise, now).await?;
            // A cancellation that came during the call must still be carried out.
            let is_wanted = payment.void_reason == Some(VoidReason::HoldExpired)
                && payment.state != PaymentState::Failed;
            if is_wanted {
                Ok(Next::Succeeded)
            } else {
                Ok(Next::Wait(
                    "the buyer has authorised, but the booking is cancelled".to_owned(),
                ))
            }
        }
        _ => Ok(Next::Wait(
            "Stripe is not done with the PaymentIntent".to_owned(),
        )),
    }
}

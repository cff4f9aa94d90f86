//! Captures the payment of a confirmed booking.

use chrono::{DateTime, Utc};
use domain::Wire;
use domain::payment::machine::PaymentCommand;
use sqlx::PgConnection;

use super::{
    Next, Operation, Outcome, Read, Request, fail, note_missing, read, refuse_other_money,
    unexpected,
};
use crate::payments::{self, rules};
use crate::store::operations;
use crate::store::payments::Payment;
use crate::stripe::{Failure, IntentStatus, Stripe};

pub(super) async fn call(
    stripe: &Stripe,
    operation: &Operation,
    amount: Wire,
    now: DateTime<Utc>,
) -> Result<Outcome, Failure> {
    let intent_id = operation.intent_id()?;
    let refused = match stripe.capture(&operation.key, intent_id, amount).await {
        Ok(intent) => return Ok(Outcome::Intent(intent)),
        Err(refused @ Failure::Refused { .. }) => refused,
        Err(failure) => return Err(failure),
    };
    // Most often because it is captured or canceled already.
    let intent = match read(stripe, operation, now).await? {
        Read::Intent(intent) => intent,
        Read::Missing(reason) => return Ok(Outcome::Missing(reason)),
    };
    match intent.status {
        IntentStatus::Succeeded | IntentStatus::Canceled | IntentStatus::Processing => {
            Ok(Outcome::Intent(intent))
        }
        _ => Ok(Outcome::Impossible(refused.to_string())),
    }
}

pub(super) async fn look_up(
    stripe: &Stripe,
    operation: &Operation,
    now: DateTime<Utc>,
) -> Result<Option<Outcome>, Failure> {
    Ok(match read(stripe, operation, now).await? {
        Read::Intent(intent) => intent.status.is_final().then_some(Outcome::Intent(intent)),
        Read::Missing(reason) => Some(Outcome::Missing(reason)),
    })
}

pub(super) async fn record(
    conn: &mut PgConnection,
    payment: &Payment,
    outcome: &Outcome,
    now: DateTime<Utc>,
) -> Result<Next, sqlx::Error> {
    match outcome {
        Outcome::Intent(intent) if refuse_other_money(conn, payment, intent, now).await? => {
            let reason = "the PaymentIntent has another amount or currency than is due";
            Ok(Next::Failed(reason.to_owned()))
        }
        Outcome::Intent(intent) => match intent.status {
            IntentStatus::Succeeded => {
                payments::transition(conn, payment, rules::capture(intent), now).await?;
                Ok(Next::Succeeded)
            }
            IntentStatus::Canceled => {
                let reason = "the PaymentIntent is cancelled at Stripe";
                let reason = reason.to_owned();
                let command = if payment.is_cancelled() {
                    PaymentCommand::Void
                } else {
                    let reason = reason.clone();
                    PaymentCommand::Fail { reason }
                };
                payments::transition(conn, payment, command, now).await?;
                Ok(Next::Failed(reason))
            }
            _ => Ok(Next::Wait("Stripe is not done with the capture".to_owned())),
        },
        Outcome::Impossible(reason) => {
            fail(conn, payment, reason, now).await?;
            // Releases what is authorised on the buyer's card.
            operations::insert(conn, payment.booking_id, &Request::Cancel, now, now).await?;
            Ok(Next::Failed(reason.clone()))
        }
        Outcome::Missing(reason) => {
            note_missing(conn, payment, reason, now).await?;
            fail(conn, payment, reason, now).await?;
            Ok(Next::Failed(reason.clone()))
        }
        other => Ok(unexpected(other)),
    }
}

//! Making sure that no money comes, unless the buyer was faster than the end of the hold.

use chrono::{DateTime, Utc};
use domain::payment::{PaymentState, VoidReason};
use sqlx::PgConnection;

use super::{Finding, Next, Operation, unexpected};
use crate::store::payments::Payment;
use crate::stripe::{Failure, IntentStatus, Stripe};
use crate::transitions;

pub(super) async fn call(stripe: &Stripe, operation: &Operation) -> Result<Finding, Failure> {
    let intent_id = operation.intent_id()?;
    if operation.void_reason == Some(VoidReason::HoldExpired) {
        let intent = stripe.retrieve(intent_id).await?;
        if intent.status == IntentStatus::RequiresCapture || intent.status.is_final() {
            return Ok(Finding::Intent(intent));
        }
    }
    match stripe.cancel(&operation.key, intent_id).await {
        Ok(intent) => Ok(Finding::Intent(intent)),
        Err(refused @ Failure::Refused { .. }) => {
            let intent = stripe.retrieve(intent_id).await?;
            if intent.status.is_final() {
                Ok(Finding::Intent(intent))
            } else {
                Ok(Finding::NotDone(refused.to_string()))
            }
        }
        Err(failure) => Err(failure),
    }
}

pub(super) async fn look_up(
    stripe: &Stripe,
    operation: &Operation,
) -> Result<Option<Finding>, Failure> {
    let intent = stripe.retrieve(operation.intent_id()?).await?;
    let is_settled = intent.status.is_final()
        || (intent.status == IntentStatus::RequiresCapture
            && operation.void_reason == Some(VoidReason::HoldExpired));
    Ok(is_settled.then_some(Finding::Intent(intent)))
}

pub(super) async fn record(
    conn: &mut PgConnection,
    payment: &Payment,
    finding: &Finding,
    now: DateTime<Utc>,
) -> Result<Next, sqlx::Error> {
    let Finding::Intent(intent) = finding else {
        return Ok(unexpected(finding));
    };
    match intent.status {
        IntentStatus::Canceled => {
            transitions::void(conn, payment, now).await?;
            Ok(Next::Succeeded)
        }
        IntentStatus::Succeeded => {
            transitions::capture(conn, payment, intent.received_minor, now).await?;
            Ok(Next::Succeeded)
        }
        IntentStatus::RequiresCapture => {
            transitions::authorise(conn, payment, now).await?;
            // A cancellation that came while Stripe was asked must still be carried out.
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

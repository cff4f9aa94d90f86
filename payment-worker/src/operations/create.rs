//! Creates the PaymentIntent that the buyer pays.

use chrono::{DateTime, Utc};
use domain::EventId;
use domain::payment::machine::PaymentCommand;
use sqlx::PgConnection;

use super::{Next, Operation, Outcome, Request, fail, unexpected};
use crate::payments;
use crate::store::payments::Payment;
use crate::store::{findings, operations, payments as table};
use crate::stripe::{Failure, Intent, NewIntent, Stripe};

pub(super) async fn call(
    stripe: &Stripe,
    operation: &Operation,
    new: &NewIntent,
) -> Result<Outcome, Failure> {
    match stripe
        .create(&operation.key, operation.booking_id, new)
        .await
    {
        Ok(intent) => Ok(Outcome::Intent(intent)),
        Err(refused @ Failure::Refused { .. }) => Ok(Outcome::Impossible(refused.to_string())),
        Err(failure) => Err(failure),
    }
}

/// Not needed: another one is created. Nobody has the secret of the first, so nobody can pay it.
pub(super) fn look_up() -> Option<Outcome> {
    None
}

/// Returns `true` if the payment still waits for this PaymentIntent and no other.
pub(super) fn is_simple(payment: &Payment, intent: &Intent) -> bool {
    let is_its = |id: &String| *id == intent.id;
    payment.void_reason.is_none()
        && payment.state.is_due()
        && payment.intent_id.as_ref().is_none_or(is_its)
}

/// Records a finding that nothing of an event can be sold, once a day: every buyer meets it.
async fn note_refused(
    conn: &mut PgConnection,
    payment: &Payment,
    reason: &str,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let event = payment.event_id.unwrap_or(EventId(0));
    let subject = format!("event:{event}:{}", now.date_naive());
    let (booking_id, amount) = (payment.booking_id, payment.amount);
    let detail = format!("A payment of {amount} could not begin: {reason}");
    tracing::warn!(%booking_id, reason, "Stripe refused to create a PaymentIntent");
    let kind = findings::Kind::CreationRefused;
    findings::note(conn, kind, &subject, Some(booking_id), &detail, now).await
}

pub(super) async fn record(
    conn: &mut PgConnection,
    payment: &Payment,
    outcome: &Outcome,
    now: DateTime<Utc>,
) -> Result<Next, sqlx::Error> {
    match outcome {
        // The answer may be a replay: only that the PaymentIntent exists is certain.
        Outcome::Intent(intent) => {
            if !table::set_intent(conn, payment.booking_id, intent, now).await? {
                return Ok(Next::Failed(format!(
                    "the payment has another intent than {}",
                    intent.id
                )));
            }
            if payment.void_reason.is_some() || !payment.state.is_due() {
                let request = Request::Cancel;
                operations::insert(conn, payment.booking_id, &request, now, now).await?;
            }
            Ok(Next::Succeeded)
        }
        Outcome::Impossible(reason) => {
            if payment.void_reason.is_some() {
                payments::transition(conn, payment, PaymentCommand::Void, now).await?;
            } else {
                note_refused(conn, payment, reason, now).await?;
                fail(conn, payment, reason, now).await?;
            }
            Ok(Next::Failed(reason.clone()))
        }
        other => Ok(unexpected(other)),
    }
}

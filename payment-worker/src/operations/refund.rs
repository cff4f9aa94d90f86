//! Refunds a captured payment.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use super::{Next, Operation, Outcome, note_missing, unexpected, wire};
use crate::refunds;
use crate::store::payments::Payment;
use crate::stripe::{Failure, NewRefund, Stripe};

pub(super) async fn call(
    stripe: &Stripe,
    operation: &Operation,
    new: &NewRefund,
    now: DateTime<Utc>,
) -> Result<Outcome, Failure> {
    match stripe
        .refund(
            &operation.key,
            operation.intent_id()?,
            new.refund_id,
            wire(new.amount_minor, new.currency),
        )
        .await
    {
        Ok(refund) => Ok(Outcome::Refund(refund)),
        // Perhaps because it was made under an earlier key.
        Err(refused @ Failure::Refused { .. }) => {
            let found = look_up(stripe, operation, new, now).await?;
            Ok(found.unwrap_or_else(|| Outcome::Impossible(refused.to_string())))
        }
        Err(failure) => Err(failure),
    }
}

pub(super) async fn look_up(
    stripe: &Stripe,
    operation: &Operation,
    new: &NewRefund,
    now: DateTime<Utc>,
) -> Result<Option<Outcome>, Failure> {
    let intent_id = operation.intent_id()?;
    match stripe.find_refund(intent_id, new.refund_id).await {
        Ok(found) => Ok(found.map(Outcome::Refund)),
        Err(missing) if missing.is_missing() && operation.is_old(now) => {
            Ok(Some(Outcome::Missing(missing.to_string())))
        }
        Err(failure) => Err(failure),
    }
}

pub(super) async fn record(
    conn: &mut PgConnection,
    payment: &Payment,
    new: &NewRefund,
    outcome: &Outcome,
    now: DateTime<Utc>,
) -> Result<Next, sqlx::Error> {
    match outcome {
        Outcome::Refund(refund) => {
            refunds::follow_own(conn, new.refund_id, refund, now).await?;
            Ok(Next::Succeeded)
        }
        Outcome::Impossible(reason) => {
            refunds::fail(conn, payment, new.refund_id, reason, now).await?;
            Ok(Next::Failed(reason.clone()))
        }
        Outcome::Missing(reason) => {
            note_missing(conn, payment, reason, now).await?;
            refunds::fail(conn, payment, new.refund_id, reason, now).await?;
            Ok(Next::Failed(reason.clone()))
        }
        other => Ok(unexpected(other)),
    }
}

//! The booking worker asks that no payment comes, and to be told how it ended.

use chrono::{DateTime, Utc};
use domain::message::VoidPayment;
use domain::payment::{PaymentState, VoidReason};
use sqlx::PgConnection;

use super::{Done, Effect};
use crate::operations::{Kind, Request};
use crate::store::payments::Payment;
use crate::store::{operations, payments};
use crate::transitions;

impl Effect for VoidPayment {
    async fn apply(
        &self,
        conn: &mut PgConnection,
        now: DateTime<Utc>,
    ) -> Result<Done, sqlx::Error> {
        let VoidPayment { booking_id, reason } = *self;
        if payments::insert_voided(conn, booking_id, reason, now).await? {
            transitions::tell_voided(conn, booking_id).await?;
            return Ok(Done::Yes);
        }
        let Some(payment) = payments::lock(conn, booking_id).await? else {
            return Ok(Done::TooEarly);
        };
        match (payment.state, reason) {
            (PaymentState::Voided | PaymentState::Failed, _) => {
                transitions::tell_voided(conn, booking_id).await?;
            }
            (PaymentState::Authorised | PaymentState::Captured, VoidReason::HoldExpired) => {
                transitions::tell_authorised(conn, &payment).await?;
            }
            (PaymentState::Captured, VoidReason::Cancelled) => {
                transitions::refund_cancelled(conn, &payment, 0, now).await?;
                transitions::tell_voided(conn, booking_id).await?;
            }
            (PaymentState::Pending | PaymentState::RequiresAction, _)
            | (PaymentState::Authorised, VoidReason::Cancelled) => {
                release(conn, &payment, reason, now).await?;
            }
        }
        Ok(Done::Yes)
    }
}

/// Begins to give an open payment up. A capture that is under way goes on, and is refunded when it
/// is done; an intent that is being created is cancelled when it exists.
pub(super) async fn release(
    conn: &mut PgConnection,
    payment: &Payment,
    reason: VoidReason,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let booking_id = payment.booking_id;
    payments::set_void_reason(conn, booking_id, reason, now).await?;
    if payment.intent_id.is_none() {
        if operations::drop_untried_create(conn, booking_id, now).await? {
            transitions::void(conn, payment, now).await?;
        }
        return Ok(());
    }
    if !operations::is_pending(conn, booking_id, Kind::Capture).await? {
        operations::insert(conn, booking_id, &Request::Cancel, now, now).await?;
    }
    Ok(())
}

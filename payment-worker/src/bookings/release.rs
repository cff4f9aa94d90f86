//! Releases or refunds the money of a booking that is given up.

use chrono::{DateTime, Utc};
use domain::message::CancelAsked;
use domain::payment::machine::PaymentCommand;
use domain::payment::{PaymentState, VoidReason};
use sqlx::PgConnection;

use super::confirmed::capture;
use crate::operation::{Kind, Request};
use crate::store::operations;
use crate::store::payments::{self, Payment};
use crate::{payments as engine, refunds};

/// Releases or refunds the money of a cancelled booking, less what its event's policy retains when
/// the buyer cancels; `false` when that was done before. The payment is locked.
pub(crate) async fn give_back(
    conn: &mut PgConnection,
    payment: &Payment,
    asked: Option<CancelAsked>,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    match payment.state {
        PaymentState::Captured => refunds::refund_cancelled(conn, payment, asked, now).await,
        PaymentState::Pending | PaymentState::RequiresAction => {
            release(conn, payment, VoidReason::Cancelled, now).await
        }
        PaymentState::Authorised => {
            let fee = refunds::decide_fee(conn, payment, payment.amount, asked, now).await?;
            if fee == 0 {
                return release(conn, payment, VoidReason::Cancelled, now).await;
            }
            // The fee is due however late the capture is: all is captured, and the rest refunded
            // then.
            let (id, reason) = (payment.booking_id, VoidReason::Cancelled);
            let is_new = payments::set_void_reason(conn, id, reason, now).await?;
            Ok(operations::insert(conn, id, &capture(payment), now, now).await? || is_new)
        }
        PaymentState::Failed | PaymentState::Voided => Ok(false),
    }
}

/// Begins to release an open payment; `false` when that was begun before. A capture in flight goes
/// on, and is refunded when it is done; an intent that is being created is cancelled when it
/// exists.
pub(super) async fn release(
    conn: &mut PgConnection,
    payment: &Payment,
    reason: VoidReason,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let booking_id = payment.booking_id;
    let mut is_new = payments::set_void_reason(conn, booking_id, reason, now).await?;
    if payment.intent_id.is_none() {
        if operations::drop_create(conn, booking_id, now).await? {
            engine::transition(conn, payment, PaymentCommand::Void, now).await?;
            is_new = true;
        }
        return Ok(is_new);
    }
    if !operations::is_pending(conn, booking_id, Kind::Capture).await? {
        is_new |= operations::insert(conn, booking_id, &Request::Cancel, now, now).await?;
    }
    Ok(is_new)
}

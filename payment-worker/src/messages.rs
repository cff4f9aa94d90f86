//! The messages that announce what became of a payment, published with the change itself.

use domain::message::{Message, PaymentAuthorised, PaymentCaptured, PaymentVoided};
use domain::{BookingId, Money};
use platform::outbox;
use sqlx::PgConnection;

use crate::OWNER;
use crate::store::payments::Payment;

/// Stores a message in the outbox.
pub(crate) async fn emit<M: Message>(
    conn: &mut PgConnection,
    message: &M,
) -> Result<(), sqlx::Error> {
    outbox::put(conn, OWNER, message).await
}

/// Publishes that no payment of this booking can come.
pub(crate) async fn emit_voided(
    conn: &mut PgConnection,
    booking_id: BookingId,
) -> Result<(), sqlx::Error> {
    emit(conn, &PaymentVoided { booking_id }).await
}

/// The message that the money is reserved.
pub(crate) fn authorised(payment: &Payment) -> PaymentAuthorised {
    PaymentAuthorised {
        booking_id: payment.booking_id,
        amount: payment.amount,
    }
}

/// The message that the money is captured.
pub(crate) fn captured(payment: &Payment, captured_minor: i64) -> PaymentCaptured {
    PaymentCaptured {
        booking_id: payment.booking_id,
        amount: Money::new(captured_minor, payment.amount.currency),
    }
}

/// Publishes that the money is reserved.
pub(crate) async fn emit_authorised(
    conn: &mut PgConnection,
    payment: &Payment,
) -> Result<(), sqlx::Error> {
    emit(conn, &authorised(payment)).await
}

/// Publishes that the money is captured.
pub(crate) async fn emit_captured(
    conn: &mut PgConnection,
    payment: &Payment,
    captured_minor: i64,
) -> Result<(), sqlx::Error> {
    emit(conn, &captured(payment, captured_minor)).await
}

//! State transitions of payments, with the messages that announce them. Each runs in
//! the caller's transaction with the payment locked, and is a no-op when the transition was made
//! before.

use chrono::{DateTime, Utc};
use domain::message::PaymentFailed;
use domain::payment::machine::PaymentCommand;
use domain::payment::{PaymentState, VoidReason};
use sqlx::PgConnection;

use crate::messages::{emit, emit_authorised, emit_captured, emit_voided};
use crate::operation::Request;
use crate::refunds;
use crate::store::payments::Payment;
use crate::store::{cancellations, findings, operations, payments};
use crate::stripe::{Dispute, Intent, IntentStatus};

/// Moves the payment to the state of its PaymentIntent; `false` when it does not move. A webhook
/// may be days old, so only moves forward follow from it, unless `is_fresh`: the object was read
/// just now.
pub(crate) async fn follow_intent(
    conn: &mut PgConnection,
    payment: &Payment,
    intent: &Intent,
    is_fresh: bool,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    if refuse_other_money(conn, payment, intent, is_fresh, now).await? {
        return Ok(false);
    }
    let booking_id = payment.booking_id;
    let error = intent.last_error.as_deref();
    match intent.status {
        IntentStatus::RequiresCapture => authorise(conn, payment, now).await,
        IntentStatus::Succeeded => capture(conn, payment, intent.received_minor, now).await,
        IntentStatus::Canceled => void(conn, payment, now).await,
        IntentStatus::AwaitsBuyer if is_fresh => {
            payments::set_progress(conn, booking_id, PaymentState::Pending, error, now).await
        }
        IntentStatus::RequiresAction if is_fresh => {
            payments::set_progress(conn, booking_id, PaymentState::RequiresAction, error, now).await
        }
        IntentStatus::AwaitsBuyer | IntentStatus::RequiresAction | IntentStatus::Processing => {
            Ok(false)
        }
    }
}

/// Refuses money of another amount or currency than is due: it is a finding, and worth no ticket. If
/// the object was read just now, the payment fails and what is reserved is released; a webhook alone
/// could be forged. `false` when the money is what is due, or none.
pub(crate) async fn refuse_other_money(
    conn: &mut PgConnection,
    payment: &Payment,
    intent: &Intent,
    is_fresh: bool,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let is_reserved = intent.status == IntentStatus::RequiresCapture;
    let is_money = is_reserved || intent.status == IntentStatus::Succeeded;
    if !is_money || !intent.differs_from(payment.amount) {
        return Ok(false);
    }
    let (booking_id, due) = (payment.booking_id, payment.amount);
    let detail = format!("Stripe has {}, where {due} is due", intent.amount());
    let kind = findings::Kind::AmountDiffers;
    findings::note(conn, kind, &intent.id, Some(booking_id), &detail, now).await?;
    if is_fresh && payment.state != PaymentState::Captured {
        fail(conn, payment, &detail, now).await?;
        if is_reserved {
            operations::insert(conn, booking_id, &Request::Cancel, now, now).await?;
        }
    }
    Ok(true)
}

/// Applies a command; `false` when it was applied before, or the payment's state no longer allows
/// it.
async fn advance(
    conn: &mut PgConnection,
    payment: &Payment,
    command: PaymentCommand,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    match payment.standing().after(command) {
        Ok(next) => payments::advance(conn, payment, &next, now).await,
        Err(refused) => {
            tracing::debug!(booking_id = %payment.booking_id, %refused, "transition refused");
            Ok(false)
        }
    }
}

/// Records that the buyer has authorised; `false` when nothing moves.
pub(crate) async fn authorise(
    conn: &mut PgConnection,
    payment: &Payment,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    if !advance(conn, payment, PaymentCommand::Authorise, now).await? {
        return Ok(false);
    }
    emit_authorised(conn, payment).await?;
    Ok(true)
}

/// Records that the money is captured, whatever the payment was before; `false` when nothing moves.
/// Requests a refund of money that pays for nothing any more.
pub(crate) async fn capture(
    conn: &mut PgConnection,
    payment: &Payment,
    captured_minor: i64,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let taken = captured_minor;
    if !advance(conn, payment, PaymentCommand::Capture { taken }, now).await? {
        return Ok(false);
    }
    if payment.state.is_due() {
        emit_authorised(conn, payment).await?;
    }
    emit_captured(conn, payment, captured_minor).await?;
    let is_unwanted = payment.void_reason == Some(VoidReason::Cancelled)
        || matches!(payment.state, PaymentState::Failed | PaymentState::Voided);
    if is_unwanted {
        let payment = &Payment {
            captured_minor,
            ..payment.clone()
        };
        let asked = cancellations::asked(conn, payment.booking_id).await?;
        refunds::refund_cancelled(conn, payment, asked, now).await?;
        emit_voided(conn, payment.booking_id).await?;
    }
    Ok(true)
}

/// Records that nothing was taken and nothing can be; `false` when nothing moves.
pub(crate) async fn void(
    conn: &mut PgConnection,
    payment: &Payment,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    if !advance(conn, payment, PaymentCommand::Void, now).await? {
        return Ok(false);
    }
    emit_voided(conn, payment.booking_id).await?;
    Ok(true)
}

/// Records that the money can't be captured.
pub(crate) async fn fail(
    conn: &mut PgConnection,
    payment: &Payment,
    reason: &str,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let reason = reason.to_owned();
    let command = PaymentCommand::Fail {
        reason: reason.clone(),
    };
    if advance(conn, payment, command, now).await? {
        let failed = PaymentFailed {
            booking_id: payment.booking_id,
            reason,
            is_refused: payment.intent_id.is_none(),
        };
        emit(conn, &failed).await?;
    }
    Ok(())
}

/// Records a dispute, which staff must answer at Stripe; `false` when its payment is none of ours.
/// One Stripe account may serve several installations, and other programs.
pub(crate) async fn note_dispute(
    conn: &mut PgConnection,
    dispute: &Dispute,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let booking_id = match &dispute.intent_id {
        Some(intent_id) => payments::booking_of(conn, intent_id).await?,
        None => None,
    };
    if booking_id.is_none() {
        return Ok(false);
    }
    let Dispute {
        id, amount, reason, ..
    } = dispute;
    let detail = format!("{amount} is disputed: {reason}");
    findings::note(conn, findings::Kind::Dispute, id, booking_id, &detail, now).await?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use domain::Currency;
    use platform::testing::TestApp;

    use super::*;
    use crate::testing;

    #[tokio::test]
    async fn other_money_that_was_just_read_fails_the_payment_and_is_released() {
        let app = TestApp::start().await;
        let worker = testing::worker(&app);
        let [booking] = testing::hold(&worker).await;
        testing::set_intent(&worker, &booking, "pi_1").await;
        let (id, now) = (booking.booking_id, worker.now());
        let mut conn = worker.db.acquire().await.unwrap();
        let mut intent = testing::intent("pi_1", IntentStatus::RequiresCapture);
        intent.amount_minor = Some(booking.total.amount_minor);
        intent.currency = Some(Currency::try_from("usd").unwrap());
        let state = async || testing::payment(&worker, &booking).await.unwrap().0;
        for (is_fresh, expected) in [(false, "pending"), (true, "failed")] {
            let payment = payments::lock(&mut conn, id).await.unwrap().unwrap();
            let following = follow_intent(&mut conn, &payment, &intent, is_fresh, now);
            assert!(!following.await.unwrap());
            assert_eq!(state().await, expected);
            let found = findings::open(&worker.db).await.unwrap();
            assert_eq!(found.len(), 1);
            assert_eq!(
                found[0].detail,
                "Stripe has 45.00 USD, where 45.00 EUR is due"
            );
        }
        drop(conn);
        let asked = testing::operations_of(&worker, &booking).await;
        assert!(asked.iter().any(|(kind, _)| kind == "cancel"), "{asked:?}");
        app.finish().await;
    }
}

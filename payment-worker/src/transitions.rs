//! State transitions of payments and refunds, with the messages that announce them. Each runs in
//! the caller's transaction with the payment locked, and is a no-op when the transition was made
//! before.

use chrono::{DateTime, Utc};
use domain::message::{
    Message, PaymentAuthorised, PaymentCaptured, PaymentFailed, PaymentVoided, RefundFailed,
    RefundSucceeded,
};
use domain::payment::machine::{self, PaymentCommand, RefundCommand};
use domain::payment::{PaymentState, VoidReason};
use domain::{AccountId, BookingId, EventId, Money};
use platform::outbox;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::OWNER;
use crate::bookings::cancelled;
use crate::operations::Request;
use crate::store::payments::Payment;
use crate::store::refunds::RefundRow;
use crate::store::{cancellations, findings, operations, payments, refunds};
use crate::stripe::{Dispute, Intent, IntentStatus, NewRefund, Refund, RefundStatus};

/// Occasion of the refund that follows a cancellation: one per booking.
const CANCELLED: &str = "cancelled";

/// Stores a message in the outbox.
pub(crate) async fn emit<M: Message>(
    conn: &mut PgConnection,
    message: &M,
) -> Result<(), sqlx::Error> {
    outbox::put(conn, OWNER, message).await
}

/// Publishes that no payment of this booking can come.
pub(crate) async fn tell_voided(
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
pub(crate) async fn tell_authorised(
    conn: &mut PgConnection,
    payment: &Payment,
) -> Result<(), sqlx::Error> {
    emit(conn, &authorised(payment)).await
}

/// Publishes that the money is captured.
pub(crate) async fn tell_captured(
    conn: &mut PgConnection,
    payment: &Payment,
    captured_minor: i64,
) -> Result<(), sqlx::Error> {
    emit(conn, &captured(payment, captured_minor)).await
}

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
    tell_authorised(conn, payment).await?;
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
        tell_authorised(conn, payment).await?;
    }
    tell_captured(conn, payment, captured_minor).await?;
    let is_unwanted = payment.void_reason == Some(VoidReason::Cancelled)
        || matches!(payment.state, PaymentState::Failed | PaymentState::Voided);
    if is_unwanted {
        let payment = &Payment {
            captured_minor,
            ..payment.clone()
        };
        let asked = cancellations::asked(conn, payment.booking_id).await?;
        cancelled::refund(conn, payment, asked, now).await?;
        tell_voided(conn, payment.booking_id).await?;
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
    tell_voided(conn, payment.booking_id).await?;
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

/// Begins the refund of a captured payment whose booking was cancelled, less `fee_minor`, once.
/// Returns the amount, or `None` when nothing begins now.
pub(crate) async fn refund_cancelled(
    conn: &mut PgConnection,
    payment: &Payment,
    fee_minor: i64,
    now: DateTime<Utc>,
) -> Result<Option<Money>, sqlx::Error> {
    let booking_id = payment.booking_id;
    if refunds::of_occasion(conn, booking_id, CANCELLED)
        .await?
        .is_some()
    {
        return Ok(None);
    }
    let left = payment.left_minor();
    let fee = fee_minor.min(left);
    payments::set_fee(conn, booking_id, fee, now).await?;
    if left == fee {
        return Ok(None);
    }
    let amount = Money::new(left - fee, payment.amount.currency);
    let is_begun = begin_refund(conn, booking_id, amount, CANCELLED, now).await?;
    Ok(is_begun.then_some(amount))
}

/// Begins another refund of what a failed one of a cancelled booking left here; `false` when
/// nothing is left, or a refund is pending.
pub(crate) async fn refund_again(
    conn: &mut PgConnection,
    booking_id: BookingId,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let Some(payment) = payments::lock(conn, booking_id).await? else {
        return Ok(false);
    };
    let left = payment.left_minor() - payment.kept_minor;
    if left <= 0 {
        return Ok(false);
    }
    let amount = Money::new(left, payment.amount.currency);
    let occasion = format!("{CANCELLED} again {}", now.timestamp());
    begin_refund(conn, booking_id, amount, &occasion, now).await
}

/// Records a refund that was made in Stripe's dashboard, or moves it on; returns whether anything
/// changed. `None` when it belongs to no payment here, or its capture is not recorded yet.
pub(crate) async fn follow_foreign_refund(
    conn: &mut PgConnection,
    refund: &Refund,
    now: DateTime<Utc>,
) -> Result<Option<bool>, sqlx::Error> {
    let Some(intent_id) = &refund.intent_id else {
        return Ok(None);
    };
    let Some(booking_id) = payments::booking_of(conn, intent_id).await? else {
        return Ok(None);
    };
    let Some(payment) = payments::lock(conn, booking_id).await? else {
        return Ok(None);
    };
    let is_new = refunds::id_of(conn, &refund.id).await?.is_none();
    if is_new {
        let amount = Money::new(refund.amount_minor, payment.amount.currency);
        if !payments::reserve_refund(conn, booking_id, refund.amount_minor, now).await? {
            return Ok(None);
        }
        let row = RefundRow {
            id: BookingId::new(now).0,
            booking_id,
            amount,
        };
        refunds::insert_foreign(conn, &row, &refund.id, now).await?;
        let detail = format!("{amount} was refunded in Stripe's dashboard");
        let kind = findings::Kind::RefundElsewhere;
        findings::note(conn, kind, &refund.id, Some(booking_id), &detail, now).await?;
    }
    let Some(id) = refunds::id_of(conn, &refund.id).await? else {
        return Ok(None);
    };
    let followed = follow_refund(conn, id, refund, now).await?;
    Ok(followed.map(|is_moved| is_moved || is_new))
}

/// Begins a refund; `false` when this occasion has one, or the sum would exceed what was captured.
pub(crate) async fn begin_refund(
    conn: &mut PgConnection,
    booking_id: BookingId,
    amount: Money,
    occasion: &str,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let Some(payment) = payments::lock(conn, booking_id).await? else {
        return Ok(false);
    };
    let command = PaymentCommand::SetAside {
        amount: amount.amount_minor,
    };
    if payment.standing().after(command).is_err()
        || !payments::reserve_refund(conn, booking_id, amount.amount_minor, now).await?
    {
        return Ok(false);
    }
    let refund = RefundRow {
        id: BookingId::new(now).0,
        booking_id,
        amount,
    };
    if !refunds::insert(conn, &refund, occasion, now).await? {
        payments::release_refund(conn, booking_id, amount.amount_minor, now).await?;
        return Ok(false);
    }
    let request = Request::Refund(NewRefund {
        amount_minor: amount.amount_minor,
        currency: Some(amount.currency),
        refund_id: refund.id,
    });
    operations::insert(conn, booking_id, &request, now, now).await?;
    Ok(true)
}

/// Moves a refund to where Stripe has it; returns whether it moved. `None` when it is none of ours.
/// The caller need not hold a lock.
pub(crate) async fn follow_refund(
    conn: &mut PgConnection,
    refund_id: Uuid,
    refund: &Refund,
    now: DateTime<Utc>,
) -> Result<Option<bool>, sqlx::Error> {
    let Some(row) = refunds::find(conn, refund_id).await? else {
        return Ok(None);
    };
    let Some(payment) = payments::lock(conn, row.booking_id).await? else {
        return Ok(None);
    };
    refunds::set_stripe_id(conn, row.id, &refund.id, now).await?;
    let is_moved = match refund.status {
        RefundStatus::Pending => false,
        RefundStatus::Succeeded => {
            let is_moved = advance_refund(conn, row.id, RefundCommand::Succeed, now).await?;
            if is_moved {
                tell_refunded(conn, &payment, &row).await?;
            }
            is_moved
        }
        RefundStatus::Failed => {
            let reason = refund
                .failure_reason
                .as_deref()
                .unwrap_or("the bank sent it back");
            fail_refund(conn, row.id, reason, now).await?
        }
    };
    Ok(Some(is_moved))
}

/// Applies a command to a refund; `false` when it was applied before. The lock of the payment
/// excludes others.
async fn advance_refund(
    conn: &mut PgConnection,
    refund_id: Uuid,
    command: RefundCommand,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let Some(standing) = refunds::standing(conn, refund_id).await? else {
        return Ok(false);
    };
    let from = standing.state();
    match standing.after(command) {
        Ok(next) => refunds::advance(conn, refund_id, from, &next, now).await,
        Err(_) => Ok(false),
    }
}

/// Records that a refund is refused for good, or came back: staff must look. `false` when that is
/// recorded already.
pub(crate) async fn fail_refund(
    conn: &mut PgConnection,
    refund_id: Uuid,
    reason: &str,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let Some(row) = refunds::find(conn, refund_id).await? else {
        return Ok(false);
    };
    let command = RefundCommand::Fail {
        reason: reason.to_owned(),
    };
    if !advance_refund(conn, row.id, command, now).await? {
        return Ok(false);
    }
    payments::release_refund(conn, row.booking_id, row.amount.amount_minor, now).await?;
    let subject = refund_id.to_string();
    let kind = findings::Kind::RefundFailed;
    findings::note(conn, kind, &subject, Some(row.booking_id), reason, now).await?;
    tell_refund_failed(conn, &row).await?;
    Ok(true)
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

/// Publishes the outcome of a refund again; `false` while it is pending, or there is no such
/// refund. The payment is locked.
pub(crate) async fn republish_refund(
    conn: &mut PgConnection,
    payment: &Payment,
    refund_id: Uuid,
) -> Result<bool, sqlx::Error> {
    let Some(row) = refunds::find(conn, refund_id).await? else {
        return Ok(false);
    };
    match refunds::standing(conn, refund_id).await? {
        Some(machine::Refund::Succeeded) => tell_refunded(conn, payment, &row).await?,
        Some(machine::Refund::Failed { .. }) => tell_refund_failed(conn, &row).await?,
        Some(machine::Refund::Pending) | None => return Ok(false),
    }
    Ok(true)
}

async fn tell_refunded(
    conn: &mut PgConnection,
    payment: &Payment,
    refund: &RefundRow,
) -> Result<(), sqlx::Error> {
    let (Some(event_id), Some(account_id)) = (payment.event_id, payment.account_id) else {
        return Ok(());
    };
    let message = RefundSucceeded {
        booking_id: payment.booking_id,
        event_id: EventId(event_id),
        account_id: AccountId(account_id),
        amount: refund.amount,
        number: refunds::number_of(conn, refund).await?,
    };
    emit(conn, &message).await
}

/// Publishes that a refund did not reach the buyer. The payment is locked.
async fn tell_refund_failed(
    conn: &mut PgConnection,
    refund: &RefundRow,
) -> Result<(), sqlx::Error> {
    let Some(payment) = payments::lock(conn, refund.booking_id).await? else {
        return Ok(());
    };
    let (Some(event_id), Some(account_id)) = (payment.event_id, payment.account_id) else {
        return Ok(());
    };
    let message = RefundFailed {
        booking_id: payment.booking_id,
        event_id: EventId(event_id),
        account_id: AccountId(account_id),
        amount: refund.amount,
        number: refunds::number_of(conn, refund).await?,
    };
    emit(conn, &message).await
}

#[cfg(test)]
mod tests {
    use domain::Currency;
    use futures_util::future::join_all;
    use platform::pg::run_tx;
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

    #[tokio::test]
    async fn of_twenty_refunds_at_once_that_exceed_the_capture_together_one_begins() {
        let app = TestApp::start().await;
        let now = app.ctx.clock.now();
        let booking_id = testing::captured(&app).await;

        let sixty_percent = Money::new(600, Currency::EUR);
        let begin = async |number: u32| {
            let occasion = format!("staff {number}");
            let beginning = run_tx(&app.ctx.db, "test", |tx| {
                Box::pin(begin_refund(tx, booking_id, sixty_percent, &occasion, now))
            });
            beginning.await.unwrap()
        };
        let begun = join_all((0..20).map(begin)).await;
        assert_eq!(begun.iter().filter(|begun| **begun).count(), 1);
        let (refunded, refunds, calls): (i64, i64, i64) = sqlx::query_as(
            "select (select refunded_minor from payment.payments),
                    (select count(*) from payment.refunds),
                    (select count(*) from payment.operations)",
        )
        .fetch_one(&app.ctx.db)
        .await
        .unwrap();
        assert_eq!((refunded, refunds, calls), (600, 1, 1));
        app.finish().await;
    }
}

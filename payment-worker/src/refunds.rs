//! Refunds: begun once for each occasion, followed at Stripe, and announced. Each function runs in
//! the caller's transaction; those that take a payment need it locked.

use chrono::{DateTime, Utc};
use domain::message::{CancelAsked, RefundFailed, RefundSucceeded};
use domain::payment::RefundState;
use domain::payment::machine::{PaymentCommand, RefundCommand};
use domain::{BookingId, Money, RefundId};
use serde_json::json;
use sqlx::PgConnection;

use crate::audit;
use crate::messages::emit;
use crate::operation::Request;
use crate::store::payments::Payment;
use crate::store::refunds::{self as table, RefundRow};
use crate::store::{findings, operations, payments, policies};
use crate::stripe::{NewRefund, Refund, RefundStatus};

/// Occasion of the refund that follows a cancellation: one per booking.
const CANCELLED: &str = "cancelled";

/// Requests the refund of a cancelled booking's captured amount, less the part that the policy
/// retains; `false` when that was decided before and nothing is requested now.
pub(crate) async fn refund_cancelled(
    conn: &mut PgConnection,
    payment: &Payment,
    asked: Option<CancelAsked>,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let paid = Money::new(payment.captured_minor, payment.amount.currency);
    let fee = decide_fee(conn, payment, paid, asked, now).await?;
    let begun = begin_cancelled(conn, payment, fee, now).await?;
    let is_new = begun.is_some() || payment.kept_on_cancel_minor.is_none();
    let (Some(amount), Some(asked)) = (begun, asked) else {
        return Ok(is_new);
    };
    let action = if is_by_buyer(payment, asked) {
        "refund.policy"
    } else {
        "refund.cancel"
    };
    let subject = format!("booking:{}", payment.booking_id);
    let detail = json!({ "amount": amount, "kept_minor": fee });
    audit::note(conn, asked.by, action, subject, detail, now).await?;
    Ok(true)
}

/// Returns the part of `paid` that is not refunded: from a buyer who cancelled, by the policy in
/// force at that time; nothing when staff cancelled, or the event is. Decided once.
pub(crate) async fn decide_fee(
    conn: &mut PgConnection,
    payment: &Payment,
    paid: Money,
    asked: Option<CancelAsked>,
    now: DateTime<Utc>,
) -> Result<i64, sqlx::Error> {
    if let Some(fee) = payment.kept_on_cancel_minor {
        return Ok(fee);
    }
    let by_buyer = asked.filter(|asked| is_by_buyer(payment, *asked));
    let fee = match (by_buyer, payment.event_id) {
        (Some(asked), Some(event_id)) => {
            let policy = policies::get_at(&mut *conn, event_id, asked.at).await?;
            policy.fee(paid, asked.at)
        }
        _ => 0,
    };
    payments::decide_fee(conn, payment.booking_id, fee, now).await
}

fn is_by_buyer(payment: &Payment, asked: CancelAsked) -> bool {
    payment.account_id == Some(asked.by)
}

/// Begins the refund of a captured payment whose booking was cancelled, less `fee_minor`, once.
/// Returns the amount, or `None` when nothing begins now.
async fn begin_cancelled(
    conn: &mut PgConnection,
    payment: &Payment,
    fee_minor: i64,
    now: DateTime<Utc>,
) -> Result<Option<Money>, sqlx::Error> {
    let booking_id = payment.booking_id;
    if table::of_occasion(conn, booking_id, CANCELLED)
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
    let is_begun = begin(conn, booking_id, amount, CANCELLED, now).await?;
    Ok(is_begun.then_some(amount))
}

/// Begins another refund of what a failed one of a cancelled booking left here; `false` when
/// nothing is left, or a refund is pending.
pub(crate) async fn again(
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
    begin(conn, booking_id, amount, &occasion, now).await
}

/// Records a refund that was made in Stripe's dashboard, or moves it on; returns whether anything
/// changed. `None` when it belongs to no payment here, or its capture is not recorded yet.
pub(crate) async fn follow_foreign(
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
    let is_new = table::id_of(conn, &refund.id).await?.is_none();
    if is_new {
        let amount = Money::new(refund.amount_minor, payment.amount.currency);
        if !payments::reserve_refund(conn, booking_id, refund.amount_minor, now).await? {
            return Ok(None);
        }
        let row = RefundRow {
            id: RefundId::new(now),
            booking_id,
            amount,
        };
        table::insert_foreign(conn, &row, &refund.id, now).await?;
        let detail = format!("{amount} was refunded in Stripe's dashboard");
        let kind = findings::Kind::RefundElsewhere;
        findings::note(conn, kind, &refund.id, Some(booking_id), &detail, now).await?;
    }
    let Some(id) = table::id_of(conn, &refund.id).await? else {
        return Ok(None);
    };
    let followed = follow(conn, id, refund, now).await?;
    Ok(followed.map(|is_moved| is_moved || is_new))
}

/// Begins a refund; `false` when this occasion has one, or the sum would exceed what was captured.
pub(crate) async fn begin(
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
        id: RefundId::new(now),
        booking_id,
        amount,
    };
    if !table::insert(conn, &refund, occasion, now).await? {
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
pub(crate) async fn follow(
    conn: &mut PgConnection,
    refund_id: RefundId,
    refund: &Refund,
    now: DateTime<Utc>,
) -> Result<Option<bool>, sqlx::Error> {
    let Some(row) = table::find(conn, refund_id).await? else {
        return Ok(None);
    };
    let Some(payment) = payments::lock(conn, row.booking_id).await? else {
        return Ok(None);
    };
    table::set_stripe_id(conn, row.id, &refund.id, now).await?;
    let is_moved = match refund.status {
        RefundStatus::Pending => false,
        RefundStatus::Succeeded => {
            let is_moved = advance(conn, row.id, RefundCommand::Succeed, now).await?;
            if is_moved {
                emit_outcome(conn, &payment, &row, RefundState::Succeeded).await?;
            }
            is_moved
        }
        RefundStatus::Failed => {
            let reason = refund
                .failure_reason
                .as_deref()
                .unwrap_or("the bank sent it back");
            fail(conn, row.id, reason, now).await?
        }
    };
    Ok(Some(is_moved))
}

/// Applies a command to a refund; `false` when it was applied before. The lock of the payment
/// excludes others.
async fn advance(
    conn: &mut PgConnection,
    refund_id: RefundId,
    command: RefundCommand,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let Some(standing) = table::standing(conn, refund_id).await? else {
        return Ok(false);
    };
    let from = standing.state();
    match standing.after(command) {
        Ok(next) => table::advance(conn, refund_id, from, &next, now).await,
        Err(_) => Ok(false),
    }
}

/// Records that a refund is refused for good, or came back: staff must look. `false` when that is
/// recorded already.
pub(crate) async fn fail(
    conn: &mut PgConnection,
    refund_id: RefundId,
    reason: &str,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let Some(row) = table::find(conn, refund_id).await? else {
        return Ok(false);
    };
    let command = RefundCommand::Fail {
        reason: reason.to_owned(),
    };
    if !advance(conn, row.id, command, now).await? {
        return Ok(false);
    }
    payments::release_refund(conn, row.booking_id, row.amount.amount_minor, now).await?;
    let subject = refund_id.to_string();
    let kind = findings::Kind::RefundFailed;
    findings::note(conn, kind, &subject, Some(row.booking_id), reason, now).await?;
    if let Some(payment) = payments::lock(conn, row.booking_id).await? {
        emit_outcome(conn, &payment, &row, RefundState::Failed).await?;
    }
    Ok(true)
}

/// Publishes the outcome of a refund again; `false` while it is pending, or there is no such
/// refund. The payment is locked.
pub(crate) async fn republish(
    conn: &mut PgConnection,
    payment: &Payment,
    refund_id: RefundId,
) -> Result<bool, sqlx::Error> {
    let Some(row) = table::find(conn, refund_id).await? else {
        return Ok(false);
    };
    let state = table::standing(conn, refund_id)
        .await?
        .map_or(RefundState::Pending, |standing| standing.state());
    emit_outcome(conn, payment, &row, state).await?;
    Ok(state != RefundState::Pending)
}

/// Publishes that a refund succeeded or failed; nothing while it is pending, or when the payment has
/// no buyer, since a void came before its hold.
async fn emit_outcome(
    conn: &mut PgConnection,
    payment: &Payment,
    refund: &RefundRow,
    state: RefundState,
) -> Result<(), sqlx::Error> {
    let (Some(event_id), Some(account_id)) = (payment.event_id, payment.account_id) else {
        return Ok(());
    };
    let (booking_id, amount) = (payment.booking_id, refund.amount);
    let number = table::number_of(conn, refund).await?;
    match state {
        RefundState::Pending => Ok(()),
        RefundState::Succeeded => {
            let succeeded = RefundSucceeded {
                booking_id,
                event_id,
                account_id,
                amount,
                number,
            };
            emit(conn, &succeeded).await
        }
        RefundState::Failed => {
            let failed = RefundFailed {
                booking_id,
                event_id,
                account_id,
                amount,
                number,
            };
            emit(conn, &failed).await
        }
    }
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
    async fn of_twenty_refunds_at_once_that_exceed_the_capture_together_one_begins() {
        let app = TestApp::start().await;
        let now = app.ctx.clock.now();
        let booking_id = testing::captured(&app).await;

        let sixty_percent = Money::new(600, Currency::EUR);
        let begin = async |number: u32| {
            let occasion = format!("staff {number}");
            let beginning = run_tx(&app.ctx.db, "test", |tx| {
                Box::pin(begin(tx, booking_id, sixty_percent, &occasion, now))
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

//! Refunds: begun once for each occasion, followed at Stripe, and announced. Each function runs in
//! the caller's transaction; those that take a payment need it locked.

mod cancelled;

use chrono::{DateTime, Utc};
use domain::message::{RefundFailed, RefundSucceeded};
use domain::payment::RefundState;
use domain::payment::machine::{self, PaymentCommand, RefundCommand};
use domain::{BookingId, Money, RefundId};
use platform::pg::BrokenInvariant;
use sqlx::PgConnection;

use crate::messages::emit;
use crate::operation::Request;
use crate::store::payments::Payment;
use crate::store::refunds::{self as table, RefundRow};
use crate::store::{findings, operations, payments};
use crate::stripe::{NewRefund, Refund, RefundStatus};

pub(crate) use cancelled::{again, decide_fee, refund_cancelled};

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

/// Moves a refund to where Stripe has it: one of ours, or one that was made in Stripe's dashboard.
/// Returns whether anything changed; `None` when it belongs to no payment here, or its capture is
/// not recorded yet.
pub(crate) async fn follow(
    conn: &mut PgConnection,
    refund: &Refund,
    now: DateTime<Utc>,
) -> Result<Option<bool>, sqlx::Error> {
    if let Some(id) = refund.refund_id
        && let Some(is_moved) = follow_own(conn, id, refund, now).await?
    {
        return Ok(Some(is_moved));
    }
    follow_foreign(conn, refund, now).await
}

/// Moves a refund with our id; returns whether it moved. `None` when it is none of ours.
pub(crate) async fn follow_own(
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
    let is_moved = match command(refund) {
        Some(command) => transition(conn, &payment, &row, command, now).await?,
        None => false,
    };
    Ok(Some(is_moved))
}

/// Records a refund that was made in Stripe's dashboard, or moves it on; returns whether anything
/// changed. `None` when it belongs to no payment here, or its capture is not recorded yet.
async fn follow_foreign(
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
    let followed = follow_own(conn, id, refund, now).await?;
    Ok(followed.map(|is_moved| is_moved || is_new))
}

/// Records that a refund of ours is refused for good; `false` when that is recorded already. The
/// payment is locked.
pub(crate) async fn fail(
    conn: &mut PgConnection,
    payment: &Payment,
    refund_id: RefundId,
    reason: &str,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let Some(row) = table::find(conn, refund_id).await? else {
        return Ok(false);
    };
    let reason = reason.to_owned();
    transition(conn, payment, &row, RefundCommand::Fail { reason }, now).await
}

/// The command that follows from the status of a refund at Stripe; `None` while it is pending
/// there.
fn command(refund: &Refund) -> Option<RefundCommand> {
    match refund.status {
        RefundStatus::Pending => None,
        RefundStatus::Succeeded => Some(RefundCommand::Succeed),
        RefundStatus::Failed => {
            let reason = refund.failure_reason.as_deref();
            Some(RefundCommand::Fail {
                reason: reason.unwrap_or("the bank sent it back").to_owned(),
            })
        }
    }
}

/// Applies a command to a refund of a locked payment, and publishes the outcome. The amount of a
/// refund that failed is left to refund again, and staff must look. `false` when the command was
/// applied before.
async fn transition(
    conn: &mut PgConnection,
    payment: &Payment,
    refund: &RefundRow,
    command: RefundCommand,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let Some(standing) = table::standing(conn, refund.id).await? else {
        return Ok(false);
    };
    let from = standing.state();
    let Ok(next) = standing.after(command) else {
        return Ok(false);
    };
    if !table::advance(conn, refund.id, from, &next, now).await? {
        return Ok(false);
    }
    if let machine::Refund::Failed { reason } = &next {
        let (booking_id, amount) = (refund.booking_id, refund.amount.amount_minor);
        if payment
            .standing()
            .after(PaymentCommand::TakeBack { amount })
            .is_err()
        {
            return Err(BrokenInvariant("a refund is reserved on its payment").into());
        }
        payments::release_refund(conn, booking_id, amount, now).await?;
        let (kind, subject) = (findings::Kind::RefundFailed, refund.id.to_string());
        findings::note(conn, kind, &subject, Some(booking_id), reason, now).await?;
    }
    emit_outcome(conn, payment, refund, next.state()).await?;
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

/// Publishes that a refund succeeded or failed; nothing while it is pending, or when the payment
/// has no buyer, since a void came before its hold.
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

    #[test]
    fn a_refund_moves_when_stripe_has_settled_it() {
        let of = |status, failure_reason: Option<&str>| {
            command(&Refund {
                id: "re_1".to_owned(),
                status,
                amount_minor: 600,
                intent_id: None,
                refund_id: None,
                failure_reason: failure_reason.map(str::to_owned),
            })
        };
        assert_eq!(of(RefundStatus::Pending, None), None);
        let succeeded = of(RefundStatus::Succeeded, None);
        assert_eq!(succeeded, Some(RefundCommand::Succeed));
        for (said, reason) in [(None, "the bank sent it back"), (Some("closed"), "closed")] {
            let reason = reason.to_owned();
            let failed = of(RefundStatus::Failed, said);
            assert_eq!(failed, Some(RefundCommand::Fail { reason }));
        }
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

//! All that Stripe has of the last days, against all that we have.

use chrono::{DateTime, Utc};
use domain::BookingId;
use domain::payment::PaymentState;
use platform::pg::run_tx;
use sqlx::PgConnection;

use super::{RoundError, follow_refund};
use crate::store::findings::{self, Kind};
use crate::store::payments::{self, Payment};
use crate::store::refunds;
use crate::stripe::{Intent, IntentStatus, Refund, RefundStatus};
use crate::transitions;
use crate::worker::Worker;

/// Compares; how many PaymentIntents there were, and how many payments and refunds were moved.
pub(super) async fn compare(
    worker: &Worker,
    since: DateTime<Utc>,
) -> Result<(usize, usize), RoundError> {
    let intents = worker.stripe.intents_since(since).await?;
    let mut repaired = 0;
    for intent in &intents {
        repaired += usize::from(compare_intent(worker, intent).await?);
    }
    // Afterwards, since a refund needs its capture.
    for refund in worker.stripe.refunds_since(since).await? {
        repaired += usize::from(compare_refund(worker, &refund).await?);
    }
    let now = worker.now();
    for dispute in worker.stripe.disputes_since(since).await? {
        let mut conn = worker.db.acquire().await?;
        transitions::note_dispute(&mut conn, &dispute, now).await?;
    }
    Ok((intents.len(), repaired))
}

async fn compare_intent(worker: &Worker, intent: &Intent) -> Result<bool, RoundError> {
    let Some(booking_id) = intent.booking_id else {
        return Ok(false);
    };
    let now = worker.now();
    let comparing = run_tx(&worker.db, "payment compare", |tx| {
        Box::pin(compare_in(tx, booking_id, intent, now))
    });
    let repaired = comparing.await?;
    if repaired {
        worker.wake_after_commit();
    }
    Ok(repaired)
}

async fn compare_in(
    conn: &mut PgConnection,
    booking_id: BookingId,
    intent: &Intent,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let payment = payments::lock(conn, booking_id).await?;
    let is_known = payment
        .as_ref()
        .is_some_and(|payment| payment.intent_id.as_ref() == Some(&intent.id));
    let Some(payment) = payment.filter(|_| is_known) else {
        // One that is just being created is not known yet, but is not charged either.
        note_foreign_charge(conn, booking_id, intent, now).await?;
        return Ok(false);
    };
    if payment.state == PaymentState::Captured && intent.received_minor != payment.captured_minor {
        let detail = format!(
            "Stripe took {}, we have {}",
            intent.received_minor, payment.captured_minor
        );
        let (kind, id) = (Kind::AmountDiffers, Some(booking_id));
        findings::note(conn, kind, &intent.id, id, &detail, now).await?;
        return Ok(false);
    }
    if agrees(&payment, intent.status) {
        return Ok(false);
    }
    transitions::follow_intent(conn, &payment, intent, true, now).await?;
    Ok(true)
}

async fn note_foreign_charge(
    conn: &mut PgConnection,
    booking_id: BookingId,
    intent: &Intent,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    if intent.received_minor == 0 {
        return Ok(());
    }
    let has_payment = payments::lock(conn, booking_id)
        .await?
        .is_some_and(|payment| payment.captured_minor > 0);
    let kind = if has_payment {
        Kind::SecondCharge
    } else {
        Kind::UnknownCharge
    };
    let detail = format!("Stripe took {} that we have not", intent.received_minor);
    findings::note(conn, kind, &intent.id, Some(booking_id), &detail, now).await
}

/// Whether the payment is where Stripe has it, or an operation will bring it there.
fn agrees(payment: &Payment, status: IntentStatus) -> bool {
    match status {
        IntentStatus::Succeeded => payment.state == PaymentState::Captured,
        IntentStatus::Canceled => {
            matches!(payment.state, PaymentState::Voided | PaymentState::Failed)
        }
        IntentStatus::RequiresCapture => !payment.state.is_due(),
        IntentStatus::AwaitsBuyer | IntentStatus::RequiresAction | IntentStatus::Processing => true,
    }
}

async fn compare_refund(worker: &Worker, refund: &Refund) -> Result<bool, RoundError> {
    let now = worker.now();
    let mut conn = worker.db.acquire().await?;
    let known = refunds::state_of(&mut conn, &refund.id).await?;
    drop(conn);
    let is_settled = match refund.status {
        RefundStatus::Pending => known.is_some(),
        RefundStatus::Succeeded => known.as_deref() == Some("succeeded"),
        RefundStatus::Failed => known.as_deref() == Some("failed"),
    };
    if is_settled {
        return Ok(false);
    }
    let following = run_tx(&worker.db, "payment compare", |tx| {
        Box::pin(follow_refund(tx, refund, now))
    });
    following.await?;
    worker.wake_after_commit();
    Ok(true)
}

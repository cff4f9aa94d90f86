//! All that Stripe has of the last days, against all that we have.

use chrono::{DateTime, Utc};
use domain::BookingId;
use domain::payment::PaymentState;
use platform::pg::run_tx;
use sqlx::PgConnection;

use super::{RoundError, follow_refund, readable};
use crate::operations::Kind as Operation;
use crate::store::findings::{self, Kind};
use crate::store::payments::{self, Payment};
use crate::store::{operations, refunds};
use crate::stripe::{Failure, Intent, IntentStatus, Refund, RefundStatus};
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

/// What a comparison of one PaymentIntent came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compared {
    /// Nothing is to be done here.
    Agrees,
    /// The payment was moved to where Stripe has it.
    Repaired,
    /// It reserves a buyer's money for a booking of ours that is paid by another.
    Stray,
    /// Another amount was taken than we have; or what we have is newer than what was listed.
    Differs,
}

async fn compare_intent(worker: &Worker, intent: &Intent) -> Result<bool, RoundError> {
    let Some(booking_id) = intent.booking_id else {
        return Ok(false);
    };
    let now = worker.now();
    let comparing = run_tx(&worker.db, "payment compare", |tx| {
        Box::pin(compare_in(tx, booking_id, intent, now))
    });
    match comparing.await? {
        Compared::Agrees => Ok(false),
        Compared::Repaired => {
            worker.wake_after_commit();
            Ok(true)
        }
        Compared::Stray => release(worker, intent).await,
        Compared::Differs => {
            look_again(worker, booking_id, &intent.id).await?;
            Ok(false)
        }
    }
}

/// Notes that Stripe took another amount than a captured payment has, if Stripe still says so:
/// the money may have been taken, and that noted here, after the list was read.
async fn look_again(
    worker: &Worker,
    booking_id: BookingId,
    intent_id: &str,
) -> Result<(), RoundError> {
    let answer = worker.stripe.retrieve(intent_id).await;
    let Some(intent) = readable(worker, answer, intent_id).await? else {
        return Ok(());
    };
    let mut conn = worker.db.acquire().await?;
    let payment = payments::lock(&mut conn, booking_id).await?;
    let Some(captured_minor) = payment.map(|payment| payment.captured_minor) else {
        return Ok(());
    };
    if intent.received_minor == captured_minor {
        return Ok(());
    }
    let detail = format!(
        "Stripe took {}, we have {captured_minor}",
        intent.received_minor
    );
    let (kind, id, now) = (Kind::AmountDiffers, Some(booking_id), worker.now());
    findings::note(&mut conn, kind, intent_id, id, &detail, now).await?;
    Ok(())
}

/// Gives up a PaymentIntent that no payment here knows, so that the buyer's money is free again. No
/// row is kept of it: until it is done, each comparison finds it again, and repeats the same key.
async fn release(worker: &Worker, intent: &Intent) -> Result<bool, RoundError> {
    let key = format!("onsale-stray-{}", intent.id);
    match worker.stripe.cancel(&key, &intent.id).await {
        Ok(released) => {
            tracing::warn!(intent_id = intent.id, "a stray authorisation was released");
            Ok(released.status == IntentStatus::Canceled)
        }
        // It was captured or cancelled meanwhile: the next comparison sees which.
        Err(Failure::Refused { .. }) => Ok(false),
        Err(failure) => Err(failure.into()),
    }
}

async fn compare_in(
    conn: &mut PgConnection,
    booking_id: BookingId,
    intent: &Intent,
    now: DateTime<Utc>,
) -> Result<Compared, sqlx::Error> {
    let payment = payments::lock(conn, booking_id).await?;
    let payment = match payment {
        Some(payment) if payment.intent_id.as_ref() == Some(&intent.id) => payment,
        other => return compare_unknown(conn, booking_id, other.as_ref(), intent, now).await,
    };
    if payment.state == PaymentState::Captured && intent.received_minor != payment.captured_minor {
        return Ok(Compared::Differs);
    }
    if agrees(&payment, intent.status) {
        return Ok(Compared::Agrees);
    }
    transitions::follow_intent(conn, &payment, intent, false, now).await?;
    Ok(Compared::Repaired)
}

/// A PaymentIntent that names a booking, and is not the one of its payment. That the booking has a
/// payment here shows that it is of this installation, since booking ids are made once.
async fn compare_unknown(
    conn: &mut PgConnection,
    booking_id: BookingId,
    payment: Option<&Payment>,
    intent: &Intent,
    now: DateTime<Utc>,
) -> Result<Compared, sqlx::Error> {
    // One that is just being created becomes the payment's own.
    if operations::is_pending(conn, booking_id, Operation::Create).await? {
        return Ok(Compared::Agrees);
    }
    if intent.status != IntentStatus::RequiresCapture {
        note_foreign_charge(conn, booking_id, intent, now).await?;
        return Ok(Compared::Agrees);
    }
    if payment.is_none() {
        let (kind, id) = (Kind::UnknownAuthorisation, Some(booking_id));
        let detail = "Money is reserved for a booking that has no payment here";
        findings::note(conn, kind, &intent.id, id, detail, now).await?;
        return Ok(Compared::Agrees);
    }
    Ok(Compared::Stray)
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

#[cfg(test)]
mod tests {
    use platform::testing::TestApp;

    use super::*;
    use crate::testing;

    #[tokio::test]
    async fn a_payment_that_was_captured_after_the_list_was_read_is_no_finding_yet() {
        let app = TestApp::start().await;
        let now = app.ctx.clock.now();
        let booking_id = testing::captured(&app).await;
        let mut conn = app.ctx.db.acquire().await.unwrap();
        let mut listed = testing::intent("pi_1", IntentStatus::RequiresCapture);
        let compared = compare_in(&mut conn, booking_id, &listed, now).await;
        assert_eq!(compared.unwrap(), Compared::Differs);
        listed.status = IntentStatus::Succeeded;
        listed.received_minor = 1_000;
        let compared = compare_in(&mut conn, booking_id, &listed, now).await;
        assert_eq!(compared.unwrap(), Compared::Agrees);
        drop(conn);
        assert!(findings::open(&app.ctx.db).await.unwrap().is_empty());
        app.finish().await;
    }
}

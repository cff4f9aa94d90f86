//! Sweeps behind every message: what is captured, refunded, confirmed or mailed because of a
//! message is found here when that message was lost. Each sweep reads what should have followed,
//! and has it done or publishes it again.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::payment::PaymentState;
use domain::{BookingId, RefundId};
use platform::pg::run_tx;
use sqlx::PgConnection;

use crate::bookings::{Done, confirmed, release};
use crate::messages::emit_authorised;
use crate::refunds;
use crate::store::{cancellations, operations, payments, sweeps};
use crate::worker::Worker;

/// Age from which a message counts as lost.
const LOST_AFTER: TimeDelta = TimeDelta::seconds(60);
/// Pause before the state of a payment is published again.
const REPUBLISH_AFTER: TimeDelta = TimeDelta::minutes(10);
/// Age from which the message behind the mail about a refund counts as lost.
const MAIL_LOST_AFTER: TimeDelta = TimeDelta::minutes(10);
/// Pause before the outcome of a refund is published again.
const MAILED_AGAIN_AFTER: TimeDelta = TimeDelta::hours(1);
/// Time from the start of an event for which none of its notices is pruned.
const NOTICES_KEPT: TimeDelta = TimeDelta::days(30);
/// Most bookings per sweep and kind of loss.
const BATCH: i64 = 500;
/// Lookback of each round for cancellations and refunds; that of the window reaches further.
pub(crate) const RECENT: TimeDelta = TimeDelta::hours(2);
/// Retention of applied webhooks. Stripe repeats them for three days.
const WEBHOOKS_KEPT: TimeDelta = TimeDelta::days(30);
/// Retention of settled operations, which the timeline of a booking shows.
const OPERATIONS_KEPT: TimeDelta = TimeDelta::days(90);
/// Most rows that one statement deletes.
const PRUNED_AT_ONCE: i64 = 5_000;
/// Time between two prunings.
pub(crate) const PRUNE_INTERVAL: Duration = Duration::from_secs(3_600);

/// Repairs what lost messages left: of cancellations and refunds since `since`, of the others
/// whenever it was.
///
/// # Errors
/// When the database can't be read. A booking that can't be repaired is logged and stops no other.
pub(crate) async fn sweep(worker: &Worker, since: DateTime<Utc>) -> Result<(), sqlx::Error> {
    let now = worker.now();
    let (lost, republished_before) = (now - LOST_AFTER, now - REPUBLISH_AFTER);
    let unpaid = sweeps::unpaid(&worker.db, lost, republished_before, BATCH).await?;
    let unheard = sweeps::authorised_and_held(&worker.db, lost, republished_before, BATCH).await?;
    let unsettled = cancellations::unsettled(&worker.db, since, lost, BATCH).await?;
    let ended = (since, now - MAIL_LOST_AFTER);
    let (begun, published) = (now - NOTICES_KEPT, now - MAILED_AGAIN_AFTER);
    let unmailed = sweeps::unmailed_refunds(&worker.db, ended, begun, published, BATCH).await?;
    let mut is_repaired = false;
    for id in unpaid {
        is_repaired |= mend(worker, id, Lost::Confirmation).await;
    }
    for id in unheard {
        is_repaired |= mend(worker, id, Lost::Authorisation).await;
    }
    for id in unsettled {
        is_repaired |= mend(worker, id, Lost::Cancellation).await;
    }
    for (id, refund_id) in unmailed {
        is_repaired |= mend(worker, id, Lost::Refund(refund_id)).await;
    }
    if is_repaired {
        worker.wake_after_commit();
    }
    Ok(())
}

/// The kinds of messages that may be lost.
#[derive(Debug, Clone, Copy)]
enum Lost {
    /// `booking.confirmed`; or `payment.captured`, as the booking counts as unpaid.
    Confirmation,
    /// `payment.authorised`.
    Authorisation,
    /// `booking.cancelled`.
    Cancellation,
    /// `refund.succeeded` or `refund.failed` of this refund.
    Refund(RefundId),
}

impl Lost {
    fn label(self) -> &'static str {
        match self {
            Self::Confirmation => "confirmation",
            Self::Authorisation => "authorisation",
            Self::Cancellation => "cancellation",
            Self::Refund(_) => "refund",
        }
    }
}

/// Repairs one booking; `false` when nothing had to be repaired, or the repair failed.
async fn mend(worker: &Worker, id: BookingId, lost: Lost) -> bool {
    let now = worker.now();
    let mending = run_tx(&worker.db, "payment sweep", |tx| {
        Box::pin(mend_in(tx, id, lost, now))
    });
    let lost = lost.label();
    match mending.await {
        Ok(true) => {
            tracing::warn!(booking_id = %id, lost, "repaired the effect of a lost message");
            metrics::counter!("payment_worker_swept_total", "lost" => lost).increment(1);
            true
        }
        Ok(false) => false,
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(booking_id = %id, lost, error, "repair failed; retrying");
            false
        }
    }
}

/// Repeats the effect of the lost message; `false` when nothing is left to do.
async fn mend_in(
    conn: &mut PgConnection,
    id: BookingId,
    lost: Lost,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let Some(payment) = payments::lock(conn, id).await? else {
        return Ok(false);
    };
    match lost {
        Lost::Confirmation => {
            sweeps::set_told(conn, id, now).await?;
            Ok(confirmed::take_money(conn, &payment, now).await? == Done::Yes)
        }
        Lost::Authorisation => {
            sweeps::set_told(conn, id, now).await?;
            if payment.state != PaymentState::Authorised {
                return Ok(false);
            }
            emit_authorised(conn, &payment).await?;
            Ok(true)
        }
        Lost::Cancellation => {
            let asked = cancellations::asked(conn, id).await?;
            release::give_back(conn, &payment, asked, now).await
        }
        Lost::Refund(refund_id) => {
            sweeps::set_republished(conn, refund_id, now).await?;
            refunds::republish(conn, &payment, refund_id).await
        }
    }
}

/// Deletes rows past their retention, in batches.
///
/// # Errors
/// When the database fails; the rest is deleted in the next turn.
pub(crate) async fn prune(worker: &Worker) -> Result<(), sqlx::Error> {
    let now = worker.now();
    let full = u64::try_from(PRUNED_AT_ONCE).expect("a batch is positive");
    while sweeps::delete_webhooks(&worker.db, now - WEBHOOKS_KEPT, PRUNED_AT_ONCE).await? == full {}
    let before = now - OPERATIONS_KEPT;
    while operations::delete_settled(&worker.db, before, PRUNED_AT_ONCE).await? == full {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use platform::testing::TestApp;

    use super::*;
    use crate::testing::{self, operations_of, set_intent};

    async fn set_state(worker: &Worker, state: &str) {
        let update = "update payment.payments
            set state = $1, captured_minor = case when $1 = 'captured' then amount_minor else 0 end";
        let updating = sqlx::query(update).bind(state).execute(&worker.db);
        updating.await.unwrap();
    }

    #[tokio::test]
    async fn only_what_a_sweep_changes_counts_as_repaired() {
        let app = TestApp::start().await;
        let worker = testing::worker(&app);
        let [booking] = testing::hold(&worker).await;
        let (id, now) = (booking.booking_id, worker.now());
        set_intent(&worker, &booking, "pi_1").await;
        let mut conn = worker.db.acquire().await.unwrap();
        let mut mended = async |lost| mend_in(&mut conn, id, lost, now).await.unwrap();

        assert!(!mended(Lost::Confirmation).await, "not authorised yet");
        assert!(!mended(Lost::Authorisation).await, "not authorised yet");
        set_state(&worker, "authorised").await;
        assert!(mended(Lost::Authorisation).await);
        assert!(mended(Lost::Confirmation).await);
        assert!(!mended(Lost::Confirmation).await, "its capture is pending");
        let asked = operations_of(&worker, &booking).await;
        let captures = asked.iter().filter(|(kind, _)| kind == "capture");
        assert_eq!(captures.count(), 1, "{asked:?}");
        set_state(&worker, "captured").await;
        assert!(mended(Lost::Cancellation).await);
        assert!(!mended(Lost::Cancellation).await, "its refund is pending");
        drop(conn);
        app.finish().await;
    }
}

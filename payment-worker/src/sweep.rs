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
use crate::messages::{Announcement, announce};
use crate::refunds;
use crate::state::AppState;
use crate::store::{cancellations, operations, payments, sweeps};

/// Age from which a message counts as lost.
const LOST_AFTER: TimeDelta = TimeDelta::seconds(60);
/// Pause before the state of a payment is published again.
const REPUBLISH_AFTER: TimeDelta = TimeDelta::minutes(10);
/// Age from which the message behind the mail about a refund counts as lost.
const MAIL_LOST_AFTER: TimeDelta = TimeDelta::minutes(10);
/// Pause before the outcome of a refund is published again.
const MAILED_AGAIN_AFTER: TimeDelta = TimeDelta::hours(1);
/// Time from the start of an event for which none of its notices is pruned.
const NOTICE_RETENTION: TimeDelta = TimeDelta::days(30);
/// Most bookings per sweep and kind of loss.
const BATCH: i64 = 500;
/// Lookback of each round for cancellations and refunds; that of the window reaches further.
pub(crate) const RECENT: TimeDelta = TimeDelta::hours(2);
/// Retention of applied webhooks. Stripe repeats them for three days.
const WEBHOOK_RETENTION: TimeDelta = TimeDelta::days(30);
/// Retention of settled operations, which the timeline of a booking shows.
const OPERATION_RETENTION: TimeDelta = TimeDelta::days(90);
/// Most rows that one statement deletes.
const PRUNED_AT_ONCE: i64 = 5_000;
/// Time between two prunings.
pub(crate) const PRUNE_INTERVAL: Duration = Duration::from_secs(3_600);

/// Repairs what lost messages left: of cancellations and refunds since `since`, of the others
/// whenever it was.
///
/// # Errors
/// When the database can't be read. A booking that can't be repaired is logged and stops no other.
pub(crate) async fn sweep(state: &AppState, since: DateTime<Utc>) -> Result<(), sqlx::Error> {
    let now = state.now();
    let (lost, republished_before) = (now - LOST_AFTER, now - REPUBLISH_AFTER);
    let unpaid = sweeps::unpaid(&state.db, lost, republished_before, BATCH).await?;
    let unheard = sweeps::authorised_and_held(&state.db, lost, republished_before, BATCH).await?;
    let unsettled = cancellations::unsettled(&state.db, since, lost, BATCH).await?;
    let ended = (since, now - MAIL_LOST_AFTER);
    let (begun, published) = (now - NOTICE_RETENTION, now - MAILED_AGAIN_AFTER);
    let unmailed = sweeps::unmailed_refunds(&state.db, ended, begun, published, BATCH).await?;
    let mut is_repaired = false;
    for id in unpaid {
        is_repaired |= mend(state, id, Lost::Confirmation).await;
    }
    for id in unheard {
        is_repaired |= mend(state, id, Lost::Authorisation).await;
    }
    for id in unsettled {
        is_repaired |= mend(state, id, Lost::Cancellation).await;
    }
    for (id, refund_id) in unmailed {
        is_repaired |= mend(state, id, Lost::Refund(refund_id)).await;
    }
    if is_repaired {
        state.wake_after_commit();
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
async fn mend(state: &AppState, id: BookingId, lost: Lost) -> bool {
    let now = state.now();
    let mending = run_tx(&state.db, "payment sweep", |tx| {
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
            sweeps::set_payment_republished(conn, id, now).await?;
            Ok(confirmed::take_money(conn, &payment, now).await? == Done::Yes)
        }
        Lost::Authorisation => {
            sweeps::set_payment_republished(conn, id, now).await?;
            if payment.state != PaymentState::Authorised {
                return Ok(false);
            }
            announce(conn, &payment, Announcement::Authorised).await?;
            Ok(true)
        }
        Lost::Cancellation => {
            let asked = cancellations::asked(conn, id).await?;
            release::give_back(conn, &payment, asked, now).await
        }
        Lost::Refund(refund_id) => {
            sweeps::set_refund_republished(conn, refund_id, now).await?;
            refunds::republish(conn, &payment, refund_id).await
        }
    }
}

/// Deletes rows past their retention, in batches.
///
/// # Errors
/// When the database fails; the rest is deleted in the next turn.
pub(crate) async fn prune(state: &AppState) -> Result<(), sqlx::Error> {
    let now = state.now();
    let full = u64::try_from(PRUNED_AT_ONCE).expect("a batch is positive");
    while sweeps::delete_webhooks(&state.db, now - WEBHOOK_RETENTION, PRUNED_AT_ONCE).await? == full
    {
    }
    let before = now - OPERATION_RETENTION;
    while operations::delete_settled(&state.db, before, PRUNED_AT_ONCE).await? == full {}
    Ok(())
}

#[cfg(test)]
mod tests {
    use platform::testing::TestApp;

    use super::*;
    use crate::testing::{self, operations_of, set_intent};

    async fn set_state(state: &AppState, word: &str) {
        let update = "update payment.payments
            set state = $1, captured_minor = case when $1 = 'captured' then amount_minor else 0 end";
        let updating = sqlx::query(update).bind(word).execute(&state.db);
        updating.await.unwrap();
    }

    #[tokio::test]
    async fn only_what_a_sweep_changes_counts_as_repaired() {
        let app = TestApp::start().await;
        let state = testing::state(&app);
        let [booking] = testing::hold(&state).await;
        let (id, now) = (booking.booking_id, state.now());
        set_intent(&state, &booking, "pi_1").await;
        let mut conn = state.db.acquire().await.unwrap();
        let mut mended = async |lost| mend_in(&mut conn, id, lost, now).await.unwrap();

        assert!(!mended(Lost::Confirmation).await, "not authorised yet");
        assert!(!mended(Lost::Authorisation).await, "not authorised yet");
        set_state(&state, "authorised").await;
        assert!(mended(Lost::Authorisation).await);
        assert!(mended(Lost::Confirmation).await);
        assert!(!mended(Lost::Confirmation).await, "its capture is pending");
        let asked = operations_of(&state, &booking).await;
        let captures = asked.iter().filter(|(kind, _)| kind == "capture");
        assert_eq!(captures.count(), 1, "{asked:?}");
        set_state(&state, "captured").await;
        assert!(mended(Lost::Cancellation).await);
        assert!(!mended(Lost::Cancellation).await, "its refund is pending");
        drop(conn);
        app.finish().await;
    }
}

//! Sweeps behind every message: whatever is captured, refunded or confirmed because of a message is
//! also found here when that message is lost. Each reads what should have followed, and has it done,
//! or publishes it again.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::BookingId;
use domain::payment::PaymentState;
use platform::pg::run_tx;
use sqlx::PgConnection;
use uuid::Uuid;

use crate::bookings::{Done, cancelled, confirmed};
use crate::store::{cancellations, operations, payments, sweeps};
use crate::transitions;
use crate::worker::Worker;

/// How long a message may take before it counts as lost.
const LOST_AFTER: TimeDelta = TimeDelta::seconds(60);
/// The pause before the same news are published once more.
const TOLD_AGAIN_AFTER: TimeDelta = TimeDelta::minutes(10);
/// How long the mail about a refund may take before its message counts as lost.
const MAIL_LOST_AFTER: TimeDelta = TimeDelta::minutes(10);
/// The pause before the outcome of a refund is published once more.
const MAILED_AGAIN_AFTER: TimeDelta = TimeDelta::hours(1);
/// How long after the start of an event its notices are all there.
const NOTICES_KEPT: TimeDelta = TimeDelta::days(30);
/// How many bookings one sweep takes of each kind.
const BATCH: i64 = 500;
/// How far back a sweep of every round looks for cancellations and refunds; the window's looks
/// further.
pub(crate) const RECENT: TimeDelta = TimeDelta::hours(2);
/// How long webhooks that were applied are of use: Stripe repeats them for three days.
const WEBHOOKS_KEPT: TimeDelta = TimeDelta::days(30);
/// How long settled calls to Stripe are shown in the timeline of a booking.
const OPERATIONS_KEPT: TimeDelta = TimeDelta::days(90);
/// How many rows one statement deletes.
const PRUNED_AT_ONCE: i64 = 5_000;
/// How often old rows are deleted.
pub(crate) const PRUNE_INTERVAL: Duration = Duration::from_secs(3_600);

/// Repairs what lost messages left: of cancellations and refunds since `since`, of the others
/// whenever it was.
///
/// # Errors
/// When the database can't be read. A booking that can't be repaired is logged and stops no other.
pub(crate) async fn sweep(worker: &Worker, since: DateTime<Utc>) -> Result<(), sqlx::Error> {
    let now = worker.now();
    let (lost, told) = (now - LOST_AFTER, now - TOLD_AGAIN_AFTER);
    let unpaid = sweeps::unpaid(&worker.db, lost, told, BATCH).await?;
    let unheard = sweeps::authorised_and_held(&worker.db, lost, told, BATCH).await?;
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

/// What did not arrive, or had no effect.
#[derive(Debug, Clone, Copy)]
enum Lost {
    /// That the booking is confirmed; or that it is paid.
    Confirmation,
    /// That the buyer has authorised.
    Authorisation,
    /// That the booking is cancelled.
    Cancellation,
    /// That this refund succeeded, or failed.
    Refund(Uuid),
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

/// Repairs one booking; `false` when nothing was to be repaired, or that failed.
async fn mend(worker: &Worker, id: BookingId, lost: Lost) -> bool {
    let now = worker.now();
    let mending = run_tx(&worker.db, "payment sweep", |tx| {
        Box::pin(mend_in(tx, id, lost, now))
    });
    let lost = lost.label();
    match mending.await {
        Ok(true) => {
            tracing::warn!(booking_id = %id, lost, "made up for a message that had no effect");
            metrics::counter!("payment_worker_swept_total", "lost" => lost).increment(1);
            true
        }
        Ok(false) => false,
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::warn!(booking_id = %id, lost, error, "not swept; trying again");
            false
        }
    }
}

/// Does what the lost message would have done; `false` when there is nothing to do.

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
            transitions::tell_authorised(conn, &payment).await?;
            Ok(true)
        }
        Lost::Cancellation => {
            let asked = cancellations::asked(conn, id).await?;
            cancelled::give_back(conn, &payment, asked, now).await
        }
        Lost::Refund(refund_id) => {
            sweeps::set_republished(conn, refund_id, now).await?;
            transitions::republish_refund(conn, &payment, refund_id).await
        }
    }
}

/// Deletes what is too old to matter, a few thousand rows at a time.
///
/// # Errors
/// What the database says; the rest goes in the next turn.
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

    /// Sets the state of every payment.
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
        app.finish().await;
    }
}

//! Applies one stored webhook and marks it as applied, in one transaction. Idempotent: two workers
//! may apply the same one.

use chrono::{DateTime, Utc};
use platform::pg::run_tx;
use sqlx::PgConnection;

use super::event::StripeEvent;
use super::evidence::{Evidence, ReadError, gather};
use crate::payments::{self, Followed, Report};
use crate::state::AppState;
use crate::store::inbox::{self, Stored};
use crate::store::payments as table;
use crate::stripe::{Intent, Refund};
use crate::{disputes, refunds};

/// Tries of an event about an unknown PaymentIntent: the answer that makes it known may be in
/// flight.
const EARLY_TRIES: i32 = 8;
const APPLIED: &str = "applied";

#[derive(Debug, thiserror::Error)]
pub(super) enum ApplyError {
    #[error("the payment does not have this PaymentIntent yet")]
    TooEarly,
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    #[error(transparent)]
    Read(#[from] ReadError),
}

pub(super) async fn apply(state: &AppState, webhook: &Stored) -> Result<(), ApplyError> {
    let event = StripeEvent::from(webhook);
    event.measure_lag(state.now());
    let evidence = gather(state, event.content).await?;
    let now = state.now();
    let applying = run_tx(&state.db, "payment apply webhook", |tx| {
        Box::pin(apply_in(tx, webhook, &evidence, now))
    });
    applying.await
}

async fn apply_in(
    conn: &mut PgConnection,
    webhook: &Stored,
    evidence: &Evidence,
    now: DateTime<Utc>,
) -> Result<(), ApplyError> {
    let may_be_early = webhook.tries < EARLY_TRIES;
    let note = match evidence {
        Evidence::Intent(intent, source) => {
            let source = *source;
            match payments::follow_one(conn, Report { intent, source }, now).await? {
                Followed::Unknown if may_be_early && is_awaited(conn, intent).await? => {
                    return Err(ApplyError::TooEarly);
                }
                Followed::Unknown => "a PaymentIntent of no booking here",
                Followed::Unproven => return Err(ApplyError::TooEarly),
                Followed::Left | Followed::Stayed | Followed::Moved => APPLIED,
            }
        }
        Evidence::Refunds(found) => {
            for refund in found {
                if refunds::follow(conn, refund, now).await?.is_none() {
                    ignore(refund, may_be_early)?;
                }
            }
            APPLIED
        }
        Evidence::Dispute(dispute) => match disputes::note(conn, dispute, now).await? {
            true => APPLIED,
            false => "a dispute of no payment here",
        },
        Evidence::Nothing(reason) => reason,
    };
    inbox::finish(conn, &webhook.event_id, note, now).await?;
    Ok(())
}

/// Returns `true` if it names a booking whose own PaymentIntent is not recorded yet, or was
/// recorded only now and is this one.
async fn is_awaited(conn: &mut PgConnection, intent: &Intent) -> Result<bool, sqlx::Error> {
    let Some(booking_id) = intent.booking_id else {
        return Ok(false);
    };
    let payment = table::lock(conn, booking_id).await?;
    let is_ours = |id: &String| *id == intent.id;
    Ok(payment.is_some_and(|payment| payment.intent_id.as_ref().is_none_or(is_ours)))
}

fn ignore(refund: &Refund, may_be_early: bool) -> Result<(), ApplyError> {
    if may_be_early {
        return Err(ApplyError::TooEarly);
    }
    let subject = refund.id.as_str();
    tracing::warn!(subject, "ignored a refund of no payment here");
    Ok(())
}

#[cfg(test)]
mod tests {
    use platform::testing::TestApp;

    use super::*;
    use crate::stripe::IntentStatus;
    use crate::testing;

    #[tokio::test]
    async fn an_intent_that_is_recorded_meanwhile_is_awaited_and_a_second_one_is_not() {
        let app = TestApp::start().await;
        let state = testing::state(&app);
        let [booking] = testing::hold(&state).await;
        let of_booking = |id| Intent {
            booking_id: Some(booking.booking_id),
            ..testing::intent(id, IntentStatus::RequiresCapture)
        };
        let mut conn = state.db.acquire().await.unwrap();
        assert!(is_awaited(&mut conn, &of_booking("pi_1")).await.unwrap());
        testing::set_intent(&state, &booking, "pi_1").await;
        assert!(is_awaited(&mut conn, &of_booking("pi_1")).await.unwrap());
        assert!(!is_awaited(&mut conn, &of_booking("pi_2")).await.unwrap());
        let stray = testing::intent("pi_1", IntentStatus::RequiresCapture);
        assert!(!is_awaited(&mut conn, &stray).await.unwrap());
        drop(conn);
        app.finish().await;
    }
}

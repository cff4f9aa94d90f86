//! Applies webhooks. Stripe repeats, reorders and delays them by days, so an event says what was
//! true once: it moves a payment forward or not at all. Where the event alone does not say what is
//! true now, the object is read.

use chrono::{DateTime, Utc};
use domain::payment::PaymentState;
use platform::pg::run_tx;
use serde::Deserialize;
use serde_json::Value;
use sqlx::PgConnection;

use crate::store::inbox::{self, Stored};
use crate::store::{breaker, payments, refunds as table};
use crate::stripe::{Dispute, Failure, Intent, IntentStatus, Refund};
use crate::worker::Worker;
use crate::{refunds, transitions};

/// Tries of an event about an unknown PaymentIntent: the answer that makes it known may be in
/// flight.
const EARLY_TRIES: i32 = 8;

#[derive(Debug, thiserror::Error)]
pub(super) enum ApplyError {
    #[error("the payment does not have this PaymentIntent yet")]
    TooEarly,
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    #[error("Stripe could not be asked")]
    Stripe(#[from] Failure),
    #[error("Stripe seems to be down")]
    Down,
}

/// Content of an event.
enum About {
    /// The PaymentIntent as it was then.
    Intent(Intent),
    /// A PaymentIntent that must be read, because its state goes back and forth.
    IntentNow(String),
    /// A PaymentIntent that is said to be captured. It is read before it is believed, for it makes
    /// tickets: a leaked webhook secret must not be worth any.
    Taken(Intent),
    /// The refund as it was then.
    Refund(Refund),
    /// Some refund of this PaymentIntent.
    Refunds { intent_id: String },
    /// A dispute.
    Dispute(Dispute),
    /// Nothing of interest, and why.
    Nothing(&'static str),
}

#[derive(Deserialize)]
struct Charge {
    payment_intent: Option<String>,
}

/// Applies a webhook and marks it as applied in one transaction.
pub(super) async fn apply(worker: &Worker, webhook: &Stored) -> Result<(), ApplyError> {
    measure_lag(webhook.payload["created"].as_i64(), worker.now());
    match about(webhook) {
        About::Intent(intent) => apply_intent(worker, webhook, intent, false).await,
        About::IntentNow(id) => match read(worker, worker.stripe.retrieve(&id)).await? {
            Some(intent) => apply_intent(worker, webhook, intent, true).await,
            None => finish(worker, webhook, UNKNOWN).await,
        },
        About::Taken(intent) => {
            let standing = payments::standing_of(&worker.db, std::slice::from_ref(&intent.id));
            match standing.await?.get(&intent.id) {
                Some((PaymentState::Captured, _)) => {
                    apply_intent(worker, webhook, intent, false).await
                }
                _ => match read(worker, worker.stripe.retrieve(&intent.id)).await? {
                    Some(intent) => apply_intent(worker, webhook, intent, true).await,
                    None => finish(worker, webhook, UNKNOWN).await,
                },
            }
        }
        About::Refund(refund) => apply_refunds(worker, webhook, vec![refund]).await,
        About::Refunds { intent_id } => {
            let mut found = Vec::new();
            for id in table::under_way_of(&worker.db, &intent_id).await? {
                found.extend(read(worker, worker.stripe.retrieve_refund(&id)).await?);
            }
            apply_refunds(worker, webhook, found).await
        }
        About::Dispute(dispute) => apply_dispute(worker, webhook, &dispute).await,
        About::Nothing(why) => finish(worker, webhook, why).await,
    }
}

/// Note of an event whose object Stripe does not know.
const UNKNOWN: &str = "Stripe does not know what it is about";

/// Reads an object, unless the breaker is open; `None` when Stripe does not know it.
async fn read<T>(
    worker: &Worker,
    reading: impl Future<Output = Result<T, Failure>>,
) -> Result<Option<T>, ApplyError> {
    if breaker::is_open(&worker.db).await? {
        return Err(ApplyError::Down);
    }
    let answer = reading.await;
    let mut conn = worker.db.acquire().await?;
    breaker::record(&mut conn, answer.as_ref().err(), worker.now()).await?;
    match answer {
        Ok(object) => Ok(Some(object)),
        Err(missing) if missing.is_missing() => Ok(None),
        Err(failure) => Err(failure.into()),
    }
}

/// Types of events that have an effect.
enum Topic {
    Intent,
    IntentNow,
    Refund,
    Refunds,
    Dispute,
}

impl Topic {
    fn of(kind: &str) -> Option<Self> {
        Some(match kind {
            "payment_intent.amount_capturable_updated"
            | "payment_intent.succeeded"
            | "payment_intent.canceled" => Self::Intent,
            "payment_intent.requires_action" | "payment_intent.payment_failed" => Self::IntentNow,
            "refund.created" | "refund.updated" | "refund.failed" | "charge.refund.updated" => {
                Self::Refund
            }
            "charge.refunded" => Self::Refunds,
            "charge.dispute.created" => Self::Dispute,
            _ => return None,
        })
    }
}

/// Returns `true` if events of this type have an effect.
pub(super) fn is_of_interest(kind: &str) -> bool {
    Topic::of(kind).is_some()
}

fn about(webhook: &Stored) -> About {
    let object = &webhook.payload["data"]["object"];
    let read = match Topic::of(&webhook.kind) {
        Some(Topic::Intent) => parse(object).map(|intent: Intent| match intent.status {
            IntentStatus::Succeeded => About::Taken(intent),
            _ => About::Intent(intent),
        }),
        Some(Topic::IntentNow) => parse(object).map(|intent: Intent| About::IntentNow(intent.id)),
        Some(Topic::Refund) => parse(object).map(About::Refund),
        Some(Topic::Dispute) => parse(object).map(About::Dispute),
        Some(Topic::Refunds) => parse::<Charge>(object)
            .and_then(|charge| charge.payment_intent)
            .map(|intent_id| About::Refunds { intent_id }),
        None => Some(About::Nothing("a type that is of no interest")),
    };
    read.unwrap_or(About::Nothing("an object that can't be read"))
}

fn parse<'payload, T: Deserialize<'payload>>(object: &'payload Value) -> Option<T> {
    T::deserialize(object)
        .inspect_err(|error| tracing::error!(%error, "parsing the object of a webhook failed"))
        .ok()
}

async fn apply_intent(
    worker: &Worker,
    webhook: &Stored,
    intent: Intent,
    is_fresh: bool,
) -> Result<(), ApplyError> {
    let now = worker.now();
    let applying = run_tx(&worker.db, "payment apply webhook", |tx| {
        Box::pin(follow_intent(tx, webhook, &intent, is_fresh, now))
    });
    applying.await
}

async fn follow_intent(
    conn: &mut PgConnection,
    webhook: &Stored,
    intent: &Intent,
    is_fresh: bool,
    now: DateTime<Utc>,
) -> Result<(), ApplyError> {
    let Some(booking_id) = payments::booking_of(conn, &intent.id).await? else {
        if webhook.tries < EARLY_TRIES && is_awaited(conn, intent).await? {
            return Err(ApplyError::TooEarly);
        }
        let note = "a PaymentIntent of no booking here";
        inbox::finish(conn, &webhook.event_id, note, now).await?;
        return Ok(());
    };
    if !inbox::finish(conn, &webhook.event_id, "applied", now).await? {
        return Ok(());
    }
    if let Some(payment) = payments::lock(conn, booking_id).await? {
        transitions::follow_intent(conn, &payment, intent, is_fresh, now).await?;
    }
    Ok(())
}

async fn apply_dispute(
    worker: &Worker,
    webhook: &Stored,
    dispute: &Dispute,
) -> Result<(), ApplyError> {
    let now = worker.now();
    let applying = run_tx(&worker.db, "payment apply webhook", |tx| {
        Box::pin(async move {
            let is_ours = transitions::note_dispute(tx, dispute, now).await?;
            let note = if is_ours {
                "applied"
            } else {
                "a dispute of no payment here"
            };
            inbox::finish(tx, &webhook.event_id, note, now).await?;
            Ok(())
        })
    });
    applying.await
}

/// Returns `true` if it names a booking whose own PaymentIntent is not recorded yet.
async fn is_awaited(conn: &mut PgConnection, intent: &Intent) -> Result<bool, sqlx::Error> {
    let Some(booking_id) = intent.booking_id else {
        return Ok(false);
    };
    let payment = payments::lock(conn, booking_id).await?;
    Ok(payment.is_some_and(|payment| payment.intent_id.is_none()))
}

async fn apply_refunds(
    worker: &Worker,
    webhook: &Stored,
    found: Vec<Refund>,
) -> Result<(), ApplyError> {
    let now = worker.now();
    let applying = run_tx(&worker.db, "payment apply webhook", |tx| {
        Box::pin(follow_refunds(tx, webhook, &found, now))
    });
    applying.await
}

async fn follow_refunds(
    conn: &mut PgConnection,
    webhook: &Stored,
    found: &[Refund],
    now: DateTime<Utc>,
) -> Result<(), ApplyError> {
    if !inbox::finish(conn, &webhook.event_id, "applied", now).await? {
        return Ok(());
    }
    for refund in found {
        follow_refund(conn, webhook, refund, now).await?;
    }
    Ok(())
}

/// Moves a refund of ours, or one that was made in Stripe's dashboard.
async fn follow_refund(
    conn: &mut PgConnection,
    webhook: &Stored,
    refund: &Refund,
    now: DateTime<Utc>,
) -> Result<(), ApplyError> {
    if let Some(id) = refund.refund_id
        && refunds::follow(conn, id, refund, now).await?.is_some()
    {
        return Ok(());
    }
    let followed = refunds::follow_foreign(conn, refund, now).await?;
    if followed.is_some() {
        return Ok(());
    }
    if webhook.tries < EARLY_TRIES {
        return Err(ApplyError::TooEarly);
    }
    let subject = refund.id.as_str();
    tracing::warn!(subject, "ignored a refund of no payment here");
    Ok(())
}

async fn finish(worker: &Worker, webhook: &Stored, note: &str) -> Result<(), ApplyError> {
    let mut conn = worker.db.acquire().await?;
    inbox::finish(&mut conn, &webhook.event_id, note, worker.now()).await?;
    Ok(())
}

/// Measures the time from Stripe's event to its effect.
pub(super) fn measure_lag(created: Option<i64>, now: DateTime<Utc>) {
    if let Some(created) = created.and_then(|seconds| DateTime::from_timestamp(seconds, 0)) {
        let lag = (now - created).to_std().unwrap_or_default();
        metrics::histogram!("payment_worker_webhook_lag_seconds").record(lag);
    }
}

#[cfg(test)]
mod tests {
    use domain::payment::STRIPE_EVENTS;

    use super::*;

    #[test]
    fn what_is_asked_for_is_what_matters() {
        for kind in STRIPE_EVENTS {
            assert!(is_of_interest(kind), "{kind}");
        }
        for kind in [
            "payment_intent.created",
            "charge.succeeded",
            "charge.captured",
            "charge.failed",
            "charge.dispute.funds_withdrawn",
            "charge.dispute.closed",
            "customer.created",
            "payment_method.attached",
        ] {
            assert!(!is_of_interest(kind), "{kind}");
            assert!(!STRIPE_EVENTS.contains(&kind), "{kind}");
        }
    }
}

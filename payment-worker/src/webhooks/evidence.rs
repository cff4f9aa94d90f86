//! Evidence for what an event says. Stripe repeats, reorders and delays webhooks by days, so an
//! event says what was true once; where that does not show what is true now, the object is read.

use crate::payments::rules::{Source, needs_read};
use crate::state::AppState;
use crate::store::{breaker, payments, refunds};
use crate::stripe::{Dispute, Failure, Intent, Refund};

use super::event::Content;

/// Note of an event whose object Stripe does not know.
const UNKNOWN: &str = "Stripe does not know what it is about";

/// What an event shows, believed as far as its source.
#[derive(Debug)]
pub(super) enum Evidence {
    Intent(Intent, Source),
    Refunds(Vec<Refund>),
    Dispute(Dispute),
    /// Nothing, for this reason.
    Nothing(&'static str),
}

/// Why an object could not be read. The webhook is applied later.
#[derive(Debug, thiserror::Error)]
pub(super) enum ReadError {
    #[error("the database failed")]
    Database(#[from] sqlx::Error),
    #[error("Stripe could not be asked")]
    Stripe(#[from] Failure),
    #[error("Stripe seems to be down")]
    Down,
}

/// Returns what an event shows; reads at Stripe what it does not prove. Holds no transaction.
pub(super) async fn gather(state: &AppState, content: Content) -> Result<Evidence, ReadError> {
    Ok(match content {
        Content::Intent(intent) if is_proof(state, &intent).await? => {
            Evidence::Intent(intent, Source::Webhook)
        }
        Content::Intent(Intent { id: intent_id, .. }) | Content::IntentNow { intent_id } => {
            match read(state, state.stripe.retrieve(&intent_id)).await? {
                Some(intent) => Evidence::Intent(intent, Source::Read),
                None => Evidence::Nothing(UNKNOWN),
            }
        }
        Content::Refund(refund) => Evidence::Refunds(vec![refund]),
        Content::Refunds { intent_id } => {
            let mut found = Vec::new();
            for id in refunds::under_way_of(&state.db, &intent_id).await? {
                found.extend(read(state, state.stripe.retrieve_refund(&id)).await?);
            }
            Evidence::Refunds(found)
        }
        Content::Dispute(dispute) => Evidence::Dispute(dispute),
        Content::Ignored(reason) => Evidence::Nothing(reason),
    })
}

/// Returns `true` if the PaymentIntent of an event need not be read.
async fn is_proof(state: &AppState, intent: &Intent) -> Result<bool, sqlx::Error> {
    if !needs_read(None, intent.status) {
        return Ok(true);
    }
    let standing = payments::standing_of(&state.db, std::slice::from_ref(&intent.id)).await?;
    let known = standing.get(&intent.id).map(|(state, _)| *state);
    Ok(!needs_read(known, intent.status))
}

/// Reads an object, unless the breaker is open; `None` when Stripe does not know it.
async fn read<T>(
    state: &AppState,
    reading: impl Future<Output = Result<T, Failure>>,
) -> Result<Option<T>, ReadError> {
    if breaker::is_open(&state.db).await? {
        return Err(ReadError::Down);
    }
    let answer = reading.await;
    let mut conn = state.db.acquire().await?;
    breaker::record(&mut conn, answer.as_ref().err(), state.now()).await?;
    match answer {
        Ok(object) => Ok(Some(object)),
        Err(missing) if missing.is_missing() => Ok(None),
        Err(failure) => Err(failure.into()),
    }
}

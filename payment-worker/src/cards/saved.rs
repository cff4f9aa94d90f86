use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, HeaderName};
use domain::AccountId;
use platform::auth::Caller;
use platform::http::{Json, Path};
use platform::problem::{Kind, Problem};
use serde::Serialize;
use uuid::Uuid;

use super::{require_stripe, unsettled};
use crate::state::AppState;
use crate::store::customers;
use crate::stripe::{Failure, SavedCard};

#[derive(Serialize)]
pub(super) struct Saved {
    saved_cards: Vec<SavedCard>,
}

/// `GET /api/saved-cards`: the caller's, newest first; a card that was saved twice is listed once.
pub(super) async fn list(
    State(state): State<Arc<AppState>>,
    caller: Caller,
) -> Result<([(HeaderName, &'static str); 1], Json<Saved>), Problem> {
    let (_, all) = of_account(&state, caller.account_id).await?;
    let mut saved_cards: Vec<SavedCard> = Vec::with_capacity(all.len());
    for card in all {
        if !saved_cards.iter().any(|shown| shown.is_same_as(&card)) {
            saved_cards.push(card);
        }
    }
    Ok(([(CACHE_CONTROL, "no-store")], Json(Saved { saved_cards })))
}

/// `DELETE /api/saved-cards/{id}`: detaches the card. No row records it: until it is done the list
/// shows the card. Each request has its own idempotency key, for Stripe repeats a saved 500 for a
/// day; a second detachment changes nothing.
pub(super) async fn remove(
    State(state): State<Arc<AppState>>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<StatusCode, Problem> {
    let (_, all) = of_account(&state, caller.account_id).await?;
    let removed = all.iter().find(|card| card.id == id);
    let removed = removed.ok_or_else(unknown)?;
    for card in all.iter().filter(|card| card.is_same_as(removed)) {
        let key = format!("onsale-detach-{}-{}", card.id, Uuid::new_v4());
        let detached = state.stripe.detach(&key, &card.id).await;
        let Err(failure) = detached else { continue };
        if failure.is_missing() {
            continue;
        }
        // Refused, perhaps because another request was faster: the list decides.
        if matches!(failure, Failure::Refused { .. }) {
            let (_, left) = of_account(&state, caller.account_id).await?;
            if left.iter().all(|saved| saved.id != card.id) {
                continue;
            }
        }
        return Err(unsettled(&failure));
    }
    Ok(StatusCode::NO_CONTENT)
}

/// The account's customer, if it has one, and its saved cards, newest first.
pub(super) async fn of_account(
    state: &AppState,
    account_id: AccountId,
) -> Result<(Option<String>, Vec<SavedCard>), Problem> {
    let Some(customer) = customers::find(&state.db, account_id).await? else {
        return Ok((None, Vec::new()));
    };
    require_stripe(state).await?;
    match state.stripe.saved_cards(&customer).await {
        Ok(cards) => Ok((Some(customer), cards)),
        Err(missing) if missing.is_missing() => {
            tracing::warn!(customer, "customer was deleted at Stripe");
            customers::forget(&state.db, account_id, &customer, state.now()).await?;
            Ok((None, Vec::new()))
        }
        Err(failure) => Err(unsettled(&failure)),
    }
}

pub(super) fn unknown() -> Problem {
    Problem::new(Kind::NotFound, "You have no saved card with this id.")
}

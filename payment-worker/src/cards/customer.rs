//! Creates the customer of an account. Its row with the idempotency key is written before the call,
//! and no connection is held meanwhile; a row without a customer has its key repeated, so neither a
//! crash nor a lost answer makes a second one.

use domain::AccountId;
use platform::problem::Problem;

use super::{require_stripe, unsettled};
use crate::operation::KEY_LIFETIME;
use crate::operations::{CLOCK_DIFFERENCE, FAILED_KEY_REPEATS};
use crate::state::AppState;
use crate::store::customers::Asked;
use crate::store::{breaker, customers};
use crate::stripe::Failure;

/// Returns the account's customer at Stripe; creates it if there is none.
pub(super) async fn bring_about(
    state: &AppState,
    account_id: AccountId,
) -> Result<String, Problem> {
    if let Some(id) = customers::find(&state.db, account_id).await? {
        return Ok(id);
    }
    require_stripe(state).await?;
    let asked = customers::ask(&state.db, account_id, state.now()).await?;
    if let Some(id) = asked.customer_id {
        return Ok(id);
    }
    let answer = ask_stripe(state, &asked).await;
    let mut conn = state.db.acquire().await?;
    breaker::record(&mut conn, answer.as_ref().err(), state.now()).await?;
    drop(conn);
    let (now, key) = (state.now(), &asked.idempotency_key);
    let found = answer.map_err(|failure| unsettled(&failure))?;
    let set = match found {
        Some(id) => customers::set(&state.db, account_id, key, &id, now).await?,
        None => {
            customers::ask_anew(&state.db, account_id, key, now).await?;
            None
        }
    };
    set.ok_or_else(super::unreachable)
}

/// Creates or finds the customer of this key; `None` when there is none and the key is spent.
async fn ask_stripe(state: &AppState, asked: &Asked) -> Result<Option<String>, Failure> {
    let (stripe, key) = (&state.stripe, &asked.idempotency_key);
    let may_be_forgotten = asked.tries > 1 && state.now() - asked.asked_at > KEY_LIFETIME;
    if !may_be_forgotten {
        match stripe.create_customer(key).await {
            Err(Failure::KeyConsumed { .. }) if asked.tries >= FAILED_KEY_REPEATS => {}
            answer => return answer.map(Some),
        }
    }
    stripe
        .find_customer(key, asked.asked_at - CLOCK_DIFFERENCE)
        .await
}

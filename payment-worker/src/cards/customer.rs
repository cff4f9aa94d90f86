//! Creates the customer of an account. Its row with the idempotency key is written before the call,
//! and no connection is held meanwhile; a row without a customer has its key repeated, so neither a
//! crash nor a lost answer makes a second one.

use domain::AccountId;
use platform::problem::Problem;

use super::{require_stripe, unsettled};
use crate::operation::KEY_LIFETIME;
use crate::operations::{CLOCK_DIFFERENCE, FAILED_KEY_REPEATS};
use crate::store::customers::Asked;
use crate::store::{breaker, customers};
use crate::stripe::Failure;
use crate::worker::Worker;

/// Returns the account's customer at Stripe; creates it if there is none.
pub(super) async fn bring_about(worker: &Worker, account_id: AccountId) -> Result<String, Problem> {
    if let Some(id) = customers::find(&worker.db, account_id).await? {
        return Ok(id);
    }
    require_stripe(worker).await?;
    let asked = customers::ask(&worker.db, account_id, worker.now()).await?;
    if let Some(id) = asked.customer_id {
        return Ok(id);
    }
    let answer = ask_stripe(worker, &asked).await;
    let mut conn = worker.db.acquire().await?;
    breaker::record(&mut conn, answer.as_ref().err(), worker.now()).await?;
    drop(conn);
    let (now, key) = (worker.now(), &asked.idempotency_key);
    let found = answer.map_err(|failure| unsettled(&failure))?;
    let set = match found {
        Some(id) => customers::set(&worker.db, account_id, key, &id, now).await?,
        None => {
            customers::ask_anew(&worker.db, account_id, key, now).await?;
            None
        }
    };
    set.ok_or_else(super::unreachable)
}

/// Creates or finds the customer of this key; `None` when there is none and the key is spent.
async fn ask_stripe(worker: &Worker, asked: &Asked) -> Result<Option<String>, Failure> {
    let (stripe, key) = (&worker.stripe, &asked.idempotency_key);
    let may_be_forgotten = asked.tries > 1 && worker.now() - asked.asked_at > KEY_LIFETIME;
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

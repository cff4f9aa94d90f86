//! Giving the PaymentIntent to the buyer's customer, so that the card is kept or a kept one pays.

use super::{Outcome, Next, Operation, unexpected};
use crate::stripe::{Assignment, Failure, Stripe};

pub(super) async fn call(
    stripe: &Stripe,
    operation: &Operation,
    assignment: &Assignment,
) -> Result<Outcome, Failure> {
    let intent_id = operation.intent_id()?;
    match stripe.assign(&operation.key, intent_id, assignment).await {
        Ok(intent) => Ok(Outcome::Intent(intent)),
        Err(refused @ Failure::Refused { .. }) => Ok(Outcome::Impossible(refused.to_string())),
        Err(failure) => Err(failure),
    }
}

/// It says how things are to be, not what is to be added: done again, it changes nothing. So what
/// became of it is not looked for.
pub(super) fn look_up() -> Option<Outcome> {
    None
}

/// The payment itself does not move.
pub(super) fn record(outcome: &Outcome) -> Next {
    match outcome {
        Outcome::Intent(_) => Next::Succeeded,
        Outcome::Impossible(reason) => Next::Failed(reason.clone()),
        other => unexpected(other),
    }
}

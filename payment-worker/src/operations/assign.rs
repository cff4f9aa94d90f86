//! Attaches the PaymentIntent to the buyer's customer, to save the card or pay with a saved one.

use super::{Next, Operation, Outcome, unexpected};
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

/// Not needed: the call sets values and adds nothing, so a repeat is harmless.
pub(super) fn look_up() -> Option<Outcome> {
    None
}

/// The payment itself does not change.
pub(super) fn record(outcome: &Outcome) -> Next {
    match outcome {
        Outcome::Intent(_) => Next::Succeeded,
        Outcome::Impossible(reason) => Next::Failed(reason.clone()),
        other => unexpected(other),
    }
}

//! Consumer of `notifier.confirmations`: sends the codes that confirm an address or a phone. No row
//! is stored for a code: a duplicate is harmless, and an expired one is dropped. Codes are subject
//! to the limits of their channel like other messages, in the class of deadlines.

use std::sync::Arc;
use std::time::Duration;

use domain::message::{ConfirmationAsked, Message};
use platform::amqp::{self, Delivery, Handler, Verdict};
use platform::tokens::{Confirmation, KeyRing};

use crate::channels::{Channels, DeliveryOutcome};
use crate::notice::Urgency;
use crate::sender::gate::Gates;
use crate::state::AppState;
use crate::unparsed::retry_unparsed;

/// Longest backoff: a code is useful for ten minutes.
const MAX_PAUSE: Duration = Duration::from_secs(30);

/// Consumer of `notifier.confirmations`.
pub(crate) struct Confirmations {
    pub(crate) state: Arc<AppState>,
    pub(crate) channels: Arc<Channels>,
    pub(crate) gates: Gates,
    pub(crate) keys: Arc<KeyRing>,
}

impl Handler for Confirmations {
    async fn handle(&self, delivery: Delivery) -> Verdict {
        if delivery.name != ConfirmationAsked::NAME {
            return retry_unparsed(&delivery, &"unknown message");
        }
        let asked: ConfirmationAsked = match delivery.parse() {
            Ok(asked) => asked,
            Err(error) => return retry_unparsed(&delivery, &error),
        };
        if asked.good_until <= self.state.now() {
            tracing::info!("confirmation code expired before it was sent, dropped");
            return Verdict::Ack;
        }
        let code = self.keys.confirmation_code(&Confirmation {
            nonce: asked.nonce,
            account_id: asked.account_id,
            address: &asked.address,
        });
        let gate = self.gates.of(asked.channel.into());
        let sending = self.channels.send_code(&asked, &code, self.state.now());
        match gate.send(Urgency::Deadline, Box::pin(sending)).await {
            DeliveryOutcome::Accepted | DeliveryOutcome::Unknown(_) => Verdict::Ack,
            DeliveryOutcome::Refused(error) => {
                tracing::warn!(error, "confirmation code refused");
                Verdict::Ack
            }
            DeliveryOutcome::Unreachable(error)
            | DeliveryOutcome::Rejected(error)
            | DeliveryOutcome::Deferred(error)
            | DeliveryOutcome::Withheld(error) => {
                tracing::debug!(error, "failed to send confirmation code, retrying");
                Verdict::RetryAfter(amqp::backoff(delivery.attempt).min(MAX_PAUSE))
            }
        }
    }
}

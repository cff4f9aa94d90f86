//! Consumer of `notifier.confirmations`: sends the codes that confirm an address or a phone. They are
//! no rows: one that arrives twice does no harm, and after its time nobody wants it.

use std::sync::Arc;

use domain::message::{ConfirmationAsked, Message};
use platform::amqp::{Delivery, Handler, Verdict};
use platform::tokens::{Confirmation, KeyRing};

use crate::channels::{Channels, Outcome};
use crate::shared::{Shared, leave_to_newer};

/// Consumer of `notifier.confirmations`.
pub(crate) struct Confirmations {
    pub(crate) shared: Arc<Shared>,
    pub(crate) channels: Arc<Channels>,
    pub(crate) keys: Arc<KeyRing>,
}

impl Handler for Confirmations {
    async fn handle(&self, delivery: Delivery) -> Verdict {
        if delivery.name != ConfirmationAsked::NAME {
            return leave_to_newer(&delivery, &"no such message is known here");
        }
        let asked: ConfirmationAsked = match delivery.parse() {
            Ok(asked) => asked,
            Err(error) => return leave_to_newer(&delivery, &error),
        };
        if asked.good_until <= self.shared.now() {
            tracing::info!("a code was not sent in time; dropped");
            return Verdict::Ack;
        }
        let code = self.keys.confirmation_code(&Confirmation {
            nonce: asked.nonce,
            account_id: asked.account_id,
            address: &asked.address,
        });
        let sent = self.channels.send_code(&asked, &code, self.shared.now());
        match sent.await {
            Outcome::Accepted | Outcome::Unknown(_) => Verdict::Ack,
            Outcome::Refused(error) => {
                tracing::warn!(error, "a code was refused; its account stays unconfirmed");
                Verdict::Ack
            }
            Outcome::Unreachable(error)
            | Outcome::Rejected(error)
            | Outcome::Deferred(error)
            | Outcome::Withheld(error) => {
                tracing::debug!(error, "a code was not sent; trying again");
                Verdict::retry(&delivery)
            }
        }
    }
}

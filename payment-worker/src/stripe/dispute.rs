use domain::{Currency, Money};
use serde::Deserialize;

/// A dispute, as far as it is used: the cardholder asked the bank for the money.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "Wire")]
pub(crate) struct Dispute {
    /// `du_…`.
    pub id: String,
    /// The amount, for people.
    pub amount: String,
    /// Stripe's word for the reason.
    pub reason: String,
    /// The disputed PaymentIntent.
    pub intent_id: Option<String>,
}

impl From<stripe_shared::Dispute> for Dispute {
    fn from(dispute: stripe_shared::Dispute) -> Self {
        Wire {
            id: dispute.id.to_string(),
            amount: dispute.amount,
            currency: dispute.currency.to_string(),
            reason: dispute.reason,
            payment_intent: dispute.payment_intent.map(|intent| intent.id().to_string()),
        }
        .into()
    }
}

#[derive(Deserialize)]
struct Wire {
    id: String,
    amount: i64,
    #[serde(default)]
    currency: String,
    #[serde(default)]
    reason: String,
    payment_intent: Option<String>,
}

impl From<Wire> for Dispute {
    fn from(wire: Wire) -> Self {
        Self {
            id: wire.id,
            amount: match Currency::try_from(wire.currency.as_str()) {
                Ok(currency) => {
                    let amount_minor = domain::Wire(wire.amount).minor(currency);
                    Money::new(amount_minor, currency).to_string()
                }
                Err(_) => wire.amount.to_string(),
            },
            reason: wire.reason,
            intent_id: wire.payment_intent,
        }
    }
}

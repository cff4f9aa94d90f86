use serde::Deserialize;

/// What the worker needs to know of a dispute: a buyer asked the bank for the money.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(crate) struct Dispute {
    /// `du_…`.
    pub id: String,
    /// How much, in minor units.
    #[serde(rename = "amount")]
    pub amount_minor: i64,
    /// Stripe's word for the reason.
    #[serde(default)]
    pub reason: String,
    /// The PaymentIntent whose money it is.
    #[serde(rename = "payment_intent")]
    pub intent_id: Option<String>,
}

impl From<stripe_shared::Dispute> for Dispute {
    fn from(dispute: stripe_shared::Dispute) -> Self {
        Self {
            id: dispute.id.to_string(),
            amount_minor: dispute.amount,
            reason: dispute.reason,
            intent_id: dispute.payment_intent.map(|intent| intent.id().to_string()),
        }
    }
}

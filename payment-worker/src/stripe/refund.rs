use std::collections::HashMap;

use domain::RefundId;
use serde::Deserialize;

use super::minor;

/// Metadata key of our id of a refund.
pub(super) const REFUND_ID: &str = "refund_id";

/// A refund at Stripe, as far as it is used.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(from = "Wire")]
pub(crate) struct Refund {
    /// `re_…`.
    pub id: String,
    pub status: RefundStatus,
    /// In minor units.
    pub amount_minor: i64,
    /// The refunded PaymentIntent.
    pub intent_id: Option<String>,
    /// Our id; `None` when it was made elsewhere, such as in Stripe's dashboard.
    pub refund_id: Option<RefundId>,
    pub failure_reason: Option<String>,
}

/// The states of a refund at Stripe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RefundStatus {
    Pending,
    Succeeded,
    /// The bank sent the money back.
    Failed,
}

impl RefundStatus {
    fn parse(word: Option<&str>) -> Self {
        match word {
            Some("succeeded") => Self::Succeeded,
            Some("failed" | "canceled") => Self::Failed,
            _ => Self::Pending,
        }
    }
}

impl From<stripe_shared::Refund> for Refund {
    fn from(refund: stripe_shared::Refund) -> Self {
        Wire {
            id: refund.id.to_string(),
            status: refund.status,
            amount: refund.amount,
            currency: refund.currency.to_string(),
            payment_intent: refund.payment_intent.map(|intent| intent.id().to_string()),
            metadata: refund.metadata,
            failure_reason: refund.failure_reason,
        }
        .into()
    }
}

#[derive(Deserialize)]
struct Wire {
    id: String,
    status: Option<String>,
    #[serde(default)]
    amount: i64,
    #[serde(default)]
    currency: String,
    payment_intent: Option<String>,
    metadata: Option<HashMap<String, String>>,
    failure_reason: Option<String>,
}

impl From<Wire> for Refund {
    fn from(wire: Wire) -> Self {
        let metadata = wire.metadata.unwrap_or_default();
        Self {
            id: wire.id,
            status: RefundStatus::parse(wire.status.as_deref()),
            amount_minor: minor(wire.amount, &wire.currency),
            intent_id: wire.payment_intent,
            refund_id: metadata.get(REFUND_ID).and_then(|id| id.parse().ok()),
            failure_reason: wire.failure_reason,
        }
    }
}

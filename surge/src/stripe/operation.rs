//! Which of Stripe's endpoints a request means.

use serde::{Deserialize, Serialize};

/// An endpoint of the stand-in that behaves as Stripe's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// `POST /v1/payment_intents`
    CreatePaymentIntent,
    /// `GET /v1/payment_intents/{id}`
    RetrievePaymentIntent,
    /// `POST /v1/payment_intents/{id}/confirm`
    ConfirmPaymentIntent,
    /// `POST /v1/payment_intents/{id}/capture`
    CapturePaymentIntent,
    /// `POST /v1/payment_intents/{id}/cancel`
    CancelPaymentIntent,
    /// `GET /v1/payment_intents`
    ListPaymentIntents,
    /// `POST /v1/refunds`
    CreateRefund,
    /// `GET /v1/refunds/{id}`
    RetrieveRefund,
    /// `GET /v1/refunds`
    ListRefunds,
    /// `GET /v1/charges/{id}`
    RetrieveCharge,
    /// `GET /v1/disputes`
    ListDisputes,
}

impl Operation {
    /// The operation and the id in the path (empty where there is none).
    pub(crate) fn route(method: &str, path: &str) -> Option<(Self, String)> {
        let mut parts = path
            .strip_prefix("/v1/")?
            .trim_end_matches('/')
            .splitn(4, '/');
        let route = (
            method,
            parts.next()?,
            parts.next(),
            parts.next(),
            parts.next(),
        );
        let (operation, id) = match route {
            ("POST", "payment_intents", None, None, None) => (Self::CreatePaymentIntent, ""),
            ("GET", "payment_intents", None, None, None) => (Self::ListPaymentIntents, ""),
            ("GET", "payment_intents", Some(id), None, None) => (Self::RetrievePaymentIntent, id),
            ("POST", "payment_intents", Some(id), Some(action), None) => {
                (Self::action(action)?, id)
            }
            ("POST", "refunds", None, None, None) => (Self::CreateRefund, ""),
            ("GET", "refunds", None, None, None) => (Self::ListRefunds, ""),
            ("GET", "refunds", Some(id), None, None) => (Self::RetrieveRefund, id),
            ("GET", "charges", Some(id), None, None) => (Self::RetrieveCharge, id),
            ("GET", "disputes", None, None, None) => (Self::ListDisputes, ""),
            _ => return None,
        };
        Some((operation, id.to_owned()))
    }

    fn action(name: &str) -> Option<Self> {
        match name {
            "confirm" => Some(Self::ConfirmPaymentIntent),
            "capture" => Some(Self::CapturePaymentIntent),
            "cancel" => Some(Self::CancelPaymentIntent),
            _ => None,
        }
    }

    /// Whether it changes something: only then an idempotency key counts.
    pub(crate) fn is_write(self) -> bool {
        match self {
            Self::CreatePaymentIntent
            | Self::ConfirmPaymentIntent
            | Self::CapturePaymentIntent
            | Self::CancelPaymentIntent
            | Self::CreateRefund => true,
            Self::RetrievePaymentIntent
            | Self::ListPaymentIntents
            | Self::RetrieveRefund
            | Self::ListRefunds
            | Self::RetrieveCharge
            | Self::ListDisputes => false,
        }
    }

    /// Whether a buyer may call it with the publishable key and the client secret.
    pub(crate) fn is_open_to_buyers(self) -> bool {
        matches!(
            self,
            Self::RetrievePaymentIntent | Self::ConfirmPaymentIntent
        )
    }
}

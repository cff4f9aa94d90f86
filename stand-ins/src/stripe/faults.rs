//! Faults of API calls and of webhook deliveries.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::operation::Operation;
use crate::faults::{Faults, Rule};

/// A fault of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApiFault {
    /// Delays the call. It takes effect even if the caller disconnects.
    Delay {
        /// Milliseconds.
        milliseconds: u64,
    },
    /// Answers 500 without effect, and stores nothing under the key.
    ServerError,
    /// Answers 500 without effect, and stores the 500 under the key.
    SavedServerError,
    /// Answers 500 after the effect, and stores the 500 under the key.
    SavedServerErrorAfterEffect,
    /// Refuses definitely, without effect: 400, 403 for lack of permission, or 404 for an unknown
    /// object.
    Refused {
        /// The HTTP status.
        status: u16,
    },
    /// Answers 429 without effect.
    RateLimit,
    /// Answers 429 as for an object locked by another request, without effect.
    Locked,
    /// Answers 409 as for a concurrent request with the same key, without effect.
    KeyInUse,
    /// Cuts the connection without effect.
    CutBeforeEffect,
    /// Takes effect, and cuts the connection within the response.
    CutAfterEffect {
        /// Bytes of the response, headers included, that are sent.
        bytes: u64,
    },
    /// Never responds, without effect.
    Hang,
    /// Takes effect and never responds.
    HangAfterEffect,
}

/// A fault of a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WebhookFault {
    /// Never delivered.
    Lost,
    /// Delivered more than once.
    Duplicated {
        /// Number of deliveries.
        copies: u8,
    },
    /// Delivered late.
    Delayed {
        /// Milliseconds.
        milliseconds: u64,
    },
    /// Delivered after a random delay, so that later ones overtake it.
    Reordered {
        /// Maximum delay in milliseconds.
        within_milliseconds: u64,
    },
}

/// Faults of the API, by operation.
pub type ApiFaults = Faults<Operation, ApiFault>;

/// Faults of the webhooks, by event type.
pub type WebhookFaults = Faults<String, WebhookFault>;

/// Body of `POST /test/faults`, and response of `GET /test/faults`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FaultRules {
    #[serde(default)]
    pub(crate) api: Vec<Rule<Operation, ApiFault>>,
    #[serde(default)]
    pub(crate) webhooks: Vec<Rule<String, WebhookFault>>,
}

/// Maximum delay of a fault.
const MAX_DELAY: Duration = Duration::from_secs(24 * 60 * 60);

pub(crate) fn delay(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds).min(MAX_DELAY)
}

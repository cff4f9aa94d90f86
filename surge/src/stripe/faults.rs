//! What can go wrong with a call to Stripe, and with a webhook on its way.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::operation::Operation;
use crate::faults::{Faults, Rule};

/// What goes wrong with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApiFault {
    /// The call takes so much longer. The effect happens even if the caller gives up waiting.
    Delay {
        /// Milliseconds.
        milliseconds: u64,
    },
    /// 500, nothing happened, nothing is saved under the key.
    ServerError,
    /// 500, nothing happened, and the 500 is saved under the key.
    SavedServerError,
    /// 500, although it happened, and the 500 is saved under the key.
    SavedServerErrorAfterEffect,
    /// A definite refusal, nothing happened: 400, 403 for a key that may not do it, or 404 for an
    /// object that is not known.
    Refused {
        /// The HTTP status.
        status: u16,
    },
    /// 429, nothing happened.
    RateLimit,
    /// 429 because another request works on the object, nothing happened.
    Locked,
    /// 409 because another request with the key is running, nothing happened.
    KeyInUse,
    /// The connection breaks, nothing happened.
    CutBeforeEffect,
    /// It happened, and the connection breaks after so many bytes of the answer.
    CutAfterEffect {
        /// Bytes of the answer, headers included, that still arrive.
        bytes: u64,
    },
    /// No answer ever, nothing happened.
    Hang,
    /// No answer ever, although it happened.
    HangAfterEffect,
}

/// What goes wrong with a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WebhookFault {
    /// It is never sent.
    Lost,
    /// It is sent more than once.
    Duplicated {
        /// How often in all.
        copies: u8,
    },
    /// It is sent later.
    Delayed {
        /// Milliseconds.
        milliseconds: u64,
    },
    /// It is sent after a random delay, so that later ones overtake it.
    Reordered {
        /// The longest delay in milliseconds.
        within_milliseconds: u64,
    },
}

/// Faults of the API, by operation.
pub type ApiFaults = Faults<Operation, ApiFault>;

/// Faults of the webhooks, by event type.
pub type WebhookFaults = Faults<String, WebhookFault>;

/// Body of `POST /test/faults` and answer of `GET /test/faults`.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct FaultRules {
    #[serde(default)]
    pub(crate) api: Vec<Rule<Operation, ApiFault>>,
    #[serde(default)]
    pub(crate) webhooks: Vec<Rule<String, WebhookFault>>,
}

/// The longest delay a fault may ask for.
const LONGEST_DELAY: Duration = Duration::from_secs(24 * 60 * 60);

pub(crate) fn delay(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds).min(LONGEST_DELAY)
}

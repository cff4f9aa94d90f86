//! An event of Stripe. Its type and its object are looked at here alone, when it arrives and when
//! its row in the inbox is claimed.

mod fields;

use chrono::{DateTime, Utc};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::store::inbox::{New, Stored};
use crate::stripe::{Dispute, Intent, Refund};
use fields::Fields;

/// An event, as far as it is used.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct StripeEvent {
    /// `evt_…`.
    pub id: String,
    /// Its type, such as `refund.updated`.
    pub kind: String,
    /// Creation time at Stripe, in Unix seconds.
    created: Option<i64>,
    /// The stored fields of its object, in Stripe's shape; null when it has none.
    object: Value,
    pub content: Content,
}

/// What an event says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Content {
    /// The PaymentIntent as it was then.
    Intent(Intent),
    /// A PaymentIntent that must be read, because its state goes back and forth.
    IntentNow {
        intent_id: String,
    },
    /// The refund as it was then.
    Refund(Refund),
    /// Some refund of this PaymentIntent.
    Refunds {
        intent_id: String,
    },
    Dispute(Dispute),
    /// It has no effect here, for this reason.
    Ignored(&'static str),
}

#[derive(Deserialize)]
struct Charge {
    payment_intent: Option<String>,
}

impl StripeEvent {
    /// Parses a signed body; `None` for JSON that is no event with an id and a type. `is_live` says
    /// whether our key moves real money, `None` that it does not say.
    ///
    /// # Errors
    /// When it is not JSON.
    pub(super) fn parse(body: &[u8], is_live: Option<bool>) -> serde_json::Result<Option<Self>> {
        Ok(Fields::read(body)?.map(|fields| {
            let is_other_mode = |of_key| fields.is_live.is_some_and(|of_event| of_event != of_key);
            let content = if fields.is_of_another_account {
                Content::Ignored("an event of a connected account")
            } else if is_live.is_some_and(is_other_mode) {
                Content::Ignored("an event of the other mode, test or live")
            } else {
                Content::of(&fields.kind, &fields.object)
            };
            Self {
                id: fields.id,
                kind: fields.kind,
                created: fields.created,
                object: fields.object,
                content,
            }
        }))
    }

    /// The row of the inbox that stores it.
    pub(super) fn row(&self) -> New {
        let payload = json!({
            "id": self.id, "type": self.kind, "created": self.created,
            "data": { "object": self.object },
        });
        New {
            event_id: self.id.clone(),
            kind: self.kind.clone(),
            payload: payload.to_string(),
            applied: match self.content {
                Content::Ignored(reason) => Some(reason),
                _ => None,
            },
            due: None,
        }
    }

    /// Measures the time from Stripe's event to its effect.
    pub(super) fn measure_lag(&self, now: DateTime<Utc>) {
        let created = self.created;
        if let Some(created) = created.and_then(|seconds| DateTime::from_timestamp(seconds, 0)) {
            let lag = (now - created).to_std().unwrap_or_default();
            metrics::histogram!("payment_worker_webhook_lag_seconds").record(lag);
        }
    }
}

impl From<&Stored> for StripeEvent {
    fn from(row: &Stored) -> Self {
        let object = row.payload["data"]["object"].clone();
        Self {
            id: row.event_id.clone(),
            kind: row.kind.clone(),
            created: row.payload["created"].as_i64(),
            content: Content::of(&row.kind, &object),
            object,
        }
    }
}

impl Content {
    fn of(kind: &str, object: &Value) -> Self {
        let content = match kind {
            "payment_intent.amount_capturable_updated"
            | "payment_intent.succeeded"
            | "payment_intent.canceled" => parse(object).map(Self::Intent),
            "payment_intent.requires_action" | "payment_intent.payment_failed" => {
                parse(object).map(|Intent { id: intent_id, .. }| Self::IntentNow { intent_id })
            }
            "refund.created" | "refund.updated" | "refund.failed" | "charge.refund.updated" => {
                parse(object).map(Self::Refund)
            }
            "charge.refunded" => parse::<Charge>(object)
                .and_then(|charge| charge.payment_intent)
                .map(|intent_id| Self::Refunds { intent_id }),
            "charge.dispute.created" => parse(object).map(Self::Dispute),
            _ => return Self::Ignored("a type that is of no interest"),
        };
        content.unwrap_or(Self::Ignored("an object that can't be read"))
    }
}

fn parse<'object, T: Deserialize<'object>>(object: &'object Value) -> Option<T> {
    T::deserialize(object)
        .inspect_err(|error| tracing::error!(%error, "parsing the object of a webhook failed"))
        .ok()
}

#[cfg(test)]
mod tests {
    use domain::payment::STRIPE_EVENTS;

    use super::*;

    fn read(kind: &str, more: &str) -> StripeEvent {
        let body = format!(
            r#"{{"id": "evt_1", "type": "{kind}", "created": 5, {more} "data": {{"object":
                {{"id": "x_1", "status": "succeeded", "amount": 7, "payment_intent": "pi_1"}}}}}}"#
        );
        let event = StripeEvent::parse(body.as_bytes(), Some(true)).unwrap();
        event.expect("it has an id and a type")
    }

    #[test]
    fn what_is_asked_for_is_what_matters() {
        let ignored = Content::Ignored("a type that is of no interest");
        for kind in STRIPE_EVENTS {
            let content = read(kind, "").content;
            assert!(
                !matches!(content, Content::Ignored(_)),
                "{kind}: {content:?}"
            );
        }
        for kind in [
            "payment_intent.created",
            "charge.succeeded",
            "charge.captured",
            "charge.failed",
            "charge.dispute.funds_withdrawn",
            "charge.dispute.closed",
            "customer.created",
            "payment_method.attached",
        ] {
            assert_eq!(read(kind, "").content, ignored, "{kind}");
            assert!(!STRIPE_EVENTS.contains(&kind), "{kind}");
        }
    }

    #[test]
    fn an_event_of_another_account_or_mode_is_ignored() {
        let kind = "payment_intent.succeeded";
        for (more, is_ignored) in [
            (r#""account": "acct_other","#, true),
            (r#""livemode": false,"#, true),
            (r#""livemode": true, "account": null,"#, false),
            ("", false),
        ] {
            let content = read(kind, more).content;
            assert_eq!(matches!(content, Content::Ignored(_)), is_ignored, "{more}");
        }
    }

    #[test]
    fn a_stored_event_says_what_the_arrived_one_did() {
        for kind in STRIPE_EVENTS {
            let event = read(kind, "");
            let row = event.row();
            let stored = Stored {
                event_id: row.event_id,
                kind: row.kind,
                payload: serde_json::from_str(&row.payload).unwrap(),
                tries: 1,
            };
            assert_eq!(StripeEvent::from(&stored), event, "{kind}");
        }
    }
}

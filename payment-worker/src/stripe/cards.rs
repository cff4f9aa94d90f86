//! Customers and their saved cards.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use stripe_client_core::{RequestBuilder, StripeMethod};
use stripe_shared::{Customer, PaymentMethod};
use stripe_types::List;

use super::{Call, Cursor, Failure, Intent, PAGE, Stripe, with_key};

/// Metadata key under which a customer carries the idempotency key it was created with. Never the
/// account's id: after a restore, and in another installation, that is another person's.
const KEY: &str = "onsale_customer";

/// Parameters that attach a PaymentIntent to a customer; the same for every repeat of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Assignment {
    /// The customer, `cus_…`.
    pub customer_id: String,
    /// `true` to save the card that is paid with.
    pub keep_card: bool,
    /// The saved card to pay with, `pm_…`.
    pub card: Option<String>,
}

/// A saved card of a customer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct SavedCard {
    /// `pm_…`.
    pub id: String,
    /// Such as `visa`.
    pub brand: String,
    pub last4: String,
    pub exp_month: i64,
    pub exp_year: i64,
    /// The same for one card that was saved twice.
    #[serde(skip)]
    pub fingerprint: Option<String>,
}

impl SavedCard {
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        self.id == other.id || self.fingerprint.is_some() && self.fingerprint == other.fingerprint
    }

    fn of(method: PaymentMethod) -> Option<Self> {
        let card = method.card?;
        Some(Self {
            id: method.id.to_string(),
            brand: card.display_brand.unwrap_or(card.brand),
            last4: card.last4,
            exp_month: card.exp_month,
            exp_year: card.exp_year,
            fingerprint: card.fingerprint,
        })
    }
}

#[derive(Serialize)]
struct NewCustomer<'a> {
    metadata: HashMap<&'static str, &'a str>,
}

#[derive(Serialize)]
struct Cards {
    #[serde(rename = "type")]
    kind: &'static str,
    limit: i64,
}

#[derive(Serialize)]
struct Change<'a> {
    customer: &'a str,
    setup_future_usage: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    payment_method: Option<&'a str>,
}

impl Stripe {
    /// Creates a customer that carries its idempotency key.
    pub(crate) async fn create_customer(&self, key: &str) -> Result<String, Failure> {
        let new = NewCustomer {
            metadata: HashMap::from([(KEY, key)]),
        };
        let request = RequestBuilder::new(StripeMethod::Post, "/customers").form(&new);
        let request = request
            .customize::<Customer>()
            .request_strategy(with_key(key));
        let customer = self.call(Call::CreateCustomer, request.send(&self.client));
        customer.await.map(|customer| customer.id.to_string())
    }

    /// Finds the customer that carries this key, among those created since. Reads lists, which
    /// Stripe updates at once, unlike its search.
    pub(crate) async fn find_customer(
        &self,
        key: &str,
        since: DateTime<Utc>,
    ) -> Result<Option<String>, Failure> {
        let is_it = |customer: &Customer| {
            let metadata = customer.metadata.as_ref();
            metadata
                .and_then(|metadata| metadata.get(KEY))
                .is_some_and(|carried| carried == key)
        };
        let mut next = Some(Cursor::since(since));
        while let Some(cursor) = next {
            let page = self.customers(&cursor).await?;
            if let Some(found) = page.objects.into_iter().find(is_it) {
                return Ok(Some(found.id.to_string()));
            }
            next = page.next;
        }
        Ok(None)
    }

    /// Lists the saved cards of a customer, newest first.
    pub(crate) async fn saved_cards(&self, customer_id: &str) -> Result<Vec<SavedCard>, Failure> {
        let path = format!("/customers/{customer_id}/payment_methods");
        let query = Cards {
            kind: "card",
            limit: PAGE,
        };
        let request = RequestBuilder::new(StripeMethod::Get, path).query(&query);
        let request = request.customize::<List<PaymentMethod>>();
        let list = self.call(Call::ListCards, request.send(&self.client));
        Ok(list
            .await?
            .data
            .into_iter()
            .filter_map(SavedCard::of)
            .collect())
    }

    /// Detaches a card from its customer, after which it can't pay.
    pub(crate) async fn detach(&self, key: &str, card: &str) -> Result<(), Failure> {
        let path = format!("/payment_methods/{card}/detach");
        let request = RequestBuilder::new(StripeMethod::Post, path)
            .customize::<PaymentMethod>()
            .request_strategy(with_key(key));
        let detached = self.call(Call::Detach, request.send(&self.client));
        detached.await.map(|_| ())
    }

    /// Attaches an unpaid PaymentIntent to a customer.
    pub(crate) async fn assign(
        &self,
        key: &str,
        intent_id: &str,
        assignment: &Assignment,
    ) -> Result<Intent, Failure> {
        let change = Change {
            customer: &assignment.customer_id,
            // An empty value withdraws an earlier choice.
            setup_future_usage: if assignment.keep_card {
                "on_session"
            } else {
                ""
            },
            payment_method: assignment.card.as_deref(),
        };
        let path = format!("/payment_intents/{intent_id}");
        let request = RequestBuilder::new(StripeMethod::Post, path).form(&change);
        let request = request
            .customize::<stripe_shared::PaymentIntent>()
            .request_strategy(with_key(key));
        self.call(Call::Assign, request.send(&self.client))
            .await
            .map(Intent::from)
    }
}

//! Customers and the cards they keep.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use stripe_client_core::{RequestBuilder, StripeMethod};
use stripe_shared::{Customer, PaymentMethod};
use stripe_types::List;

use super::{Call, Cursor, Failure, Intent, PAGE, Stripe, with_key};

/// The name under which a customer carries the key it was created with. Never the number of its
/// account: after a restore, and in another installation, that is another person's.
const KEY: &str = "onsale_customer";

/// What a PaymentIntent is given to a customer with. The same for every repeat of a key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Assignment {
    /// The customer, `cus_…`.
    pub customer_id: String,
    /// Whether the customer keeps the card that is paid with.
    pub keep_card: bool,
    /// The kept card that is to pay, `pm_…`.
    pub card: Option<String>,
}

/// A card that a customer keeps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct SavedCard {
    /// `pm_…`.
    pub id: String,
    /// Such as `visa`.
    pub brand: String,
    /// The last four digits.
    pub last4: String,
    /// The month it ends with.
    pub exp_month: i64,
    /// The year of that.
    pub exp_year: i64,
    /// Alike for the same card, kept twice.
    #[serde(skip)]
    pub fingerprint: Option<String>,
}

impl SavedCard {
    /// Whether both are the same card.
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
    /// Creates a customer, which carries its key.
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

    /// The customer that carries this key, among those created since; `None` when there is none.
    /// Reads lists, which Stripe updates at once, unlike its search.
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

    /// The cards that a customer keeps, newest first.
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

    /// Takes a card from its customer; it can't pay any more.
    pub(crate) async fn detach(&self, key: &str, card: &str) -> Result<(), Failure> {
        let path = format!("/payment_methods/{card}/detach");
        let request = RequestBuilder::new(StripeMethod::Post, path)
            .customize::<PaymentMethod>()
            .request_strategy(with_key(key));
        let detached = self.call(Call::Detach, request.send(&self.client));
        detached.await.map(|_| ())
    }

    /// Gives a PaymentIntent that is not paid yet to a customer.
    pub(crate) async fn assign(
        &self,
        key: &str,
        intent_id: &str,
        assignment: &Assignment,
    ) -> Result<Intent, Failure> {
        let change = Change {
            customer: &assignment.customer_id,
            // An empty one takes back what was asked for before.
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

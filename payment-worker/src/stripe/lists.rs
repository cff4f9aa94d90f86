use chrono::{DateTime, Utc};
use stripe_client_core::{RequestBuilder, StripeMethod};
use stripe_types::{List, RangeBoundsTs, RangeQueryTs};

use super::{Call, Dispute, Failure, Intent, PAGE, Refund, Stripe};

#[derive(serde::Serialize)]
struct Query<'a> {
    created: RangeQueryTs,
    limit: i64,
    #[serde(skip_serializing_if = "Option::is_none")]
    starting_after: Option<&'a str>,
}

/// Position in a list.
#[derive(Debug, Clone)]
pub(crate) struct Cursor {
    since: DateTime<Utc>,
    after: Option<String>,
}

impl Cursor {
    /// The first page of the objects created since.
    pub(crate) fn since(since: DateTime<Utc>) -> Self {
        Self { since, after: None }
    }
}

/// A page of a list, newest first.
#[derive(Debug)]
pub(crate) struct Page<T> {
    pub objects: Vec<T>,
    /// The next page, if there is one.
    pub next: Option<Cursor>,
}

impl Stripe {
    /// Lists PaymentIntents.
    pub(crate) async fn intents(&self, cursor: &Cursor) -> Result<Page<Intent>, Failure> {
        let id = |intent: &Intent| intent.id.clone();
        self.page::<stripe_shared::PaymentIntent, _>("/payment_intents", cursor, id)
            .await
    }

    /// Lists refunds.
    pub(crate) async fn refunds(&self, cursor: &Cursor) -> Result<Page<Refund>, Failure> {
        let id = |refund: &Refund| refund.id.clone();
        self.page::<stripe_shared::Refund, _>("/refunds", cursor, id)
            .await
    }

    /// Lists disputes.
    pub(crate) async fn disputes(&self, cursor: &Cursor) -> Result<Page<Dispute>, Failure> {
        let id = |dispute: &Dispute| dispute.id.clone();
        self.page::<stripe_shared::Dispute, _>("/disputes", cursor, id)
            .await
    }

    /// Lists customers.
    pub(super) async fn customers(
        &self,
        cursor: &Cursor,
    ) -> Result<Page<stripe_shared::Customer>, Failure> {
        let id = |customer: &stripe_shared::Customer| customer.id.to_string();
        self.page::<stripe_shared::Customer, _>("/customers", cursor, id)
            .await
    }

    async fn page<Object, Ours>(
        &self,
        path: &str,
        cursor: &Cursor,
        id: fn(&Ours) -> String,
    ) -> Result<Page<Ours>, Failure>
    where
        Object: miniserde::Deserialize + Send + 'static,
        Ours: From<Object>,
    {
        let query = Query {
            created: RangeQueryTs::Bounds(RangeBoundsTs {
                gte: Some(cursor.since.timestamp()),
                ..Default::default()
            }),
            limit: PAGE,
            starting_after: cursor.after.as_deref(),
        };
        let request = RequestBuilder::new(StripeMethod::Get, path)
            .query(&query)
            .customize::<List<Object>>();
        let page = self.call(Call::List, request.send(&self.client)).await?;
        let objects: Vec<Ours> = page.data.into_iter().map(Ours::from).collect();
        let last = objects.last().map(id);
        let next = last.filter(|_| page.has_more).map(|last| Cursor {
            since: cursor.since,
            after: Some(last),
        });
        Ok(Page { objects, next })
    }
}

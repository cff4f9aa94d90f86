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

impl Stripe {
    /// Every PaymentIntent created since, newest first.
    pub(crate) async fn intents_since(&self, since: DateTime<Utc>) -> Result<Vec<Intent>, Failure> {
        let id = |intent: &Intent| intent.id.clone();
        self.all_since::<stripe_shared::PaymentIntent, _>("/payment_intents", since, id)
            .await
    }

    /// Every refund made since, newest first.
    pub(crate) async fn refunds_since(&self, since: DateTime<Utc>) -> Result<Vec<Refund>, Failure> {
        let id = |refund: &Refund| refund.id.clone();
        self.all_since::<stripe_shared::Refund, _>("/refunds", since, id)
            .await
    }

    /// Every dispute opened since, newest first.
    pub(crate) async fn disputes_since(
        &self,
        since: DateTime<Utc>,
    ) -> Result<Vec<Dispute>, Failure> {
        let id = |dispute: &Dispute| dispute.id.clone();
        self.all_since::<stripe_shared::Dispute, _>("/disputes", since, id)
            .await
    }

    /// Every customer created since, newest first.
    pub(super) async fn customers_since(
        &self,
        since: DateTime<Utc>,
    ) -> Result<Vec<stripe_shared::Customer>, Failure> {
        let id = |customer: &stripe_shared::Customer| customer.id.to_string();
        self.all_since::<stripe_shared::Customer, _>("/customers", since, id)
            .await
    }

    async fn all_since<Object, Ours>(
        &self,
        path: &str,
        since: DateTime<Utc>,
        id: fn(&Ours) -> String,
    ) -> Result<Vec<Ours>, Failure>
    where
        Object: miniserde::Deserialize + Send + 'static,
        Ours: From<Object>,
    {
        let mut all: Vec<Ours> = Vec::new();
        loop {
            let last = all.last().map(id);
            let query = Query {
                created: RangeQueryTs::Bounds(RangeBoundsTs {
                    gte: Some(since.timestamp()),
                    ..Default::default()
                }),
                limit: PAGE,
                starting_after: last.as_deref(),
            };
            let request = RequestBuilder::new(StripeMethod::Get, path)
                .query(&query)
                .customize::<List<Object>>();
            let page = self.call(Call::List, request.send(&self.client)).await?;
            let is_last = !page.has_more || page.data.is_empty();
            all.extend(page.data.into_iter().map(Ours::from));
            if is_last {
                return Ok(all);
            }
        }
    }
}

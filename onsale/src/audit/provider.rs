//! The payment provider's records of captures and refunds, read through Stripe's API and never from
//! our own tables.

use std::collections::HashMap;
use std::pin::pin;
use std::time::Duration;

use anyhow::Context as _;
use domain::{Currency, Wire};
use futures_util::{Stream, TryStreamExt as _};
use sqlx::PgPool;
use stripe::{Client, ClientBuilder, StripeError};
use stripe_core::payment_intent::ListPaymentIntent;
use stripe_core::refund::ListRefund;
use stripe_shared::{PaymentIntent, PaymentIntentStatus};
use stripe_types::{Expandable, RangeQueryTs};
use uuid::Uuid;

/// Paging of the provider's lists.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pages {
    /// Objects per page.
    size: i64,
    /// Longest wait for a page. There is none for all of them: they grow with the years.
    limit: Duration,
}

impl Pages {
    /// Stripe's largest.
    const STRIPE: Self = Self {
        size: 100,
        limit: Duration::from_secs(60),
    };
}

/// The source of captures and refunds.
pub(crate) enum Provider {
    /// The provider itself.
    Stripe(Box<Client>, Pages),
    /// Our own tables: nothing independent to compare with.
    OwnRecords,
}

/// A captured PaymentIntent of one of our bookings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Intent {
    pub(super) id: String,
    /// The captured amount in minor units.
    pub(super) captured: i64,
    /// The refunded amount in minor units, failed refunds excluded.
    pub(super) refunded: i64,
    /// Its currency, as the provider writes it.
    pub(super) currency: String,
}

/// The provider's records of what was captured or refunded.
#[derive(Debug, Default)]
pub(super) struct Money {
    pub(super) by_booking: HashMap<Uuid, Vec<Intent>>,
}

impl Provider {
    /// Stripe at `url`, with the secret key `key`.
    pub(crate) fn stripe(url: &str, key: &str) -> anyhow::Result<Self> {
        let client = ClientBuilder::new(key)
            .url(url)
            .build()
            .context("Stripe's URL or key")?;
        Ok(Self::Stripe(Box::new(client), Pages::STRIPE))
    }

    /// Reads captures and refunds since the first payment in `db`.
    pub(super) async fn read(&self, db: &PgPool) -> anyhow::Result<Money> {
        match self {
            Self::OwnRecords => Ok(own_records(db).await?),
            Self::Stripe(client, pages) => {
                let first = sqlx::query_scalar!("select min(created_at) from payment.payments")
                    .fetch_one(db)
                    .await?;
                let Some(first) = first else {
                    return Ok(Money::default());
                };
                // A day's slack for the difference of the clocks.
                let since = first.timestamp() - 86_400;
                read_since(client, *pages, since).await
            }
        }
    }
}

async fn own_records(db: &PgPool) -> Result<Money, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select booking_id, intent_id as "intent_id!", captured_minor, refunded_minor, currency
           from payment.payments where intent_id is not null and captured_minor > 0"#
    );
    let (mut rows, mut money) = (rows.fetch(db), Money::default());
    while let Some(row) = rows.try_next().await? {
        let intent = Intent {
            id: row.intent_id,
            captured: row.captured_minor,
            refunded: row.refunded_minor,
            currency: row.currency,
        };
        money
            .by_booking
            .entry(row.booking_id)
            .or_default()
            .push(intent);
    }
    Ok(money)
}

/// Reads the lists page by page, and keeps only what was captured or refunded.
async fn read_since(client: &Client, pages: Pages, since: i64) -> anyhow::Result<Money> {
    let created = || {
        RangeQueryTs::Bounds(stripe_types::RangeBoundsTs {
            gte: Some(since),
            ..Default::default()
        })
    };
    let refunds = ListRefund::new().limit(pages.size).created(created());
    let mut refunds = pin!(refunds.paginate().stream(client));
    let mut refunded: HashMap<String, i64> = HashMap::new();
    while let Some(refund) = next(refunds.as_mut(), pages.limit).await? {
        let alive = !matches!(refund.status.as_deref(), Some("failed" | "canceled"));
        if let (Some(intent), true) = (&refund.payment_intent, alive) {
            *refunded.entry(intent_id(intent)).or_default() +=
                minor(refund.amount, &refund.currency);
        }
    }
    let intents = ListPaymentIntent::new()
        .limit(pages.size)
        .created(created());
    let mut intents = pin!(intents.paginate().stream(client));
    let mut money = Money::default();
    while let Some(intent) = next(intents.as_mut(), pages.limit).await? {
        let booking = intent.metadata.get("booking_id");
        let Some(booking) = booking.and_then(|id| id.parse::<Uuid>().ok()) else {
            continue;
        };
        let id = intent.id.to_string();
        let refunded = refunded.remove(&id).unwrap_or(0);
        let captured = match intent.status {
            PaymentIntentStatus::Succeeded => minor(intent.amount_received, &intent.currency),
            _ => 0,
        };
        if captured > 0 || refunded > 0 {
            money.by_booking.entry(booking).or_default().push(Intent {
                id,
                captured,
                refunded,
                currency: intent.currency.to_string(),
            });
        }
    }
    Ok(money)
}

/// The next object of a list; the first of a page within `limit`.
async fn next<T>(
    mut list: impl Stream<Item = Result<T, StripeError>> + Unpin,
    limit: Duration,
) -> anyhow::Result<Option<T>> {
    tokio::time::timeout(limit, list.try_next())
        .await
        .context("the payment provider took too long for a page")?
        .context("listing payments and refunds")
}

/// Stripe's `amount` in minor units.
fn minor(amount: i64, currency: &stripe_types::Currency) -> i64 {
    let currency = Currency::try_from(currency.to_string());
    currency.map_or(amount, |currency| Wire(amount).minor(currency))
}

fn intent_id(intent: &Expandable<PaymentIntent>) -> String {
    intent.id().to_string()
}

#[cfg(test)]
mod tests {
    use stand_ins::stripe::{ApiFault, Config, Operation, StandIn};

    use super::*;

    /// A captured payment for a booking.
    async fn charge(stripe: &StandIn, booking: Uuid) {
        let booking = booking.to_string();
        let form = [
            ("amount", "500"),
            ("currency", "eur"),
            ("payment_method", "pm_card_visa"),
            ("confirm", "true"),
            ("payment_method_types[]", "card"),
            ("metadata[booking_id]", booking.as_str()),
        ];
        let request = reqwest::Client::new()
            .post(format!("{}/v1/payment_intents", stripe.url()))
            .bearer_auth(stripe.secret_key())
            .form(&form);
        let answer = request.send().await.unwrap();
        assert!(answer.status().is_success());
    }

    fn client(stripe: &StandIn) -> Client {
        let client = ClientBuilder::new(stripe.secret_key()).url(stripe.url());
        client.build().unwrap()
    }

    #[tokio::test]
    async fn the_limit_of_a_page_is_none_of_all_pages() {
        let stripe = StandIn::start(Config::default()).await.unwrap();
        let bookings: Vec<_> = (0..14).map(|_| Uuid::new_v4()).collect();
        for booking in &bookings {
            charge(&stripe, *booking).await;
        }
        let slow = ApiFault::Delay {
            milliseconds: 1_000,
        };
        let faults = stripe.faults();
        faults.sometimes(1.0, Operation::ListPaymentIntents, slow);
        // Fourteen pages of a second each, of which every one is within 12 s.
        let pages = Pages {
            size: 1,
            limit: Duration::from_secs(12),
        };
        let money = read_since(&client(&stripe), pages, 0).await.unwrap();
        assert_eq!(money.by_booking.len(), bookings.len());
        for booking in &bookings {
            let captured = money.by_booking[booking][0].captured;
            assert_eq!(captured, 500);
        }

        let hang = ApiFault::Delay {
            milliseconds: 60_000,
        };
        faults.clear();
        faults.sometimes(1.0, Operation::ListPaymentIntents, hang);
        let pages = Pages {
            limit: Duration::from_millis(100),
            ..pages
        };
        let failed = read_since(&client(&stripe), pages, 0).await.unwrap_err();
        let said = "the payment provider took too long for a page";
        assert_eq!(failed.to_string(), said);
    }
}

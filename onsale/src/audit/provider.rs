//! The payment provider's records of captures and refunds, read through Stripe's API and never from
//! our own tables.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::Context as _;
use domain::{Currency, Wire};
use futures_util::TryStreamExt as _;
use sqlx::PgPool;
use stripe::{Client, ClientBuilder, StripeError};
use stripe_core::payment_intent::ListPaymentIntent;
use stripe_core::refund::ListRefund;
use stripe_shared::{PaymentIntent, PaymentIntentStatus, Refund};
use stripe_types::{Expandable, RangeQueryTs};
use uuid::Uuid;

/// Stripe's largest page.
const PAGE: i64 = 100;
/// Longest time that reading them may take.
const TIMEOUT: Duration = Duration::from_secs(300);

/// The source of captures and refunds.
pub(crate) enum Provider {
    /// The provider itself.
    Stripe(Box<Client>),
    /// Our own tables: nothing independent to compare with.
    OwnRecords,
}

/// A PaymentIntent of one of our bookings.
#[derive(Debug, Clone)]
pub(super) struct Intent {
    pub(super) id: String,
    /// The captured amount in minor units.
    pub(super) captured: i64,
    /// The refunded amount in minor units, failed refunds excluded.
    pub(super) refunded: i64,
    /// Its currency, as the provider writes it.
    pub(super) currency: String,
}

/// The provider's records.
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
        Ok(Self::Stripe(Box::new(client)))
    }

    /// Reads captures and refunds since the first payment in `db`.
    pub(super) async fn read(&self, db: &PgPool) -> anyhow::Result<Money> {
        match self {
            Self::OwnRecords => Ok(own_records(db).await?),
            Self::Stripe(client) => {
                let first = sqlx::query_scalar!("select min(created_at) from payment.payments")
                    .fetch_one(db)
                    .await?;
                let Some(first) = first else {
                    return Ok(Money::default());
                };
                // A day's slack for the difference of the clocks.
                let since = first.timestamp() - 86_400;
                tokio::time::timeout(TIMEOUT, read_since(client, since))
                    .await
                    .context("the payment provider took too long")?
                    .context("listing payments and refunds")
            }
        }
    }
}

async fn own_records(db: &PgPool) -> Result<Money, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select booking_id, intent_id as "intent_id!", captured_minor, refunded_minor, currency
           from payment.payments where intent_id is not null"#
    )
    .fetch_all(db)
    .await?;
    let mut money = Money::default();
    for row in rows {
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

async fn read_since(client: &Client, since: i64) -> Result<Money, StripeError> {
    let created = || {
        RangeQueryTs::Bounds(stripe_types::RangeBoundsTs {
            gte: Some(since),
            ..Default::default()
        })
    };
    let refunds: Vec<Refund> = ListRefund::new()
        .limit(PAGE)
        .created(created())
        .paginate()
        .stream(client)
        .try_collect()
        .await?;
    let mut refunded: HashMap<String, i64> = HashMap::new();
    for refund in refunds {
        let alive = !matches!(refund.status.as_deref(), Some("failed" | "canceled"));
        if let (Some(intent), true) = (&refund.payment_intent, alive) {
            *refunded.entry(intent_id(intent)).or_default() +=
                minor(refund.amount, &refund.currency);
        }
    }
    let intents: Vec<PaymentIntent> = ListPaymentIntent::new()
        .limit(PAGE)
        .created(created())
        .paginate()
        .stream(client)
        .try_collect()
        .await?;
    let mut money = Money::default();
    for intent in intents {
        let booking = intent
            .metadata
            .get("booking_id")
            .and_then(|id| id.parse::<Uuid>().ok());
        let Some(booking) = booking else { continue };
        let taken = intent.status == PaymentIntentStatus::Succeeded;
        let id = intent.id.to_string();
        let captured = if taken {
            minor(intent.amount_received, &intent.currency)
        } else {
            0
        };
        let refunded = refunded.get(&id).copied().unwrap_or(0);
        money.by_booking.entry(booking).or_default().push(Intent {
            id,
            captured,
            refunded,
            currency: intent.currency.to_string(),
        });
    }
    Ok(money)
}

/// Stripe's `amount` in minor units.
fn minor(amount: i64, currency: &stripe_types::Currency) -> i64 {
    let currency = Currency::try_from(currency.to_string());
    currency.map_or(amount, |currency| Wire(amount).minor(currency))
}

fn intent_id(intent: &Expandable<PaymentIntent>) -> String {
    intent.id().to_string()
}

impl Money {
    /// The amount captured for a booking, in minor units, over all its intents.
    pub(super) fn captured(&self, booking: Uuid) -> i64 {
        self.by_booking
            .get(&booking)
            .map_or(0, |all| all.iter().map(|one| one.captured).sum())
    }
}

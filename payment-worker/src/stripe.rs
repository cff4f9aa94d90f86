//! Client for Stripe: rate-limited, with a timeout on every call and an idempotency key on every
//! write. Each failure says whether the outcome is certain.

mod cards;
mod client;
mod dispute;
mod failure;
mod intent;
mod lists;
mod pacing;
mod refund;

use std::collections::HashMap;
use std::time::Duration;

use domain::{AccountId, BookingId, Currency, EventId, Money, RefundId, Wire};
use platform::config::InvalidConfig;
use stripe_client_core::{IdempotencyKey, RequestStrategy, StripeRequest};
use stripe_core::payment_intent::{
    CancelPaymentIntent, CancelPaymentIntentCancellationReason, CapturePaymentIntent,
    CreatePaymentIntent, CreatePaymentIntentAutomaticPaymentMethods,
    CreatePaymentIntentAutomaticPaymentMethodsAllowRedirects, RetrievePaymentIntent,
};
use stripe_core::refund::{CreateRefund, ListRefund, RetrieveRefund};
use stripe_shared::PaymentIntentCaptureMethod;
use tokio::time::Instant;
use uuid::Uuid;

pub(crate) use cards::{Assignment, SavedCard};
pub(crate) use dispute::Dispute;
pub(crate) use failure::Failure;
pub(crate) use intent::{Intent, IntentStatus};
pub(crate) use lists::{Cursor, Page};
pub(crate) use pacing::Call;
pub(crate) use refund::{Refund, RefundStatus};

use crate::config::Config;
use client::{Client, ClientError};
use pacing::Pacing;

/// Objects per page of a list: Stripe's maximum.
const PAGE: i64 = 100;
/// Most pages that are read in search of one object.
const MAX_PAGES: usize = 100;

pub(crate) struct Stripe {
    client: Client,
    pacing: Pacing,
}

/// Parameters of a PaymentIntent; the same for every repeat of a key.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(crate) struct NewIntent {
    pub amount: Money,
    /// The event, shown in Stripe's dashboard.
    pub event_id: EventId,
    /// The buyer, shown in Stripe's dashboard.
    pub account_id: AccountId,
    /// Description of the purchase, shown in the dashboard and on receipts.
    #[serde(default)]
    pub description: Option<String>,
    /// Suffix of the statement descriptor.
    #[serde(default)]
    pub statement_suffix: Option<String>,
    /// The installation that creates it.
    #[serde(default)]
    pub installation: Option<Uuid>,
}

/// Parameters of a refund; the same for every repeat of a key.
#[derive(Debug, Clone, serde::Serialize, serde::Deserialize)]
pub(crate) struct NewRefund {
    /// The amount, in minor units.
    pub amount_minor: i64,
    /// Its currency; absent in requests stored before amounts had their own unit at Stripe.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub currency: Option<Currency>,
    pub refund_id: RefundId,
}

impl Stripe {
    /// Connects to the account of the configured key.
    ///
    /// # Errors
    /// When the key is missing, or is no valid header value.
    pub(crate) fn new(config: &Config) -> Result<Self, InvalidConfig> {
        let client = Client::new(
            config.secret_key()?,
            &config.stripe_url,
            config.stripe_timeout,
        )?;
        Ok(Self {
            client,
            pacing: Pacing::new(config.stripe_rate, config.stripe_endpoint_rate),
        })
    }

    /// Creates the PaymentIntent of a booking, to be authorised now and captured later.
    pub(crate) async fn create(
        &self,
        key: &str,
        booking_id: BookingId,
        new: &NewIntent,
    ) -> Result<Intent, Failure> {
        let currency: stripe_types::Currency = match new.amount.currency.as_str().parse() {
            Ok(currency) => currency,
            Err(never) => match never {},
        };
        let mut methods = CreatePaymentIntentAutomaticPaymentMethods::new(true);
        methods.allow_redirects =
            Some(CreatePaymentIntentAutomaticPaymentMethodsAllowRedirects::Never);
        let mut metadata = HashMap::from([
            (intent::BOOKING_ID.to_owned(), booking_id.to_string()),
            ("event_id".to_owned(), new.event_id.to_string()),
            ("account_id".to_owned(), new.account_id.to_string()),
        ]);
        if let Some(token) = new.installation {
            metadata.insert(intent::INSTALLATION.to_owned(), token.to_string());
        }
        let mut request = CreatePaymentIntent::new(Wire::from(new.amount).0, currency)
            .capture_method(PaymentIntentCaptureMethod::Manual)
            .automatic_payment_methods(methods)
            .metadata(metadata);
        if let Some(description) = &new.description {
            request = request.description(description.as_str());
        }
        if let Some(suffix) = &new.statement_suffix {
            request = request.statement_descriptor_suffix(suffix.as_str());
        }
        let sending = request
            .customize()
            .request_strategy(with_key(key))
            .send(&self.client);
        self.call(Call::Create, sending).await.map(Intent::from)
    }

    /// Reads a PaymentIntent.
    pub(crate) async fn retrieve(&self, intent_id: &str) -> Result<Intent, Failure> {
        let request = RetrievePaymentIntent::new(intent_id);
        self.call(Call::Retrieve, request.send(&self.client))
            .await
            .map(Intent::from)
    }

    /// Captures what was authorised.
    pub(crate) async fn capture(
        &self,
        key: &str,
        intent_id: &str,
        amount: Wire,
    ) -> Result<Intent, Failure> {
        let request = CapturePaymentIntent::new(intent_id).amount_to_capture(amount.0);
        let sending = request
            .customize()
            .request_strategy(with_key(key))
            .send(&self.client);
        self.call(Call::Capture, sending).await.map(Intent::from)
    }

    /// Cancels a PaymentIntent, and releases what was authorised.
    pub(crate) async fn cancel(&self, key: &str, intent_id: &str) -> Result<Intent, Failure> {
        let request = CancelPaymentIntent::new(intent_id)
            .cancellation_reason(CancelPaymentIntentCancellationReason::Abandoned);
        let sending = request
            .customize()
            .request_strategy(with_key(key))
            .send(&self.client);
        self.call(Call::Cancel, sending).await.map(Intent::from)
    }

    /// Refunds a part of a PaymentIntent, or all.
    pub(crate) async fn refund(
        &self,
        key: &str,
        intent_id: &str,
        refund_id: RefundId,
        amount: Wire,
    ) -> Result<Refund, Failure> {
        let request = CreateRefund::new()
            .payment_intent(intent_id)
            .amount(amount.0)
            .metadata(HashMap::from([(
                refund::REFUND_ID.to_owned(),
                refund_id.to_string(),
            )]));
        let sending = request
            .customize()
            .request_strategy(with_key(key))
            .send(&self.client);
        self.call(Call::Refund, sending).await.map(Refund::from)
    }

    /// Reads a refund.
    pub(crate) async fn retrieve_refund(&self, stripe_refund_id: &str) -> Result<Refund, Failure> {
        let request = RetrieveRefund::new(stripe_refund_id);
        self.call(Call::RetrieveRefund, request.send(&self.client))
            .await
            .map(Refund::from)
    }

    /// Finds the refund of this PaymentIntent that carries our id.
    pub(crate) async fn find_refund(
        &self,
        intent_id: &str,
        refund_id: RefundId,
    ) -> Result<Option<Refund>, Failure> {
        let mut request = ListRefund::new().payment_intent(intent_id).limit(PAGE);
        for _ in 0..MAX_PAGES {
            let page = self.call(Call::List, request.send(&self.client)).await?;
            let last = page.data.last().map(|refund| refund.id.to_string());
            let found = page
                .data
                .into_iter()
                .map(Refund::from)
                .find(|r| r.refund_id == Some(refund_id));
            match (found, last) {
                (None, Some(last)) if page.has_more => request = request.starting_after(last),
                (found, _) => return Ok(found),
            }
        }
        Err(Failure::Unknown(
            "there were too many refunds to look through".to_owned(),
        ))
    }

    /// Waits for the rate limiter, then sends the request once.
    async fn call<T>(
        &self,
        call: Call,
        request: impl Future<Output = Result<T, ClientError>>,
    ) -> Result<T, Failure> {
        self.pacing.wait_for_turn(call).await;
        let started = Instant::now();
        // Boxed: a PaymentIntent and its parser are several kilobytes.
        let answer = Box::pin(request).await.map_err(Failure::from);
        count(call, started.elapsed(), answer.as_ref().err());
        if let Err(Failure::Busy {
            status: 429,
            is_lock: false,
            retry_after,
            ..
        }) = &answer
        {
            self.pacing.slow_down(*retry_after);
        }
        answer
    }
}

/// Converts Stripe's `amount` in `currency` to minor units.
fn minor(amount: i64, currency: &str) -> i64 {
    Currency::try_from(currency).map_or(amount, |currency| Wire(amount).minor(currency))
}

fn with_key(key: &str) -> RequestStrategy {
    RequestStrategy::Idempotent(
        IdempotencyKey::new(key).expect("our keys have 1 to 255 characters"),
    )
}

fn count(call: Call, took: Duration, failure: Option<&Failure>) {
    let outcome = failure.map_or("done", Failure::label);
    metrics::counter!(
        "payment_worker_stripe_requests_total",
        "operation" => call.label(),
        "outcome" => outcome
    )
    .increment(1);
    metrics::histogram!(
        "payment_worker_stripe_request_duration_seconds",
        "operation" => call.label()
    )
    .record(took);
}

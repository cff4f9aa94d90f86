mod bare;
mod client;
mod customers;
mod disputes;
mod errors;
mod events;
mod faults;
mod limits;
mod search;
mod webhooks;

use std::collections::HashMap;
use std::time::Duration;

use serde_json::Value;
use stand_ins::stripe::{Config, StandIn};
use stripe::{Client, ClientBuilder, IdempotencyKey, RequestStrategy, StripeError};
use stripe_client_core::{RequestBuilder, StripeMethod};
use stripe_core::payment_intent::{
    CapturePaymentIntent, ConfirmPaymentIntent, CreatePaymentIntent,
};
use stripe_core::refund::CreateRefund;
use stripe_shared::{ApiErrors, PaymentIntent, PaymentIntentCaptureMethod, Refund};
use stripe_types::Currency;

/// Time limit of every wait.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Stage {
    pub(crate) stripe: StandIn,
    pub(crate) client: Client,
}

impl Stage {
    pub(crate) async fn set() -> Self {
        Self::with(Config::default()).await
    }

    pub(crate) async fn with(config: Config) -> Self {
        let stripe = StandIn::start(config).await.unwrap();
        let client = client(&stripe, stripe.secret_key());
        Self { stripe, client }
    }

    pub(crate) async fn intent(&self) -> PaymentIntent {
        create(5_000).send(&self.client).await.unwrap()
    }

    pub(crate) async fn confirm(
        &self,
        intent: &PaymentIntent,
        method: &str,
    ) -> Result<PaymentIntent, StripeError> {
        ConfirmPaymentIntent::new(intent.id.clone())
            .payment_method(method)
            .send(&self.client)
            .await
    }

    /// Calls an operation that the client library was built without, parsing its response as
    /// strictly.
    pub(crate) async fn send<T>(
        &self,
        method: StripeMethod,
        path: &str,
        parameters: Value,
    ) -> Result<T, StripeError>
    where
        T: miniserde::Deserialize + Send + 'static,
    {
        let request = RequestBuilder::new(method, path);
        let request = match method {
            StripeMethod::Post => request.form(&parameters),
            StripeMethod::Get | StripeMethod::Delete => request.query(&parameters),
        };
        request.customize::<T>().send(&self.client).await
    }

    pub(crate) async fn authorised(&self) -> PaymentIntent {
        let intent = self.intent().await;
        self.confirm(&intent, "pm_card_visa").await.unwrap()
    }

    pub(crate) async fn captured(&self) -> PaymentIntent {
        let intent = self.authorised().await;
        CapturePaymentIntent::new(intent.id)
            .send(&self.client)
            .await
            .unwrap()
    }

    pub(crate) async fn refund(
        &self,
        intent: &PaymentIntent,
        amount: i64,
    ) -> Result<Refund, StripeError> {
        CreateRefund::new()
            .payment_intent(intent.id.as_str())
            .amount(amount)
            .send(&self.client)
            .await
    }
}

pub(crate) fn client(stripe: &StandIn, key: &str) -> Client {
    ClientBuilder::new(key)
        .url(stripe.url())
        .timeout(PATIENCE)
        .build()
        .unwrap()
}

pub(crate) fn create(amount: i64) -> CreatePaymentIntent {
    CreatePaymentIntent::new(amount, Currency::EUR)
        .capture_method(PaymentIntentCaptureMethod::Manual)
        .metadata(HashMap::from([("booking_id".to_owned(), "b-1".to_owned())]))
}

pub(crate) fn keyed(key: &str) -> RequestStrategy {
    RequestStrategy::Idempotent(IdempotencyKey::new(key).unwrap())
}

/// Returns the API's error, with its status.
pub(crate) fn refusal<T: std::fmt::Debug>(result: Result<T, StripeError>) -> (Box<ApiErrors>, u16) {
    match result {
        Err(StripeError::Stripe(error, status)) => (error, status),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

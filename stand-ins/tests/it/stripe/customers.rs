//! Customers and saved cards, through the real client's types.

use serde_json::{Value, json};
use stripe::StripeError;
use stripe_client_core::StripeMethod::{Delete, Get, Post};
use stripe_shared::{
    ApiErrorsCode, Customer, DeletedCustomer, PaymentIntent, PaymentIntentSetupFutureUsage,
    PaymentIntentStatus, PaymentMethod,
};
use stripe_types::List;

use super::{Stage, refusal};

impl Stage {
    async fn customer(&self) -> String {
        let parameters = json!({ "metadata": { "account_id": "7" } });
        let customer: Customer = self.send(Post, "/customers", parameters).await.unwrap();
        assert_eq!(customer.metadata.unwrap()["account_id"], "7");
        customer.id.to_string()
    }

    async fn update(
        &self,
        intent: &PaymentIntent,
        changes: Value,
    ) -> Result<PaymentIntent, StripeError> {
        let path = format!("/payment_intents/{}", intent.id);
        self.send(Post, &path, changes).await
    }

    async fn methods(&self, customer: &str) -> Vec<PaymentMethod> {
        let path = format!("/customers/{customer}/payment_methods");
        let list: List<PaymentMethod> = self
            .send(Get, &path, json!({ "type": "card" }))
            .await
            .unwrap();
        list.data
    }

    /// Creates a customer who saves this card while paying.
    async fn keeper(&self, card: &str) -> (String, PaymentMethod) {
        let customer = self.customer().await;
        let intent = self.intent().await;
        let changes = json!({ "customer": customer, "setup_future_usage": "on_session" });
        let intent = self.update(&intent, changes).await.unwrap();
        assert_eq!(
            intent.setup_future_usage,
            Some(PaymentIntentSetupFutureUsage::OnSession)
        );
        assert_eq!(intent.customer.as_ref().unwrap().id().as_str(), customer);
        self.confirm(&intent, card).await.unwrap();
        let method = self.methods(&customer).await.remove(0);
        (customer, method)
    }
}

#[tokio::test]
async fn a_card_is_kept_when_it_is_paid_with_and_pays_again_for_its_customer() {
    let stage = Stage::set().await;
    let (customer, method) = stage.keeper("pm_card_mastercard").await;
    let card = method.card.as_ref().unwrap();
    assert_eq!(
        (card.brand.as_str(), card.last4.as_str()),
        ("mastercard", "4444")
    );
    assert_eq!(method.customer.as_ref().unwrap().id().as_str(), customer);

    let intent = stage.intent().await;
    let changes = json!({ "customer": customer, "payment_method": method.id });
    let intent = stage.update(&intent, changes).await.unwrap();
    assert_eq!(intent.status, PaymentIntentStatus::RequiresConfirmation);
    let intent = stage.confirm(&intent, method.id.as_str()).await.unwrap();
    assert_eq!(intent.status, PaymentIntentStatus::RequiresCapture);
    assert_eq!(stage.methods(&customer).await.len(), 1, "kept once");
}

#[tokio::test]
async fn a_card_is_not_kept_unasked() {
    let stage = Stage::set().await;
    let customer = stage.customer().await;
    let intent = stage.intent().await;
    let asked = json!({ "customer": customer, "setup_future_usage": "on_session" });
    let intent = stage.update(&intent, asked).await.unwrap();
    let taken_back = json!({ "setup_future_usage": "" });
    let intent = stage.update(&intent, taken_back).await.unwrap();
    assert_eq!(intent.setup_future_usage, None);
    stage.confirm(&intent, "pm_card_visa").await.unwrap();
    assert!(stage.methods(&customer).await.is_empty());
}

#[tokio::test]
async fn a_customers_card_pays_for_nobody_else() {
    let stage = Stage::set().await;
    let (_, method) = stage.keeper("pm_card_visa").await;
    let stranger = stage.customer().await;
    let (unnamed, named) = (stage.intent().await, stage.intent().await);
    let named = stage
        .update(&named, json!({ "customer": stranger }))
        .await
        .unwrap();
    for intent in [&unnamed, &named] {
        let (error, status) = refusal(stage.confirm(intent, method.id.as_str()).await);
        assert_eq!(
            (status, error.code),
            (400, Some(ApiErrorsCode::PaymentIntentInvalidParameter))
        );
    }
    let changes = json!({ "customer": stranger, "payment_method": method.id });
    assert_eq!(refusal(stage.update(&unnamed, changes).await).1, 400);
    let other = json!({ "customer": stage.customer().await });
    let (error, status) = refusal(stage.update(&named, other).await);
    assert_eq!(
        (status, error.code, error.param.as_deref()),
        (
            400,
            Some(ApiErrorsCode::PaymentIntentUnexpectedState),
            Some("customer")
        )
    );
}

#[tokio::test]
async fn a_declined_card_stays_with_its_customer_and_one_that_was_removed_is_spent() {
    let stage = Stage::set().await;
    let customer = stage.customer().await;
    let attach = |card: &str| format!("/payment_methods/{card}/attach");
    let to = json!({ "customer": customer });
    let path = attach("pm_card_chargeDeclined");
    let method: PaymentMethod = stage.send(Post, &path, to.clone()).await.unwrap();
    let intent = stage.intent().await;
    let intent = stage.update(&intent, to.clone()).await.unwrap();
    let (_, status) = refusal(stage.confirm(&intent, method.id.as_str()).await);
    assert_eq!(status, 402);
    assert_eq!(stage.methods(&customer).await.len(), 1);

    let detach = format!("/payment_methods/{}/detach", method.id);
    let detached: PaymentMethod = stage.send(Post, &detach, json!({})).await.unwrap();
    assert!(detached.customer.is_none());
    assert!(stage.methods(&customer).await.is_empty());
    let again = stage.send::<PaymentMethod>(Post, &detach, json!({})).await;
    assert_eq!(refusal(again).1, 400);
    let (error, _) = refusal(stage.confirm(&intent, method.id.as_str()).await);
    assert_eq!(
        error.code,
        Some(ApiErrorsCode::PaymentIntentInvalidParameter)
    );
    let path = attach(method.id.as_str());
    assert_eq!(
        refusal(stage.send::<PaymentMethod>(Post, &path, to).await).1,
        400
    );
}

#[tokio::test]
async fn a_card_by_itself_is_attached_or_is_good_for_one_payment() {
    let stage = Stage::set().await;
    let parameters = json!({ "type": "card", "card": { "token": "tok_visa" } });
    let make = || stage.send::<PaymentMethod>(Post, "/payment_methods", parameters.clone());
    let (once, kept) = (make().await.unwrap(), make().await.unwrap());
    let intent = stage.intent().await;
    stage.confirm(&intent, once.id.as_str()).await.unwrap();
    let intent = stage.intent().await;
    assert_eq!(
        refusal(stage.confirm(&intent, once.id.as_str()).await).1,
        400
    );

    let customer = stage.customer().await;
    let path = format!("/payment_methods/{}/attach", kept.id);
    let to = json!({ "customer": customer });
    stage
        .send::<PaymentMethod>(Post, &path, to.clone())
        .await
        .unwrap();
    assert_eq!(
        refusal(stage.send::<PaymentMethod>(Post, &path, to).await).1,
        400
    );
    let path = format!("/payment_methods/{}", kept.id);
    let shown: PaymentMethod = stage.send(Get, &path, json!({})).await.unwrap();
    assert_eq!(shown.customer.unwrap().id().as_str(), customer);
}

#[tokio::test]
async fn a_deleted_customer_and_what_it_kept_are_gone() {
    let stage = Stage::set().await;
    let (customer, method) = stage.keeper("pm_card_visa").await;
    let path = format!("/customers/{customer}");
    let gone: DeletedCustomer = stage.send(Delete, &path, json!({})).await.unwrap();
    assert_eq!(gone.id.as_str(), customer);
    let methods = format!("{path}/payment_methods");
    let (error, status) = refusal(
        stage
            .send::<List<PaymentMethod>>(Get, &methods, json!({}))
            .await,
    );
    assert_eq!(
        (status, error.code),
        (404, Some(ApiErrorsCode::ResourceMissing))
    );
    let intent = stage.intent().await;
    let (error, status) = refusal(stage.update(&intent, json!({ "customer": customer })).await);
    assert_eq!(
        (status, error.code),
        (400, Some(ApiErrorsCode::ResourceMissing))
    );
    assert_eq!(
        refusal(stage.confirm(&intent, method.id.as_str()).await).1,
        400
    );
    let listed: List<Customer> = stage.send(Get, "/customers", json!({})).await.unwrap();
    assert!(listed.data.is_empty());
}

#[tokio::test]
async fn a_payment_that_is_made_is_not_changed_any_more() {
    let stage = Stage::set().await;
    let customer = stage.customer().await;
    let intent = stage.authorised().await;
    for changes in [json!({ "customer": customer }), json!({ "amount": 1 })] {
        let (error, status) = refusal(stage.update(&intent, changes).await);
        assert_eq!(
            (status, error.code),
            (400, Some(ApiErrorsCode::PaymentIntentUnexpectedState))
        );
    }
    let changes = json!({ "metadata": { "booking_id": "", "note": "n" }, "description": "d" });
    let intent = stage.update(&intent, changes).await.unwrap();
    assert_eq!(intent.metadata.len(), 1);
    assert_eq!(
        (
            intent.metadata["note"].as_str(),
            intent.description.as_deref()
        ),
        ("n", Some("d"))
    );
}

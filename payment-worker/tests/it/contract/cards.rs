//! The API's behaviour that saved cards rely on.

use serde_json::Value;
use sqlx::types::Uuid;

use super::{Form, ORDER, Stripe};

impl Stripe {
    async fn customer(&self) -> String {
        let key = format!("onsale-contract-{}", Uuid::new_v4());
        let form: Form<'_> = &[("metadata[account_id]", "7")];
        let (status, first) = self.post("/customers", form, Some(&key)).await;
        assert_eq!(
            (status, &first["metadata"]["account_id"]),
            (200, &"7".into())
        );
        let (_, again) = self.post("/customers", form, Some(&key)).await;
        assert_eq!(again["id"], first["id"], "one key makes one customer");
        text(&first["id"])
    }

    async fn cards_of(&self, customer: &str) -> Vec<Value> {
        let path = format!("/customers/{customer}/payment_methods?type=card&limit=100");
        self.get(&path).await["data"].as_array().unwrap().clone()
    }

    /// Creates a PaymentIntent and changes it.
    async fn changed(&self, changes: Form<'_>) -> (u16, Value) {
        let (_, intent) = self.post("/payment_intents", ORDER, None).await;
        let path = format!("/payment_intents/{}", text(&intent["id"]));
        self.post(&path, changes, None).await
    }

    pub(super) async fn a_card_is_kept_when_asked_and_pays_for_its_customer_alone(&self) {
        let (anna, bert) = (self.customer().await, self.customer().await);
        let keep: Form<'_> = &[("customer", &anna), ("setup_future_usage", "on_session")];
        let (status, intent) = self.changed(keep).await;
        assert_eq!((status, &intent["customer"]), (200, &anna.as_str().into()));
        let path = format!("/payment_intents/{}", text(&intent["id"]));
        let (_, intent) = self.post(&path, &[("setup_future_usage", "")], None).await;
        assert_eq!(intent["setup_future_usage"], Value::Null);
        let (status, _) = self.post(&path, &[("customer", &bert)], None).await;
        assert_eq!(status, 400, "a customer stays");
        self.post(&path, keep, None).await;
        let card: Form<'_> = &[("payment_method", "pm_card_visa")];
        let (status, _) = self.post(&format!("{path}/confirm"), card, None).await;
        assert_eq!(status, 200);

        let cards = self.cards_of(&anna).await;
        assert_eq!(
            (cards.len(), &cards[0]["card"]["last4"]),
            (1, &"4242".into())
        );
        let card = text(&cards[0]["id"]);
        let stranger: Form<'_> = &[("customer", &bert), ("payment_method", &card)];
        assert_eq!(self.changed(stranger).await.0, 400);
        let own: Form<'_> = &[("customer", &anna), ("payment_method", &card)];
        let (status, intent) = self.changed(own).await;
        assert_eq!(
            (status, &intent["status"]),
            (200, &"requires_confirmation".into())
        );
        let path = format!("/payment_intents/{}/confirm", text(&intent["id"]));
        let (status, intent) = self.post(&path, &[], None).await;
        assert_eq!(
            (status, &intent["status"]),
            (200, &"requires_capture".into())
        );

        let detach = format!("/payment_methods/{card}/detach");
        assert_eq!(self.post(&detach, &[], None).await.0, 200);
        assert_eq!(self.post(&detach, &[], None).await.0, 400);
        assert!(self.cards_of(&anna).await.is_empty());
        assert_eq!(self.changed(own).await.0, 400, "it is spent");
        self.delete(&format!("/customers/{bert}")).await;
        self.delete(&format!("/customers/{anna}")).await;
        let gone = self
            .get(&format!("/customers/{anna}/payment_methods"))
            .await;
        assert_eq!(gone["error"]["code"], "resource_missing");
    }

    async fn delete(&self, path: &str) {
        let url = format!("{}/v1{path}", self.url);
        let answer = self.http.delete(url).bearer_auth(&self.key).send().await;
        assert!(answer.unwrap().status().is_success(), "{path}");
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

//! The walk: refunds, findings, and the end of an event.

use platform::testing::eventually;
use reqwest::RequestBuilder;
use serde_json::{Value, json};

use super::{DELETE, GET, POST, PUT, Person, SOON, Walk, ids, text};

impl Walk {
    pub(super) async fn money(&self, admin: &str, event: i64, paid: &Value, buyer: &Person) {
        let staff = |request: RequestBuilder| request.bearer_auth(admin);
        let booking = ids(&[text(&paid["id"])]);
        let path = "/api/bookings/{id}/refunds";
        let refund = |body: Value| {
            move |request: RequestBuilder| {
                let request = request.bearer_auth(admin).header("idempotency-key", "one");
                request.json(&body)
            }
        };
        let part = || refund(json!({ "amount_minor": 500 }));
        self.internal(POST, path, &booking, part())
            .await
            .expect(201);
        let other = refund(json!({ "amount_minor": 600 }));
        let reused = self.internal(POST, path, &booking, other).await;
        reused.expect(422);
        let no_key = |request: RequestBuilder| request.bearer_auth(admin).json(&json!({}));
        let refused = self.internal(POST, path, &booking, no_key).await;
        refused.expect(400);
        let path = "/api/bookings/{id}/timeline";
        self.internal(GET, path, &booking, staff).await.expect(200);

        let event = ids(&[event]);
        let path = "/api/events/{id}/refund-policy";
        let policy = json!({ "until": "2029-12-01T00:00:00Z", "fee_percent": 10 });
        let set = |request: RequestBuilder| request.bearer_auth(admin).json(&policy);
        self.internal(PUT, path, &event, set).await.expect(200);
        self.internal(GET, path, &event, staff).await.expect(200);
        let nobody = |request: RequestBuilder| request;
        self.public(GET, path, &event, nobody).await.expect(200);
        let (unknown, mine) = (ids(&[999_999]), |request: RequestBuilder| {
            request.bearer_auth(&buyer.token)
        });
        self.public(GET, path, &unknown, nobody).await.expect(404);
        let path = "/api/bookings/{id}/refund";
        self.public(GET, path, &booking, mine).await.expect(200);
        self.public(GET, path, &booking, nobody).await.expect(401);
        let nowhere = ids(&["00000000-0000-7000-8000-000000000000"]);
        self.public(GET, path, &nowhere, mine).await.expect(404);
        let path = "/api/events/{id}/refunds";
        self.internal(GET, path, &event, staff).await.expect(200);
        self.internal(POST, path, &event, staff).await.expect(202);
        self.findings(admin, paid).await;
        let path = "/api/webhooks/stripe";
        let forged = |request: RequestBuilder| {
            let request = request.header("stripe-signature", "t=1,v1=00");
            request.json(&json!({ "id": "evt_1", "type": "charge.refunded" }))
        };
        self.public(POST, path, &[], forged).await.expect(400);
    }

    /// Refunds as in Stripe's dashboard, which is a finding.
    async fn findings(&self, admin: &str, paid: &Value) {
        let payment = &paid["payment"];
        let url = format!(
            "{}/v1/refunds",
            text(&payment["api_url"]).trim_end_matches('/')
        );
        let intent = text(&payment["intent_id"]);
        let form = [("payment_intent", &*intent), ("amount", "100")];
        let refund = self.client.post(url).bearer_auth(&self.stripe_secret);
        let refund = refund.form(&form).send().await.expect("an answer");
        assert!(refund.status().is_success());
        let staff = |request: RequestBuilder| request.bearer_auth(admin);
        let mut found = Value::Null;
        eventually(SOON, async || {
            let path = "/api/payment-findings";
            let listed = self.internal(GET, path, &[], staff).await.expect(200);
            found = listed["findings"][0].clone();
            found.is_object()
        })
        .await;
        let path = "/api/payment-findings/{kind}/{subject}";
        let known = ids(&[text(&found["kind"]), text(&found["subject"])]);
        self.internal(DELETE, path, &known, staff).await.expect(204);
        let unknown = ids(&["dispute", "dp_none"]);
        let refused = self.internal(DELETE, path, &unknown, staff).await;
        refused.expect(404);
    }

    /// Cancels the event, which refunds everything.
    pub(super) async fn end(&self, admin: &str, event: i64, buyer: &Person, booking: &str) {
        let staff = |request: RequestBuilder| request.bearer_auth(admin);
        let path = "/api/sales/{event_id}/passes/{account_id}";
        let holder = ids(&[event, buyer.account]);
        self.internal(DELETE, path, &holder, staff)
            .await
            .expect(202);
        let path = "/api/events/{id}?bookings=cancel";
        let event = ids(&[event]);
        self.internal(DELETE, path, &event, staff).await.expect(200);
        let path = "/api/bookings/{id}";
        let is_over = |answer: &Value| {
            let booking = &answer["booking"];
            booking["state"] == "cancelled" && booking["payment"]["refund"] == "succeeded"
        };
        self.until(path, &ids(&[booking]), &buyer.token, is_over)
            .await;
    }
}

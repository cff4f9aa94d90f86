use std::time::Duration;

use domain::message::{PaymentAuthorised, RefundSucceeded};
use futures_util::future::join_all;
use platform::testing::eventually;
use reqwest::StatusCode;
use stand_ins::stripe::{ApiFault, Operation, WebhookFault};
use stripe_webhook::Webhook;

use crate::pipeline::UNLIMITED;
use crate::shop::{PATIENCE, Shop};

const INBOX: &str = "select count(*) from payment.webhook_inbox";

impl Shop {
    async fn deliver(&self, body: &str, signature: &str) -> (StatusCode, String) {
        let request = self
            .http
            .post(self.webhook_url())
            .header("stripe-signature", signature);
        let answer = request.body(body.to_owned()).send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }

    /// The body of the latest event of this type.
    fn event(&self, kind: &str) -> String {
        let events = self.stripe.webhooks().events();
        let event = events
            .iter()
            .rfind(|event| event.kind == kind)
            .expect("it was sent");
        String::from_utf8(event.body.to_vec()).unwrap()
    }
}

#[tokio::test]
async fn forged_stale_and_altered_webhooks_are_refused_and_stored_nowhere() {
    let shop = Shop::open().await;
    shop.stripe
        .webhooks()
        .faults()
        .sometimes(1.0, None::<String>, WebhookFault::Lost);
    let booking = shop.hold().await;
    assert!(shop.pay(&booking, "pm_card_visa").await);
    let body = shop.event("payment_intent.amount_capturable_updated");
    let secret = shop.stripe.webhook_secret().to_owned();
    let now = shop.app.ctx.clock.now().timestamp();
    let good = Webhook::generate_test_header(&body, &secret, Some(now));

    let forged = Webhook::generate_test_header(&body, "whsec_guessed", Some(now));
    let stale = Webhook::generate_test_header(&body, &secret, Some(now - 302));
    let future = Webhook::generate_test_header(&body, &secret, Some(now + 330));
    let altered = body.replace("requires_capture", "succeeded");
    let re_encoded = format!("{body}\n");
    let attempts = [
        (&body, &forged),
        (&body, &stale),
        (&body, &future),
        (&altered, &good),
        (&re_encoded, &good),
        (&body, &String::new()),
    ];
    for (body, signature) in attempts {
        let (status, answer) = shop.deliver(body, signature).await;
        assert_eq!(status, StatusCode::BAD_REQUEST);
        assert!(answer.contains("problems/webhook-signature"), "{answer}");
    }
    assert_eq!(shop.count(INBOX).await, 0);
    assert_eq!(shop.state(&booking).await, "pending");

    let (status, answer) = shop.deliver(&body, &good).await;
    assert_eq!(
        (status, answer.as_str()),
        (StatusCode::OK, r#"{"received":true}"#)
    );
    shop.wait_for_state(&booking, "authorised").await;
    shop.close(&[]).await;
}

#[tokio::test]
async fn a_webhook_about_other_money_is_a_finding_and_worth_no_ticket() {
    let shop = Shop::open().await;
    let webhooks = shop.stripe.webhooks().faults();
    webhooks.sometimes(1.0, None::<String>, WebhookFault::Lost);
    let booking = shop.hold().await;
    assert!(shop.pay(&booking, "pm_card_visa").await);
    let body = shop.event("payment_intent.amount_capturable_updated");
    let other: serde_json::Value = serde_json::from_str(&body).unwrap();
    let deliver = async |body: &str| {
        let now = shop.app.ctx.clock.now().timestamp();
        let signature = Webhook::generate_test_header(body, "whsec_next", Some(now));
        assert_eq!(shop.deliver(body, &signature).await.0, StatusCode::OK);
    };
    for (id, field, value) in [
        ("evt_currency", "currency", serde_json::json!("usd")),
        ("evt_amount", "amount", serde_json::json!(1)),
    ] {
        let mut other = other.clone();
        other["id"] = serde_json::json!(id);
        other["data"]["object"][field] = value;
        deliver(&other.to_string()).await;
        let found = "select count(*) from payment.findings where kind = 'amount_differs'";
        eventually(PATIENCE, async || shop.count(found).await == 1).await;
        shop.come_to_rest().await;
        assert_eq!(shop.state(&booking).await, "pending", "{field}");
        assert_eq!(shop.published::<PaymentAuthorised>(&booking), 0, "{field}");
        let settle = sqlx::query("delete from payment.findings");
        settle.execute(&shop.app.ctx.db).await.unwrap();
    }

    deliver(&body).await;
    shop.wait_for_state(&booking, "authorised").await;
    shop.close(&[]).await;
}

#[tokio::test]
async fn ten_copies_at_once_move_a_payment_once() {
    let shop = Shop::open().await;
    shop.stripe
        .webhooks()
        .faults()
        .sometimes(1.0, None::<String>, WebhookFault::Lost);
    let booking = shop.hold().await;
    assert!(shop.pay(&booking, "pm_card_visa").await);
    let body = shop.event("payment_intent.amount_capturable_updated");
    let now = shop.app.ctx.clock.now().timestamp();
    // Signed with the other secret, as while rotating.
    let signature = Webhook::generate_test_header(&body, "whsec_next", Some(now));
    let answers = join_all((0..10).map(|_| shop.deliver(&body, &signature))).await;
    assert!(answers.iter().all(|(status, _)| *status == StatusCode::OK));
    shop.wait_until_published::<PaymentAuthorised>(&booking)
        .await;
    shop.come_to_rest().await;
    assert_eq!(shop.count(INBOX).await, 1);

    // The same content as another event.
    let again = body.replace("\"evt_", "\"evt_again");
    let signature = Webhook::generate_test_header(&again, "whsec_next", Some(now));
    assert_eq!(shop.deliver(&again, &signature).await.0, StatusCode::OK);
    shop.come_to_rest().await;
    assert_eq!(shop.count(INBOX).await, 2);
    assert_eq!(shop.published::<PaymentAuthorised>(&booking), 1);
    shop.close(&[]).await;
}

#[tokio::test]
async fn all_orders_of_a_payments_webhooks_end_the_same() {
    let orders = [
        [0, 1, 2],
        [0, 2, 1],
        [1, 0, 2],
        [1, 2, 0],
        [2, 0, 1],
        [2, 1, 0],
    ];
    for order in orders {
        let shop = Shop::open().await;
        let booking = shop.sell().await;
        shop.cancel(&booking).await;
        shop.wait_until_published::<RefundSucceeded>(&booking).await;
        shop.come_to_rest().await;
        // Days later they are repeated, as new events, in another order.
        let kinds = [
            "payment_intent.amount_capturable_updated",
            "payment_intent.succeeded",
            "charge.refunded",
        ];
        for index in order {
            let event = shop.event(kinds[index]);
            let body = event.replace("\"evt_", &format!("\"evt_{index}"));
            let now = shop.app.ctx.clock.now().timestamp();
            let secret = shop.stripe.webhook_secret();
            let signature = Webhook::generate_test_header(&body, secret, Some(now));
            assert_eq!(shop.deliver(&body, &signature).await.0, StatusCode::OK);
        }
        shop.come_to_rest().await;
        assert_eq!(shop.state(&booking).await, "captured");
        assert_eq!(shop.published::<PaymentAuthorised>(&booking), 1);
        assert_eq!(shop.published::<RefundSucceeded>(&booking), 1);
        shop.close(&[]).await;
    }
}

#[tokio::test]
async fn webhooks_that_mean_nothing_here_are_put_aside() {
    let shop = Shop::open().await;
    let unknown = r#"{"id":"evt_1","type":"invoice.paid","data":{"object":{"id":"in_1"}}}"#;
    let foreign = r#"{"id":"evt_2","type":"payment_intent.succeeded","data":{"object":
        {"id":"pi_foreign","status":"succeeded","amount_received":5,"metadata":{}}}}"#;
    let unreadable = r#"{"id":"evt_3","type":"payment_intent.succeeded","data":{"object":7}}"#;
    for body in [unknown, foreign, unreadable] {
        let now = shop.app.ctx.clock.now().timestamp();
        let secret = shop.stripe.webhook_secret();
        let signature = Webhook::generate_test_header(body, secret, Some(now));
        assert_eq!(shop.deliver(body, &signature).await.0, StatusCode::OK);
    }
    let put_aside = "select count(*) from payment.webhook_inbox
        where processed_at is not null and note <> 'applied'";
    eventually(PATIENCE, async || shop.count(put_aside).await == 3).await;
    shop.close(&[]).await;
}

#[tokio::test]
async fn whatever_stripe_signs_is_taken() {
    let shop = Shop::open().await;
    let long = format!(
        r#"{{"id":"evt_long","type":"invoice.paid","data":{{"object":{{"lines":"{}"}}}}}}"#,
        "x".repeat(1_000_000)
    );
    let deep = format!(
        r#"{{"id":"evt_deep","type":"charge.refunded","data":{{"object":{{"a":{}{}}}}}}}"#,
        "[".repeat(20_000),
        "]".repeat(20_000)
    );
    let bodies = [
        (long.as_str(), 200),
        (deep.as_str(), 200),
        (
            r#"{"id":"evt_nul","type":"charge.refunded","data":{"object":{"n":"\u0000"}}}"#,
            200,
        ),
        (
            r#"{"id":"evt_half","type":"charge.refunded","data":{"object":{"n":"\ud800"}}}"#,
            200,
        ),
        (
            r#"{"id":"evt_thin","object":"v2.core.event","type":"v2.core.account.updated",
                "created":"2026-11-27T00:00:00.000Z","related_object":{"id":"acct_1"}}"#,
            200,
        ),
        ("[]", 200),
        ("7", 200),
        (r#"{"what":"ever"}"#, 200),
        ("no json", 400),
    ];
    for (body, expected) in bodies {
        let secret = shop.stripe.webhook_secret();
        let now = shop.app.ctx.clock.now().timestamp();
        let signature = Webhook::generate_test_header(body, secret, Some(now));
        let (status, answer) = shop.deliver(body, &signature).await;
        let begin = &body[..body.len().min(60)];
        assert_eq!(status.as_u16(), expected, "{begin}: {answer}");
        if expected != 200 {
            assert!(answer.contains("/problems/"), "{answer}");
        }
    }
    let (status, answer) = shop
        .deliver(&"x".repeat(2 * 1_024 * 1_024 + 100), "t=1,v1=00")
        .await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
    assert!(answer.contains("/problems/"), "{answer}");
    let open = "select count(*) from payment.webhook_inbox where processed_at is null";
    eventually(PATIENCE, async || shop.count(open).await == 0).await;
    assert_eq!(shop.count(INBOX).await, 5);
    shop.close(&[]).await;
}

/// Signed with the right secret, and not true: the secret leaked, or the event is about something
/// else.
#[tokio::test]
async fn a_signed_lie_is_worth_no_ticket() {
    let shop = Shop::open().await;
    let webhooks = shop.stripe.webhooks().faults();
    webhooks.sometimes(1.0, None::<String>, WebhookFault::Lost);
    let booking = shop.hold().await;
    let intent = shop.intent_id(&booking).await.unwrap();
    let send = async |id: &str, kind: &str, more: &str, object: &str| {
        let body = format!(
            r#"{{"id":"{id}","type":"{kind}",{more}"data":{{"object":
                {{"object":"payment_intent","id":"{intent}",{object}}}}}}}"#
        );
        let secret = shop.stripe.webhook_secret();
        let now = shop.app.ctx.clock.now().timestamp();
        let signature = Webhook::generate_test_header(&body, secret, Some(now));
        assert_eq!(shop.deliver(&body, &signature).await.0, StatusCode::OK);
        shop.come_to_rest().await;
    };
    let taken = r#""status":"succeeded","amount_received":9000"#;
    let reserved = r#""status":"requires_capture""#;
    let authorised = "payment_intent.amount_capturable_updated";
    send("evt_1", "payment_intent.succeeded", "", taken).await;
    send("evt_2", authorised, "", taken).await;
    send("evt_3", authorised, r#""livemode":true,"#, reserved).await;
    send("evt_4", authorised, r#""account":"acct_other","#, reserved).await;
    assert_eq!(shop.state(&booking).await, "pending");
    assert_eq!(shop.published::<PaymentAuthorised>(&booking), 0);

    assert!(shop.pay(&booking, "pm_card_visa").await);
    let mode = r#""livemode":false,"account":null,"#;
    send("evt_5", authorised, mode, reserved).await;
    assert_eq!(shop.state(&booking).await, "authorised");
    // This is true, and what follows is not: the money is still only reserved.
    send("evt_6", "payment_intent.succeeded", "", taken).await;
    assert_eq!(shop.state(&booking).await, "authorised");
    shop.confirm(&booking).await;
    shop.wait_for_state(&booking, "captured").await;
    shop.close(&[&booking]).await;
}

#[tokio::test]
async fn names_and_addresses_of_payers_are_not_stored() {
    let shop = Shop::open().await;
    let booking = shop.sell().await;
    shop.come_to_rest().await;
    let stored: Vec<serde_json::Value> =
        sqlx::query_scalar("select payload from payment.webhook_inbox")
            .fetch_all(&shop.app.ctx.db)
            .await
            .unwrap();
    assert!(!stored.is_empty());
    for payload in stored {
        let object = payload["data"]["object"].as_object().unwrap();
        for field in [
            "billing_details",
            "client_secret",
            "receipt_email",
            "shipping",
        ] {
            assert!(!object.contains_key(field), "{payload}");
        }
    }
    shop.close(&[&booking]).await;
}

#[tokio::test]
async fn webhooks_that_need_a_look_at_stripe_wait_while_it_is_down() {
    let shop = Shop::open().await;
    let booking = shop.hold().await;
    let set = async |query: &'static str| {
        let setting = sqlx::query(query).execute(&shop.app.ctx.db);
        setting.await.unwrap();
    };
    set("update payment.breaker set failures = 5, open_until = 'infinity'").await;
    let accepted = shop.stripe.requests().accepted;
    assert!(!shop.pay(&booking, "pm_card_visa_chargeDeclined").await);
    let waits = "select count(*) from payment.webhook_inbox
        where processed_at is null and note = 'Stripe seems to be down'";
    eventually(PATIENCE, async || shop.count(waits).await == 1).await;
    assert_eq!(
        shop.stripe.requests().accepted,
        accepted,
        "nobody asked Stripe"
    );
    set("update payment.breaker set failures = 0, open_until = '-infinity'").await;
    let declined = "select count(*) from payment.payments where last_error is not null";
    eventually(PATIENCE, async || shop.count(declined).await == 1).await;
    shop.close(&[]).await;
}

/// Stripe knows the PaymentIntent, and refuses to show it.
#[tokio::test]
async fn a_webhook_whose_look_at_stripe_is_refused_is_applied_later() {
    let shop = Shop::open_with(|config| config.stripe_timeout = UNLIMITED).await;
    let booking = shop.hold().await;
    let refused = ApiFault::Refused { status: 400 };
    let faults = shop.stripe.faults();
    faults.next(2, Operation::RetrievePaymentIntent, refused);
    assert!(!shop.pay(&booking, "pm_card_visa_chargeDeclined").await);
    let declined = "select count(*) from payment.payments where last_error is not null";
    eventually(PATIENCE, async || shop.count(declined).await == 1).await;
    let tried = "select count(*) from payment.webhook_inbox where tries = 3 and note = 'applied'";
    assert_eq!(shop.count(tried).await, 1);
    shop.close(&[]).await;
}

#[tokio::test]
async fn when_every_webhook_is_lost_the_reconciler_finds_out() {
    let shop = Shop::open_with(|c| c.reconcile_interval = Duration::from_millis(200)).await;
    shop.stripe
        .webhooks()
        .faults()
        .sometimes(1.0, None::<String>, WebhookFault::Lost);
    let booking = shop.hold().await;
    assert!(shop.pay(&booking, "pm_card_pendingRefund").await);
    shop.wait_until_published::<PaymentAuthorised>(&booking)
        .await;
    shop.confirm(&booking).await;
    shop.wait_for_state(&booking, "captured").await;
    shop.cancel(&booking).await;
    shop.wait_until_published::<RefundSucceeded>(&booking).await;
    shop.close(&[]).await;
}

#[tokio::test]
async fn a_webhook_that_can_not_be_applied_holds_up_no_other_and_waits() {
    let shop = Shop::open().await;
    let secret = shop.stripe.webhook_secret().to_owned();
    let now = shop.app.ctx.clock.now().timestamp();
    // A trigger by which the database refuses its effect.
    sqlx::query("alter table payment.findings add check (subject <> 'du_poison')")
        .execute(&shop.app.ctx.db)
        .await
        .unwrap();
    let booking = shop.hold().await;
    let intent = shop.intent_id(&booking).await.unwrap();
    let poison = format!(
        r#"{{"id": "evt_poison", "type": "charge.dispute.created", "created": 1,
            "data": {{"object": {{"object": "dispute", "id": "du_poison", "amount": 1,
                "reason": "fraud", "payment_intent": "{intent}"}}}}}}"#
    );
    let signature = Webhook::generate_test_header(&poison, &secret, Some(now));
    assert_eq!(shop.deliver(&poison, &signature).await.0, StatusCode::OK);
    let tried = "select count(*) from payment.webhook_inbox
        where event_id = 'evt_poison' and processed_at is null and note is not null";
    eventually(PATIENCE, async || shop.count(tried).await == 1).await;

    assert!(!shop.pay(&booking, "pm_card_visa_chargeDeclined").await);
    let declined = "select count(*) from payment.payments where last_error is not null";
    eventually(PATIENCE, async || shop.count(declined).await == 1).await;
    assert!(shop.pay(&booking, "pm_card_visa").await);
    shop.wait_until_published::<PaymentAuthorised>(&booking)
        .await;
    shop.confirm(&booking).await;
    shop.wait_for_state(&booking, "captured").await;
    assert_eq!(shop.count(tried).await, 1, "it is tried again and again");
    shop.app.finish().await;
}

//! Stripe's limits: amounts, rates, balance and expiry.

use std::sync::Arc;

use chrono::TimeDelta;
use domain::clock::{Clock, ManualClock, SystemClock};
use domain::{Currency, Money, Wire};
use platform::testing::eventually;
use reqwest::{Method, Response};
use serde_json::{Value, json};
use stand_ins::stripe::{ApiFault, Config, Operation, RefundStatus, Status};

use super::{PATIENCE, Stage};

impl Stage {
    async fn bare(&self, method: Method, path: &str, form: &[(&str, &str)]) -> Response {
        let request = crate::http()
            .request(method.clone(), format!("{}{path}", self.stripe.url()))
            .bearer_auth(self.stripe.secret_key());
        let request = match method {
            Method::GET => request.query(form),
            _ => request.form(form),
        };
        request.send().await.unwrap()
    }

    /// Attempts a charge; returns the status and the error code (or, without one, the parameter).
    async fn charge(&self, amount: i64, currency: &str) -> (u16, String) {
        let amount = amount.to_string();
        let form = [("amount", amount.as_str()), ("currency", currency)];
        let answer = self.bare(Method::POST, "/v1/payment_intents", &form).await;
        let status = answer.status().as_u16();
        let body: Value = answer.json().await.unwrap();
        let error = &body["error"];
        let word = error["code"].as_str().or(error["param"].as_str());
        (status, word.unwrap_or_default().to_owned())
    }
}

#[tokio::test]
async fn the_stand_in_and_the_table_of_currencies_agree_on_every_bound() {
    let stage = Stage::set().await;
    for rules in Currency::all() {
        let code = rules.currency.as_str();
        let wire = |amount_minor| Wire::from(Money::new(amount_minor, rules.currency)).0;
        for amount in [rules.minimum, rules.maximum] {
            assert_eq!(
                stage.charge(wire(amount), code).await.0,
                200,
                "{amount} {code}"
            );
        }
        let below = stage.charge(wire(rules.minimum - rules.step), code).await;
        let too_small = if rules.minimum > rules.step {
            "amount_too_small"
        } else {
            "parameter_invalid_integer"
        };
        assert_eq!(below, (400, too_small.to_owned()), "{code}");
        let above = stage.charge(wire(rules.maximum + rules.step), code).await;
        assert_eq!(above, (400, "amount_too_large".to_owned()), "{code}");
        if wire(rules.step) > 1 {
            let between = stage.charge(wire(rules.minimum) + 1, code).await;
            assert_eq!(between, (400, "invalid_charge_amount".to_owned()), "{code}");
        }
    }
    for unknown in ["zzz", "iqd", "irr", "uyw", "eu"] {
        let refused = stage.charge(5_000, unknown).await;
        assert_eq!(refused, (400, "currency".to_owned()), "{unknown}");
    }
}

#[tokio::test]
async fn parts_of_a_payment_keep_to_the_currencys_step() {
    let stage = Stage::set().await;
    let form = [
        ("amount", "4510"),
        ("currency", "kwd"),
        ("capture_method", "manual"),
        ("payment_method", "pm_card_visa"),
        ("confirm", "true"),
    ];
    let intent = stage.bare(Method::POST, "/v1/payment_intents", &form).await;
    let intent: Value = intent.json().await.unwrap();
    let id = intent["id"].as_str().unwrap();
    let capture = format!("/v1/payment_intents/{id}/capture");
    for (path, form, status) in [
        (capture.as_str(), vec![("amount_to_capture", "4505")], 400),
        (capture.as_str(), vec![("amount_to_capture", "4510")], 200),
        (
            "/v1/refunds",
            vec![("payment_intent", id), ("amount", "1353")],
            400,
        ),
        (
            "/v1/refunds",
            vec![("payment_intent", id), ("amount", "1350")],
            200,
        ),
    ] {
        let answer = stage.bare(Method::POST, path, &form).await;
        assert_eq!(answer.status(), status, "{path} {form:?}");
    }
}

#[tokio::test]
async fn unknown_parameters_expansions_and_versions_are_refused() {
    let stage = Stage::set().await;
    let intent = stage.intent().await;
    let one = format!("/v1/payment_intents/{}", intent.id.as_str());
    let refund = [("payment_intent", intent.id.as_str()), ("note", "x")];
    for (method, path, form, param) in [
        (Method::POST, "/v1/refunds", &refund[..], "note"),
        (Method::POST, &one, &[("capture", "now")], "capture"),
        (
            Method::POST,
            &format!("{one}/cancel"),
            &[("reason[x]", "y")],
            "reason",
        ),
        (
            Method::GET,
            "/v1/payment_intents",
            &[("status", "succeeded")],
            "status",
        ),
        (Method::GET, &one, &[("expand[]", "booking")], "expand"),
        (
            Method::GET,
            &one,
            &[("expand[]", "data.latest_charge")],
            "expand",
        ),
        (
            Method::GET,
            "/v1/payment_intents",
            &[("expand[]", "latest_charge")],
            "expand",
        ),
    ] {
        let answer = stage.bare(method, path, form).await;
        assert_eq!(answer.status(), 400, "{path} {form:?}");
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body["error"]["param"], param, "{body}");
    }
    for version in ["2026-09-30", "newest"] {
        let refused = crate::http()
            .get(format!("{}{one}", stage.stripe.url()))
            .bearer_auth(stage.stripe.secret_key())
            .header("stripe-version", version);
        assert_eq!(refused.send().await.unwrap().status(), 400, "{version}");
    }
}

#[tokio::test]
async fn answers_repeat_version_and_key_and_say_whether_to_retry() {
    let stage = Stage::set().await;
    let create = Operation::CreatePaymentIntent;
    let faults = stage.stripe.faults();
    faults.next(1, create, ApiFault::SavedServerError);
    for should_retry in [None, Some("false")] {
        let answer = crate::http()
            .post(format!("{}/v1/payment_intents", stage.stripe.url()))
            .bearer_auth(stage.stripe.secret_key())
            .header("stripe-version", "2023-10-16")
            .header("idempotency-key", "key-1")
            .form(&[("amount", "5000"), ("currency", "eur")]);
        let answer = answer.send().await.unwrap();
        assert_eq!(answer.status(), 500);
        let header = |name: &str| {
            answer
                .headers()
                .get(name)
                .map(|value| value.to_str().unwrap())
        };
        assert_eq!(header("stripe-version"), Some("2023-10-16"));
        assert_eq!(header("idempotency-key"), Some("key-1"));
        assert_eq!(header("stripe-should-retry"), should_retry);
    }
}

#[tokio::test]
async fn an_authorisation_ends_after_seven_days() {
    let clock = ManualClock::at(SystemClock.now());
    let config = Config {
        clock: Arc::new(clock.clone()),
        ..Config::default()
    };
    let stage = Stage::with(config).await;
    let (kept, left) = (stage.authorised().await, stage.authorised().await);
    clock.advance(TimeDelta::days(7) - TimeDelta::seconds(1));
    let capture = format!("/v1/payment_intents/{}/capture", kept.id.as_str());
    let answer = stage.bare(Method::POST, &capture, &[]).await;
    assert_eq!(answer.status(), 200);
    clock.advance(TimeDelta::seconds(1));
    let status = async || {
        let intent = stage.stripe.ledger().payment_intent(left.id.as_str());
        intent.map(|intent| intent.status)
    };
    eventually(PATIENCE, async || status().await == Some(Status::Canceled)).await;
    let events = stage.stripe.webhooks().events();
    let kinds: Vec<_> = events.iter().map(|event| event.kind.as_str()).collect();
    assert!(kinds.contains(&"charge.expired") && kinds.contains(&"payment_intent.canceled"));
    let late = format!("/v1/payment_intents/{}/capture", left.id.as_str());
    assert_eq!(stage.bare(Method::POST, &late, &[]).await.status(), 400);
}

#[tokio::test]
async fn a_refund_waits_until_the_balance_covers_it() {
    let stage = Stage::set().await;
    let (first, second) = (stage.captured().await, stage.captured().await);
    stage.stripe.pay_out();
    for intent in [&first, &second] {
        let refund = stage.refund(intent, 5_000).await.unwrap();
        assert_eq!(refund.status.as_deref(), Some("pending"));
    }
    let states = || -> Vec<_> {
        let refunds = stage.stripe.ledger().refunds();
        refunds.iter().map(|refund| refund.status).collect()
    };
    stage.stripe.top_up("eur", 4_999);
    assert_eq!(states(), [RefundStatus::Pending; 2]);
    stage.stripe.top_up("eur", 1);
    assert_eq!(states(), [RefundStatus::Succeeded, RefundStatus::Pending]);
    // A capture fills the balance, too.
    stage.captured().await;
    assert_eq!(states(), [RefundStatus::Succeeded; 2]);
}

#[tokio::test]
async fn charges_cards_balance_and_account_can_be_read() {
    let stage = Stage::set().await;
    let intent = stage.captured().await;
    stage.refund(&intent, 1_000).await.unwrap();
    let get = async |path: &str| -> Value {
        let answer = stage.bare(Method::GET, path, &[]).await;
        assert_eq!(answer.status(), 200, "{path}");
        answer.json().await.unwrap()
    };
    let charges = get("/v1/charges").await;
    assert_eq!(charges["data"][0]["payment_intent"], intent.id.as_str());
    let balance = get("/v1/balance").await;
    assert_eq!(balance["available"][0]["amount"], 4_000);
    assert_eq!(get("/v1/account").await["object"], "account");
    assert_eq!(get("/v1/payment_methods").await["object"], "list");
    let search = stage
        .bare(Method::GET, "/v1/customers/search", &[("query", "x")])
        .await;
    assert_eq!(search.status(), 404);
}

#[tokio::test]
async fn a_page_before_an_object_is_the_one_next_to_it() {
    let stage = Stage::set().await;
    let mut ids = Vec::new();
    for _ in 0..4 {
        ids.push(stage.intent().await.id.as_str().to_owned());
    }
    let form = [("ending_before", ids[0].as_str()), ("limit", "2")];
    let page = stage.bare(Method::GET, "/v1/payment_intents", &form).await;
    let page: Value = page.json().await.unwrap();
    let shown: Vec<_> = page["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| &one["id"])
        .collect();
    assert_eq!(shown, [&json!(ids[2]), &json!(ids[1])]);
    assert_eq!(page["has_more"], true);
}

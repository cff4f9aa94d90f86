//! Browsers' requests, and behaviour that only raw HTTP shows.

use reqwest::Response;
use serde_json::{Value, json};
use stand_ins::stripe::Status;

use super::Stage;

async fn post(url: &str, body: &[(&str, &str)]) -> Response {
    crate::http().post(url).form(body).send().await.unwrap()
}

async fn confirm_as_buyer(stage: &Stage, id: &str, fields: &[(&str, &str)]) -> Response {
    let url = format!("{}/v1/payment_intents/{id}/confirm", stage.stripe.url());
    let mut body = vec![("key", stage.stripe.publishable_key())];
    body.extend_from_slice(fields);
    post(&url, &body).await
}

#[tokio::test]
async fn a_buyer_pays_with_the_client_secret_and_only_with_the_right_one() {
    let stage = Stage::set().await;
    let (intent, other) = (stage.intent().await, stage.intent().await);
    let card = [
        ("payment_method_data[type]", "card"),
        ("payment_method_data[card][number]", "4242 4242 4242 4242"),
    ];
    let with = |secret| [card.as_slice(), &[("client_secret", secret)]].concat();

    let wrong = with(other.client_secret.as_deref().unwrap());
    assert_eq!(
        confirm_as_buyer(&stage, intent.id.as_str(), &wrong)
            .await
            .status(),
        400
    );
    assert_eq!(
        confirm_as_buyer(&stage, intent.id.as_str(), &card)
            .await
            .status(),
        400
    );
    let right = with(intent.client_secret.as_deref().unwrap());
    let answer = confirm_as_buyer(&stage, intent.id.as_str(), &right).await;
    assert_eq!(answer.headers()["access-control-allow-origin"], "*");
    let answer: Value = answer.json().await.unwrap();
    assert_eq!(answer["status"], "requires_capture");
}

#[tokio::test]
async fn three_d_secure_ends_as_the_bank_says() {
    for (outcome, ended) in [
        ("success", Status::RequiresCapture),
        ("fail", Status::RequiresPaymentMethod),
    ] {
        for card in [
            "pm_card_authenticationRequired",
            "pm_card_threeDSecure2Required",
        ] {
            let stage = Stage::set().await;
            let intent = stage.intent().await;
            let waiting = stage.confirm(&intent, card).await.unwrap();
            assert!(waiting.next_action.is_some());
            let url = format!(
                "{}/test/payment_intents/{}/authenticate",
                stage.stripe.url(),
                intent.id.as_str()
            );
            assert_eq!(post(&url, &[("outcome", "perhaps")]).await.status(), 400);
            assert_eq!(post(&url, &[("outcome", outcome)]).await.status(), 200);
            assert_eq!(
                post(&url, &[("outcome", outcome)]).await.status(),
                400,
                "only once"
            );
            let shown = stage
                .stripe
                .ledger()
                .payment_intent(intent.id.as_str())
                .unwrap();
            assert_eq!(shown.status, ended, "{card} {outcome}");
        }
    }
}

#[tokio::test]
async fn a_repeated_key_replays_the_answer_and_says_so() {
    let stage = Stage::set().await;
    let url = format!("{}/v1/payment_intents", stage.stripe.url());
    let send = |body: &'static str| {
        crate::http()
            .post(&url)
            .bearer_auth(stage.stripe.secret_key())
            .header("idempotency-key", "key-1")
            .header("content-type", "application/x-www-form-urlencoded")
            .body(body)
            .send()
    };
    let first = send("amount=100&currency=eur").await.unwrap();
    assert!(!first.headers().contains_key("idempotent-replayed"));
    let first = first.text().await.unwrap();
    let again = send("amount=100&currency=eur").await.unwrap();
    assert_eq!(again.headers()["idempotent-replayed"], "true");
    assert_eq!(again.text().await.unwrap(), first);

    let other = send("amount=200&currency=eur").await.unwrap();
    assert_eq!(other.status(), 400);
    let other: Value = other.json().await.unwrap();
    assert_eq!(other["error"]["type"], "idempotency_error");
    assert_eq!(stage.stripe.ledger().payment_intents().len(), 1);
}

#[tokio::test]
async fn bodies_that_are_no_form_or_too_large_are_refused() {
    let stage = Stage::set().await;
    let url = format!("{}/v1/payment_intents", stage.stripe.url());
    let send = |kind: &'static str, body: String| {
        crate::http()
            .post(&url)
            .bearer_auth(stage.stripe.secret_key())
            .header("content-type", kind)
            .body(body)
            .send()
    };
    let json = send("application/json", json!({ "amount": 1 }).to_string())
        .await
        .unwrap();
    assert_eq!(json.status(), 400);
    let large = "a".repeat(100_000);
    let large = send("application/x-www-form-urlencoded", large)
        .await
        .unwrap();
    assert_eq!(large.status(), 400);
    assert!(stage.stripe.ledger().payment_intents().is_empty());
}

#[tokio::test]
async fn the_banks_page_asks_a_browser_and_sends_it_back_to_the_booking() {
    for (outcome, ended, word) in [
        ("success", Status::RequiresCapture, "succeeded"),
        ("fail", Status::RequiresPaymentMethod, "failed"),
    ] {
        let stage = Stage::set().await;
        let intent = stage.intent().await;
        let fields = [
            ("payment_method", "pm_card_threeDSecure2Required"),
            ("client_secret", intent.client_secret.as_deref().unwrap()),
            ("return_url", "http://shop.test/bookings/7"),
        ];
        let answer = confirm_as_buyer(&stage, intent.id.as_str(), &fields).await;
        let answer: Value = answer.json().await.unwrap();
        let url = answer["next_action"]["redirect_to_url"]["url"]
            .as_str()
            .unwrap();

        let preflight = crate::http().request(reqwest::Method::OPTIONS, url);
        let preflight = preflight.send().await.unwrap();
        assert_eq!(preflight.status(), 204);
        assert_eq!(preflight.headers()["access-control-allow-origin"], "*");

        let page = crate::http().get(url).send().await.unwrap();
        assert_eq!(page.status(), 200);
        let page = page.text().await.unwrap();
        assert!(
            page.contains("50.00 EUR") && page.contains("ending in 3220"),
            "{page}"
        );

        stand_ins::tls::install();
        let browser = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none());
        let press = browser
            .build()
            .unwrap()
            .post(url)
            .header("accept", "text/html");
        let pressed = press.form(&[("outcome", outcome)]).send().await.unwrap();
        assert_eq!(pressed.status(), 303);
        let back = pressed.headers()["location"].to_str().unwrap();
        assert!(back.starts_with("http://shop.test/bookings/7?"), "{back}");
        assert!(back.ends_with(&format!("redirect_status={word}")), "{back}");
        let shown = stage.stripe.ledger().payment_intent(intent.id.as_str());
        assert_eq!(shown.unwrap().status, ended);

        let again = crate::http().get(url).send().await.unwrap();
        assert_eq!(again.status(), 404);
        let again = again.text().await.unwrap();
        assert!(
            again.contains("href=\"http://shop.test/bookings/7\""),
            "{again}"
        );
    }
}

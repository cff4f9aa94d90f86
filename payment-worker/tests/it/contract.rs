//! Contract tests: what the worker relies on at Stripe. They run against the stand-in, and against
//! Stripe itself when `STRIPE_TEST_SECRET_KEY` is a test key, so that the two can't drift apart.

mod cards;

use std::time::Duration;

use reqwest::Client;
use serde_json::Value;
use sqlx::types::Uuid;
use stand_ins::stripe::{self, StandIn};

struct Stripe {
    http: Client,
    url: String,
    key: String,
    _stand_in: Option<StandIn>,
}

type Form<'a> = &'a [(&'a str, &'a str)];

const ORDER: Form<'static> = &[
    ("amount", "2500"),
    ("currency", "eur"),
    ("capture_method", "manual"),
    ("payment_method_types[]", "card"),
];

impl Stripe {
    async fn stand_in() -> Self {
        let stand_in = StandIn::start(stripe::Config::default()).await.unwrap();
        Self {
            http: Client::new(),
            url: stand_in.url(),
            key: stand_in.secret_key().to_owned(),
            _stand_in: Some(stand_in),
        }
    }

    /// Stripe itself, if the environment has a test key.
    fn real() -> Option<Self> {
        let key = std::env::var("STRIPE_TEST_SECRET_KEY").ok()?;
        assert!(
            key.starts_with("sk_test_"),
            "STRIPE_TEST_SECRET_KEY must be a test key"
        );
        Some(Self {
            http: Client::builder()
                .timeout(Duration::from_secs(30))
                .build()
                .unwrap(),
            url: "https://api.stripe.com".to_owned(),
            key,
            _stand_in: None,
        })
    }

    async fn post(&self, path: &str, form: Form<'_>, key: Option<&str>) -> (u16, Value) {
        let url = format!("{}/v1{path}", self.url);
        let mut request = self.http.post(url).bearer_auth(&self.key).form(form);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn get(&self, path: &str) -> Value {
        let url = format!("{}/v1{path}", self.url);
        let answer = self.http.get(url).bearer_auth(&self.key).send().await;
        answer.unwrap().json().await.unwrap()
    }

    /// An authorised PaymentIntent.
    async fn authorised(&self) -> String {
        let (status, intent) = self.post("/payment_intents", ORDER, None).await;
        assert_eq!(
            (status, &intent["status"]),
            (200, &"requires_payment_method".into())
        );
        let id = intent["id"].as_str().unwrap().to_owned();
        let path = format!("/payment_intents/{id}/confirm");
        let (status, intent) = self
            .post(&path, &[("payment_method", "pm_card_visa")], None)
            .await;
        assert_eq!(
            (status, &intent["status"]),
            (200, &"requires_capture".into()),
            "{intent}"
        );
        assert_eq!(intent["amount_capturable"], 2_500);
        id
    }

    async fn keep_the_contract(&self) {
        self.a_key_repeats_its_answer_and_takes_no_other_request()
            .await;
        self.money_is_taken_once_and_only_after_the_capture().await;
        self.what_is_cancelled_cannot_be_captured().await;
        self.a_declined_card_leaves_the_intent_open().await;
        self.refunds_end_at_what_was_taken().await;
        self.lists_show_what_was_just_made().await;
        self.a_card_is_kept_when_asked_and_pays_for_its_customer_alone()
            .await;
    }

    async fn a_key_repeats_its_answer_and_takes_no_other_request(&self) {
        let key = format!("onsale-contract-{}", Uuid::new_v4());
        let (_, first) = self.post("/payment_intents", ORDER, Some(&key)).await;
        let (status, again) = self.post("/payment_intents", ORDER, Some(&key)).await;
        assert_eq!((status, &again["id"]), (200, &first["id"]));
        let other: Form<'_> = &[("amount", "1"), ("currency", "eur")];
        let (status, answer) = self.post("/payment_intents", other, Some(&key)).await;
        assert_eq!(status, 400);
        assert_eq!(answer["error"]["type"], "idempotency_error");
    }

    async fn money_is_taken_once_and_only_after_the_capture(&self) {
        let id = self.authorised().await;
        assert_eq!(
            self.get(&format!("/payment_intents/{id}")).await["amount_received"],
            0
        );
        let path = format!("/payment_intents/{id}/capture");
        let (status, intent) = self.post(&path, &[], None).await;
        assert_eq!((status, &intent["status"]), (200, &"succeeded".into()));
        assert_eq!(intent["amount_received"], 2_500);
        for action in ["capture", "cancel"] {
            let path = format!("/payment_intents/{id}/{action}");
            let (status, answer) = self.post(&path, &[], None).await;
            assert_eq!(status, 400);
            assert_eq!(answer["error"]["code"], "payment_intent_unexpected_state");
        }
    }

    async fn what_is_cancelled_cannot_be_captured(&self) {
        let id = self.authorised().await;
        let path = format!("/payment_intents/{id}/cancel");
        let reason: Form<'_> = &[("cancellation_reason", "abandoned")];
        let (status, intent) = self.post(&path, reason, None).await;
        assert_eq!((status, &intent["status"]), (200, &"canceled".into()));
        let path = format!("/payment_intents/{id}/capture");
        assert_eq!(self.post(&path, &[], None).await.0, 400);
    }

    async fn a_declined_card_leaves_the_intent_open(&self) {
        let (_, intent) = self.post("/payment_intents", ORDER, None).await;
        let path = format!(
            "/payment_intents/{}/confirm",
            intent["id"].as_str().unwrap()
        );
        let declined: Form<'_> = &[("payment_method", "pm_card_visa_chargeDeclined")];
        let (status, answer) = self.post(&path, declined, None).await;
        assert_eq!(
            (status, &answer["error"]["code"]),
            (402, &"card_declined".into())
        );
        assert_eq!(
            answer["error"]["payment_intent"]["status"],
            "requires_payment_method"
        );
        let (status, _) = self
            .post(&path, &[("payment_method", "pm_card_visa")], None)
            .await;
        assert_eq!(status, 200);
    }

    async fn refunds_end_at_what_was_taken(&self) {
        let id = self.authorised().await;
        self.post(&format!("/payment_intents/{id}/capture"), &[], None)
            .await;
        let part: Form<'_> = &[("payment_intent", &id), ("amount", "1500")];
        assert_eq!(self.post("/refunds", part, None).await.0, 200);
        let (status, answer) = self.post("/refunds", part, None).await;
        assert_eq!(status, 400, "{answer}");
        let rest: Form<'_> = &[("payment_intent", &id)];
        let (status, refund) = self.post("/refunds", rest, None).await;
        assert_eq!((status, &refund["amount"]), (200, &1_000.into()));
        let (status, answer) = self.post("/refunds", rest, None).await;
        assert_eq!(
            (status, &answer["error"]["code"]),
            (400, &"charge_already_refunded".into())
        );
        let list = self.get(&format!("/refunds?payment_intent={id}")).await;
        assert_eq!(list["data"].as_array().unwrap().len(), 2);
    }

    async fn lists_show_what_was_just_made(&self) {
        let id = self.authorised().await;
        let created = self.get(&format!("/payment_intents/{id}")).await["created"].clone();
        let path = format!("/payment_intents?limit=100&created[gte]={created}");
        let list = self.get(&path).await;
        let listed = list["data"].as_array().unwrap();
        assert!(listed.iter().any(|intent| intent["id"] == id));
        assert_eq!(self.get("/disputes?limit=1").await["object"], "list");
    }
}

#[tokio::test]
async fn the_stand_in_behaves_as_the_worker_relies_on() {
    Stripe::stand_in().await.keep_the_contract().await;
}

#[tokio::test]
async fn stripe_behaves_as_the_worker_relies_on() {
    match Stripe::real() {
        Some(stripe) => stripe.keep_the_contract().await,
        None => skip("STRIPE_TEST_SECRET_KEY is not set, so Stripe itself was not asked"),
    }
}

/// Reports a skipped test, past the capture of its output.
fn skip(reason: &str) {
    use std::io::Write as _;
    let printed = writeln!(std::io::stderr().lock(), "SKIPPED: {reason}");
    printed.unwrap();
}

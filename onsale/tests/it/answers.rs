//! A walk through the whole API, whose answers are validated against docs/openapi.json.

mod accounts;
mod bookings;
mod cards;
mod events;
mod mails;
mod money;
mod queue;

use std::collections::BTreeSet;
use std::time::Duration;

use platform::testing::eventually;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use stand_ins::mail::MailFault;
use url::Url;

use crate::description::{Answer, Description, Listener};
use crate::system::{ADMIN, PASSWORD, System};

const SOON: Duration = Duration::from_secs(60);
const GET: Method = Method::GET;
const POST: Method = Method::POST;
const PUT: Method = Method::PUT;
const DELETE: Method = Method::DELETE;

/// Operations that the walk does not call: Stripe does.
const NOT_WALKED: (&str, &str) = ("POST", "/api/webhooks/stripe");

/// The system under test and its document.
struct Walk {
    description: Description,
    client: reqwest::Client,
    public: Url,
    internal: Url,
    stripe_secret: String,
    database: String,
}

/// A signed-in account.
struct Person {
    account: i64,
    email: String,
    token: String,
}

/// A called place.
struct Admitted {
    queue_token: String,
    pass: String,
}

fn ids<T: ToString>(ids: &[T]) -> Vec<String> {
    ids.iter().map(ToString::to_string).collect()
}

fn text(value: &Value) -> String {
    value.as_str().expect("a text").to_owned()
}

impl Walk {
    async fn public(
        &self,
        method: Method,
        path: &str,
        ids: &[String],
        with: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Answer {
        let at = (&self.client, Listener::Public, &self.public);
        self.description.call(at, &method, path, ids, with).await
    }

    async fn internal(
        &self,
        method: Method,
        path: &str,
        ids: &[String],
        with: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Answer {
        let at = (&self.client, Listener::Internal, &self.internal);
        self.description.call(at, &method, path, ids, with).await
    }

    /// Repeats a request until its answer is as wanted.
    async fn until(
        &self,
        path: &str,
        ids: &[String],
        token: &str,
        holds: impl Fn(&Value) -> bool,
    ) -> Value {
        let mut last = Value::Null;
        eventually(SOON, async || {
            let answer = self
                .public(GET, path, ids, |request| request.bearer_auth(token))
                .await;
            last = answer.body;
            holds(&last)
        })
        .await;
        last
    }

    async fn sign_up(&self, name: &str) -> Person {
        let email = format!("{name}@answers.example");
        let body =
            json!({ "email": email, "password": PASSWORD, "name": name, "phone": "+491701234567" });
        let made = self
            .public(POST, "/api/accounts", &[], |request| request.json(&body))
            .await
            .expect(201);
        let (account, token) = (
            &made["session"]["account_id"],
            &made["session"]["access_token"],
        );
        Person {
            account: account.as_i64().expect("an id"),
            email,
            token: text(token),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_as_the_document_says() {
    let system = System::start(&["all"]).await.unwrap();
    let walk = Walk {
        description: Description::read(),
        client: reqwest::Client::new(),
        public: system.public_url("all"),
        internal: system.internal_url(),
        stripe_secret: system.setting("STRIPE_SECRET_KEY"),
        database: system.setting("ONSALE_DATABASE_URL"),
    };
    let credentials = json!({ "email": ADMIN, "password": PASSWORD });
    let with = |request: RequestBuilder| request.json(&credentials);
    let signed_in = walk.internal(POST, "/api/sessions", &[], with).await;
    let admin = text(&signed_in.expect(201)["session"]["access_token"]);

    walk.accounts(&admin).await;
    walk.events(&admin).await;
    let event = walk.event(&admin, json!({})).await;
    walk.sales(&admin, event).await;
    walk.queue(event).await;
    let buyer = walk.sign_up("buyer").await;
    let refused = MailFault::PermanentFailure;
    system.mail.faults().next(1, buyer.email.clone(), refused);
    let paid = walk.bookings(event, &buyer).await;
    let booking = text(&paid["id"]);
    walk.tickets(&admin, &buyer, &paid).await;
    walk.mails(&admin).await;
    walk.money(&admin, event, &paid, &buyer).await;
    walk.end(&admin, event, &buyer, &booking).await;
    walk.lottery(&admin).await;

    let broken = walk.description.broken();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    let (method, path) = NOT_WALKED;
    let expected = BTreeSet::from([(method.to_owned(), path.to_owned())]);
    assert_eq!(walk.description.unseen(), expected);
    system.finish().await.unwrap();
}

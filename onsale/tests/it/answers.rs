//! What the API answers is what docs/openapi.json says, over a walk through all of it.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{TimeDelta, Utc};
use platform::testing::eventually;
use reqwest::{Method, RequestBuilder};
use serde_json::{Value, json};
use url::Url;

use crate::description::{Answer, Description, Listener};
use crate::system::{ADMIN, PASSWORD, System};

const SOON: Duration = Duration::from_secs(30);
const GET: Method = Method::GET;
const POST: Method = Method::POST;
const PUT: Method = Method::PUT;
const DELETE: Method = Method::DELETE;

/// What the walk does not bring about: Stripe calls this itself.
const NOT_WALKED: (&str, &str) = ("POST", "/api/webhooks/stripe");

/// The system, called by people who compare each answer with the document.
struct Walk {
    description: Description,
    client: reqwest::Client,
    public: Url,
    internal: Url,
    stripe_secret: String,
}

/// Somebody who is signed in.
struct Person {
    account: i64,
    email: String,
    token: String,
}

/// A place that was called.
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

    /// Asks again until the answer is as wanted.
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

    /// Joins and waits for the turn.
    async fn enter(&self, event: i64, person: &Person) -> Admitted {
        let sale = ids(&[event]);
        let join = |request: RequestBuilder| request.bearer_auth(&person.token).json(&json!({}));
        let joined = self
            .public(POST, "/api/events/{id}/queue", &sale, join)
            .await;
        let queue_token = text(&joined.expect(201)["queue_token"]);
        let again = self
            .public(POST, "/api/events/{id}/queue", &sale, join)
            .await;
        again.expect(200);
        let holder = |request: RequestBuilder| {
            let request = request.bearer_auth(&person.token);
            request.header("onsale-queue-token", &queue_token)
        };
        eventually(SOON, async || {
            let path = "/api/events/{id}/queue/me";
            self.public(GET, path, &sale, holder).await.body["state"] == "ready"
        })
        .await;
        let path = "/api/events/{id}/pass";
        let claimed = self.public(POST, path, &sale, holder).await.expect(201);
        let again = self.public(POST, path, &sale, holder).await.expect(200);
        assert_eq!(again, claimed);
        Admitted {
            pass: text(&claimed["pass"]),
            queue_token,
        }
    }

    /// Pays as the browser does, and waits for the tickets; the booking.
    async fn pay(&self, booking: &str, person: &Person) -> Value {
        let path = "/api/bookings/{id}";
        let ids = ids(&[booking]);
        let due = self
            .until(path, &ids, &person.token, |answer| {
                answer["booking"]["payment"]["client_secret"].is_string()
            })
            .await;
        let payment = &due["booking"]["payment"];
        let stripe = format!(
            "{}/v1/payment_intents/{}/confirm",
            text(&payment["api_url"]).trim_end_matches('/'),
            text(&payment["intent_id"])
        );
        let form = [
            ("client_secret", text(&payment["client_secret"])),
            ("payment_method", "pm_card_visa".to_owned()),
        ];
        let key = text(&payment["publishable_key"]);
        let paid = self.client.post(stripe).bearer_auth(key).form(&form).send();
        assert!(paid.await.expect("an answer").status().is_success());
        let paid = self
            .until(path, &ids, &person.token, |answer| {
                answer["booking"]["payment"]["state"] == "captured"
            })
            .await;
        paid["booking"].clone()
    }

    async fn accounts(&self, admin: &str) {
        let ada = self.sign_up("ada").await;
        let body = json!({ "email": ada.email, "password": PASSWORD });
        let again = |request: RequestBuilder| request.json(&body);
        let taken = self.public(POST, "/api/accounts", &[], again).await;
        taken.expect(409);
        let session = self.public(POST, "/api/sessions", &[], again).await;
        let session = session.expect(201);
        let wrong = json!({ "email": ada.email, "password": "not the password" });
        for (body, status) in [
            (wrong.to_string(), 401),
            ("{".to_owned(), 400),
            ("x".repeat(70_000), 413),
        ] {
            let with = |request: RequestBuilder| {
                let request = request.header("content-type", "application/json");
                request.body(body)
            };
            let refused = self.public(POST, "/api/sessions", &[], with).await;
            refused.expect(status);
        }
        let form = |request: RequestBuilder| request.form(&[("email", "a")]);
        let refused = self.public(POST, "/api/sessions", &[], form).await;
        refused.expect(415);
        let short = json!({ "email": "eve@answers.example", "password": "short" });
        let with = |request: RequestBuilder| request.json(&short);
        let refused = self.public(POST, "/api/accounts", &[], with).await;
        refused.expect(422);

        let me = |token: String| move |request: RequestBuilder| request.bearer_auth(token);
        let path = "/api/accounts/me";
        let mine = self.public(GET, path, &[], me(ada.token.clone())).await;
        mine.expect(200);
        let nobody = self.public(GET, path, &[], me("nonsense".to_owned()));
        nobody.await.expect(401);
        let refresh = json!({ "refresh_token": session["session"]["refresh_token"] });
        let with = |request: RequestBuilder| request.json(&refresh);
        let renewed = self.public(POST, "/api/sessions/refresh", &[], with).await;
        let renewed = renewed.expect(201);
        let last = json!({ "refresh_token": renewed["session"]["refresh_token"] });
        let with = |request: RequestBuilder| request.json(&last);
        let out = self.public(DELETE, "/api/sessions", &[], with).await;
        out.expect(204);

        let staff = |request: RequestBuilder| request.bearer_auth(admin);
        let found = self.internal(GET, "/api/accounts?email=ada", &[], staff);
        assert_eq!(
            found.await.expect(200)["accounts"].as_array().map(Vec::len),
            Some(1)
        );
        let roles = json!({ "roles": ["customer", "operator"] });
        let path = "/api/accounts/{id}/roles";
        let change = |request: RequestBuilder| request.bearer_auth(admin).json(&roles);
        let own = ids(&[ada.account]);
        self.internal(PUT, path, &own, change).await.expect(200);
        let unknown = ids(&[999_999]);
        self.internal(PUT, path, &unknown, change).await.expect(404);
        let forbidden = |request: RequestBuilder| request.bearer_auth(&ada.token).json(&roles);
        self.internal(PUT, path, &own, forbidden).await.expect(403);
    }

    /// A new event; its id.
    async fn event(&self, admin: &str, sale: Value) -> i64 {
        let body = json!({
            "name": "An evening of answers", "date": "2030-01-01T19:00:00Z", "city": "Gent",
            "country": "be", "time_zone": "Europe/Brussels", "max_tickets_per_account": 4,
            "ticket_transfer": true, "sale": sale,
            "sections": [
                { "name": "Stalls", "numbered": true, "rows": 2, "seats_per_row": 5,
                  "tier": { "name": "Gold", "price": { "amount_minor": 4_500, "currency": "eur" } } },
                { "name": "Standing", "capacity": 10,
                  "tier": { "name": "Standard", "price": { "amount_minor": 2_000, "currency": "eur" } } },
            ],
        });
        let with = |request: RequestBuilder| request.bearer_auth(admin).json(&body);
        let made = self.internal(POST, "/api/events", &[], with).await;
        let made = made.expect(201)["event"].clone();
        let id = made["id"].as_i64().expect("an id");
        let path = "/api/events/{id}/availability";
        let known = |answer: &Value| answer["available"] == 20;
        self.until(path, &ids(&[id]), "", known).await;
        let path = "/api/events/{id}/queue";
        let begun = |answer: &Value| answer["state"].is_string();
        self.until(path, &ids(&[id]), "", begun).await;
        id
    }

    async fn events(&self, admin: &str) {
        let id = self.event(admin, json!({})).await;
        let event = ids(&[id]);
        for path in [
            "/api/events/{id}",
            "/api/events/{id}/availability",
            "/api/events/{id}/seats",
            "/api/events?q=evening&city=Gent&limit=5",
        ] {
            let nobody = |request: RequestBuilder| request;
            self.internal(GET, path, &event, nobody).await.expect(200);
            let answer = self.public(GET, path, &event, nobody).await;
            let etag = answer.headers.get("etag").cloned().expect("an ETag");
            answer.expect(200);
            let known = |request: RequestBuilder| request.header("if-none-match", etag);
            let same = self.public(GET, path, &event, known).await;
            same.expect(304);
        }
        let nobody = |request: RequestBuilder| request;
        let unknown = ids(&[999_999]);
        for path in ["/api/events/{id}", "/api/events/{id}/seats"] {
            self.public(GET, path, &unknown, nobody).await.expect(404);
        }
        let wrong = self.public(GET, "/api/events?limit=0", &[], nobody).await;
        wrong.expect(422);

        let shown = self.public(GET, "/api/events/{id}", &event, nobody).await;
        let shown = shown.expect(200)["event"].clone();
        let mut body = json!({
            "name": "Another evening", "date": shown["date"], "version": shown["version"],
            "sections": [{ "name": "Stalls", "numbered": true, "rows": 2, "seats_per_row": 5 },
                         { "name": "Standing", "capacity": 10 }],
        });
        let path = "/api/events/{id}";
        let with = |request: RequestBuilder| request.bearer_auth(admin).json(&body);
        self.internal(PUT, path, &event, with).await.expect(200);
        self.internal(PUT, path, &event, with).await.expect(409);
        body["name"] = json!("");
        let with = |request: RequestBuilder| request.bearer_auth(admin).json(&body);
        self.internal(PUT, path, &event, with).await.expect(422);
        let staff = |request: RequestBuilder| request.bearer_auth(admin);
        self.internal(DELETE, path, &event, staff).await.expect(200);
    }

    async fn sales(&self, admin: &str, event: i64) {
        let sale = ids(&[event]);
        let path = "/api/sales/{event_id}";
        let staff = |request: RequestBuilder| request.bearer_auth(admin);
        self.internal(GET, path, &sale, staff).await.expect(200);
        let change = json!({ "message": "Nearly there", "rate_per_minute": 6_000 });
        let with = |request: RequestBuilder| request.bearer_auth(admin).json(&change);
        self.internal(PUT, path, &sale, with).await.expect(200);
        let wrong = json!({ "rate_per_minute": -1 });
        let with = |request: RequestBuilder| request.bearer_auth(admin).json(&wrong);
        self.internal(PUT, path, &sale, with).await.expect(422);
        let nobody = |request: RequestBuilder| request;
        self.internal(GET, path, &sale, nobody).await.expect(401);
        let path = "/api/sales/{event_id}/stream";
        self.internal(GET, path, &sale, staff).await.expect(200);
        let path = "/api/events/{id}/queue/stream";
        self.public(GET, path, &sale, nobody).await.expect(200);
        let log = self.internal(GET, "/api/audit-log?subject=sale:1", &[], staff);
        log.await.expect(200);
    }

    async fn queue(&self, event: i64) {
        let sale = ids(&[event]);
        let nobody = |request: RequestBuilder| request;
        let path = "/api/events/{id}/queue";
        let shown = self.public(GET, path, &sale, nobody).await;
        let etag = shown.headers.get("etag").cloned().expect("an ETag");
        shown.expect(200);
        let with = |request: RequestBuilder| request.header("if-none-match", etag);
        let again = self.public(GET, path, &sale, with).await.status;
        assert!(again == 304 || again == 200, "{again}");
        self.public(POST, path, &sale, nobody).await.expect(401);
        let unknown = ids(&[999_999]);
        self.public(GET, path, &unknown, nobody).await.expect(404);
        let walker = self.sign_up("walker").await;
        let join = |request: RequestBuilder| request.bearer_auth(&walker.token);
        let joined = self.public(POST, path, &sale, join).await.expect(201);
        let token = text(&joined["queue_token"]);
        let path = "/api/events/{id}/queue/me";
        self.public(GET, path, &sale, join).await.expect(401);
        let wrong = |request: RequestBuilder| join(request).header("onsale-queue-token", "x.y.z");
        self.public(GET, path, &sale, wrong).await.expect(401);
        let holder = |request: RequestBuilder| join(request).header("onsale-queue-token", &token);
        let early = async || self.public(GET, path, &sale, holder).await.status == 429;
        eventually(SOON, early).await;
        self.public(DELETE, path, &sale, holder).await.expect(204);
        let path = "/api/events/{id}/pass";
        eventually(SOON, async || {
            self.public(POST, path, &sale, holder).await.status == 410
        })
        .await;
        let path = "/api/events/{id}/queue/challenge";
        self.public(GET, path, &sale, join).await.expect(200);
        let path = "/.well-known/jwks.json";
        self.public(GET, path, &[], nobody).await.expect(200);
        let path = "/openapi.json";
        self.public(GET, path, &[], nobody).await.expect(200);
    }

    /// A sale with a lobby, up to the drawn lottery.
    async fn lottery(&self, admin: &str) {
        let opens_at = Utc::now() + TimeDelta::seconds(5);
        let sale = json!({ "opens_at": opens_at, "lobby_seconds": 60 });
        let event = self.event(admin, sale).await;
        let sale = ids(&[event]);
        let early = self.sign_up("early").await;
        let join = |request: RequestBuilder| request.bearer_auth(&early.token);
        let mut joined = Value::Null;
        eventually(SOON, async || {
            let path = "/api/events/{id}/queue";
            let answer = self.public(POST, path, &sale, join).await;
            let is_in = answer.status.is_success();
            joined = answer.body;
            is_in
        })
        .await;
        let token = text(&joined["queue_token"]);
        let holder = |request: RequestBuilder| join(request).header("onsale-queue-token", &token);
        let path = "/api/events/{id}/queue/me";
        self.public(GET, path, &sale, holder).await.expect(200);
        let path = "/api/events/{id}/queue/lottery";
        let nobody = |request: RequestBuilder| request;
        self.public(GET, path, &sale, nobody).await.expect(409);
        eventually(SOON, async || {
            self.public(GET, path, &sale, nobody).await.status == 200
        })
        .await;
        let path = "/api/events/{id}/queue";
        self.public(GET, path, &sale, nobody).await.expect(200);
    }

    /// Bookings of every kind; the paid one, of two tickets.
    async fn bookings(&self, event: i64, buyer: &Person) -> Value {
        let admitted = self.enter(event, buyer).await;
        let book = |body: Value| {
            let pass = admitted.pass.clone();
            move |request: RequestBuilder| {
                let request = request.bearer_auth(&buyer.token);
                request.header("onsale-pass", pass).json(&body)
            }
        };
        let path = "/api/bookings";
        let own = json!({ "event_id": event, "user_id": buyer.account });
        let wish = |more: Value| {
            let mut body = own.clone();
            let fields = body.as_object_mut().expect("an object");
            fields.extend(more.as_object().expect("an object").clone());
            body
        };
        let wanted = book(wish(json!({ "tickets": 2, "tier": "Gold" })));
        let held = self.public(POST, path, &[], wanted).await;
        let held = held.expect(201)["booking"].clone();
        let seat = held["seats"][0]["id"].clone();
        let refused = self.public(POST, path, &[], book(wish(json!({ "seats": [seat] }))));
        assert_eq!(refused.await.expect(409)["reason"], "seat_taken");
        let parts = json!({ "wanted": [{ "tickets": 1, "tier": "Standard" }] });
        let other = self.public(POST, path, &[], book(wish(parts))).await;
        let other = text(&other.expect(201)["booking"]["id"]);
        let many = book(wish(json!({ "tickets": 0 })));
        self.public(POST, path, &[], many).await.expect(422);
        let nobody = |request: RequestBuilder| {
            let request = request.bearer_auth(&buyer.token);
            request.json(&wish(json!({ "tickets": 1 })))
        };
        self.public(POST, path, &[], nobody).await.expect(403);

        let held = text(&held["id"]);
        let paid = self.pay(&held, buyer).await;
        let mine = |request: RequestBuilder| request.bearer_auth(&buyer.token);
        let path = "/api/bookings/user/{user_id}";
        let listed = self.public(GET, path, &ids(&[buyer.account]), mine).await;
        assert_eq!(
            listed.expect(200)["bookings"].as_array().map(Vec::len),
            Some(3)
        );
        let path = "/api/bookings/{id}/cancel";
        let given_up = self.public(PUT, path, &ids(&[&other]), mine).await;
        given_up.expect(200);
        let path = "/api/bookings/{id}";
        let unknown = ids(&[uuid::Uuid::now_v7()]);
        self.public(GET, path, &unknown, mine).await.expect(404);
        let stranger = self.sign_up("stranger").await;
        let theirs = |request: RequestBuilder| request.bearer_auth(&stranger.token);
        let refused = self.public(GET, path, &ids(&[&held]), theirs).await;
        refused.expect(403);

        let path = "/api/events/{id}/pass";
        let leave = |request: RequestBuilder| {
            let request = request.bearer_auth(&buyer.token);
            request.header("onsale-pass", &admitted.pass)
        };
        let sale = ids(&[event]);
        self.public(DELETE, path, &sale, leave).await.expect(204);
        let me = |request: RequestBuilder| {
            let request = request.bearer_auth(&buyer.token);
            request.header("onsale-queue-token", &admitted.queue_token)
        };
        let path = "/api/events/{id}/queue/me";
        eventually(SOON, async || {
            let answer = self.public(GET, path, &sale, me).await;
            answer.status == 200
        })
        .await;
        paid
    }

    async fn tickets(&self, admin: &str, buyer: &Person, paid: &Value) {
        let friend = self.sign_up("friend").await;
        let code = text(&paid["ticket_codes"][0]);
        let path = "/api/tickets/{code}/transfer";
        let to = |address: &str| json!({ "to": address });
        let give = |body: Value| {
            move |request: RequestBuilder| request.bearer_auth(&buyer.token).json(&body)
        };
        let code = ids(&[code]);
        let given = give(to(&friend.email));
        self.public(POST, path, &code, given).await.expect(200);
        let again = give(to("nobody@answers.example"));
        self.public(POST, path, &code, again).await.expect(409);
        let wrong = give(to("nobody"));
        self.public(POST, path, &code, wrong).await.expect(422);
        let unknown = give(to(&friend.email));
        let no_code = ids(&["T1.none"]);
        self.public(POST, path, &no_code, unknown).await.expect(404);
        let mut theirs = Value::Null;
        for person in [buyer, &friend] {
            let mine = |request: RequestBuilder| request.bearer_auth(&person.token);
            let seen = self.public(GET, "/api/tickets", &[], mine).await;
            theirs = seen.expect(200)["tickets"][0]["code"].clone();
        }
        let path = "/api/tickets/{code}/check-in";
        let staff = |request: RequestBuilder| request.bearer_auth(admin);
        let refused = self.internal(POST, path, &code, staff).await.expect(409);
        assert!(refused["transferred_at"].is_string(), "{refused}");
        let good = ids(&[text(&theirs)]);
        self.internal(POST, path, &good, staff).await.expect(200);
        let refused = self.internal(POST, path, &good, staff).await.expect(409);
        assert!(refused["checked_in_at"].is_string(), "{refused}");
    }

    async fn money(&self, admin: &str, event: i64, paid: &Value) {
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

    /// Somebody refunds in Stripe's dashboard, which staff must look at.
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

    /// Everything is cancelled and refunded.
    async fn end(&self, admin: &str, event: i64, buyer: &Person, booking: &str) {
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

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_is_as_the_document_says() {
    let system = System::start(&["all"]).await.unwrap();
    let walk = Walk {
        description: Description::read(),
        client: reqwest::Client::new(),
        public: system.public_url("all"),
        internal: system.internal_url(),
        stripe_secret: system.setting("STRIPE_SECRET_KEY"),
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
    let paid = walk.bookings(event, &buyer).await;
    let booking = text(&paid["id"]);
    walk.tickets(&admin, &buyer, &paid).await;
    walk.money(&admin, event, &paid).await;
    walk.end(&admin, event, &buyer, &booking).await;
    walk.lottery(&admin).await;

    let broken = walk.description.broken();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
    let (method, path) = NOT_WALKED;
    let expected = BTreeSet::from([(method.to_owned(), path.to_owned())]);
    assert_eq!(walk.description.unseen(), expected);
    system.finish().await.unwrap();
}

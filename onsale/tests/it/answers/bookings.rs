//! The walk: bookings and tickets.

use platform::testing::eventually;
use reqwest::RequestBuilder;
use serde_json::{Value, json};

use super::{Admitted, DELETE, GET, POST, PUT, Person, SOON, Walk, ids, text};

impl Walk {
    /// Books in every way, and returns the paid booking, of two tickets.
    pub(super) async fn bookings(&self, event: i64, buyer: &Person) -> Value {
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
        let held = self.decided(buyer, wanted).await;
        assert_eq!(held["state"], "held", "{held}");
        let seat = held["seats"][0]["id"].clone();
        let taken = book(wish(json!({ "seats": [seat] })));
        assert_eq!(self.decided(buyer, taken).await["reason"], "seat_taken");
        let parts = json!({ "wanted": [{ "tickets": 1, "tier": "Standard" }] });
        let other = self.decided(buyer, book(wish(parts))).await;
        assert_eq!(other["state"], "held", "{other}");
        let other = text(&other["id"]);
        let many = book(wish(json!({ "tickets": 0 })));
        self.public(POST, path, &[], many).await.expect(422);
        let nobody = |request: RequestBuilder| {
            let request = request.bearer_auth(&buyer.token);
            request.json(&wish(json!({ "tickets": 1 })))
        };
        self.public(POST, path, &[], nobody).await.expect(403);

        let held = text(&held["id"]);
        self.save_card(&held, buyer).await;
        let paid = self.pay(&held, buyer).await;
        self.saved_cards(&paid, buyer).await;
        self.look_and_leave(event, buyer, &admitted, [&held, &other])
            .await;
        paid
    }

    /// Books, and returns the booking, or the refusal, once it is decided: a busy machine may not
    /// do that within the two seconds that the answer waits.
    async fn decided(
        &self,
        buyer: &Person,
        book: impl FnOnce(RequestBuilder) -> RequestBuilder,
    ) -> Value {
        let answer = self.public(POST, "/api/bookings", &[], book).await;
        match answer.status.as_u16() {
            201 => answer.body["booking"].clone(),
            202 => {
                let id = ids(&[text(&answer.body["booking"]["id"])]);
                let is_decided = |answer: &Value| answer["booking"]["state"] != "requested";
                let path = "/api/bookings/{id}";
                let decided = self.until(path, &id, &buyer.token, is_decided).await;
                decided["booking"].clone()
            }
            _ => answer.expect(409),
        }
    }

    /// Reads bookings, cancels the second, and returns the pass.
    async fn look_and_leave(
        &self,
        event: i64,
        buyer: &Person,
        admitted: &Admitted,
        [held, other]: [&str; 2],
    ) {
        let mine = |request: RequestBuilder| request.bearer_auth(&buyer.token);
        let path = "/api/bookings/user/{user_id}";
        let listed = self.public(GET, path, &ids(&[buyer.account]), mine).await;
        assert_eq!(
            listed.expect(200)["bookings"].as_array().map(Vec::len),
            Some(3)
        );
        let path = "/api/bookings/{id}/cancel";
        let given_up = self.public(PUT, path, &ids(&[other]), mine).await;
        given_up.expect(200);
        let path = "/api/bookings/{id}";
        let unknown = ids(&[uuid::Uuid::now_v7()]);
        self.public(GET, path, &unknown, mine).await.expect(404);
        let stranger = self.sign_up("stranger").await;
        let theirs = |request: RequestBuilder| request.bearer_auth(&stranger.token);
        let refused = self.public(GET, path, &ids(&[held]), theirs).await;
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
    }

    /// Pays as the browser does, waits for the tickets, and returns the booking.
    pub(super) async fn pay(&self, booking: &str, person: &Person) -> Value {
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

    pub(super) async fn tickets(&self, admin: &str, buyer: &Person, paid: &Value) {
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
        let path = "/api/tickets/{code}/replace";
        let mine = |request: RequestBuilder| request.bearer_auth(&friend.token);
        let old = ids(&[text(&theirs)]);
        let new = self.public(POST, path, &old, mine).await.expect(200);
        self.public(POST, path, &no_code, mine).await.expect(404);
        let good = ids(&[text(&new["ticket"]["code"])]);
        let path = "/api/tickets/{code}/check-in";
        let at_event = |event: Value| {
            move |request: RequestBuilder| {
                let request = request.bearer_auth(admin);
                request.json(&json!({ "event_id": event }))
            }
        };
        let staff = at_event(paid["event_id"].clone());
        let refused = self.internal(POST, path, &code, &staff).await.expect(409);
        assert!(refused["transferred_at"].is_string(), "{refused}");
        let refused = self.internal(POST, path, &old, &staff).await.expect(409);
        assert!(refused["replaced_at"].is_string(), "{refused}");
        let elsewhere = at_event(json!(999_999));
        let refused = self
            .internal(POST, path, &good, elsewhere)
            .await
            .expect(409);
        assert_eq!(refused["event_id"], paid["event_id"], "{refused}");
        self.internal(POST, path, &good, &staff).await.expect(200);
        let refused = self.internal(POST, path, &good, &staff).await.expect(409);
        assert!(refused["checked_in_at"].is_string(), "{refused}");
        let staff = |request: RequestBuilder| request.bearer_auth(admin);
        let undone = self.internal(DELETE, path, &good, staff).await.expect(200);
        assert_eq!(undone["ticket"]["state"], "valid", "{undone}");
    }
}

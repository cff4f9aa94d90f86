//! The walk: the queue, from joining to the pass, and the lottery of a lobby.

use chrono::TimeDelta;
use domain::clock::{Clock as _, SystemClock};
use platform::testing::eventually;
use reqwest::RequestBuilder;
use serde_json::{Value, json};

use super::{Admitted, DELETE, GET, POST, PUT, Person, SOON, Walk, ids, text};

impl Walk {
    /// Joins and waits until it is called.
    pub(super) async fn enter(&self, event: i64, person: &Person) -> Admitted {
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

    pub(super) async fn queue(&self, event: i64) {
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
        let found = self.public(GET, path, &sale, join).await.expect(200);
        assert_eq!(found["number"], joined["number"]);
        let stranger = self.sign_up("outsider").await;
        let alone = |request: RequestBuilder| request.bearer_auth(&stranger.token);
        self.public(GET, path, &sale, alone).await.expect(404);
        let wrong = |request: RequestBuilder| join(request).header("onsale-queue-token", "x.y.z");
        self.public(GET, path, &sale, wrong).await.expect(401);
        let holder = |request: RequestBuilder| join(request).header("onsale-queue-token", &token);
        let early = async || self.public(GET, path, &sale, holder).await.status == 429;
        eventually(SOON, early).await;
        self.public(DELETE, path, &sale, holder).await.expect(204);
        // Until the next tick the place is still called and could be claimed.
        eventually(SOON, async || {
            self.public(GET, path, &sale, holder).await.body["state"] == "left"
        })
        .await;
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

    /// Runs a sale with a lobby up to the drawn lottery.
    pub(super) async fn lottery(&self, admin: &str) {
        let in_seconds = |seconds| SystemClock.now() + TimeDelta::seconds(seconds);
        let sale = json!({ "opens_at": in_seconds(3_600), "lobby_seconds": 7_200 });
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
        // However long all that took, the opening is ahead until now.
        let soon = json!({ "opens_at": in_seconds(1) });
        let open = |request: RequestBuilder| request.bearer_auth(admin).json(&soon);
        let opening = self.internal(PUT, "/api/sales/{event_id}", &sale, open);
        opening.await.expect(200);
        eventually(SOON, async || {
            self.public(GET, path, &sale, nobody).await.status == 200
        })
        .await;
        let path = "/api/events/{id}/queue";
        self.public(GET, path, &sale, nobody).await.expect(200);
    }
}

//! The walk: events and their sales.

use reqwest::RequestBuilder;
use serde_json::{Value, json};

use super::{DELETE, GET, POST, PUT, Walk, ids};

impl Walk {
    /// Creates an event and returns its id.
    pub(super) async fn event(&self, admin: &str, sale: Value) -> i64 {
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

    pub(super) async fn events(&self, admin: &str) {
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
        let path = "/api/events/{id}";
        let part = json!({ "name": "Another evening", "date": shown["date"], "capacity": 20 });
        let with = |request: RequestBuilder| request.bearer_auth(admin).json(&part);
        let refused = self.internal(PUT, path, &event, with).await;
        assert!(refused.expect(422)["missing"].is_array());
        let mut body = shown.clone();
        body["name"] = json!("Another evening");
        let with = |request: RequestBuilder| request.bearer_auth(admin).json(&body);
        self.internal(PUT, path, &event, with).await.expect(200);
        self.internal(PUT, path, &event, with).await.expect(409);
        body["name"] = json!("");
        let with = |request: RequestBuilder| request.bearer_auth(admin).json(&body);
        self.internal(PUT, path, &event, with).await.expect(422);
        let staff = |request: RequestBuilder| request.bearer_auth(admin);
        self.internal(DELETE, path, &event, staff).await.expect(200);
    }

    pub(super) async fn sales(&self, admin: &str, event: i64) {
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
        let misspelt = json!({ "pause": true });
        let with = |request: RequestBuilder| request.bearer_auth(admin).json(&misspelt);
        let refused = self.internal(PUT, path, &sale, with).await;
        assert_eq!(refused.expect(422)["field"], "pause");
        let nobody = |request: RequestBuilder| request;
        self.internal(GET, path, &sale, nobody).await.expect(401);
        let path = "/api/sales/{event_id}/stream";
        self.internal(GET, path, &sale, staff).await.expect(200);
        let path = "/api/events/{id}/queue/stream";
        self.public(GET, path, &sale, nobody).await.expect(200);
        let log = self.internal(GET, "/api/audit-log?subject=sale:1", &[], staff);
        log.await.expect(200);
    }
}

//! The walk: saved cards.

use reqwest::RequestBuilder;
use serde_json::{Value, json};

use super::{DELETE, GET, PUT, Person, Walk, ids, text};

const CARD: &str = "/api/bookings/{id}/card";

impl Walk {
    /// Has the card that pays this booking saved.
    pub(super) async fn save_card(&self, booking: &str, buyer: &Person) {
        let ids = ids(&[booking]);
        self.until("/api/bookings/{id}", &ids, &buyer.token, |answer| {
            answer["booking"]["payment"]["client_secret"].is_string()
        })
        .await;
        let say = |token: &str, choice: Value| {
            let token = token.to_owned();
            move |request: RequestBuilder| request.bearer_auth(token).json(&choice)
        };
        let both = say(&buyer.token, json!({ "save": true, "saved_card": "pm_1" }));
        self.public(PUT, CARD, &ids, both).await.expect(422);
        let unknown = say(&buyer.token, json!({ "saved_card": "pm_1" }));
        self.public(PUT, CARD, &ids, unknown).await.expect(404);
        let passer_by = self.sign_up("passer-by").await;
        let theirs = say(&passer_by.token, json!({ "save": true }));
        self.public(PUT, CARD, &ids, theirs).await.expect(403);
        let save = say(&buyer.token, json!({ "save": true }));
        self.public(PUT, CARD, &ids, save).await.expect(200);
    }

    /// Lists and removes the card saved with the paid booking.
    pub(super) async fn saved_cards(&self, paid: &Value, buyer: &Person) {
        let mine = |request: RequestBuilder| request.bearer_auth(&buyer.token);
        let path = "/api/saved-cards";
        let listed = self.public(GET, path, &[], mine).await.expect(200);
        let card = ids(&[text(&listed["saved_cards"][0]["id"])]);
        let nobody = |request: RequestBuilder| request;
        self.public(GET, path, &[], nobody).await.expect(401);
        let late = |request: RequestBuilder| mine(request).json(&json!({ "saved_card": card[0] }));
        let booking = ids(&[text(&paid["id"])]);
        self.public(PUT, CARD, &booking, late).await.expect(409);
        let path = "/api/saved-cards/{id}";
        self.public(DELETE, path, &card, mine).await.expect(204);
        self.public(DELETE, path, &card, mine).await.expect(404);
    }
}

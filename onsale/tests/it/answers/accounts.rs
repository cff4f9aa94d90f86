//! The walk: accounts, sessions and roles.

use reqwest::RequestBuilder;
use serde_json::{Value, json};
use sqlx::{Connection as _, PgConnection};

use super::{DELETE, GET, POST, PUT, Walk, ids};
use crate::system::PASSWORD;

impl Walk {
    /// Confirms an address, which is set to unconfirmed here, since the setting is off.
    async fn confirmations(&self) {
        let eve = self.sign_up("eve").await;
        let send = |body: Value| {
            let token = eve.token.clone();
            move |request: RequestBuilder| request.bearer_auth(token).json(&body)
        };
        let path = "/api/accounts/confirmations";
        let code = || json!({ "code": "none" });
        self.public(POST, path, &[], send(code())).await.expect(200);
        let mut db = PgConnection::connect(&self.database)
            .await
            .expect("a database");
        sqlx::query("update box_office.accounts set email_confirmed_at = null where id = $1")
            .bind(eve.account)
            .execute(&mut db)
            .await
            .expect("an account");
        self.public(POST, path, &[], send(code())).await.expect(409);
        let codes = "/api/accounts/confirmations/codes";
        let another = || send(json!({}));
        self.public(POST, codes, &[], another()).await.expect(202);
        self.public(POST, codes, &[], another()).await.expect(429);
        self.public(POST, path, &[], send(code())).await.expect(422);
        let fax = json!({ "channel": "fax", "code": "none" });
        self.public(POST, path, &[], send(fax)).await.expect(400);
    }

    pub(super) async fn accounts(&self, admin: &str) {
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

        self.confirmations().await;
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
}

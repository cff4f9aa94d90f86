//! The walk: a mail that did not arrive is sent again.

use platform::testing::eventually;
use reqwest::RequestBuilder;
use serde_json::Value;
use uuid::Uuid;

use super::{GET, POST, SOON, Walk, ids, text};

impl Walk {
    /// Fails one mail for good.
    pub(super) async fn mails(&self, admin: &str) {
        let staff = |request: RequestBuilder| request.bearer_auth(admin);
        let failed = |request: RequestBuilder| {
            let request = request.bearer_auth(admin);
            request.query(&[("state", "failed")])
        };
        let mut mail = Value::Null;
        eventually(SOON, async || {
            let listed = self.internal(GET, "/api/mails", &[], failed).await;
            mail = listed.expect(200)["mails"][0].clone();
            mail.is_object()
        })
        .await;
        let path = "/api/mails/{id}/again";
        let id = ids(&[text(&mail["id"])]);
        self.internal(POST, path, &id, staff).await.expect(202);
        self.internal(POST, path, &id, staff).await.expect(409);
        let unknown = ids(&[Uuid::nil()]);
        self.internal(POST, path, &unknown, staff).await.expect(404);
    }
}

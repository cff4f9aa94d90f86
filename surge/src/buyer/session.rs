//! A session on one device: an access token that is refreshed when it has expired.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::api::{Api, ApiError, Credentials, text};
use super::funnel::Funnel;

/// A buyer's session on one device. Clones share it.
#[derive(Debug, Clone)]
pub struct Session {
    account_id: i64,
    tokens: Arc<Mutex<Tokens>>,
}

#[derive(Debug)]
struct Tokens {
    access: String,
    refresh: String,
    /// Idempotency key of the next refresh, shared by its retries.
    renewal: String,
}

impl Tokens {
    fn of(session: &Value) -> Self {
        Self {
            access: text(session, "access_token").to_owned(),
            refresh: text(session, "refresh_token").to_owned(),
            renewal: Uuid::new_v4().to_string(),
        }
    }
}

impl Session {
    /// Parses the session in the JSON of a response to a sign-up or sign-in.
    #[must_use]
    pub fn of(answer: &Value) -> Self {
        let session = &answer["session"];
        Self {
            account_id: session["account_id"].as_i64().unwrap_or_default(),
            tokens: Arc::new(Mutex::new(Tokens::of(session))),
        }
    }

    /// The account that is signed in.
    #[must_use]
    pub fn account_id(&self) -> i64 {
        self.account_id
    }

    /// Sends a request as this account, and repeats it with a refreshed session when the access
    /// token has expired.
    pub(super) async fn call(
        &self,
        api: &Api,
        method: Method,
        url: &url::Url,
        credentials: Credentials<'_>,
        body: Option<&Value>,
        funnel: &Funnel,
    ) -> Result<Value, ApiError> {
        let access = self.tokens.lock().await.access.clone();
        let signed = Credentials {
            access: Some(&access),
            ..credentials
        };
        match api.call(method.clone(), url, signed, body, funnel).await {
            Err(error) if error.kind() == "signed-out" => {
                let access = self.renew(api, &access, funnel).await?;
                let signed = Credentials {
                    access: Some(&access),
                    ..credentials
                };
                api.call(method, url, signed, body, funnel).await
            }
            outcome => outcome,
        }
    }

    /// Returns the access token that replaces `stale`. Concurrent callers share one refresh.
    async fn renew(&self, api: &Api, stale: &str, funnel: &Funnel) -> Result<String, ApiError> {
        let mut tokens = self.tokens.lock().await;
        if tokens.access == stale {
            let body = json!({ "refresh_token": tokens.refresh });
            let credentials = Credentials {
                idempotency_key: Some(&tokens.renewal),
                ..Credentials::default()
            };
            let url = api.box_office("/api/sessions/refresh");
            let answer = api
                .call(Method::POST, &url, credentials, Some(&body), funnel)
                .await?;
            *tokens = Tokens::of(&answer["session"]);
        }
        Ok(tokens.access.clone())
    }
}

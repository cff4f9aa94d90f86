//! The session of one device: an access token that is renewed when it has run out.

use std::sync::Arc;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::api::{Api, ApiError, Credentials, text};
use super::funnel::Funnel;

/// A buyer's session on one device. Clones are the same session.
#[derive(Debug, Clone)]
pub struct Session {
    account_id: i64,
    tokens: Arc<Mutex<Tokens>>,
}

#[derive(Debug)]
struct Tokens {
    access: String,
    refresh: String,
    /// The idempotency key of the next renewal, however often it is asked for.
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
    /// The session in the answer to a sign-up or sign-in.
    pub(super) fn of(answer: &Value) -> Self {
        let session = &answer["session"];
        Self {
            account_id: session["account_id"].as_i64().unwrap_or_default(),
            tokens: Arc::new(Mutex::new(Tokens::of(session))),
        }
    }

    /// Whose session it is.
    #[must_use]
    pub fn account_id(&self) -> i64 {
        self.account_id
    }

    /// Makes a call as this account, and repeats it with a renewed session when the access token
    /// has run out.
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

    /// The access token in place of `stale`: a renewed one, unless that has happened meanwhile.
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

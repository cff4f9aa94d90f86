//! The staff API on the internal listener.

use anyhow::{Context as _, ensure};
use reqwest::{Client, Method};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use url::Url;

/// A signed-in administrator.
pub(in crate::commands) struct Staff {
    http: Client,
    internal: Url,
    access_token: String,
}

impl Staff {
    pub(in crate::commands) async fn sign_in(
        http: Client,
        internal: Url,
        email: &str,
        password: &SecretString,
    ) -> anyhow::Result<Self> {
        let mut staff = Self {
            http,
            internal,
            access_token: String::new(),
        };
        let body = json!({ "email": email, "password": password.expose_secret() });
        let answer = staff.call(Method::POST, "/api/sessions", &body).await?;
        let token = answer["session"]["access_token"].as_str();
        token
            .context("the answer has no access token")?
            .clone_into(&mut staff.access_token);
        Ok(staff)
    }

    pub(in crate::commands) async fn call(
        &self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> anyhow::Result<Value> {
        let mut request = self.http.request(method, self.internal.join(path)?);
        if !self.access_token.is_empty() {
            request = request.bearer_auth(&self.access_token);
        }
        let response = request.json(body).send().await?;
        let status = response.status();
        let text = response.text().await?;
        ensure!(status.is_success(), "{path} answered {status}: {text}");
        Ok(serde_json::from_str(&text)?)
    }
}

//! Authentication: the account by its secret key, a buyer by the publishable one.

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;

use super::errors::Refusal;
use super::form::Form;
use super::operation::Operation;

/// API keys of a stand-in.
#[derive(Clone)]
pub(crate) struct Keys {
    pub(crate) secret: String,
    pub(crate) publishable: String,
}

/// Authenticated caller.
#[derive(Clone)]
pub(crate) enum Caller {
    /// Holder of the secret key.
    Account,
    /// Holder of the publishable key, who must know the PaymentIntent's client secret.
    Buyer { client_secret: String },
}

impl Keys {
    pub(crate) fn caller(
        &self,
        headers: &HeaderMap,
        form: &Form,
        operation: Operation,
    ) -> Result<Caller, Refusal> {
        let key = presented(headers, form).ok_or_else(Refusal::no_key)?;
        if key == self.secret {
            return Ok(Caller::Account);
        }
        if key != self.publishable {
            return Err(Refusal::bad_key(&key));
        }
        if !operation.is_open_to_buyers() {
            return Err(Refusal::secret_key_required());
        }
        let client_secret = form.required("client_secret")?.to_owned();
        Ok(Caller::Buyer { client_secret })
    }

    /// Returns whether the request carries the secret key.
    pub(crate) fn is_account(&self, headers: &HeaderMap) -> bool {
        from_header(headers).is_some_and(|key| key == self.secret)
    }
}

fn presented(headers: &HeaderMap, form: &Form) -> Option<String> {
    from_header(headers).or_else(|| form.get("key").map(str::to_owned))
}

fn from_header(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    if let Some(key) = value.strip_prefix("Bearer ") {
        return Some(key.trim().to_owned());
    }
    let credentials = BASE64_STANDARD
        .decode(value.strip_prefix("Basic ")?.trim())
        .ok()?;
    let credentials = String::from_utf8(credentials).ok()?;
    Some(credentials.split(':').next()?.to_owned())
}

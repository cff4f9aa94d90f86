//! Offline verification of passes with the published keys, as a guarded site does.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, Utc};
use domain::EventId;
use domain::token::{LotteryClaims, PassClaims, sale_audience};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use serde::Deserialize;
use serde_json::Value;

use super::{Claims, TokenError, check, key_id, refusal, signature_only};

/// Most keys that are considered: a set has one, or two during a rotation.
const MAX_KEYS: usize = 16;
const PUBLIC_KEY_BYTES: usize = 32;

/// Failure to use a JWK set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum JwksError {
    /// Not a JWK set.
    #[error("it is no JWK set")]
    Malformed,
    /// None of its keys can verify a pass.
    #[error("it has no Ed25519 key for signatures")]
    NoKey,
}

/// The public keys of a JWK set that verify passes.
#[derive(Clone)]
pub struct PublishedKeys {
    pub(super) keys: Vec<(String, DecodingKey)>,
    eddsa: Validation,
}

#[derive(Deserialize)]
struct Set {
    keys: Vec<Value>,
}

#[derive(Deserialize)]
struct Jwk {
    kty: String,
    crv: String,
    x: String,
    kid: String,
    alg: Option<String>,
    #[serde(rename = "use")]
    purpose: Option<String>,
}

impl Jwk {
    /// The key, when it is one for passes. A set may hold others, which are passed over (RFC 7517).
    fn pass_key(self) -> Option<(String, DecodingKey)> {
        let is_ours = self.kty == "OKP"
            && self.crv == "Ed25519"
            && matches!(self.alg.as_deref(), None | Some("EdDSA" | "Ed25519"))
            && matches!(self.purpose.as_deref(), None | Some("sig"));
        let bytes = URL_SAFE_NO_PAD.decode(&self.x).ok()?;
        (is_ours && bytes.len() == PUBLIC_KEY_BYTES)
            .then(|| (self.kid, DecodingKey::from_ed_der(&bytes)))
    }
}

impl PublishedKeys {
    /// Reads a JWK set.
    ///
    /// # Errors
    /// When it is none, or has no key for passes.
    pub fn parse(json: &[u8]) -> Result<Self, JwksError> {
        let set: Set = serde_json::from_slice(json).map_err(|_| JwksError::Malformed)?;
        let keys: Vec<_> = set
            .keys
            .into_iter()
            .filter_map(|key| serde_json::from_value::<Jwk>(key).ok()?.pass_key())
            .take(MAX_KEYS)
            .collect();
        if keys.is_empty() {
            return Err(JwksError::NoKey);
        }
        let eddsa = signature_only(Algorithm::EdDSA);
        Ok(Self { keys, eddsa })
    }

    /// Verifies a pass of `event_id`'s sale at `now` and returns its claims. Revocation is not
    /// known here.
    ///
    /// # Errors
    /// The reason of its refusal; `UnknownKey` also when the keys have rotated since they were
    /// read.
    pub fn verify_pass(
        &self,
        token: &str,
        event_id: EventId,
        now: DateTime<Utc>,
    ) -> Result<PassClaims, TokenError> {
        let claims: PassClaims = self.signed(token)?;
        check(&claims, &sale_audience(event_id), now.timestamp())?;
        Ok(claims)
    }

    /// Verifies the result of a draw and returns its claims, which name the sale.
    ///
    /// # Errors
    /// The reason of its refusal.
    pub fn verify_lottery(&self, token: &str) -> Result<LotteryClaims, TokenError> {
        let claims: LotteryClaims = self.signed(token)?;
        check(&claims, &claims.aud, claims.iat)?;
        Ok(claims)
    }

    fn signed<C: Claims>(&self, token: &str) -> Result<C, TokenError> {
        let id = key_id(C::TYPE, token)?;
        let (_, key) = self
            .keys
            .iter()
            .find(|(known, _)| *known == id)
            .ok_or(TokenError::UnknownKey)?;
        jsonwebtoken::decode(token, key, &self.eddsa)
            .map(|decoded| decoded.claims)
            .map_err(|error| refusal(&error))
    }
}

impl std::fmt::Debug for PublishedKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PublishedKeys")
            .field("keys", &self.keys.len())
            .finish_non_exhaustive()
    }
}

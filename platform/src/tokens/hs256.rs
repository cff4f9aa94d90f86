//! HS256 as every poll needs it: the key's schedule and the header are made once, and a header is
//! compared instead of parsed.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, Mac};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sha2::Sha256;

use super::TokenError;

/// Bytes of a signature in base64url.
const SIGNATURE_CHARS: usize = 43;

/// A key and the only header that comes with it.
pub(super) struct Hs256 {
    /// The header in base64url, with the dot that ends it.
    header: String,
    mac: Hmac<Sha256>,
}

impl Hs256 {
    /// The key `key`, of tokens whose `typ` is `typ` and whose `kid` is `id`.
    pub(super) fn new(key: &[u8], typ: &str, id: &str) -> Self {
        let header = format!(r#"{{"typ":"{typ}","alg":"HS256","kid":"{id}"}}"#);
        Self {
            header: format!("{}.", URL_SAFE_NO_PAD.encode(header)),
            mac: Hmac::new_from_slice(key).expect("HMAC takes a key of any length"),
        }
    }

    pub(super) fn sign(&self, claims: &impl Serialize) -> String {
        let claims = serde_json::to_vec(claims).expect("claims are plain JSON");
        let mut token =
            String::with_capacity(self.header.len() + claims.len() * 4 / 3 + 3 + SIGNATURE_CHARS);
        token.push_str(&self.header);
        URL_SAFE_NO_PAD.encode_string(&claims, &mut token);
        let signature = self.mac_of(&token).finalize().into_bytes();
        token.push('.');
        URL_SAFE_NO_PAD.encode_string(signature, &mut token);
        token
    }

    /// The claims of `token`; `None` when its header is written in another way, which says
    /// nothing about whether the token is good.
    pub(super) fn verify<C: DeserializeOwned>(&self, token: &str) -> Option<Result<C, TokenError>> {
        let claims_and_signature = token.strip_prefix(&self.header)?;
        let (claims, signature) = claims_and_signature.split_once('.')?;
        let signed = &token[..self.header.len() + claims.len()];
        Some(self.check(signed, signature).and_then(|()| read(claims)))
    }

    fn check(&self, signed: &str, signature: &str) -> Result<(), TokenError> {
        let mut bytes = [0; 33];
        let length = URL_SAFE_NO_PAD
            .decode_slice(signature, &mut bytes)
            .map_err(|_| TokenError::BadSignature)?;
        // Compares in constant time.
        self.mac_of(signed)
            .verify_slice(&bytes[..length])
            .map_err(|_| TokenError::BadSignature)
    }

    fn mac_of(&self, signed: &str) -> Hmac<Sha256> {
        let mut mac = self.mac.clone();
        mac.update(signed.as_bytes());
        mac
    }
}

fn read<C: DeserializeOwned>(claims: &str) -> Result<C, TokenError> {
    let claims = URL_SAFE_NO_PAD
        .decode(claims)
        .map_err(|_| TokenError::Malformed)?;
    serde_json::from_slice(&claims).map_err(|_| TokenError::Malformed)
}

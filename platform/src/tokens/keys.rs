//! The keys derived from one secret.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::pkcs8::EncodePrivateKey;
use hkdf::Hkdf;
use jsonwebtoken::{DecodingKey, EncodingKey};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::hs256::Hs256;
use super::{MIN_SECRET_CHARS, SecretError, TokenType};

/// Domain separation from other keys derived from the same secret.
const SALT: &[u8] = b"onsale/1";

/// The key of one type of token.
pub(super) struct SigningKey {
    pub(super) id: String,
    pub(super) encoding: EncodingKey,
    pub(super) decoding: DecodingKey,
    /// The same key for the fast path, when the algorithm is HS256.
    pub(super) hs256: Option<Hs256>,
}

/// The keys of one secret.
pub(super) struct SecretKeys {
    root: Hkdf<Sha256>,
    access: SigningKey,
    queue: SigningKey,
    visitor: SigningKey,
    pass: SigningKey,
    /// The key pair of `pass`, for what is no JWT.
    pass_pair: ed25519_dalek::SigningKey,
    /// The public half of `pass`, base64url.
    pass_public: String,
}

impl SecretKeys {
    pub(super) fn derive(secret: &SecretString) -> Result<Self, SecretError> {
        // A blank after the comma of a list is none of the secret.
        let secret = secret.expose_secret().trim();
        if secret.chars().count() < MIN_SECRET_CHARS {
            return Err(SecretError::TooShort);
        }
        let root = Hkdf::new(Some(SALT), secret.as_bytes());
        let pass_pair = ed25519_dalek::SigningKey::from_bytes(&expand(&root, "pass"));
        let (pass, pass_public) = ed25519(&pass_pair);
        Ok(Self {
            access: hs256(&root, "access", TokenType::Access),
            queue: hs256(&root, "queue", TokenType::Queue),
            visitor: hs256(&root, "visitor", TokenType::Visitor),
            pass,
            pass_pair,
            pass_public,
            root,
        })
    }

    pub(super) fn key_of(&self, token_type: TokenType) -> &SigningKey {
        match token_type {
            TokenType::Access => &self.access,
            TokenType::Queue => &self.queue,
            TokenType::Visitor => &self.visitor,
            TokenType::Pass | TokenType::Lottery => &self.pass,
        }
    }

    /// The key pair that signs passes.
    pub(super) fn pass_pair(&self) -> &ed25519_dalek::SigningKey {
        &self.pass_pair
    }

    pub(super) fn expand(&self, label: &str) -> [u8; 32] {
        expand(&self.root, label)
    }

    pub(super) fn pass_jwk(&self) -> Value {
        json!({
            "kty": "OKP",
            "crv": "Ed25519",
            "x": self.pass_public,
            "kid": self.pass.id,
            "alg": "EdDSA",
            "use": "sig",
        })
    }
}

fn expand(root: &Hkdf<Sha256>, label: &str) -> [u8; 32] {
    let mut key = [0; 32];
    root.expand(label.as_bytes(), &mut key)
        .expect("32 bytes are far below HKDF's maximum");
    key
}

fn hs256(root: &Hkdf<Sha256>, label: &str, token_type: TokenType) -> SigningKey {
    let key = expand(root, label);
    let id = expand(root, &format!("{label}:key-id"));
    let id = URL_SAFE_NO_PAD.encode(&id[..9]);
    SigningKey {
        hs256: Some(Hs256::new(&key, token_type.typ(), &id)),
        id,
        encoding: EncodingKey::from_secret(&key),
        decoding: DecodingKey::from_secret(&key),
    }
}

/// A key pair as jsonwebtoken takes it, and its public half in base64url.
fn ed25519(pair: &ed25519_dalek::SigningKey) -> (SigningKey, String) {
    let public = pair.verifying_key();
    let document = pair
        .to_pkcs8_der()
        .expect("an Ed25519 key has a PKCS #8 form");
    let x = URL_SAFE_NO_PAD.encode(public.as_bytes());
    let key = SigningKey {
        id: thumbprint(&x),
        encoding: EncodingKey::from_ed_der(document.as_bytes()),
        decoding: DecodingKey::from_ed_der(public.as_bytes()),
        hs256: None,
    };
    (key, x)
}

/// RFC 7638: the hash of the required members in lexical order, without spaces.
fn thumbprint(x: &str) -> String {
    let canonical = format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#);
    URL_SAFE_NO_PAD.encode(Sha256::digest(canonical))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_thumbprint_is_that_of_rfc_8037() {
        assert_eq!(
            thumbprint("11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"),
            "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"
        );
    }

    #[test]
    fn every_use_has_its_own_key() {
        let secret = SecretString::from("0123456789abcdef0123456789abcdef");
        let keys = SecretKeys::derive(&secret).unwrap();
        let labels = ["access", "queue", "pass", "use:access", "use:refresh"];
        for (at, label) in labels.iter().enumerate() {
            for other in &labels[at + 1..] {
                assert_ne!(keys.expand(label), keys.expand(other));
            }
        }
    }
}

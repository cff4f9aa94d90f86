//! Sessions with refresh token rotation and reuse detection: an access token valid for 15 minutes
//! and a refresh token that each refresh replaces. A token replaced within the last minute returns
//! the newest again, for another tab or a lost response; an older one ends the session.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use domain::AccountId;
use domain::account::Role;
use domain::token::{ACCESS_AUDIENCE, AccessClaims, ISSUER};
use hmac::{Hmac, Mac as _};
use platform::tokens::KeyRing;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// Validity of an access token.
const ACCESS_LIFE: TimeDelta = TimeDelta::minutes(15);
/// Validity of a session after its last refresh.
pub(crate) const REFRESH_LIFE: TimeDelta = TimeDelta::days(30);
/// Time during which a replaced refresh token returns its replacement.
pub(super) const REPEAT_LIFE: TimeDelta = TimeDelta::seconds(60);

/// The facts a pair of tokens is derived from with the service's key. It holds no secret, so it can
/// be stored to replay the response of a repeated request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Grant {
    /// Random (v4), as it is part of a credential.
    pub(crate) session_id: Uuid,
    /// Number of the refresh token within the session, from 1.
    pub(crate) generation: i32,
    pub(crate) account_id: AccountId,
    /// Time of issue.
    pub(crate) at: DateTime<Utc>,
}

impl Grant {
    /// The first grant of a new session.
    pub(crate) fn first(account_id: AccountId, at: DateTime<Utc>) -> Self {
        Self {
            session_id: Uuid::new_v4(),
            generation: 1,
            account_id,
            at,
        }
    }

    /// Derives the refresh token: the session id and an HMAC of id and generation.
    pub(crate) fn refresh_token(&self, keys: &KeyRing) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&keys.derive("refresh-token"))
            .expect("HMAC takes keys of any length");
        mac.update(self.session_id.as_bytes());
        mac.update(&self.generation.to_be_bytes());
        let secret = URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes());
        format!("{}.{secret}", self.session_id.simple())
    }

    /// Derives the tokens as they are returned at `now`; a replay has a shorter `expires_in`.
    pub(crate) fn session(&self, keys: &KeyRing, roles: &[Role], now: DateTime<Utc>) -> Session {
        let expires_at = self.at + ACCESS_LIFE;
        let claims = AccessClaims {
            iss: ISSUER.to_owned(),
            aud: ACCESS_AUDIENCE.to_owned(),
            sub: self.account_id.to_string(),
            roles: roles.to_vec(),
            iat: self.at.timestamp(),
            nbf: self.at.timestamp(),
            exp: expires_at.timestamp(),
        };
        Session {
            access_token: keys.sign_access(&claims),
            refresh_token: self.refresh_token(keys),
            expires_in: (expires_at - now).num_seconds().max(0),
            account_id: self.account_id,
        }
    }
}

/// SHA-256 of a refresh token, the form in which it is stored.
pub(crate) fn hash_of(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// Parses the session id out of a refresh token. The id appears nowhere else, so its bearer has
/// held one of the session's tokens.
pub(crate) fn session_of(token: &str) -> Option<Uuid> {
    let (id, _) = token.split_once('.')?;
    Uuid::try_parse(id).ok()
}

/// Tokens as they are returned to the caller.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Session {
    access_token: String,
    refresh_token: String,
    /// Seconds until the access token expires.
    expires_in: i64,
    account_id: AccountId,
}

/// `{"session": …}`.
#[derive(Debug, Serialize)]
pub(crate) struct SessionResponse {
    pub(crate) session: Session,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> KeyRing {
        KeyRing::new(&["0123456789abcdef0123456789abcdef".into()]).unwrap()
    }

    #[test]
    fn each_generation_has_its_own_token_of_the_same_session() {
        let at = DateTime::from_timestamp(1_800_000_000, 0).unwrap();
        let first = Grant::first(AccountId(7), at);
        let second = Grant {
            generation: 2,
            ..first
        };
        let (one, two) = (first.refresh_token(&keys()), second.refresh_token(&keys()));
        assert_ne!(one, two);
        assert_eq!(one, first.refresh_token(&keys()));
        assert_eq!(session_of(&one), Some(first.session_id));
        assert_eq!(session_of(&two), Some(first.session_id));
    }

    #[test]
    fn other_text_belongs_to_no_session() {
        for token in ["", ".", "x.y", "00000000"] {
            assert_eq!(session_of(token), None);
        }
    }
}

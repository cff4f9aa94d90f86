//! A session: who stays signed in. It has an access token of 15 minutes and a refresh token that
//! each refresh replaces. A token that was just replaced returns the newest again, for another tab
//! or a lost answer; one that was replaced longer ago was copied, and ends the session.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{DateTime, TimeDelta, Utc};
use domain::AccountId;
use domain::account::Role;
use domain::token::{ACCESS_AUDIENCE, AccessClaims, ISSUER};
use hmac::{Hmac, Mac as _};
use platform::problem::{Kind, Problem};
use platform::service::Context;
use platform::tokens::KeyRing;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{attempts, store};
use crate::office::Office;
use crate::write::Done;

/// How long an access token is good.
const ACCESS_LIFE: TimeDelta = TimeDelta::minutes(15);
/// How long a session lasts without a refresh.
pub(crate) const REFRESH_LIFE: TimeDelta = TimeDelta::days(30);
/// How long a refresh token returns the one that replaced it.
pub(super) const REPEAT_LIFE: TimeDelta = TimeDelta::seconds(60);
/// How often ended sessions are deleted.
const SWEEP_EVERY: Duration = Duration::from_secs(600);

/// One hand-out of tokens. It holds no secret, but with the service's key the tokens can be made
/// again from it: this is what is kept to answer a repeated request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Grant {
    /// Random.
    pub(crate) session_id: Uuid,
    /// Which refresh token of the session, from 1.
    pub(crate) generation: i32,
    /// Who signed in.
    pub(crate) account_id: AccountId,
    /// When.
    pub(crate) at: DateTime<Utc>,
}

impl Grant {
    /// The first of a new session.
    pub(crate) fn first(account_id: AccountId, at: DateTime<Utc>) -> Self {
        Self {
            session_id: Uuid::new_v4(),
            generation: 1,
            account_id,
            at,
        }
    }

    /// The refresh token. Nobody without the service's key can tell it from random.
    pub(crate) fn refresh_token(&self, keys: &KeyRing) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&keys.derive("refresh-token"))
            .expect("HMAC takes keys of any length");
        mac.update(self.session_id.as_bytes());
        mac.update(&self.generation.to_be_bytes());
        let secret = URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes());
        format!("{}.{secret}", self.session_id.simple())
    }

    /// What the caller gets at `now`.
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

/// What is stored of a refresh token.
pub(crate) fn hash_of(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}

/// The session that a refresh token belongs to. The id is seen nowhere else, so whoever shows it
/// has held one of the session's tokens.
pub(crate) fn session_of(token: &str) -> Option<Uuid> {
    let (id, _) = token.split_once('.')?;
    Uuid::try_parse(id).ok()
}

/// The tokens as they are answered.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Session {
    access_token: String,
    refresh_token: String,
    /// Seconds until the access token ends.
    expires_in: i64,
    account_id: AccountId,
}

/// `{"session": …}`.
#[derive(Debug, Serialize)]
pub(crate) struct SessionAnswer {
    pub(crate) session: Session,
}

/// The outcome of a request that began or renewed a session. A repeat returns the first outcome
/// only while its refresh token is the newest: using an older one would end the session.
///
/// # Errors
/// `signed-out`.
pub(crate) async fn unless_moved_on<T>(
    office: &Office,
    done: Done<(Grant, T)>,
) -> Result<(Done<Grant>, T), Problem> {
    let (done, rest) = done.split();
    if done.is_replay() {
        let grant = done.value;
        let token = grant.refresh_token(&office.ctx.keys);
        let now = office.ctx.clock.now();
        if !store::is_newest(&office.ctx.db, grant.session_id, &hash_of(&token), now).await? {
            let detail = "The session that this request began has gone on or ended. Sign in again.";
            return Err(Problem::new(Kind::SignedOut, detail));
        }
    }
    Ok((done, rest))
}

/// Deletes sessions that ended, until soft shutdown.
///
/// # Errors
/// Never: a failure is logged, and repeated at the next turn.
pub(crate) async fn sweep(ctx: Context) -> anyhow::Result<()> {
    loop {
        match store::delete_ended_sessions(&ctx.db, ctx.clock.now()).await {
            Ok(0) => {}
            Ok(sessions) => tracing::info!(sessions, "deleted sessions that ended"),
            Err(error) => tracing::warn!(%error, "could not delete sessions that ended"),
        }
        if let Err(error) = attempts::sweep(&ctx.db, ctx.clock.now()).await {
            tracing::warn!(%error, "could not delete old sign-in attempts");
        }
        let pause = tokio::time::sleep(SWEEP_EVERY);
        if ctx
            .shutdown
            .soft()
            .run_until_cancelled(pause)
            .await
            .is_none()
        {
            return Ok(());
        }
    }
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

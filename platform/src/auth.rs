//! Authentication of callers and authorisation by role.

use std::collections::HashSet;

use axum::extract::{FromRequestParts, OptionalFromRequestParts, RawPathParams};
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use chrono::{DateTime, Utc};
use domain::account::Role;
use domain::token;
use domain::{AccountId, EventId, Number};
use sqlx::PgPool;

use crate::http::HttpState;
use crate::problem::{Kind, Problem};
use crate::tokens::{KeyRing, TokenError};

/// Request header of the queue token.
pub const QUEUE_TOKEN: &str = "onsale-queue-token";

/// The signed-in account, from `Authorization: Bearer …`. As an extractor it refuses callers
/// without a valid access token; `Option<Caller>` refuses only tokens that are not valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The account.
    pub account_id: AccountId,
    /// The account's roles.
    pub roles: Vec<Role>,
}

impl Caller {
    /// Returns whether the caller may act as `role`; an admin may act as any.
    #[must_use]
    pub fn has(&self, role: Role) -> bool {
        self.roles
            .iter()
            .any(|&own| own == role || own == Role::Admin)
    }

    /// Refuses a caller without any of `roles`.
    ///
    /// # Errors
    /// `forbidden`.
    pub fn require_any(&self, roles: &[Role]) -> Result<(), Problem> {
        if roles.iter().any(|&role| self.has(role)) {
            return Ok(());
        }
        let names: Vec<_> = roles.iter().map(|role| role.as_str()).collect();
        Err(Problem::new(
            Kind::Forbidden,
            format!("This needs the role {}.", names.join(" or ")),
        ))
    }

    /// Refuses a member of staff without access to an event. An organiser has access to the events
    /// they created; a role of `everywhere`, and an admin, to any, whether or not it exists.
    ///
    /// # Errors
    /// `forbidden` without such a role; `not-found` when an organiser has no such event.
    pub async fn require_event(
        &self,
        db: &PgPool,
        event_id: EventId,
        everywhere: &[Role],
    ) -> Result<(), Problem> {
        let reached = self.reachable_events(db, &[event_id], everywhere).await?;
        if reached.contains(&event_id) {
            return Ok(());
        }
        Err(Problem::new(
            Kind::NotFound,
            "There is no event with this id.",
        ))
    }

    /// Returns those of `event_ids` that [`Self::require_event`] accepts.
    ///
    /// # Errors
    /// `forbidden` without a role that reaches any.
    pub async fn reachable_events(
        &self,
        db: &PgPool,
        event_ids: &[EventId],
        everywhere: &[Role],
    ) -> Result<HashSet<EventId>, Problem> {
        let roles: Vec<Role> = everywhere
            .iter()
            .copied()
            .chain([Role::Organiser])
            .collect();
        self.require_any(&roles)?;
        if everywhere
            .iter()
            .chain(&[Role::Admin])
            .any(|&role| self.has(role))
        {
            return Ok(event_ids.iter().copied().collect());
        }
        let ids: Vec<i64> = event_ids.iter().map(|id| id.0).collect();
        let reached = sqlx::query_scalar!(
            r#"select event_id as "event_id!" from box_office.public_event_owners
               where event_id = any($1) and account_id = $2"#,
            &ids,
            self.account_id.0,
        )
        .fetch_all(db)
        .await?;
        Ok(reached.into_iter().map(EventId).collect())
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        identify(parts)?.ok_or_else(signed_out)
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Problem> {
        identify(parts)
    }
}

/// Returns the caller, if the request carries an access token. A token that a limit has verified is
/// not verified again.
pub(crate) fn identify(parts: &mut Parts) -> Result<Option<Caller>, Problem> {
    if let Some(caller) = parts.extensions.get::<Caller>() {
        return Ok(Some(caller.clone()));
    }
    let Some(token) = token(&parts.headers)? else {
        return Ok(None);
    };
    let caller = verify(HttpState::of(parts)?, token).map_err(refused)?;
    parts.extensions.insert(caller.clone());
    Ok(Some(caller))
}

/// Returns the anonymous visitor (a negative id) whose token the request carries, if it is of the
/// sale in the path.
pub(crate) fn identify_visitor(parts: &Parts) -> Option<AccountId> {
    let rest = parts.uri.path().strip_prefix("/api/events/")?;
    let event_id = rest.split('/').next()?.parse().ok().map(EventId)?;
    let shared = HttpState::of(parts).ok()?;
    let token = token(&parts.headers).ok()??;
    visitor(&shared.keys, event_id, token, shared.clock.now()).ok()
}

/// A joiner of a queue: an account, or an anonymous visitor with the token that the queue issued.
/// As an extractor of a route with the sale as path parameter `id` it refuses callers who are
/// neither; `Option<Joiner>` refuses only tokens that are not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Joiner {
    /// The account; negative for a visitor.
    pub id: AccountId,
}

impl Joiner {
    /// Returns the sender of `headers` to the queue of `event_id`'s sale; `None` without a token.
    ///
    /// # Errors
    /// `signed-out` when the token is not valid.
    pub fn of(
        keys: &KeyRing,
        event_id: EventId,
        headers: &HeaderMap,
        now: DateTime<Utc>,
    ) -> Result<Option<Self>, Problem> {
        let Some(token) = token(headers)? else {
            return Ok(None);
        };
        let id = match account(keys, token, now) {
            Err(TokenError::WrongType) => visitor(keys, event_id, token, now),
            outcome => outcome,
        };
        Ok(Some(Self {
            id: id.map_err(refused)?,
        }))
    }

    /// Returns the number in the queue token of `headers`, which must be this joiner's own for
    /// `event_id`'s sale: a leaked token is useless to anybody else.
    ///
    /// # Errors
    /// `queue-token-required` without a token, `queue-token-invalid` for another one.
    pub fn number(
        self,
        keys: &KeyRing,
        event_id: EventId,
        headers: &HeaderMap,
        now: DateTime<Utc>,
    ) -> Result<Number, Problem> {
        let invalid = |detail: String| Problem::new(Kind::QueueTokenInvalid, detail);
        let token = headers.get(QUEUE_TOKEN).ok_or_else(|| {
            Problem::new(
                Kind::QueueTokenRequired,
                "Join the queue, and send its token as Onsale-Queue-Token.",
            )
        })?;
        let token = token
            .to_str()
            .map_err(|_| invalid("The queue token can't be read.".to_owned()))?;
        let claims = keys
            .verify_queue(token, event_id, now)
            .map_err(|error| invalid(format!("Join the queue again: {error}.")))?;
        if token::subject(&claims.sub) != Some(self.id) {
            let detail = "The queue token belongs to another account.";
            return Err(invalid(detail.to_owned()));
        }
        Ok(claims.number)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Joiner {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let joiner = <Self as OptionalFromRequestParts<S>>::from_request_parts(parts, state);
        joiner.await?.ok_or_else(signed_out)
    }
}

impl<S: Send + Sync> OptionalFromRequestParts<S> for Joiner {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Option<Self>, Problem> {
        let params = RawPathParams::from_request_parts(parts, state).await;
        let event_id = params
            .ok()
            .and_then(|params| {
                let mut ids = params.iter().filter(|(name, _)| *name == "id");
                ids.next().and_then(|(_, id)| id.parse().ok())
            })
            .ok_or_else(|| Problem::new(Kind::NotFound, "There is no such sale."))?;
        // Verified before, by a limit.
        if let Some(caller) = parts.extensions.get::<Caller>() {
            let id = caller.account_id;
            return Ok(Some(Self { id }));
        }
        let shared = HttpState::of(parts)?;
        Self::of(&shared.keys, event_id, &parts.headers, shared.clock.now())
    }
}

/// The rejection of a request without a token.
#[must_use]
pub fn signed_out() -> Problem {
    Problem::new(
        Kind::SignedOut,
        "Sign in, and send the access token as `Authorization: Bearer …`.",
    )
}

fn refused(error: TokenError) -> Problem {
    Problem::new(Kind::SignedOut, format!("Sign in again: {error}."))
}

fn token(headers: &HeaderMap) -> Result<Option<&str>, Problem> {
    let Some(value) = headers.get(header::AUTHORIZATION) else {
        return Ok(None);
    };
    let token = value.to_str().ok().and_then(bearer).ok_or_else(|| {
        Problem::new(
            Kind::SignedOut,
            "The Authorization header must be `Bearer` and a token.",
        )
    })?;
    Ok(Some(token))
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn verify(shared: &HttpState, token: &str) -> Result<Caller, TokenError> {
    let claims = shared.keys.verify_access(token, shared.clock.now())?;
    let account_id = token::subject(&claims.sub).ok_or(TokenError::Malformed)?;
    Ok(Caller {
        account_id,
        roles: claims.roles,
    })
}

fn account(keys: &KeyRing, token: &str, now: DateTime<Utc>) -> Result<AccountId, TokenError> {
    let claims = keys.verify_access(token, now)?;
    token::subject(&claims.sub).ok_or(TokenError::Malformed)
}

fn visitor(
    keys: &KeyRing,
    event_id: EventId,
    token: &str,
    now: DateTime<Utc>,
) -> Result<AccountId, TokenError> {
    let claims = keys.verify_visitor(token, event_id, now)?;
    token::subject(&claims.sub)
        .filter(|id| id.is_visitor())
        .ok_or(TokenError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(roles: &[Role]) -> Caller {
        Caller {
            account_id: AccountId(7),
            roles: roles.to_vec(),
        }
    }

    #[test]
    fn an_admin_has_every_role_and_others_only_their_own() {
        assert!(
            Role::ALL
                .iter()
                .all(|&role| caller(&[Role::Admin]).has(role))
        );
        assert!(!caller(&[Role::Organiser]).has(Role::Operator));
        assert!(
            caller(&[Role::Customer])
                .require_any(&[Role::Operator, Role::Organiser])
                .is_err()
        );
        assert!(
            caller(&[Role::Operator])
                .require_any(&[Role::Operator, Role::Organiser])
                .is_ok()
        );
    }
}

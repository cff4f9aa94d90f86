//! Who calls.

use axum::extract::{FromRequestParts, OptionalFromRequestParts};
use axum::http::header;
use axum::http::request::Parts;
use domain::AccountId;
use domain::account::Role;
use domain::token;

use crate::http::Shared;
use crate::problem::{Kind, Problem};
use crate::tokens::TokenError;

/// The signed-in account, from `Authorization: Bearer …`. As an extractor it refuses callers
/// without a valid access token; `Option<Caller>` refuses only tokens that are not valid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Caller {
    /// The account.
    pub account_id: AccountId,
    /// What it may do.
    pub roles: Vec<Role>,
}

impl Caller {
    /// Whether the caller may act as `role`; an admin may act as any.
    #[must_use]
    pub fn has(&self, role: Role) -> bool {
        self.roles
            .iter()
            .any(|&own| own == role || own == Role::Admin)
    }

    /// Refuses a caller who has none of `roles`.
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

    /// Whether the caller belongs to staff.
    #[must_use]
    pub fn is_staff(&self) -> bool {
        self.roles.iter().any(|role| role.is_staff())
    }

    /// Whether the caller may see what belongs to `owner`: the owner and staff may.
    #[must_use]
    pub fn may_see(&self, owner: AccountId) -> bool {
        self.account_id == owner || self.is_staff()
    }
}

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        identify(parts)?.ok_or_else(|| {
            Problem::new(
                Kind::SignedOut,
                "Sign in, and send the access token as `Authorization: Bearer …`.",
            )
        })
    }
}

impl<S: Sync> OptionalFromRequestParts<S> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Option<Self>, Problem> {
        identify(parts)
    }
}

/// The caller, if the request carries an access token. One that was identified before, for a
/// limit, is not verified again.
pub(crate) fn identify(parts: &mut Parts) -> Result<Option<Caller>, Problem> {
    if let Some(caller) = parts.extensions.get::<Caller>() {
        return Ok(Some(caller.clone()));
    }
    let Some(value) = parts.headers.get(header::AUTHORIZATION) else {
        return Ok(None);
    };
    let token = value.to_str().ok().and_then(bearer).ok_or_else(|| {
        Problem::new(
            Kind::SignedOut,
            "The Authorization header must be `Bearer` and a token.",
        )
    })?;
    let caller = verify(Shared::of(parts)?, token)
        .map_err(|error| Problem::new(Kind::SignedOut, format!("Sign in again: {error}.")))?;
    parts.extensions.insert(caller.clone());
    Ok(Some(caller))
}

fn bearer(value: &str) -> Option<&str> {
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn verify(shared: &Shared, token: &str) -> Result<Caller, TokenError> {
    let claims = shared.keys.verify_access(token, shared.clock.now())?;
    let account_id = token::subject(&claims.sub).ok_or(TokenError::Malformed)?;
    Ok(Caller {
        account_id,
        roles: claims.roles,
    })
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

    #[test]
    fn only_the_owner_and_staff_may_see() {
        assert!(caller(&[Role::Customer]).may_see(AccountId(7)));
        assert!(!caller(&[Role::Customer]).may_see(AccountId(8)));
        assert!(caller(&[Role::Operator]).may_see(AccountId(8)));
    }
}

//! `PUT /api/accounts/{id}/roles`, for staff.

use std::collections::BTreeSet;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use domain::AccountId;
use domain::account::Role;
use platform::auth::Caller;
use platform::http::Path;
use platform::problem::{Kind, Problem};
use platform::refusal::Refusal;
use serde::Deserialize;
use serde_json::json;
use sqlx::PgConnection;

use super::me::AccountResponse;
use super::store;
use crate::audit::{self, Actor};
use crate::fields::invalid;
use crate::state::AppState;
use crate::write::Posted;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Roles {
    roles: Vec<Role>,
}

/// Replaces an account's roles. The change takes effect with the account's next access token, at
/// most 15 minutes later.
///
/// # Errors
/// `forbidden` unless the caller is an admin, `not-found`, `invalid` for no role or one listed
/// twice, and `conflict` if admins would remove their own admin role.
pub(super) async fn change_roles(
    State(state): State<Arc<AppState>>,
    caller: Caller,
    Path(id): Path<AccountId>,
    Posted { body, repeat }: Posted<Roles>,
) -> Result<Response, Problem> {
    caller.require_any(&[Role::Admin])?;
    let listed = body.roles.len();
    let roles: BTreeSet<Role> = body.roles.into_iter().collect();
    if roles.is_empty() {
        return Err(invalid(
            "roles",
            "Give at least one role, such as customer.",
        ));
    }
    if roles.len() < listed {
        return Err(invalid("roles", "List each role once."));
    }
    let roles: Vec<Role> = roles.into_iter().collect();
    if id == caller.account_id && !roles.contains(&Role::Admin) {
        let detail = "You cannot remove your own admin role. Ask another admin.";
        return Err(Problem::new(Kind::Conflict, detail));
    }
    let (who, actor) = (
        caller.account_id.to_string(),
        Actor::Account(caller.account_id),
    );
    let done = state
        .write("change roles", &who, &repeat, &|tx| {
            Box::pin(change(tx, &state, id, &roles, actor))
        })
        .await?;
    Ok(done.respond(StatusCode::OK))
}

async fn change(
    conn: &mut PgConnection,
    state: &AppState,
    id: AccountId,
    roles: &[Role],
    actor: Actor,
) -> Result<AccountResponse, Refusal> {
    let before = store::lock(conn, id).await?.ok_or_else(unknown)?;
    if before.roles == roles {
        return Ok(AccountResponse { account: before });
    }
    let now = state.ctx.clock.now();
    let account = store::set_roles(conn, id, roles, now)
        .await?
        .ok_or_else(unknown)?;
    let (subject, detail) = (format!("account:{id}"), json!({ "roles": roles }));
    audit::put(conn, actor, "account.roles", &subject, &detail, now).await?;
    Ok(AccountResponse { account })
}

fn unknown() -> Problem {
    Problem::new(Kind::NotFound, "There is no account with this id.")
}

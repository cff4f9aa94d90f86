//! `POST /api/sessions`.

use std::sync::Arc;

use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::{DateTime, Utc};
use domain::AccountId;
use domain::account::Role;
use platform::http::ClientAddr;
use platform::limits::AddressGroup;
use platform::problem::{Kind, Problem};
use platform::refusal::Refusal;
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::json;
use sqlx::PgConnection;

use super::attempts::{self, Place};
use super::password::{self, HashQueue};
use super::replayed;
use super::session::{Grant, SessionResponse};
use super::store;
use crate::audit::{self, Actor};
use crate::fields;
use crate::state::AppState;
use crate::write::Posted;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SignIn {
    email: String,
    password: SecretString,
}

/// Creates a session for an address and password.
///
/// # Errors
/// `wrong-credentials`; `rate-limited` after several wrong passwords for one account or many from
/// one network; `overloaded` when the hashing queue is too long.
pub(super) async fn sign_in(
    State(state): State<Arc<AppState>>,
    Extension(queue): Extension<HashQueue>,
    ClientAddr(address): ClientAddr,
    Posted { body, repeat }: Posted<SignIn>,
) -> Result<Response, Problem> {
    // Malformed credentials match no account; they get the same answer without a look-up.
    let email = fields::email("email", &body.email)
        .map_err(|_| wrong())?
        .to_lowercase();
    password::check_length(&body.password).map_err(|_| wrong())?;
    let from = Origin::network(&state, address.into());
    let account_id = authenticate(&state, queue, &email, body.password, &from).await?;

    let done = state
        .write("sign in", &email, &repeat, &|tx| {
            Box::pin(begin(tx, &state, account_id, queue, from.place))
        })
        .await?;
    let keys = &state.ctx.keys;
    let (grant, roles) = replayed::unless_moved_on(&state, done).await?;
    let now = state.ctx.clock.now();
    let answer = grant.map(|grant| SessionResponse {
        session: grant.session(keys, &roles, now),
    });
    Ok(answer.respond(StatusCode::CREATED))
}

/// Network and visitor a sign-in comes from.
struct Origin {
    network: AddressGroup,
    place: Place,
}

impl Origin {
    fn network(state: &AppState, network: AddressGroup) -> Self {
        let place = Place::of(&state.ctx, network);
        Self { network, place }
    }
}

/// Verifies the credentials and returns the account.
async fn authenticate(
    state: &AppState,
    queue: HashQueue,
    email: &str,
    password: SecretString,
    from: &Origin,
) -> Result<AccountId, Problem> {
    let (db, now) = (&state.ctx.db, state.ctx.clock.now());
    let known = store::credentials(db, email, from.place.as_slice()).await?;
    let is_known_place = known.as_ref().is_some_and(|known| known.is_known_place);
    // A guessing neighbour must not lock out accounts that have signed in from here before.
    if !is_known_place {
        state.networks.may_guess(from.network, now).await?;
    }
    let known_place = is_known_place.then_some(from.place);
    // Before the attempt is counted: load shedding must not use up the account's guesses.
    let admitted = state.passwords.admit(queue)?;
    attempts::begin(db, email, known_place, now).await?;
    let (account_id, stored) = known
        .map(|known| (known.account_id, known.password_hash))
        .unzip();
    let is_right = admitted.verify(password, stored).await?;
    let Some(right) = account_id.filter(|_| is_right) else {
        state.networks.count_wrong(from.network, now).await;
        if queue == HashQueue::Staff
            && let Some(account_id) = account_id
        {
            let mut conn = db.acquire().await?;
            record(&mut conn, "session.refused", account_id, now).await?;
        }
        return Err(wrong());
    };
    attempts::forget(db, email, known_place).await?;
    Ok(right)
}

async fn begin(
    conn: &mut PgConnection,
    state: &AppState,
    account_id: AccountId,
    queue: HashQueue,
    place: Place,
) -> Result<(Grant, Vec<Role>), Refusal> {
    let account = store::get(conn, account_id).await?.ok_or_else(wrong)?;
    let now = state.ctx.clock.now();
    let grant = Grant::first(account_id, now);
    store::insert_session(conn, &grant, &grant.refresh_token(&state.ctx.keys)).await?;
    store::know_place(conn, account_id, place.as_slice(), now).await?;
    if queue == HashQueue::Staff {
        record(conn, "session.begin", account_id, now).await?;
    }
    Ok((grant, account.roles))
}

/// Adds a sign-in on the internal listener to the audit log.
async fn record(
    conn: &mut PgConnection,
    action: &'static str,
    account_id: AccountId,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let subject = format!("account:{account_id}");
    audit::put(
        conn,
        Actor::Account(account_id),
        action,
        &subject,
        &json!({}),
        now,
    )
    .await
}

fn wrong() -> Problem {
    Problem::new(
        Kind::WrongCredentials,
        "Check the address and the password.",
    )
}

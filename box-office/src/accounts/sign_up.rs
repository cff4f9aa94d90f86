//! `POST /api/accounts`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use domain::account::Role;
use domain::message::ContactChannel;
use platform::http::ClientAddr;
use platform::limits::{AddressGroup, Quota};
use platform::problem::{Kind, Problem};
use platform::refusal::Refusal;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use sqlx::PgConnection;

use super::SIGN_UPS;
use super::attempts::Place;
use super::confirm;
use super::password::{self, HashQueue};
use super::replayed;
use super::session::{Grant, Session};
use super::store::{self, Account, NewAccount};
use crate::fields;
use crate::state::AppState;
use crate::write::Posted;

const MAX_NAME_CHARS: usize = 200;
/// Cluster-wide sign-ups per network: the burst allowed to one address, and a sustained rate that
/// makes mass registration slow.
const PER_NETWORK: [Quota; 2] = [
    SIGN_UPS,
    Quota {
        burst: 1_500,
        per: Duration::from_secs(3_600),
    },
];

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SignUp {
    email: String,
    password: SecretString,
    #[serde(default)]
    name: String,
    phone: Option<String>,
}

#[derive(Debug, Serialize)]
struct SignUpResponse {
    account: Account,
    session: Session,
}

/// Creates an account and signs it in. Requests a confirmation code for its address, unless the
/// installation does not confirm addresses.
///
/// # Errors
/// `invalid`, `email-taken`, `rate-limited`, and `overloaded` when the hashing queue is too long.
pub(super) async fn sign_up(
    State(state): State<Arc<AppState>>,
    ClientAddr(address): ClientAddr,
    Posted { body, repeat }: Posted<SignUp>,
) -> Result<Response, Problem> {
    let email = fields::email("email", &body.email)?;
    let name = fields::person("name", &body.name, MAX_NAME_CHARS)?;
    let phone = body
        .phone
        .as_deref()
        .map(|phone| fields::phone("phone", phone))
        .transpose()?;
    password::check_length(&body.password)?;
    let (network, now) = (AddressGroup::from(address), state.ctx.clock.now());
    // Before the sign-up is counted: load shedding must not use up the network's quota.
    let admitted = state.passwords.admit(HashQueue::Public)?;
    let networks = &state.networks;
    networks
        .count("sign-up", network, &PER_NETWORK, now)
        .await?;
    let place = Place::of(&state.ctx, network);
    let password_hash = admitted.hash(body.password).await?;
    let account = NewAccount {
        email: &email,
        password_hash: &password_hash,
        name: &name,
        phone: phone.as_deref(),
        roles: &[Role::Customer],
        confirmed_at: (!state.confirms_addresses).then_some(now),
    };
    let caller = email.to_lowercase();
    let done = state
        .write("sign up", &caller, &repeat, &|tx| {
            Box::pin(insert(tx, &state, &account, place))
        })
        .await?;
    let (grant, account) = replayed::unless_moved_on(&state, done).await?;
    let now = state.ctx.clock.now();
    let answer = grant.map(|grant| SignUpResponse {
        session: grant.session(&state.ctx.keys, &account.roles, now),
        account,
    });
    Ok(answer.respond(StatusCode::CREATED))
}

async fn insert(
    conn: &mut PgConnection,
    state: &AppState,
    account: &NewAccount<'_>,
    place: Place,
) -> Result<(Grant, Account), Refusal> {
    let now = state.ctx.clock.now();
    let account = store::insert(conn, account, now).await?.ok_or_else(taken)?;
    if !account.email_confirmed {
        confirm::ask(conn, &account, ContactChannel::Email, now).await?;
    }
    let grant = Grant::first(account.id, now);
    store::insert_session(conn, &grant, &grant.refresh_token(&state.ctx.keys)).await?;
    store::know_place(conn, account.id, place.as_slice(), now).await?;
    Ok((grant, account))
}

fn taken() -> Problem {
    Problem::new(
        Kind::EmailTaken,
        "Sign in with this address, or use another one.",
    )
}

//! Confirmation of an address or phone by a one-time code, valid for 10 minutes and 5 tries.
//! `POST /api/accounts/confirmations` submits a code, `POST /api/accounts/confirmations/codes`
//! requests another.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, TimeDelta, Utc};
use domain::AccountId;
use domain::message::{ConfirmationAsked, ContactChannel};
use platform::auth::Caller;
use platform::http::Json;
use platform::problem::{Kind, Problem};
use platform::refusal::Refusal;
use platform::tokens::Confirmation;
use platform::{outbox, pg};
use serde::Deserialize;
use serde_json::json;
use sqlx::PgConnection;
use uuid::Uuid;

use super::me::AccountResponse;
use super::store::{self, Account};
use crate::OWNER;
use crate::fields::invalid;
use crate::state::AppState;

/// Validity of a code.
const CODE_LIFE: TimeDelta = TimeDelta::minutes(10);
/// Wrong submissions after which a code is void.
const MAX_TRIES: i32 = 5;
/// Shortest time between two codes to one address.
const PAUSE: TimeDelta = TimeDelta::seconds(60);
/// Codes per address and [`DAY`]: the address may belong to somebody who never asked for one.
const MAX_CODES: i32 = 10;
const DAY: TimeDelta = TimeDelta::days(1);

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ConfirmBody {
    #[serde(default = "email")]
    channel: ContactChannel,
    code: String,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct SendCodeBody {
    #[serde(default = "email")]
    channel: ContactChannel,
}

fn email() -> ContactChannel {
    ContactChannel::Email
}

/// Confirms the caller's address or phone. Idempotent: a confirmed one is returned as it is.
///
/// # Errors
/// `invalid` for a wrong code, with `tries_left`; `conflict` when no code is valid any more.
pub(super) async fn confirm(
    State(state): State<Arc<AppState>>,
    caller: Caller,
    Json(given): Json<ConfirmBody>,
) -> Result<Response, Problem> {
    let outcome = pg::run_tx(&state.ctx.db, "confirm address", |tx| {
        Box::pin(take(tx, &state, caller.account_id, &given))
    })
    .await?;
    outbox::wake(OWNER);
    // A wrong code is an Ok outcome of the transaction, so that its count is committed.
    let account = outcome?;
    Ok((
        [(header::CACHE_CONTROL, "no-store")],
        Json(AccountResponse { account }),
    )
        .into_response())
}

async fn take(
    conn: &mut PgConnection,
    state: &AppState,
    account_id: AccountId,
    given: &ConfirmBody,
) -> Result<Result<Account, Problem>, Refusal> {
    let now = state.ctx.clock.now();
    let account = store::lock(conn, account_id).await?.ok_or_else(gone)?;
    if is_confirmed(&account, given.channel) {
        return Ok(Ok(account));
    }
    let address = address_of(&account, given.channel)?;
    let sent = store::confirmation(conn, account_id, given.channel).await?;
    let good = sent.filter(|sent| sent.tries < MAX_TRIES && now < sent.asked_at + CODE_LIFE);
    let Some(sent) = good else {
        return Err(no_code().into());
    };
    let confirmation = Confirmation {
        nonce: sent.nonce,
        account_id,
        address: &address,
    };
    if !state
        .ctx
        .keys
        .is_confirmed_by(&confirmation, given.code.trim())
    {
        store::count_wrong_code(conn, account_id, given.channel).await?;
        let problem = invalid("code", "The code is wrong.");
        return Ok(Err(problem.with("tries_left", MAX_TRIES - sent.tries - 1)));
    }
    let confirmed = store::set_confirmed(conn, account_id, given.channel, now).await?;
    Ok(Ok(confirmed.ok_or_else(gone)?))
}

/// Requests another code for the caller's address or phone; the previous one becomes void.
///
/// # Errors
/// `rate-limited` within a minute of the last code, or after ten in a day; `conflict` when the
/// contact is already confirmed, there is no phone, or the address must be confirmed first.
pub(super) async fn send_code(
    State(state): State<Arc<AppState>>,
    caller: Caller,
    Json(wanted): Json<SendCodeBody>,
) -> Result<Response, Problem> {
    pg::run_tx(&state.ctx.db, "send confirmation code", |tx| {
        Box::pin(resend(tx, &state, caller.account_id, wanted.channel))
    })
    .await?;
    outbox::wake(OWNER);
    Ok((StatusCode::ACCEPTED, Json(json!({ "message": "success" }))).into_response())
}

async fn resend(
    conn: &mut PgConnection,
    state: &AppState,
    account_id: AccountId,
    channel: ContactChannel,
) -> Result<(), Refusal> {
    let now = state.ctx.clock.now();
    let account = store::lock(conn, account_id).await?.ok_or_else(gone)?;
    if is_confirmed(&account, channel) {
        return Err(Problem::new(Kind::Conflict, "Already confirmed.").into());
    }
    if channel == ContactChannel::Sms && !account.email_confirmed {
        let detail = "Confirm the mail address first.";
        return Err(Problem::new(Kind::Conflict, detail).into());
    }
    if let Some(sent) = store::confirmation(conn, account_id, channel).await? {
        let is_used_up = sent.asked >= MAX_CODES && now < sent.since + DAY;
        let next_at = if is_used_up {
            sent.since + DAY
        } else {
            sent.asked_at + PAUSE
        };
        if now < next_at {
            let wait = (next_at - now).to_std().unwrap_or_default();
            let detail = "Too many codes were requested. Try again after the time in Retry-After.";
            let problem = Problem::new(Kind::RateLimited, detail);
            return Err(problem.retry_after(wait).into());
        }
    }
    ask(conn, &account, channel, now).await?;
    Ok(())
}

/// Replaces the code of an account's address or phone, and publishes the request to send it.
///
/// # Errors
/// `conflict` for SMS to an account without a phone.
pub(super) async fn ask(
    conn: &mut PgConnection,
    account: &Account,
    channel: ContactChannel,
    now: DateTime<Utc>,
) -> Result<(), Refusal> {
    let asked = ConfirmationAsked {
        account_id: account.id,
        channel,
        address: address_of(account, channel)?,
        nonce: Uuid::new_v4(),
        good_until: now + CODE_LIFE,
    };
    store::put_confirmation(conn, &asked, now, now - DAY).await?;
    outbox::put(conn, OWNER, &asked).await?;
    Ok(())
}

fn is_confirmed(account: &Account, channel: ContactChannel) -> bool {
    match channel {
        ContactChannel::Email => account.email_confirmed,
        ContactChannel::Sms => account.phone_confirmed,
    }
}

fn address_of(account: &Account, channel: ContactChannel) -> Result<String, Problem> {
    match channel {
        ContactChannel::Email => Ok(account.email.clone()),
        ContactChannel::Sms => {
            let none = || Problem::new(Kind::Conflict, "The account has no phone number.");
            account.phone.clone().ok_or_else(none)
        }
    }
}

fn no_code() -> Problem {
    Problem::new(
        Kind::Conflict,
        "The code has expired or was used up. Request another one.",
    )
}

fn gone() -> Problem {
    Problem::new(Kind::SignedOut, "This account no longer exists.")
}

//! `POST /api/events/{id}/pass`: a called place claims its pass.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use domain::sale::SaleSettings;
use domain::token::{ISSUER, PassClaims, sale_audience};
use domain::{AccountId, EventId, Place};
use platform::auth::Caller;
use platform::http::{Json, Path};
use platform::problem::{Kind, Problem};
use serde::Serialize;

use super::{Claim, Grant, QUEUE_TOKEN, Terms};
use crate::Desk;

#[derive(Serialize)]
struct Answer {
    pass: String,
    expires_at: Option<DateTime<Utc>>,
}

pub(super) async fn claim(
    State(desk): State<Arc<Desk>>,
    Path(event_id): Path<EventId>,
    caller: Caller,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let now = desk.ctx.clock.now();
    let place = place(&desk, event_id, &caller, &headers, now)?;
    let sale = desk.sales.get(event_id)?;
    if !sale.state_at(now, None).is_bookable() {
        return Err(Problem::new(
            Kind::QueueClosed,
            "The sale gives no passes now.",
        ));
    }
    let claim = desk
        .passes
        .claim(event_id, place, Terms::from(&*sale), now)
        .await?;
    metrics::counter!("admission_claims_total", "outcome" => label(&claim)).increment(1);
    let (status, grant) = match claim {
        Claim::Granted(grant) => (StatusCode::CREATED, grant),
        Claim::Repeated(grant) => (StatusCode::OK, grant),
        refused => return Err(refusal(&refused, &sale)),
    };
    let answer = Answer {
        expires_at: DateTime::from_timestamp(grant.exp, 0),
        pass: desk
            .ctx
            .keys
            .sign_pass(&claims(event_id, caller.account_id, place, grant)),
    };
    Ok((status, [(CACHE_CONTROL, "no-store")], Json(answer)).into_response())
}

/// The place in the queue token, which must be the caller's own.
fn place(
    desk: &Desk,
    event_id: EventId,
    caller: &Caller,
    headers: &HeaderMap,
    now: DateTime<Utc>,
) -> Result<Place, Problem> {
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
    let claims = desk
        .ctx
        .keys
        .verify_queue(token, event_id, now)
        .map_err(|error| invalid(format!("Join the queue again: {error}.")))?;
    if claims.sub != caller.account_id.to_string() {
        return Err(invalid("The queue token is another account's.".to_owned()));
    }
    Ok(Place(claims.number.0))
}

fn claims(event_id: EventId, account_id: AccountId, place: Place, grant: Grant) -> PassClaims {
    PassClaims {
        iss: ISSUER.to_owned(),
        aud: sale_audience(event_id),
        sub: account_id.to_string(),
        jti: grant.jti,
        place,
        iat: grant.iat,
        nbf: grant.iat,
        exp: grant.exp,
    }
}

fn label(claim: &Claim) -> &'static str {
    match claim {
        Claim::Granted(_) => "granted",
        Claim::Repeated(_) => "repeated",
        Claim::Over => "over",
        Claim::Left => "left",
        Claim::NotCalled(_) => "not_called",
        Claim::Missed => "missed",
        Claim::Full(_) => "full",
    }
}

fn refusal(claim: &Claim, sale: &SaleSettings) -> Problem {
    match claim {
        Claim::Granted(_) | Claim::Repeated(_) => unreachable!("a pass is no refusal"),
        Claim::Over => Problem::new(
            Kind::PlaceMissed,
            "The pass of this place has ended; join again.",
        ),
        Claim::Left => Problem::new(Kind::PlaceLeft, "You left the queue; join again."),
        Claim::NotCalled(ahead) => {
            let seconds = ahead * 60 / i64::from(sale.rate_per_minute.max(1));
            let seconds = u64::try_from(seconds.clamp(1, 30)).expect("clamped");
            Problem::new(Kind::NotCalled, "Your place was not called yet.")
                .with("retry_after_seconds", seconds)
                .retry_after(Duration::from_secs(seconds))
        }
        Claim::Missed => Problem::new(Kind::PlaceMissed, "Your claim window went by; join again."),
        Claim::Full(wait) => Problem::new(
            Kind::AdmissionFull,
            "You are called; the next slot will be free soon.",
        )
        .retry_after(*wait),
    }
}

//! `POST /api/events/{id}/pass`: exchanges a called place for a pass.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::header::CACHE_CONTROL;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use domain::queue::PlaceState;
use domain::sale::SaleSettings;
use domain::token::{ISSUER, PassClaims, sale_audience};
use domain::{AccountId, EventId, Number, Place};
use platform::auth::Joiner;
use platform::http::{Json, Path};
use platform::problem::{Kind, Problem};
use serde::Serialize;

use super::{Claim, Claimant, Grant, PassTerms};
use crate::state::AppState;

#[derive(Serialize)]
struct PassResponse {
    pass: String,
    expires_at: Option<DateTime<Utc>>,
}

pub(super) async fn claim(
    State(state): State<Arc<AppState>>,
    Path(event_id): Path<EventId>,
    joiner: Joiner,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let now = state.ctx.clock.now();
    let number = joiner.number(&state.ctx.keys, event_id, &headers, now)?;
    let sale = state.sales.get(event_id).await?;
    if !sale.state_at(now, None).is_bookable() {
        return Err(Problem::new(
            Kind::QueueClosed,
            "This sale is not issuing passes.",
        ));
    }
    let place = called_place(&state, event_id, number, &sale).await?;
    let claimant = Claimant {
        place,
        account_id: joiner.id,
    };
    let claim = state
        .claims
        .claim(event_id, claimant, PassTerms::from(&*sale))
        .await?;
    count(label(&claim));
    let (status, grant) = match claim {
        Claim::Granted(grant) => (StatusCode::CREATED, grant),
        Claim::Repeated(grant) => (StatusCode::OK, grant),
        Claim::Over => {
            return Err(Problem::new(
                Kind::PlaceMissed,
                "The pass of this place has ended; join again.",
            ));
        }
        Claim::Another => {
            return Err(Problem::new(
                Kind::QueueTokenInvalid,
                "Another account has claimed this place; join the queue again.",
            ));
        }
        Claim::Full(wait) => {
            return Err(Problem::new(
                Kind::AdmissionFull,
                "You have been called; the next slot will be free soon.",
            )
            .retry_after(wait));
        }
    };
    let answer = PassResponse {
        expires_at: DateTime::from_timestamp(grant.exp, 0),
        pass: state
            .ctx
            .keys
            .sign_pass(&claims(event_id, joiner.id, grant)),
    };
    Ok((status, [(CACHE_CONTROL, "no-store")], Json(answer)).into_response())
}

/// Returns the place of `number` if it was called. A place that has claimed passes, too, so that a
/// repeat gets the same pass.
async fn called_place(
    state: &AppState,
    event_id: EventId,
    number: Number,
    sale: &SaleSettings,
) -> Result<Place, Problem> {
    let view = state.ctx.lines.view(event_id).await?;
    let place = view.place_of(number);
    match (view.state_at(number, place), place) {
        (PlaceState::Ready | PlaceState::Claimed, Some(place)) => Ok(place),
        (PlaceState::Left, _) => {
            count("left");
            Err(Problem::new(
                Kind::PlaceLeft,
                "You left the queue; join again.",
            ))
        }
        (PlaceState::Missed, _) => {
            count("missed");
            Err(Problem::new(
                Kind::PlaceMissed,
                "Your claim window has passed; join again.",
            ))
        }
        (PlaceState::Waiting | PlaceState::Ready | PlaceState::Claimed, place) => {
            count("not_called");
            let ahead = place.map_or(0, |place| view.snapshot.ahead.of(place));
            Err(not_called(ahead, sale))
        }
    }
}

fn not_called(ahead: i64, sale: &SaleSettings) -> Problem {
    let seconds = ahead * 60 / i64::from(sale.rate_per_minute.max(1));
    let seconds = u64::try_from(seconds.clamp(1, 30)).expect("clamped");
    Problem::new(Kind::NotCalled, "Your place has not been called yet.")
        .with("retry_after_seconds", seconds)
        .retry_after(Duration::from_secs(seconds))
}

fn claims(event_id: EventId, account_id: AccountId, grant: Grant) -> PassClaims {
    PassClaims {
        iss: ISSUER.to_owned(),
        aud: sale_audience(event_id),
        sub: account_id.to_string(),
        jti: grant.jti.simple().to_string(),
        place: grant.place,
        iat: grant.iat,
        nbf: grant.iat,
        exp: grant.exp,
    }
}

fn count(outcome: &'static str) {
    metrics::counter!("admission_claims_total", "outcome" => outcome).increment(1);
}

fn label(claim: &Claim) -> &'static str {
    match claim {
        Claim::Granted(_) => "granted",
        Claim::Repeated(_) => "repeated",
        Claim::Over => "over",
        Claim::Another => "another",
        Claim::Full(_) => "full",
    }
}

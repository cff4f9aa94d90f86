use std::sync::Arc;

use axum::extract::State;
use axum::http::header::{CACHE_CONTROL, HeaderName};
use axum::http::{HeaderValue, StatusCode};
use chrono::{DateTime, Utc};
use domain::payment::RefundPolicy;
use domain::{Currency, EventId};
use platform::auth::Caller;
use platform::http::{self, FOR_A_SECOND, Json, Path};
use platform::pg::run_tx;
use platform::problem::{Kind, Problem};
use platform::refusal::Refusal;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{MONEY, require};
use crate::audit;
use crate::refunds;
use crate::state::AppState;
use crate::store::refunds::{self as table, Progress};
use crate::store::{events, policies};

#[derive(Serialize)]
pub(super) struct Policy {
    refund_policy: RefundPolicy,
}

/// `GET /api/events/{id}/refund-policy`: the terms of a cancellation by its buyer now.
pub(super) async fn policy(
    State(state): State<Arc<AppState>>,
    Path(id): Path<EventId>,
) -> Result<Json<Policy>, Problem> {
    let refund_policy = load(state, id).await?.ok_or_else(unknown_event)?;
    Ok(Json(Policy { refund_policy }))
}

/// [`policy`], at most a second old: each page of an event asks for it.
pub(super) async fn shared_policy(
    State(state): State<Arc<AppState>>,
    Path(id): Path<EventId>,
) -> Result<([(HeaderName, HeaderValue); 1], Json<Policy>), Problem> {
    let loading = || load(Arc::clone(&state), id);
    let policy = state.policies.get(id, loading).await?;
    let refund_policy = policy.ok_or_else(unknown_event)?;
    Ok((
        [(CACHE_CONTROL, FOR_A_SECOND)],
        Json(Policy { refund_policy }),
    ))
}

async fn load(state: Arc<AppState>, id: EventId) -> Result<Option<RefundPolicy>, Problem> {
    if !events::is_known(&state.db, id).await? {
        return Ok(None);
    }
    Ok(Some(policies::get(&state.db, id).await?))
}

/// Checks that box-office has the event.
async fn require_known(state: &AppState, id: EventId) -> Result<(), Problem> {
    if events::is_known(&state.db, id).await? {
        Ok(())
    } else {
        Err(unknown_event())
    }
}

fn unknown_event() -> Problem {
    Problem::new(Kind::NotFound, "There is no such event.")
}

/// Replaces the whole policy.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct NewPolicy {
    /// Required, also as null.
    #[serde(deserialize_with = "Option::deserialize")]
    until: Option<DateTime<Utc>>,
    #[serde(default)]
    fee_percent: u8,
    #[serde(default)]
    fee_minor: i64,
    /// The event's only currency, when absent.
    fee_currency: Option<Currency>,
}

impl From<NewPolicy> for RefundPolicy {
    fn from(new: NewPolicy) -> Self {
        Self {
            until: new.until,
            fee_percent: new.fee_percent,
            fee_minor: new.fee_minor,
            fee_currency: new.fee_currency,
        }
    }
}

/// `PUT /api/events/{id}/refund-policy`: for cancellations from now on; by its organiser or an
/// admin.
pub(super) async fn set_policy(
    State(state): State<Arc<AppState>>,
    caller: Caller,
    Path(id): Path<EventId>,
    Json(new): Json<NewPolicy>,
) -> Result<Json<Policy>, Problem> {
    let mut refund_policy = RefundPolicy::from(new);
    caller.require_event(&state.db, id, &[]).await?;
    if refund_policy.fee_percent > 100 {
        let problem = Problem::new(Kind::Invalid, "At most 100.");
        return Err(problem.with("field", "fee_percent"));
    }
    if refund_policy.fee_minor < 0 {
        let problem = Problem::new(Kind::Invalid, "At least 0.");
        return Err(problem.with("field", "fee_minor"));
    }
    if let Some(until) = refund_policy.until {
        http::date("until", until)?;
    }
    if refund_policy.fee_minor > 0 && refund_policy.fee_currency.is_none() {
        refund_policy.fee_currency = only_currency(&state, id).await?;
    }
    let (by, now) = (caller.account_id, state.now());
    let setting = run_tx(&state.db, "payment set policy", |tx| {
        let (policy, subject) = (&refund_policy, format!("event:{id}"));
        Box::pin(async move {
            if !policies::put(tx, id, policy, by, now).await? {
                return Err(Refusal::from(unknown_event()));
            }
            let detail = json!(policy);
            audit::note(tx, by, "refund-policy.change", subject, detail, now).await?;
            Ok(())
        })
    });
    setting.await?;
    state.wake_after_commit();
    Ok(Json(Policy { refund_policy }))
}

/// The only currency of the event's prices; `None` when it has no prices yet.
async fn only_currency(state: &AppState, id: EventId) -> Result<Option<Currency>, Problem> {
    let currencies = events::currencies(&state.db, id).await?;
    match currencies.as_slice() {
        [] => Ok(None),
        [only] => Ok(Currency::try_from(only.as_str()).ok()),
        several => {
            let detail = format!(
                "The event has prices in {}. Name one of these.",
                several.join(", ")
            );
            Err(Problem::new(Kind::Invalid, detail).with("field", "fee_currency"))
        }
    }
}

#[derive(Serialize)]
pub(super) struct Refunds {
    refunds: Progress,
}

/// `GET /api/events/{id}/refunds`: progress of a cancelled event's refunds.
pub(super) async fn progress(
    State(state): State<Arc<AppState>>,
    caller: Caller,
    Path(id): Path<EventId>,
) -> Result<Json<Refunds>, Problem> {
    caller.require_event(&state.db, id, &MONEY).await?;
    require_known(&state, id).await?;
    let refunds = table::progress(&state.db, id).await?;
    Ok(Json(Refunds { refunds }))
}

#[derive(Serialize)]
pub(super) struct Begun {
    begun: usize,
}

/// `POST /api/events/{id}/refunds`: begins failed refunds again.
pub(super) async fn refund_again(
    State(state): State<Arc<AppState>>,
    caller: Caller,
    Path(id): Path<EventId>,
) -> Result<(StatusCode, Json<Begun>), Problem> {
    require(&caller, &MONEY)?;
    require_known(&state, id).await?;
    let (by, now) = (caller.account_id, state.now());
    let mut begun = 0;
    for booking_id in table::failed_of(&state.db, id).await? {
        let beginning = run_tx(&state.db, "payment refund again", |tx| {
            Box::pin(async move {
                let is_begun = refunds::again(tx, booking_id, now).await?;
                if is_begun {
                    let subject = format!("booking:{booking_id}");
                    audit::note(tx, by, "refund.again", subject, json!({}), now).await?;
                }
                Ok::<_, sqlx::Error>(is_begun)
            })
        });
        begun += usize::from(beginning.await?);
    }
    state.wake_after_commit();
    Ok((StatusCode::ACCEPTED, Json(Begun { begun })))
}

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use domain::{AccountId, BookingId, Currency, Money};
use platform::auth::Caller;
use platform::http::{Json, Path};
use platform::idempotency;
use platform::pg::run_tx;
use platform::problem::{Kind, Problem};
use platform::refusal::Refusal;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::PgConnection;

use super::{MONEY, require};
use crate::audit;
use crate::refunds;
use crate::state::AppState;
use crate::store::payments;
use crate::store::refunds::{self as table, Standing};
use crate::store::timeline::{self, Entry};

#[derive(Serialize)]
pub(super) struct Timeline {
    timeline: Vec<Entry>,
}

/// `GET /api/bookings/{id}/timeline`: every recorded event of a booking.
pub(super) async fn timeline(
    State(state): State<Arc<AppState>>,
    caller: Caller,
    Path(id): Path<BookingId>,
) -> Result<Json<Timeline>, Problem> {
    require(&caller, &MONEY)?;
    let timeline = timeline::timeline(&state.db, id).await?;
    if timeline.is_empty() {
        return Err(Problem::new(Kind::NotFound, "There is no such booking."));
    }
    Ok(Json(Timeline { timeline }))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Wanted {
    /// Everything that is left, when absent.
    amount_minor: Option<i64>,
}

#[derive(Serialize)]
pub(super) struct RefundResponse {
    refund: Shown,
}

#[derive(Serialize)]
struct Shown {
    id: String,
    amount: Money,
    state: String,
}

impl From<Standing> for Shown {
    fn from(refund: Standing) -> Self {
        let currency = Currency::try_from(refund.currency).expect("copied from a payment");
        Self {
            id: refund.id.to_string(),
            amount: Money::new(refund.amount_minor, currency),
            state: refund.state,
        }
    }
}

/// `POST /api/bookings/{id}/refunds`: refunds a part of the payment, or all that is left; the
/// booking keeps its tickets. One refund per idempotency key.
pub(super) async fn refund(
    State(state): State<Arc<AppState>>,
    caller: Caller,
    Path(id): Path<BookingId>,
    headers: HeaderMap,
    Json(wanted): Json<Wanted>,
) -> Result<(StatusCode, Json<RefundResponse>), Problem> {
    require(&caller, &MONEY)?;
    let by = caller.account_id;
    let occasion = format!("staff {by}: {}", idempotency::required_key_of(&headers)?);
    let now = state.now();
    let begun = run_tx(&state.db, "payment refund by staff", |tx| {
        let (amount, occasion) = (wanted.amount_minor, &occasion);
        Box::pin(begin(tx, id, by, amount, occasion, now))
    });
    let refund = begun.await?;
    state.wake_after_commit();
    let refund = refund.into();
    Ok((StatusCode::CREATED, Json(RefundResponse { refund })))
}

async fn begin(
    conn: &mut PgConnection,
    id: BookingId,
    by: AccountId,
    amount_minor: Option<i64>,
    occasion: &str,
    now: chrono::DateTime<chrono::Utc>,
) -> Result<Standing, Refusal> {
    let payment = payments::lock(conn, id).await?;
    let payment = payment
        .ok_or_else(|| Problem::new(Kind::NotFound, "There is no payment for this booking."))?;
    if let Some(before) = table::of_occasion(conn, id, occasion).await? {
        if amount_minor.is_some_and(|amount| amount != before.amount_minor) {
            let detail = "This Idempotency-Key was used for another amount.";
            return Err(Problem::new(Kind::IdempotencyKeyReused, detail).into());
        }
        return Ok(before);
    }
    let left = payment.left_minor();
    let amount_minor = amount_minor.unwrap_or(left);
    if amount_minor <= 0 && left > 0 {
        let problem = Problem::new(Kind::Invalid, "At least 1 minor unit.");
        return Err(problem.with("field", "amount_minor").into());
    }
    let amount = Money::new(amount_minor, payment.amount.currency);
    if amount.rounded_down() != amount {
        let step = payment
            .amount
            .currency
            .rules()
            .map_or(1, |rules| rules.step);
        let problem = Problem::new(Kind::Invalid, format!("A multiple of {step} minor units."));
        return Err(problem.with("field", "amount_minor").into());
    }
    if amount_minor > left || !refunds::begin(conn, id, amount, occasion, now).await? {
        let left = Money::new(left, payment.amount.currency);
        let detail = format!("Only {left} of this payment can still be refunded.");
        return Err(Problem::new(Kind::Conflict, detail).into());
    }
    let (subject, detail) = (format!("booking:{id}"), json!({ "amount": amount }));
    audit::note(conn, by, "refund.staff", subject, detail, now).await?;
    let begun = table::of_occasion(conn, id, occasion).await?;
    Ok(begun.expect("it was just written"))
}

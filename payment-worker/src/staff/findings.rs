use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use platform::auth::Caller;
use platform::http::{Json, Path};
use platform::pg::run_tx;
use platform::problem::{Kind, Problem};
use serde::Serialize;
use serde_json::json;

use super::{MONEY, require};
use crate::audit;
use crate::state::AppState;
use crate::store::findings::{self, Finding, Settled};

#[derive(Serialize)]
pub(super) struct Findings {
    findings: Vec<Finding>,
}

/// `GET /api/payment-findings`: open findings, oldest first.
pub(super) async fn list(
    State(state): State<Arc<AppState>>,
    caller: Caller,
) -> Result<Json<Findings>, Problem> {
    require(&caller, &MONEY)?;
    let findings = findings::open(&state.db).await?;
    Ok(Json(Findings { findings }))
}

/// `DELETE /api/payment-findings/{kind}/{subject}`: settles a finding.
pub(super) async fn settle(
    State(state): State<Arc<AppState>>,
    caller: Caller,
    Path((kind, subject)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    require(&caller, &MONEY)?;
    let unknown = || Problem::new(Kind::NotFound, "There is no such finding.");
    // PostgreSQL stores no text with this character.
    if [&kind, &subject].iter().any(|part| part.contains('\0')) {
        return Err(unknown());
    }
    let (by, now) = (caller.account_id, state.now());
    let settling = run_tx(&state.db, "payment settle finding", |tx| {
        let (kind, subject) = (kind.as_str(), subject.as_str());
        Box::pin(async move {
            let settled = findings::settle(tx, kind, subject, now).await?;
            if let Some(Settled::Now { booking_id }) = settled {
                let (about, detail) = (
                    format!("payment-finding:{kind}/{subject}"),
                    json!({ "booking_id": booking_id }),
                );
                audit::note(tx, by, "payment-finding.settle", about, detail, now).await?;
            }
            Ok::<_, sqlx::Error>(settled)
        })
    });
    if settling.await?.is_none() {
        return Err(unknown());
    }
    state.wake_after_commit();
    Ok(StatusCode::NO_CONTENT)
}

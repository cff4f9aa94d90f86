use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use platform::auth::Caller;
use platform::http::{Json, Path};
use platform::problem::{Kind, Problem};
use serde::Serialize;

use super::{MONEY, require};
use crate::store::findings::{self, Finding};
use crate::worker::Worker;

#[derive(Serialize)]
pub(super) struct Findings {
    findings: Vec<Finding>,
}

/// `GET /api/payment-findings`: what staff must look at, oldest first.
pub(super) async fn list(
    State(worker): State<Arc<Worker>>,
    caller: Caller,
) -> Result<Json<Findings>, Problem> {
    require(&caller, &MONEY)?;
    let findings = findings::open(&worker.db).await?;
    Ok(Json(Findings { findings }))
}

/// `DELETE /api/payment-findings/{kind}/{subject}`: it is settled.
pub(super) async fn settle(
    State(worker): State<Arc<Worker>>,
    caller: Caller,
    Path((kind, subject)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    require(&caller, &MONEY)?;
    if findings::settle(&worker.db, &kind, &subject, worker.now()).await? {
        return Ok(StatusCode::NO_CONTENT);
    }
    Err(Problem::new(Kind::NotFound, "There is no such finding."))
}

//! Entries for the audit log, which box-office stores, about money that people moved.

use chrono::{DateTime, Utc};
use domain::AccountId;
use domain::message::AuditNoted;
use serde_json::Value;
use sqlx::PgConnection;

use crate::messages::emit;

/// Publishes what `actor` did, in the transaction that does it. `subject` is such as `booking:ID`.
pub(crate) async fn note(
    conn: &mut PgConnection,
    actor: AccountId,
    action: &str,
    subject: String,
    detail: Value,
    at: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    emit(conn, &AuditNoted::new(actor, action, subject, detail, at)).await
}

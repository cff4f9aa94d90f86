//! Entries for the audit log, which box-office keeps, about bookings and tickets that staff
//! changed.

use chrono::{DateTime, Utc};
use domain::AccountId;
use domain::message::AuditNoted;
use serde_json::Value;
use uuid::Uuid;

/// An entry about what `actor` did to `subject`, such as `booking:ID`. Stored in the outbox by the
/// transaction that does it.
pub(crate) fn note(
    actor: AccountId,
    action: &str,
    subject: String,
    detail: Value,
    at: DateTime<Utc>,
) -> AuditNoted {
    AuditNoted {
        id: Uuid::new_v4(),
        at,
        actor,
        action: action.to_owned(),
        subject,
        detail,
    }
}

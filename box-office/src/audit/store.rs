//! SQL of the audit log.

use chrono::{DateTime, Utc};
use domain::message::AuditNoted;
use serde::Serialize;
use serde_json::Value;
use sqlx::{PgConnection, PgPool};

use super::Actor;

/// One entry of the log.
#[derive(Debug, Serialize)]
pub(super) struct AuditEntry {
    pub(super) id: i64,
    at: DateTime<Utc>,
    actor: i64,
    action: String,
    subject: String,
    detail: Value,
}

/// Inserts an entry, in the transaction of the change itself. `subject` has the form `sale:1`;
/// `detail` holds the new values.
pub(crate) async fn put(
    conn: &mut PgConnection,
    actor: Actor,
    action: &'static str,
    subject: &str,
    detail: &Value,
    at: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into box_office.audit_log (at, actor, action, subject, detail)
         values ($1, $2, $3, $4, $5)",
        at,
        actor.id(),
        action,
        subject,
        detail,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Inserts a note from another service; a no-op if its id is already recorded.
pub(super) async fn put_note(pool: &PgPool, note: &AuditNoted) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into box_office.audit_log (at, actor, action, subject, detail, note)
         values ($1, $2, $3, $4, $5, $6)
         on conflict (note) where note is not null do nothing",
        note.at,
        note.actor.0,
        note.action,
        note.subject,
        note.detail,
        note.id,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Returns the newest entries with ids below `before`, of `subject` or of all subjects.
pub(super) async fn list(
    pool: &PgPool,
    subject: Option<&str>,
    before: i64,
    limit: i64,
) -> Result<Vec<AuditEntry>, sqlx::Error> {
    match subject {
        Some(subject) => {
            sqlx::query_as!(
                AuditEntry,
                "select id, at, actor, action, subject, detail from box_office.audit_log
                 where subject = $1 and id < $2 order by id desc limit $3",
                subject,
                before,
                limit,
            )
            .fetch_all(pool)
            .await
        }
        None => {
            sqlx::query_as!(
                AuditEntry,
                "select id, at, actor, action, subject, detail from box_office.audit_log
                 where id < $1 order by id desc limit $2",
                before,
                limit,
            )
            .fetch_all(pool)
            .await
        }
    }
}

//! What buyers who cancel get back, per event.

use chrono::{DateTime, Utc};
use domain::payment::RefundPolicy;
use domain::{AccountId, EventId};
use sqlx::PgExecutor;

/// The event's policy; everything goes back when none was set.
pub(crate) async fn get(
    db: impl PgExecutor<'_>,
    event_id: EventId,
) -> Result<RefundPolicy, sqlx::Error> {
    let row = sqlx::query!(
        "select until, fee_percent, fee_minor from payment.refund_policies where event_id = $1",
        event_id.0
    );
    let row = row.fetch_optional(db).await?;
    Ok(row.map_or(RefundPolicy::EVERYTHING, |row| RefundPolicy {
        until: row.until,
        fee_percent: u8::try_from(row.fee_percent).expect("the table has a check"),
        fee_minor: row.fee_minor,
    }))
}

/// Sets the event's policy, for cancellations from now on.
pub(crate) async fn put(
    db: impl PgExecutor<'_>,
    event_id: EventId,
    policy: &RefundPolicy,
    by: AccountId,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let done = sqlx::query!(
        "insert into payment.refund_policies (event_id, until, fee_percent, fee_minor, updated_at, updated_by)
         values ($1, $2, $3, $4, $5, $6)
         on conflict (event_id) do update
         set until = excluded.until, fee_percent = excluded.fee_percent, fee_minor = excluded.fee_minor,
             updated_at = excluded.updated_at, updated_by = excluded.updated_by",
        event_id.0,
        policy.until,
        i32::from(policy.fee_percent),
        policy.fee_minor,
        now,
        by.0,
    );
    done.execute(db).await.map(|_| ())
}

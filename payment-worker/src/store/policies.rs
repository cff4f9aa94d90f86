//! What buyers who cancel get back, per event.

use chrono::{DateTime, Utc};
use domain::payment::RefundPolicy;
use domain::{AccountId, EventId};
use sqlx::PgExecutor;

/// The event's policy. Where it names no end, that is the start of the event; without a policy,
/// everything goes back until then.
pub(crate) async fn get(
    db: impl PgExecutor<'_>,
    event_id: EventId,
) -> Result<RefundPolicy, sqlx::Error> {
    let row = sqlx::query!(
        r#"select coalesce(p.until, e.starts_at) as until, p.fee_percent as "fee_percent?",
                  p.fee_minor as "fee_minor?"
           from (values ($1::bigint)) as asked (event_id)
           left join payment.refund_policies p using (event_id)
           left join booking.public_starts e using (event_id)"#,
        event_id.0
    );
    let row = row.fetch_one(db).await?;
    let fee_percent = row.fee_percent.unwrap_or(0);
    Ok(RefundPolicy {
        until: row.until,
        fee_percent: u8::try_from(fee_percent).expect("the table has a check"),
        fee_minor: row.fee_minor.unwrap_or(0),
    })
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

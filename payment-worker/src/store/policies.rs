//! Refund policies of events.

use chrono::{DateTime, Utc};
use domain::payment::RefundPolicy;
use domain::{AccountId, Currency, EventId};
use sqlx::{PgConnection, PgExecutor};

/// The event's policy. Without an end of its own it ends with the start of the event; without a
/// policy everything is refunded until then.
pub(crate) async fn get(
    db: impl PgExecutor<'_>,
    event_id: EventId,
) -> Result<RefundPolicy, sqlx::Error> {
    last(db, event_id, None).await
}

/// [`get`] for the policy that was in force at `at`.
pub(crate) async fn get_at(
    db: impl PgExecutor<'_>,
    event_id: EventId,
    at: DateTime<Utc>,
) -> Result<RefundPolicy, sqlx::Error> {
    last(db, event_id, Some(at)).await
}

/// Returns the last policy set by `before`, or of all if that is `None`. Each policy is in the
/// history, by a trigger.
async fn last(
    db: impl PgExecutor<'_>,
    event_id: EventId,
    before: Option<DateTime<Utc>>,
) -> Result<RefundPolicy, sqlx::Error> {
    let row = sqlx::query_as!(
        Row,
        r#"select coalesce(p.until, e.starts_at) as until, p.fee_percent as "fee_percent?",
                  p.fee_minor as "fee_minor?", p.fee_currency as "fee_currency?"
           from (values ($1::bigint)) as asked (event_id)
           left join lateral (
               select * from payment.refund_policy_history h
               where h.event_id = asked.event_id and ($2::timestamptz is null or h.set_at <= $2)
               order by h.set_at desc limit 1) p on true
           left join booking.public_starts e on e.event_id = asked.event_id"#,
        event_id.0,
        before,
    );
    row.fetch_one(db).await.map(RefundPolicy::from)
}

struct Row {
    until: Option<DateTime<Utc>>,
    fee_percent: Option<i32>,
    fee_minor: Option<i64>,
    fee_currency: Option<String>,
}

impl From<Row> for RefundPolicy {
    fn from(row: Row) -> Self {
        Self {
            until: row.until,
            fee_percent: u8::try_from(row.fee_percent.unwrap_or(0)).expect("the table has a check"),
            fee_minor: row.fee_minor.unwrap_or(0),
            fee_currency: row
                .fee_currency
                .map(|code| Currency::try_from(code).expect("the table has a check")),
        }
    }
}

/// Sets the event's policy, for cancellations from now on; `false` when there is no such event.
pub(crate) async fn put(
    conn: &mut PgConnection,
    event_id: EventId,
    policy: &RefundPolicy,
    by: AccountId,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "insert into payment.refund_policies
             (event_id, until, fee_percent, fee_minor, fee_currency, updated_at, updated_by)
         select $1::bigint, $2::timestamptz, $3::integer, $4::bigint, $7::text, $5::timestamptz, $6::bigint
         where exists (select from box_office.public_events where event_id = $1)
         on conflict (event_id) do update
         set until = excluded.until, fee_percent = excluded.fee_percent, fee_minor = excluded.fee_minor,
             fee_currency = excluded.fee_currency, updated_at = excluded.updated_at, updated_by = excluded.updated_by",
        event_id.0,
        policy.until,
        i32::from(policy.fee_percent),
        policy.fee_minor,
        now,
        by.0,
        policy.fee_currency.map(|currency| currency.as_str().to_owned()),
    );
    Ok(done.execute(conn).await?.rows_affected() == 1)
}

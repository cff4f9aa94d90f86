//! Booking requests that were accepted.

use chrono::{DateTime, TimeDelta, Utc};
use domain::booking::Wish;
use domain::{AccountId, BookingId, EventId};
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};

/// How long a request key stays that of its booking; as long as platform keeps the answer.
const KEY_KEPT: TimeDelta = platform::idempotency::KEPT;
/// How many rows one sweep removes.
const SWEEP_LIMIT: i64 = 5_000;

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Order {
    /// The event.
    pub(crate) event_id: EventId,
    /// The buyer.
    pub(crate) account_id: AccountId,
    /// What is asked for.
    pub(crate) wish: Wish,
}

/// An order with its booking id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    /// The id; a repeat with the same key has the same.
    pub(crate) booking_id: BookingId,
    /// What was asked for.
    pub(crate) order: Order,
    /// When it was first accepted.
    pub(crate) accepted_at: DateTime<Utc>,
}

struct Row {
    booking_id: uuid::Uuid,
    event_id: i64,
    account_id: i64,
    wish: Json<Wish>,
    accepted_at: DateTime<Utc>,
}

impl From<Row> for Request {
    fn from(row: Row) -> Self {
        Self {
            booking_id: BookingId(row.booking_id),
            order: Order {
                event_id: EventId(row.event_id),
                account_id: AccountId(row.account_id),
                wish: row.wish.0,
            },
            accepted_at: row.accepted_at,
        }
    }
}

/// Writes an order down under a new booking id. When `key` was used within the last 24 h, the
/// request of then is returned, which may have been for something else.
pub(crate) async fn accept(
    conn: &mut PgConnection,
    key: Option<&str>,
    order: &Order,
    now: DateTime<Utc>,
) -> Result<Request, sqlx::Error> {
    sqlx::query!(
        "update admission.requests set request_key = null
         where request_key = $1 and accepted_at <= $2",
        key,
        now - KEY_KEPT,
    )
    .execute(&mut *conn)
    .await?;
    let row = sqlx::query_as!(
        Row,
        r#"insert into admission.requests
               (booking_id, event_id, account_id, wish, tickets, request_key, accepted_at)
           values ($1, $2, $3, $4, $5, $6, $7)
           on conflict (request_key) do update set request_key = excluded.request_key
           returning booking_id, event_id, account_id, wish as "wish: Json<Wish>", accepted_at"#,
        BookingId::new(now).0,
        order.event_id.0,
        order.account_id.0,
        Json(&order.wish) as _,
        i32::try_from(order.wish.tickets()).unwrap_or(i32::MAX),
        key,
        now,
    )
    .fetch_one(conn)
    .await?;
    Ok(row.into())
}

/// Notes that RabbitMQ has the request: until its outcome is known, it shows as requested.
pub(crate) async fn mark_published(db: &PgPool, id: BookingId) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update admission.requests set published = true where booking_id = $1",
        id.0
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Removes a request that was never published.
pub(crate) async fn forget(db: &PgPool, id: BookingId) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "delete from admission.requests where booking_id = $1 and not published",
        id.0
    )
    .execute(db)
    .await?;
    Ok(())
}

/// The request with this id. Only a caller whose request was accepted was told an id.
pub(crate) async fn find(db: &PgPool, id: BookingId) -> Result<Option<Request>, sqlx::Error> {
    let row = sqlx::query_as!(
        Row,
        r#"select booking_id, event_id, account_id, wish as "wish: Json<Wish>", accepted_at
           from admission.requests where booking_id = $1"#,
        id.0,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(Request::from))
}

/// The latest requests of an account that no worker has decided, newest first.
pub(crate) async fn undecided_of(
    db: &PgPool,
    account_id: AccountId,
    limit: i64,
) -> Result<Vec<Request>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"select booking_id, event_id, account_id, wish as "wish: Json<Wish>", accepted_at
           from admission.requests r
           where account_id = $1 and published
             and not exists (select from booking.public_bookings b where b.id = r.booking_id)
           order by booking_id desc limit $2"#,
        account_id.0,
        limit,
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(Request::from).collect())
}

/// Removes old requests that nobody needs: decided ones, and those whose caller was told to try
/// again. Tells how many.
pub(crate) async fn sweep(db: &PgPool, now: DateTime<Utc>) -> Result<u64, sqlx::Error> {
    let swept = sqlx::query!(
        "delete from admission.requests where booking_id in (
             select r.booking_id from admission.requests r
             where r.accepted_at <= $1
               and (not r.published
                    or exists (select from booking.public_bookings b where b.id = r.booking_id))
             order by r.accepted_at limit $2 for update of r skip locked
         )",
        now - KEY_KEPT,
        SWEEP_LIMIT,
    )
    .execute(db)
    .await?;
    Ok(swept.rows_affected())
}

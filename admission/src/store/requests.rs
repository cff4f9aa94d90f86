//! SQL of `admission.requests`: accepted booking requests.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use domain::booking::Wish;
use domain::{AccountId, BookingId, EventId};
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};

/// Retention of a request's idempotency key; equals that of the stored response.
const KEY_RETENTION: TimeDelta = platform::idempotency::RETENTION;
/// Maximum number of rows that one sweep deletes.
const SWEEP_LIMIT: i64 = 5_000;

/// The content of a booking request: an event, a buyer and the seats wished for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BookingRequest {
    pub(crate) event_id: EventId,
    /// The buyer, who may differ from the caller when staff book.
    pub(crate) account_id: AccountId,
    pub(crate) wish: Wish,
}

/// A stored request with its booking id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AcceptedRequest {
    /// The same for every repeat with the same key.
    pub(crate) booking_id: BookingId,
    pub(crate) request: BookingRequest,
    /// Time of the first acceptance.
    pub(crate) accepted_at: DateTime<Utc>,
}

struct Row {
    booking_id: uuid::Uuid,
    event_id: i64,
    account_id: i64,
    wish: Json<Wish>,
    accepted_at: DateTime<Utc>,
}

impl From<Row> for AcceptedRequest {
    fn from(row: Row) -> Self {
        Self {
            booking_id: BookingId(row.booking_id),
            request: BookingRequest {
                event_id: EventId(row.event_id),
                account_id: AccountId(row.account_id),
                wish: row.wish.0,
            },
            accepted_at: row.accepted_at,
        }
    }
}

/// Stores requests, each under a new booking id. For a key that was used within the last 24 h the
/// stored request is returned, whose content may differ. Keys within `requests` are distinct.
pub(crate) async fn accept_all(
    conn: &mut PgConnection,
    requests: &[(Option<&str>, &BookingRequest)],
    now: DateTime<Utc>,
) -> Result<Vec<AcceptedRequest>, sqlx::Error> {
    let keys: Vec<_> = requests
        .iter()
        .filter_map(|(key, _)| key.map(str::to_owned))
        .collect();
    if !keys.is_empty() {
        forget_old_keys(conn, &keys, now).await?;
    }
    let new: Vec<_> = requests
        .iter()
        .map(|(_, request)| AcceptedRequest {
            booking_id: BookingId::new(now),
            request: (*request).clone(),
            accepted_at: now,
        })
        .collect();
    let mut known = insert_all(conn, requests, &new, now).await?;
    let stored = |(new, (key, _)): (AcceptedRequest, &(Option<&str>, &BookingRequest))| {
        key.and_then(|key| known.remove(key)).unwrap_or(new)
    };
    Ok(new.into_iter().zip(requests).map(stored).collect())
}

async fn forget_old_keys(
    conn: &mut PgConnection,
    keys: &[String],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update admission.requests set request_key = null
         where request_key = any($1) and accepted_at <= $2",
        keys,
        now - KEY_RETENTION,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Inserts requests without a key or with a new one, and returns the stored requests of the other
/// keys.
async fn insert_all(
    conn: &mut PgConnection,
    requests: &[(Option<&str>, &BookingRequest)],
    new: &[AcceptedRequest],
    now: DateTime<Utc>,
) -> Result<HashMap<String, AcceptedRequest>, sqlx::Error> {
    let ids: Vec<_> = new.iter().map(|request| request.booking_id.0).collect();
    let events: Vec<_> = requests
        .iter()
        .map(|(_, request)| request.event_id.0)
        .collect();
    let accounts: Vec<_> = requests
        .iter()
        .map(|(_, request)| request.account_id.0)
        .collect();
    let wishes: Vec<_> = requests
        .iter()
        .map(|(_, request)| Json(&request.wish))
        .collect();
    let tickets: Vec<_> = requests
        .iter()
        .map(|(_, request)| i32::try_from(request.wish.tickets()).unwrap_or(i32::MAX))
        .collect();
    let keys: Vec<_> = requests
        .iter()
        .map(|(key, _)| key.map(str::to_owned))
        .collect();
    let rows = sqlx::query!(
        r#"with accepted as (
               insert into admission.requests
                   (booking_id, event_id, account_id, wish, tickets, request_key, accepted_at)
               select booking_id, event_id, account_id, wish, tickets, request_key, $7
               from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::jsonb[], $5::integer[], $6::text[])
                    as new (booking_id, event_id, account_id, wish, tickets, request_key)
               on conflict (request_key) do update set repeated_at = $7
               returning booking_id, event_id, account_id, wish, request_key, accepted_at
           )
           select booking_id, event_id, account_id, wish as "wish: Json<Wish>", accepted_at,
                  request_key as "request_key!"
           from accepted where booking_id <> all($1)"#,
        &ids,
        &events,
        &accounts,
        wishes.as_slice() as &[Json<&Wish>],
        &tickets,
        keys.as_slice() as &[Option<String>],
        now,
    )
    .fetch_all(conn)
    .await?;
    let known = rows.into_iter().map(|row| {
        let request = Row {
            booking_id: row.booking_id,
            event_id: row.event_id,
            account_id: row.account_id,
            wish: row.wish,
            accepted_at: row.accepted_at,
        };
        (row.request_key, request.into())
    });
    Ok(known.collect())
}

/// The stored request of a key that was used within the last 24 h, marked as repeated.
pub(crate) async fn repeat(
    conn: &mut PgConnection,
    key: &str,
    now: DateTime<Utc>,
) -> Result<Option<AcceptedRequest>, sqlx::Error> {
    let row = sqlx::query_as!(
        Row,
        r#"update admission.requests set repeated_at = $2
           where request_key = $1 and accepted_at > $3
           returning booking_id, event_id, account_id, wish as "wish: Json<Wish>", accepted_at"#,
        key,
        now,
        now - KEY_RETENTION,
    );
    Ok(row.fetch_optional(conn).await?.map(AcceptedRequest::from))
}

/// Marks a request as published: it is listed as requested until it is decided.
pub(crate) async fn mark_published(db: &PgPool, id: BookingId) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update admission.requests set published = true where booking_id = $1",
        id.0
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Deletes an unpublished request, unless a repeat has taken it up.
pub(crate) async fn withdraw(db: &PgPool, id: BookingId) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "delete from admission.requests
         where booking_id = $1 and not published and repeated_at is null",
        id.0
    )
    .execute(db)
    .await?;
    Ok(())
}

/// Returns the request with this id. Ids are only sent to callers whose request was accepted.
pub(crate) async fn find(
    db: &PgPool,
    id: BookingId,
) -> Result<Option<AcceptedRequest>, sqlx::Error> {
    let row = sqlx::query_as!(
        Row,
        r#"select booking_id, event_id, account_id, wish as "wish: Json<Wish>", accepted_at
           from admission.requests where booking_id = $1"#,
        id.0,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(AcceptedRequest::from))
}

/// Returns the latest published but undecided requests of an account, newest first.
pub(crate) async fn undecided_of(
    db: &PgPool,
    account_id: AccountId,
    limit: i64,
) -> Result<Vec<AcceptedRequest>, sqlx::Error> {
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
    Ok(rows.into_iter().map(AcceptedRequest::from).collect())
}

/// Deletes one batch of requests past retention that are decided or were never published. Returns
/// whether more may be left.
pub(crate) async fn sweep(db: &PgPool, now: DateTime<Utc>) -> Result<bool, sqlx::Error> {
    let swept = sqlx::query!(
        "delete from admission.requests where booking_id in (
             select r.booking_id from admission.requests r
             where r.accepted_at <= $1
               and (not r.published
                    or exists (select from booking.public_bookings b where b.id = r.booking_id))
             order by r.accepted_at limit $2 for update of r skip locked
         )",
        now - KEY_RETENTION,
        SWEEP_LIMIT,
    )
    .execute(db)
    .await?;
    Ok(swept.rows_affected() >= SWEEP_LIMIT.cast_unsigned())
}

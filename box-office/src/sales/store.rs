//! SQL of sales.

use chrono::{DateTime, Utc};
use domain::EventId;
use domain::sale::SaleSettings;
use serde_json::Value;
use sqlx::PgConnection;

struct SaleRow {
    event_id: i64,
    version: i64,
    opens_at: DateTime<Utc>,
    closes_at: Option<DateTime<Utc>>,
    event_starts_at: DateTime<Utc>,
    lobby_seconds: i32,
    rate_per_minute: i32,
    shopper_cap: i32,
    claim_window_seconds: i32,
    pass_seconds: i32,
    hold_seconds: i32,
    paused: bool,
    closed: bool,
    queue: bool,
    challenge: bool,
    anonymous: bool,
    entropy_source: String,
    entropy: String,
    message: String,
    max_tickets_per_account: i32,
}

impl TryFrom<SaleRow> for SaleSettings {
    type Error = sqlx::Error;

    fn try_from(row: SaleRow) -> Result<Self, sqlx::Error> {
        let unsigned = |value: i32| {
            let message = "box_office.sales: a number is negative";
            u32::try_from(value).map_err(|_| sqlx::Error::Decode(message.into()))
        };
        Ok(Self {
            event_id: EventId(row.event_id),
            version: row.version,
            opens_at: row.opens_at,
            closes_at: row.closes_at,
            event_starts_at: Some(row.event_starts_at),
            lobby_seconds: unsigned(row.lobby_seconds)?,
            rate_per_minute: unsigned(row.rate_per_minute)?,
            shopper_cap: unsigned(row.shopper_cap)?,
            claim_window_seconds: unsigned(row.claim_window_seconds)?,
            pass_seconds: unsigned(row.pass_seconds)?,
            hold_seconds: unsigned(row.hold_seconds)?,
            paused: row.paused,
            closed: row.closed,
            queue: row.queue,
            challenge: row.challenge,
            anonymous: row.anonymous,
            entropy_source: row.entropy_source,
            entropy: row.entropy,
            message: row.message,
            max_tickets_per_account: unsigned(row.max_tickets_per_account)?,
        })
    }
}

/// Converts a setting, whose bounds are far below 2^31.
fn signed(value: u32) -> i32 {
    i32::try_from(value).expect("the bounds of a sale's settings fit in 31 bits")
}

/// Returns the sale with this id.
pub(super) async fn get(
    conn: &mut PgConnection,
    id: EventId,
) -> Result<Option<SaleSettings>, sqlx::Error> {
    let row = sqlx::query_as!(
        SaleRow,
        "select sale.event_id, sale.version, opens_at, closes_at, lobby_seconds, rate_per_minute,
                shopper_cap, claim_window_seconds, pass_seconds, hold_seconds, paused, closed,
                queue, challenge, anonymous, entropy_source, entropy, message,
                event.max_tickets_per_account, event.date as event_starts_at
         from box_office.sales sale join box_office.events event on event.id = sale.event_id
         where sale.event_id = $1",
        id.0,
    )
    .fetch_optional(conn)
    .await?;
    row.map(SaleSettings::try_from).transpose()
}

/// Returns the sale with this id, locked for update, with its event locked for share.
pub(super) async fn lock(
    conn: &mut PgConnection,
    id: EventId,
) -> Result<Option<SaleSettings>, sqlx::Error> {
    // The same lock order as a change of the event, which locks event, then sale.
    sqlx::query!(
        "select id from box_office.events where id = $1 for share",
        id.0
    )
    .fetch_optional(&mut *conn)
    .await?;
    sqlx::query!(
        "select event_id from box_office.sales where event_id = $1 for update",
        id.0
    )
    .fetch_optional(&mut *conn)
    .await?;
    get(conn, id).await
}

/// Returns true if the event of a locked sale is cancelled.
pub(super) async fn is_event_cancelled(
    conn: &mut PgConnection,
    id: EventId,
) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        "select state = 'cancelled' as \"is_cancelled!\" from box_office.events where id = $1",
        id.0,
    )
    .fetch_one(conn)
    .await
}

/// Progress of a sale's line, as far as it restricts changes of the lottery.
#[derive(Debug)]
pub(super) struct LineStart {
    /// True once somebody has joined.
    pub(super) is_joined: bool,
    /// True once the set of lottery entries is fixed.
    pub(super) is_fixed: bool,
    /// True if the draw has at least one entry.
    pub(super) takes_part: bool,
}

/// Returns the progress of a sale's line.
pub(super) async fn line(conn: &mut PgConnection, id: EventId) -> Result<LineStart, sqlx::Error> {
    sqlx::query_as!(
        LineStart,
        "select exists (select from waiting_room.public_lines
                        where event_id = $1 and joined > 0) as \"is_joined!\",
                exists (select from admission.public_draws
                        where event_id = $1 and fixed_at is not null) as \"is_fixed!\",
                exists (select from admission.public_draws
                        where event_id = $1 and lobby > 0) as \"takes_part!\"",
        id.0,
    )
    .fetch_one(conn)
    .await
}

/// Inserts the sale of a new event.
pub(super) async fn insert(
    conn: &mut PgConnection,
    sale: &SaleSettings,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into box_office.sales
             (event_id, version, opens_at, closes_at, lobby_seconds, rate_per_minute, shopper_cap,
              claim_window_seconds, pass_seconds, hold_seconds, paused, closed, queue, challenge,
              anonymous, entropy_source, entropy, message, updated_at)
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18,
                 $19)",
        sale.event_id.0,
        sale.version,
        sale.opens_at,
        sale.closes_at,
        signed(sale.lobby_seconds),
        signed(sale.rate_per_minute),
        signed(sale.shopper_cap),
        signed(sale.claim_window_seconds),
        signed(sale.pass_seconds),
        signed(sale.hold_seconds),
        sale.paused,
        sale.closed,
        sale.queue,
        sale.challenge,
        sale.anonymous,
        sale.entropy_source,
        sale.entropy,
        sale.message,
        now,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Stores the settings as the next version, and returns them with it.
pub(super) async fn update(
    conn: &mut PgConnection,
    sale: &SaleSettings,
    now: DateTime<Utc>,
) -> Result<SaleSettings, sqlx::Error> {
    let version = sqlx::query_scalar!(
        "update box_office.sales
         set version = version + 1, opens_at = $2, closes_at = $3, lobby_seconds = $4,
             rate_per_minute = $5, shopper_cap = $6, claim_window_seconds = $7, pass_seconds = $8,
             hold_seconds = $9, paused = $10, closed = $11, queue = $12, challenge = $13,
             anonymous = $14, entropy_source = $15, entropy = $16, message = $17, updated_at = $18
         where event_id = $1
         returning version",
        sale.event_id.0,
        sale.opens_at,
        sale.closes_at,
        signed(sale.lobby_seconds),
        signed(sale.rate_per_minute),
        signed(sale.shopper_cap),
        signed(sale.claim_window_seconds),
        signed(sale.pass_seconds),
        signed(sale.hold_seconds),
        sale.paused,
        sale.closed,
        sale.queue,
        sale.challenge,
        sale.anonymous,
        sale.entropy_source,
        sale.entropy,
        sale.message,
        now,
    )
    .fetch_one(conn)
    .await?;
    Ok(SaleSettings {
        version,
        ..sale.clone()
    })
}

/// Returns the snapshot last published by admission's release leader, as JSON; `None` before the
/// first.
pub(crate) async fn snapshot(
    conn: &mut PgConnection,
    id: EventId,
) -> Result<Option<Value>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select snapshot as "snapshot!" from admission.public_lines where event_id = $1"#,
        id.0,
    )
    .fetch_optional(conn)
    .await
}

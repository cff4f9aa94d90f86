//! Reads bookings and their payments from the workers' public views.

use chrono::{DateTime, Utc};
use domain::booking::{BookedSeat, BookingState, EndReason, RejectReason};
use domain::payment::PaymentState;
use domain::{AccountId, BookingId, Currency, EventId, Money, SeatId};
use sqlx::PgPool;
use sqlx::types::Json;

use super::{unreadable, word};

/// A booking that a worker has decided.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StoredBooking {
    pub(crate) id: BookingId,
    pub(crate) event_id: EventId,
    pub(crate) account_id: AccountId,
    pub(crate) tickets: i32,
    pub(crate) state: BookingState,
    /// Reason of a rejection, or of a hold that ended early.
    pub(crate) reason: Option<&'static str>,
    pub(crate) seats: Vec<BookedSeat>,
    pub(crate) total: Money,
    pub(crate) hold_until: Option<DateTime<Utc>>,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) ticket_codes: Vec<String>,
    pub(crate) transferred_seats: Vec<SeatId>,
    pub(crate) payment: Option<StoredPayment>,
}

/// The payment of a booking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct StoredPayment {
    pub(crate) state: PaymentState,
    pub(crate) intent_id: Option<String>,
    pub(crate) client_secret: Option<String>,
    pub(crate) refund_state: Option<String>,
}

struct Row {
    id: uuid::Uuid,
    event_id: i64,
    account_id: i64,
    tickets: i32,
    state: String,
    reason: Option<String>,
    seats: Json<Vec<BookedSeat>>,
    total_minor: i64,
    currency: String,
    hold_until: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    ticket_codes: Json<Vec<String>>,
    transferred_seats: Json<Vec<SeatId>>,
    payment_state: Option<String>,
    intent_id: Option<String>,
    client_secret: Option<String>,
    refund_state: Option<String>,
}

impl TryFrom<Row> for StoredBooking {
    type Error = sqlx::Error;

    fn try_from(row: Row) -> Result<Self, sqlx::Error> {
        let currency = Currency::try_from(row.currency).map_err(unreadable)?;
        let payment = match row.payment_state {
            None => None,
            Some(state) => Some(StoredPayment {
                state: word(&state, PaymentState::parse)?,
                intent_id: row.intent_id,
                client_secret: row.client_secret,
                refund_state: row.refund_state,
            }),
        };
        Ok(Self {
            id: BookingId(row.id),
            event_id: EventId(row.event_id),
            account_id: AccountId(row.account_id),
            tickets: row.tickets,
            state: word(&row.state, BookingState::parse)?,
            reason: row.reason.map(|text| word(&text, reason)).transpose()?,
            seats: row.seats.0,
            total: Money::new(row.total_minor, currency),
            hold_until: row.hold_until,
            created_at: row.created_at,
            ticket_codes: row.ticket_codes.0,
            transferred_seats: row.transferred_seats.0,
            payment,
        })
    }
}

/// Parses a reject or end reason.
fn reason(text: &str) -> Option<&'static str> {
    let rejected = RejectReason::parse(text).map(RejectReason::as_str);
    rejected.or_else(|| EndReason::parse(text).map(EndReason::as_str))
}

/// Returns those of the bookings that a worker has decided.
pub(crate) async fn find(
    db: &PgPool,
    ids: &[BookingId],
) -> Result<Vec<StoredBooking>, sqlx::Error> {
    let ids: Vec<_> = ids.iter().map(|id| id.0).collect();
    let rows = sqlx::query_as!(
        Row,
        r#"select b.id as "id!", b.event_id as "event_id!", b.account_id as "account_id!",
                  b.tickets as "tickets!", b.state as "state!",
                  coalesce(b.reason, (select e.end_reason from booking.public_end_reasons e
                                      where e.booking_id = b.id)) as reason,
                  b.seats as "seats!: Json<Vec<BookedSeat>>", b.total_minor as "total_minor!",
                  b.currency as "currency!", b.hold_until as "hold_until?",
                  b.created_at as "created_at!",
                  b.ticket_codes as "ticket_codes!: Json<Vec<String>>",
                  b.transferred_seats as "transferred_seats!: Json<Vec<SeatId>>",
                  p.state as "payment_state?", p.intent_id as "intent_id?",
                  p.client_secret as "client_secret?", p.refund_state as "refund_state?"
           from booking.public_bookings b
           left join payment.public_payments p on p.booking_id = b.id
           where b.id = any($1)"#,
        &ids,
    )
    .fetch_all(db)
    .await?;
    rows.into_iter().map(StoredBooking::try_from).collect()
}

/// Returns the latest bookings of an account, newest first.
pub(crate) async fn of_account(
    db: &PgPool,
    account_id: AccountId,
    limit: i64,
) -> Result<Vec<StoredBooking>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"select b.id as "id!", b.event_id as "event_id!", b.account_id as "account_id!",
                  b.tickets as "tickets!", b.state as "state!",
                  coalesce(b.reason, (select e.end_reason from booking.public_end_reasons e
                                      where e.booking_id = b.id)) as reason,
                  b.seats as "seats!: Json<Vec<BookedSeat>>", b.total_minor as "total_minor!",
                  b.currency as "currency!", b.hold_until as "hold_until?",
                  b.created_at as "created_at!",
                  b.ticket_codes as "ticket_codes!: Json<Vec<String>>",
                  b.transferred_seats as "transferred_seats!: Json<Vec<SeatId>>",
                  p.state as "payment_state?", p.intent_id as "intent_id?",
                  p.client_secret as "client_secret?", p.refund_state as "refund_state?"
           from booking.public_bookings b
           left join payment.public_payments p on p.booking_id = b.id
           where b.account_id = $1 order by b.id desc limit $2"#,
        account_id.0,
        limit,
    )
    .fetch_all(db)
    .await?;
    rows.into_iter().map(StoredBooking::try_from).collect()
}

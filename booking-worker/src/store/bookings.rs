//! Bookings and their guarded transitions: those of
//! [`Booking::after`](domain::booking::Booking::after), with the state checked by the updating
//! statement.

use std::collections::HashMap;

use chrono::{DateTime, TimeDelta, Utc};
use domain::booking::{BookedSeat, Booking, BookingFacts, BookingState, EndReason, RejectReason};
use domain::message::CancelAsked;
use domain::payment::VoidReason;
use domain::{AccountId, BookingId, Currency, EventId, Money};
use sqlx::postgres::types::PgInterval;
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::market::Decision;

/// First and longest pause before an unanswered void is repeated.
const MIN_ANSWER_PAUSE: TimeDelta = TimeDelta::seconds(60);
const MAX_ANSWER_PAUSE: TimeDelta = TimeDelta::seconds(600);

/// A decided request.
#[derive(Debug)]
pub(crate) struct Decided<'a> {
    pub(crate) request: &'a domain::message::PlaceHold,
    pub(crate) decision: &'a Decision,
}

/// A booking that ended.
#[derive(Debug)]
pub(crate) struct EndedBooking {
    pub(crate) facts: BookingFacts,
    /// Its state before.
    pub(crate) was: BookingState,
    /// Its state now: expired or cancelled.
    pub(crate) is: BookingState,
}

/// The end of a booking, as `booking.expired.v1` or `booking.cancelled.v1` has it.
#[derive(Debug)]
pub(crate) struct BookingEnd {
    pub(crate) facts: BookingFacts,
    /// `true` if it had tickets.
    pub(crate) was_confirmed: bool,
    /// Expired or cancelled.
    pub(crate) is_expired: bool,
    /// The cancellation by an account; `None` when its payment is impossible or its event is
    /// cancelled.
    pub(crate) asked: Option<CancelAsked>,
    /// The reason of a hold that ended early.
    pub(crate) reason: Option<EndReason>,
}

/// Columns of [`BookingFacts`].
struct Row {
    id: Uuid,
    event_id: i64,
    account_id: i64,
    seats: Json<Vec<BookedSeat>>,
    total_minor: i64,
    currency: String,
    hold_until: DateTime<Utc>,
    created_at: DateTime<Utc>,
}

impl From<Row> for BookingFacts {
    fn from(row: Row) -> Self {
        Self {
            booking_id: BookingId(row.id),
            event_id: EventId(row.event_id),
            account_id: AccountId(row.account_id),
            seats: row.seats.0,
            total: Money::new(row.total_minor, currency(&row.currency)),
            hold_until: row.hold_until,
            created_at: row.created_at,
        }
    }
}

pub(super) fn currency(text: &str) -> Currency {
    Currency::try_from(text).expect("a check of the table allows three letters only")
}

/// Parses a state. One of a later version is an error, so that its message is retried until that
/// version takes it.
fn state(word: &str) -> Result<BookingState, sqlx::Error> {
    BookingState::parse(word).ok_or_else(|| unreadable("state", word))
}

/// The error of a row that a later version wrote.
fn unreadable(column: &str, word: &str) -> sqlx::Error {
    sqlx::Error::Decode(format!("no {column} {word:?} is known to this version").into())
}

pub(crate) fn uuids(ids: &[BookingId]) -> Vec<Uuid> {
    ids.iter().map(|id| id.0).collect()
}

/// Reads bookings; undecided ones are absent.
pub(crate) async fn read(
    conn: &mut PgConnection,
    ids: &[BookingId],
) -> Result<HashMap<BookingId, Booking>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"select id, event_id, account_id, state, reason, ending, captured_at is not null as "is_paid!",
                  seats as "seats: Json<Vec<BookedSeat>>", total_minor, currency, hold_until, created_at
           from booking.bookings where id = any($1)"#,
        &uuids(ids),
    )
    .fetch_all(conn)
    .await?;
    let bookings = rows.into_iter().map(|row| {
        let id = BookingId(row.id);
        let is = state(&row.state)?;
        let Some(hold_until) = row.hold_until else {
            let reason = RejectReason::read(row.reason.as_deref().unwrap_or_default());
            return Ok((id, Booking::Rejected(reason)));
        };
        let facts = BookingFacts {
            booking_id: id,
            event_id: EventId(row.event_id),
            account_id: AccountId(row.account_id),
            seats: row.seats.0,
            total: Money::new(row.total_minor, currency(&row.currency)),
            hold_until,
            created_at: row.created_at,
        };
        let booking = match is {
            BookingState::Held => Booking::Held {
                facts,
                ending: row.ending.as_deref().and_then(VoidReason::parse),
            },
            BookingState::Confirmed => Booking::Confirmed {
                facts,
                is_paid: row.is_paid,
            },
            BookingState::Expired => Booking::Expired(facts),
            BookingState::Cancelled => Booking::Cancelled(facts),
            BookingState::Requested | BookingState::Rejected => {
                return Err(unreadable("hold in state", &row.state));
            }
        };
        Ok((id, booking))
    });
    bookings.collect()
}

/// Reads the facts of bookings that were held.
pub(super) async fn facts(
    conn: &mut PgConnection,
    ids: &[BookingId],
) -> Result<Vec<BookingFacts>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"select id, event_id, account_id, seats as "seats: Json<Vec<BookedSeat>>", total_minor,
                  currency, hold_until as "hold_until!", created_at
           from booking.bookings where id = any($1) and hold_until is not null"#,
        &uuids(ids),
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(BookingFacts::from).collect())
}

/// Inserts decided requests, as held or rejected; `false` when one was decided before, and the
/// transaction must be rolled back.
pub(crate) async fn insert(
    conn: &mut PgConnection,
    decided: &[Decided<'_>],
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let mut rows = Columns::default();
    decided.iter().for_each(|decided| rows.push(decided));
    let written = sqlx::query!(
        r#"insert into booking.bookings
               (id, event_id, account_id, tickets, state, reason, seats, total_minor, currency, hold_until,
                created_at, updated_at)
           select id, event_id, account_id, tickets, case when reason is null then 'held' else 'rejected' end,
                  reason, seats, total_minor, currency, hold_until, created_at, $1
           from unnest($2::uuid[], $3::bigint[], $4::bigint[], $5::integer[], $6::text[], $7::jsonb[],
                       $8::bigint[], $9::text[], $10::timestamptz[], $11::timestamptz[])
                as new (id, event_id, account_id, tickets, reason, seats, total_minor, currency, hold_until,
                        created_at)
           order by id
           on conflict (id) do nothing"#,
        now,
        &rows.ids,
        &rows.events,
        &rows.accounts,
        &rows.tickets,
        rows.reasons.as_slice() as &[Option<&str>],
        rows.seats.as_slice() as &[Json<&[BookedSeat]>],
        &rows.totals,
        &rows.currencies,
        rows.hold_untils.as_slice() as &[Option<DateTime<Utc>>],
        &rows.created,
    )
    .execute(conn)
    .await?
    .rows_affected();
    Ok(usize::try_from(written) == Ok(decided.len()))
}

/// Decided requests as arrays.
#[derive(Default)]
struct Columns<'a> {
    ids: Vec<Uuid>,
    events: Vec<i64>,
    accounts: Vec<i64>,
    tickets: Vec<i32>,
    reasons: Vec<Option<&'static str>>,
    seats: Vec<Json<&'a [BookedSeat]>>,
    totals: Vec<i64>,
    currencies: Vec<String>,
    hold_untils: Vec<Option<DateTime<Utc>>>,
    created: Vec<DateTime<Utc>>,
}

impl<'a> Columns<'a> {
    fn push(&mut self, decided: &Decided<'a>) {
        let (reason, seats, total, hold_until) = match decided.decision {
            Decision::Hold {
                seats,
                total,
                hold_until,
            } => (None, seats.as_slice(), *total, Some(*hold_until)),
            Decision::Reject(reason) => (
                Some(reason.as_str()),
                &[][..],
                Money::new(0, Currency::EUR),
                None,
            ),
        };
        let request = decided.request;
        self.ids.push(request.booking_id.0);
        self.events.push(request.event_id.0);
        self.accounts.push(request.account_id.0);
        self.tickets
            .push(i32::try_from(request.wish.tickets()).unwrap_or(i32::MAX));
        self.reasons.push(reason);
        self.seats.push(Json(seats));
        self.totals.push(total.amount_minor);
        self.currencies.push(total.currency.to_string());
        self.hold_untils.push(hold_until);
        self.created.push(request.accepted_at);
    }
}

/// held → confirmed, unless the booking is being cancelled. Returns those that changed.
pub(crate) async fn confirm(
    conn: &mut PgConnection,
    ids: &[BookingId],
    now: DateTime<Utc>,
) -> Result<Vec<BookingFacts>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"with due as materialized (
               select id from booking.bookings
               where id = any($1) and state = 'held' and ending is distinct from 'cancelled'
               order by id for update
           )
           update booking.bookings b
           set state = 'confirmed', ending = null, ending_asked_at = null, ending_due_at = null,
               updated_at = $2
           from due where b.id = due.id
           returning b.id, b.event_id, b.account_id, b.seats as "seats: Json<Vec<BookedSeat>>",
                     b.total_minor, b.currency, b.hold_until as "hold_until!", b.created_at"#,
        &uuids(ids),
        now,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(BookingFacts::from).collect())
}

/// Marks confirmed bookings as paid; returns those that were not marked before.
pub(crate) async fn mark_captured(
    conn: &mut PgConnection,
    ids: &[BookingId],
    now: DateTime<Utc>,
) -> Result<Vec<BookingFacts>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"with due as materialized (
               select id from booking.bookings
               where id = any($1) and state = 'confirmed' and captured_at is null
               order by id for update
           )
           update booking.bookings b set captured_at = $2, updated_at = $2
           from due where b.id = due.id
           returning b.id, b.event_id, b.account_id, b.seats as "seats: Json<Vec<BookedSeat>>",
                     b.total_minor, b.currency, b.hold_until as "hold_until!", b.created_at"#,
        &uuids(ids),
        now,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows.into_iter().map(BookingFacts::from).collect())
}

/// held → expired, or cancelled when its buyer gave it up; confirmed → cancelled. Only bookings in
/// a state of `from` change; returns those that did.
pub(crate) async fn end(
    conn: &mut PgConnection,
    ids: &[BookingId],
    from: &[BookingState],
    reason: Option<EndReason>,
    now: DateTime<Utc>,
) -> Result<Vec<EndedBooking>, sqlx::Error> {
    let from: Vec<_> = from.iter().map(|state| state.as_str().to_owned()).collect();
    let rows = sqlx::query!(
        r#"with due as materialized (
               select id, state,
                      case when state = 'held' and ending is distinct from 'cancelled' then 'expired'
                           else 'cancelled' end as next
               from booking.bookings
               where id = any($1) and state = any($2) and state in ('held', 'confirmed')
               order by id for update
           )
           update booking.bookings b
           set state = due.next, ending = null, ending_asked_at = null, ending_due_at = null,
               updated_at = $3, end_reason = case when due.next = 'expired' then $4 end
           from due where b.id = due.id
           returning b.id, b.event_id, b.account_id, b.seats as "seats: Json<Vec<BookedSeat>>", b.total_minor,
                     b.currency, b.hold_until as "hold_until!", b.created_at, due.state as was, b.state"#,
        &uuids(ids),
        &from,
        now,
        reason.map(EndReason::as_str),
    )
    .fetch_all(conn)
    .await?;
    let ended = rows.into_iter().map(|row| {
        Ok(EndedBooking {
            was: state(&row.was)?,
            is: state(&row.state)?,
            facts: Row {
                id: row.id,
                event_id: row.event_id,
                account_id: row.account_id,
                seats: row.seats,
                total_minor: row.total_minor,
                currency: row.currency,
                hold_until: row.hold_until,
                created_at: row.created_at,
            }
            .into(),
        })
    });
    ended.collect()
}

/// Records by whom confirmed bookings were cancelled.
pub(crate) async fn insert_cancellations(
    conn: &mut PgConnection,
    ids: &[BookingId],
    asked: Option<CancelAsked>,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    if ids.is_empty() {
        return Ok(());
    }
    let done = sqlx::query!(
        "insert into booking.cancellations (booking_id, cancelled_by, cancelled_at)
         select id, $2::bigint, $3::timestamptz from unnest($1::uuid[]) as new (id)
         on conflict (booking_id) do nothing",
        &uuids(ids),
        asked.map(|asked| asked.by.0),
        asked.map_or(now, |asked| asked.at),
    );
    done.execute(conn).await.map(|_| ())
}

/// Begins to cancel a held booking, and returns its buyer; `None` when that was begun before, or it
/// is not held.
pub(crate) async fn begin_cancel(
    conn: &mut PgConnection,
    id: BookingId,
    now: DateTime<Utc>,
) -> Result<Option<AccountId>, sqlx::Error> {
    let buyer = sqlx::query_scalar!(
        "update booking.bookings
         set ending = 'cancelled', ending_asked_at = $2, ending_due_at = $3, updated_at = $2
         where id = $1 and state = 'held' and ending is distinct from 'cancelled'
         returning account_id",
        id.0,
        now,
        now + MIN_ANSWER_PAUSE,
    )
    .fetch_optional(conn)
    .await?;
    Ok(buyer.map(AccountId))
}

/// Extends up to `limit` expired holds to `until` whose buyers are authenticating at their bank,
/// each once; returns how many.
pub(crate) async fn extend_while_paying(
    conn: &mut PgConnection,
    now: DateTime<Utc>,
    until: DateTime<Utc>,
    limit: i64,
) -> Result<u64, sqlx::Error> {
    let extended = sqlx::query!(
        "with due as materialized (
             select b.id from booking.bookings b
             join payment.public_payments p on p.booking_id = b.id
             where b.state = 'held' and b.ending is null and b.hold_until <= $1
               and b.extended_at is null and p.state = 'requires_action'
             order by b.hold_until limit $3 for update of b skip locked
         )
         update booking.bookings b set hold_until = $2, extended_at = $1, updated_at = $1
         from due where b.id = due.id",
        now,
        until,
        limit,
    )
    .execute(conn)
    .await?;
    Ok(extended.rows_affected())
}

/// Begins to expire up to `limit` holds, oldest first; returns them with the time they expired at.
pub(crate) async fn begin_expiry(
    conn: &mut PgConnection,
    now: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<(BookingId, DateTime<Utc>)>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"with due as materialized (
               select id from booking.bookings
               where state = 'held' and ending is null and hold_until <= $1
               order by hold_until limit $2 for update skip locked
           )
           update booking.bookings b
           set ending = 'hold_expired', ending_asked_at = $1, ending_due_at = $3, updated_at = $1
           from due where b.id = due.id
           returning b.id, b.hold_until as "hold_until!""#,
        now,
        limit,
        now + MIN_ANSWER_PAUSE,
    )
    .fetch_all(conn)
    .await?;
    Ok(rows
        .into_iter()
        .map(|row| (BookingId(row.id), row.hold_until))
        .collect())
}

/// Claims up to `limit` voids that nobody answered in time, to be repeated. Exponential backoff:
/// the next answer has twice as long, up to [`MAX_ANSWER_PAUSE`].
pub(crate) async fn claim_unanswered_voids(
    conn: &mut PgConnection,
    now: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<(BookingId, VoidReason)>, sqlx::Error> {
    let longest = PgInterval::try_from(MAX_ANSWER_PAUSE).expect("whole minutes are an interval");
    let rows = sqlx::query!(
        r#"with due as materialized (
               select id from booking.bookings
               where state = 'held' and ending is not null and ending_asked_at <= $2
                 and coalesce(ending_due_at, ending_asked_at) <= $1
               order by ending_asked_at limit $3 for update skip locked
           )
           update booking.bookings b
           set ending_asked_at = $1,
               ending_due_at = $1::timestamptz
                   + least(2 * (coalesce(b.ending_due_at, b.ending_asked_at) - b.ending_asked_at), $4)
           from due where b.id = due.id
           returning b.id, b.ending as "ending!""#,
        now,
        now - MIN_ANSWER_PAUSE,
        limit,
        longest,
    )
    .fetch_all(conn)
    .await?;
    let reason = |ending: &str| match ending {
        "cancelled" => VoidReason::Cancelled,
        _ => VoidReason::HoldExpired,
    };
    Ok(rows
        .into_iter()
        .map(|row| (BookingId(row.id), reason(&row.ending)))
        .collect())
}

/// Up to `limit` bookings with seats of cancelled events, without those to `skip` and those being
/// cancelled.
pub(crate) async fn of_cancelled_events(
    pool: &PgPool,
    skip: &[Uuid],
    limit: i64,
) -> Result<Vec<BookingId>, sqlx::Error> {
    let ids = sqlx::query_scalar!(
        "select b.id from booking.events e
         cross join lateral (
             select id from booking.bookings
             where event_id = e.event_id and state in ('held', 'confirmed')
               and ending is distinct from 'cancelled' and id <> all($2)
             limit $1) b
         where e.cancelled
         limit $1",
        limit,
        skip,
    )
    .fetch_all(pool)
    .await?;
    Ok(ids.into_iter().map(BookingId).collect())
}

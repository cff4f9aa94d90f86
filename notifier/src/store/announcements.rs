//! SQL of announcements: event news that is still to be fanned out to ticket holders.

use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::EventId;
use domain::event::Event;
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::notice::{Announced, NoticeKind};

/// Bookings fanned out in one transaction.
const CHUNK: i64 = 1_000;

/// An announcement leased by this process.
#[derive(Debug, Clone)]
pub(crate) struct ClaimedAnnouncement {
    pub(crate) id: i64,
    /// Number of claims, which serves as the fencing token.
    pub(crate) tries: i32,
    pub(crate) event_id: EventId,
    pub(crate) kind: String,
    occasion: i64,
    before: Option<Json<Announced>>,
    heard_at: DateTime<Utc>,
    written_up_to: Option<Uuid>,
}

/// Progress of a fan-out after one chunk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fanout {
    /// This many notifications were inserted; there may be more.
    Chunk(u64),
    /// The announcement is complete and was deleted.
    Complete,
    /// Another process has claimed the announcement since, by its fencing token.
    LeaseLost,
}

/// Announces that an event was cancelled, and drops its other pending announcements.
pub(crate) async fn put_cancelled(
    conn: &mut PgConnection,
    event_id: EventId,
    version: i64,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "delete from notifier.announcements where event_id = $1 and kind <> 'event_cancelled'",
        event_id.0,
    )
    .execute(&mut *conn)
    .await?;
    put(
        conn,
        event_id,
        NoticeKind::EventCancelled,
        version,
        None,
        now,
        now,
    )
    .await
}

/// Announces a change from `before`, due at `due_at`. A pending, unstarted change is coalesced with
/// it, and deleted if the event is again as it was before that change.
pub(crate) async fn put_changed(
    conn: &mut PgConnection,
    event: &Event,
    before: &Announced,
    due_at: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let (event_id, version) = (event.id, event.version);
    let taken_back = sqlx::query!(
        "delete from notifier.announcements
         where event_id = $1 and kind = 'event_changed' and tries = 0 and before = $2",
        event_id.0,
        Json(Announced::of(event)) as _,
    );
    if taken_back.execute(&mut *conn).await?.rows_affected() > 0 {
        return Ok(());
    }
    let joined = sqlx::query!(
        "update notifier.announcements set occasion = $2, heard_at = $3
         where event_id = $1 and kind = 'event_changed' and tries = 0",
        event_id.0,
        version,
        now,
    );
    if joined.execute(&mut *conn).await?.rows_affected() > 0 {
        return Ok(());
    }
    let kind = NoticeKind::EventChanged;
    put(conn, event_id, kind, version, Some(before), due_at, now).await
}

/// Announces due reminders of up to 100 events, once per start time, and returns the number of
/// events. Buyers who pay, and holders who receive a ticket, after that get no reminder: their
/// confirmation says the same.
pub(crate) async fn put_reminders(pool: &PgPool, now: DateTime<Utc>) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "with due as (
             update notifier.events set reminded_for = starts_at
             where event_id in (
                 select event_id from notifier.events
                 where not cancelled and reminded_for is distinct from starts_at
                   and remind_at <= $1 and starts_at > $1
                 order by remind_at limit 100 for no key update skip locked)
             returning event_id, starts_at)
         insert into notifier.announcements (event_id, kind, occasion, heard_at, due_at)
         select event_id, 'reminder', extract(epoch from date_trunc('second', starts_at))::bigint, $1, $1
         from due
         on conflict (event_id, kind, occasion) do nothing",
        now,
    );
    Ok(done.execute(pool).await?.rows_affected())
}

async fn put(
    conn: &mut PgConnection,
    event_id: EventId,
    kind: NoticeKind,
    occasion: i64,
    before: Option<&Announced>,
    due_at: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into notifier.announcements (event_id, kind, occasion, before, heard_at, due_at)
         values ($1, $2, $3, $4, $5, $6)
         on conflict (event_id, kind, occasion) do nothing",
        event_id.0,
        kind.as_str(),
        occasion,
        before.map(Json) as _,
        now,
        due_at,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Leases the announcement that has been due longest.
pub(crate) async fn claim(
    pool: &PgPool,
    lease: Duration,
    now: DateTime<Utc>,
) -> Result<Option<ClaimedAnnouncement>, sqlx::Error> {
    let row = sqlx::query!(
        r#"update notifier.announcements set tries = tries + 1, due_at = $2
           where id = (select id from notifier.announcements where due_at <= $1
                       order by due_at, id limit 1 for update skip locked)
           returning id, tries, event_id, kind, occasion, before as "before: Json<Announced>", heard_at,
                     written_up_to"#,
        now,
        now + lease,
    )
    .fetch_optional(pool)
    .await?;
    Ok(row.map(|row| ClaimedAnnouncement {
        id: row.id,
        tries: row.tries,
        event_id: EventId(row.event_id),
        kind: row.kind,
        occasion: row.occasion,
        before: row.before,
        heard_at: row.heard_at,
        written_up_to: row.written_up_to,
    }))
}

/// Inserts the notifications for the next [`CHUNK`] bookings, one per reader and channel.
pub(crate) async fn write_chunk(
    conn: &mut PgConnection,
    claimed: &ClaimedAnnouncement,
    has_sms: bool,
    now: DateTime<Utc>,
) -> Result<Fanout, sqlx::Error> {
    let is_ours = sqlx::query_scalar!(
        "select id from notifier.announcements where id = $1 and tries = $2 for update",
        claimed.id,
        claimed.tries,
    );
    if is_ours.fetch_optional(&mut *conn).await?.is_none() {
        return Ok(Fanout::LeaseLost);
    }
    let bookings = next_bookings(conn, claimed).await?;
    let Some(last) = bookings.last().copied() else {
        sqlx::query!(
            "delete from notifier.announcements where id = $1",
            claimed.id
        )
        .execute(conn)
        .await?;
        return Ok(Fanout::Complete);
    };
    let written = insert_chunk(conn, claimed, &bookings, has_sms, now).await?;
    sqlx::query!(
        "update notifier.announcements set written_up_to = $2, due_at = $3 where id = $1",
        claimed.id,
        last,
        now,
    )
    .execute(conn)
    .await?;
    Ok(Fanout::Chunk(written))
}

/// Returns the next live bookings, locked for share, so that a concurrent cancellation is ordered
/// before or after this chunk.
async fn next_bookings(
    conn: &mut PgConnection,
    claimed: &ClaimedAnnouncement,
) -> Result<Vec<Uuid>, sqlx::Error> {
    sqlx::query_scalar!(
        "select booking_id from notifier.bookings
         where event_id = $1 and live and booking_id > $2
         order by booking_id limit $3 for share",
        claimed.event_id.0,
        claimed.written_up_to.unwrap_or_default(),
        CHUNK,
    )
    .fetch_all(conn)
    .await
}

/// Inserts the notifications. Buyers who have transferred all their tickets are only notified of a
/// cancelled event, since they get the refund. A change replaces earlier ones that are still
/// waiting, and keeps the oldest `before`, so that it describes the difference from what the reader
/// knows.
async fn insert_chunk(
    conn: &mut PgConnection,
    claimed: &ClaimedAnnouncement,
    bookings: &[Uuid],
    has_sms: bool,
    now: DateTime<Utc>,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "with live as (
             select booking_id, account_id, facts from notifier.bookings booking
             where booking_id = any($8)
               and ($2 = 'event_cancelled' or not exists (
                   select from notifier.notifications paid
                   where paid.booking_id = booking.booking_id and paid.kind = 'confirmed'
                     and paid.created_at > $7))
         ), ticket as (
             select live.booking_id, live.account_id, ticket
             from live cross join jsonb_array_elements(
                 case jsonb_typeof(live.facts -> 'tickets') when 'array' then live.facts -> 'tickets'
                 else '[]' end) as ticket
             union all
             select booking_id, holder.account_id, holder.facts -> 'ticket'
             from live join notifier.holders holder using (booking_id)
             union all
             select booking_id, account_id, null from live where $2 = 'event_cancelled'
         ), reader as (
             select booking_id, account_id,
                    coalesce(jsonb_agg(ticket order by (ticket #>> '{seat,id}')::bigint)
                             filter (where ticket is not null), '[]') as tickets
             from ticket group by booking_id, account_id
         ), replaced as (
             update notifier.notifications
             set state = 'skipped', last_error = 'a later change is told instead'
             where $2 = 'event_changed' and kind = 'event_changed' and state = 'waiting'
               and booking_id in (select booking_id from live) and occasion < $3
             returning booking_id, account_id, channel, facts -> 'before' as before, created_at
         )
         insert into notifier.notifications
             (booking_id, event_id, account_id, kind, occasion, channel, facts, state,
              next_try_at, created_at)
         select booking_id, $1, reader.account_id, $2, $3, channel,
                jsonb_strip_nulls(jsonb_build_object(
                    'received_by', nullif(reader.account_id, live.account_id),
                    'before', coalesce(
                        (select replaced.before from replaced
                         where replaced.booking_id = reader.booking_id
                           and replaced.account_id = reader.account_id
                           and replaced.channel = way.channel
                         order by replaced.created_at limit 1), $6::jsonb)))
                || jsonb_build_object('booking', live.facts -> 'booking', 'tickets', reader.tickets),
                'waiting', $5, $5
         from reader
         join live using (booking_id)
         join notifier.accounts account on account.account_id = reader.account_id
         cross join unnest(array['email', 'sms']) as way (channel)
         where channel = 'email' or ($4 and account.phone is not null)
         order by booking_id, reader.account_id, channel
         on conflict (booking_id, account_id, kind, occasion, channel) do nothing",
        claimed.event_id.0,
        claimed.kind,
        claimed.occasion,
        has_sms,
        now,
        claimed.before.as_ref() as _,
        claimed.heard_at,
        bookings,
    );
    Ok(done.execute(conn).await?.rows_affected())
}

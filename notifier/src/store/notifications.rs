//! The messages to send, and what became of them.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::event::Event;
use domain::{AccountId, BookingId, EventId};
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

use crate::notice::{Channel, News, Notice};

/// A message whose turn has come, with all that is needed to write it. This process has the lease.
#[derive(Debug)]
pub(crate) struct Due {
    pub(crate) id: Uuid,
    /// With the id, this try.
    pub(crate) tries: i32,
    pub(crate) booking_id: BookingId,
    pub(crate) kind: String,
    pub(crate) occasion: i64,
    pub(crate) channel: Channel,
    pub(crate) facts: Value,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) email: String,
    /// Empty when unknown.
    pub(crate) name: String,
    pub(crate) phone: Option<String>,
    pub(crate) event: Event,
    /// Whether the booking is paid and not cancelled.
    pub(crate) is_live: bool,
    /// Whether the hold has ended, one way or the other.
    pub(crate) is_decided: bool,
    /// Whether the reader still holds the tickets that a reminder, a change or a receipt is about.
    pub(crate) is_holder: bool,
}

/// What a message became.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled {
    Sent,
    Uncertain,
    Failed,
    Skipped,
}

impl Settled {
    /// The word in the database and in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Uncertain => "uncertain",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// How many messages are in each state that is not the end, or not a good one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Backlog {
    pub(crate) waiting: i64,
    pub(crate) sending: i64,
    pub(crate) uncertain: i64,
    pub(crate) failed: i64,
}

/// A notice with whom it is for and the ways it goes.
#[derive(Debug)]
pub(crate) struct Addressed<'a> {
    pub(crate) notice: &'a Notice,
    pub(crate) account_id: AccountId,
    pub(crate) event_id: EventId,
    pub(crate) channels: &'static [Channel],
}

impl<'a> Addressed<'a> {
    /// By mail, and by SMS when it can be and is worth one.
    pub(crate) fn of(notice: &'a Notice, to: (AccountId, EventId), can_sms: bool) -> Self {
        let (account_id, event_id) = to;
        let channels: &[Channel] = if can_sms && notice.is_worth_an_sms() {
            &[Channel::Email, Channel::Sms]
        } else {
            &[Channel::Email]
        };
        Self {
            notice,
            account_id,
            event_id,
            channels,
        }
    }
}

/// Writes notices, once on each of their channels, but for those that were written before.
pub(crate) async fn put(
    conn: &mut PgConnection,
    notices: &[Addressed<'_>],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let mut rows = Columns::default();
    for addressed in notices {
        rows.push(addressed)?;
    }
    sqlx::query!(
        "insert into notifier.notifications
             (booking_id, event_id, account_id, kind, occasion, channel, facts, state, next_try_at, created_at)
         select booking_id, event_id, account_id, kind, occasion, channel, facts::jsonb, 'waiting', $8, $8
         from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::text[], $5::bigint[], $6::text[], $7::text[])
              as new (booking_id, event_id, account_id, kind, occasion, channel, facts)
         order by booking_id, account_id, kind, occasion, channel
         on conflict (booking_id, account_id, kind, occasion, channel) do nothing",
        &rows.bookings,
        &rows.events,
        &rows.accounts,
        &rows.kinds,
        &rows.occasions,
        &rows.channels,
        &rows.facts,
        now,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Notices as arrays.
#[derive(Default)]
struct Columns {
    bookings: Vec<Uuid>,
    events: Vec<i64>,
    accounts: Vec<i64>,
    kinds: Vec<String>,
    occasions: Vec<i64>,
    channels: Vec<String>,
    facts: Vec<String>,
}

impl Columns {
    fn push(&mut self, addressed: &Addressed<'_>) -> Result<(), sqlx::Error> {
        let notice = addressed.notice;
        let facts = notice.facts();
        let facts = facts.map_err(|error| sqlx::Error::Encode(Box::new(error)))?;
        for channel in addressed.channels {
            self.bookings.push(notice.booking_id().0);
            self.events.push(addressed.event_id.0);
            self.accounts.push(addressed.account_id.0);
            self.kinds.push(notice.kind().to_owned());
            self.occasions.push(notice.occasion());
            self.channels.push(channel.as_str().to_owned());
            self.facts.push(facts.clone());
        }
        Ok(())
    }
}

/// Writes news of an event to everyone who holds tickets of it, one message for each of their
/// bookings; gives how many messages. `occasion` tells it apart from other news of its kind.
pub(crate) async fn tell_holders(
    conn: &mut PgConnection,
    event_id: EventId,
    news: News,
    occasion: i64,
    has_sms: bool,
    now: DateTime<Utc>,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "with live as (
             select booking_id, account_id, facts from notifier.bookings
             where event_id = $1 and live
         ), held as (
             select live.booking_id, live.account_id, ticket
             from live cross join jsonb_array_elements(live.facts -> 'tickets') as ticket
             union all
             select booking_id, holder.account_id, holder.facts -> 'ticket'
             from live join notifier.holders holder using (booking_id)
             union all
             select booking_id, account_id, null from live where $6
         ), reader as (
             select booking_id, account_id,
                    coalesce(jsonb_agg(ticket order by (ticket #>> '{seat,id}')::bigint)
                             filter (where ticket is not null), '[]') as tickets
             from held group by booking_id, account_id
         )
         insert into notifier.notifications
             (booking_id, event_id, account_id, kind, occasion, channel, facts, state,
              next_try_at, created_at)
         select booking_id, $1, reader.account_id, $2, $3, channel,
                jsonb_build_object('booking', live.facts -> 'booking', 'tickets', reader.tickets,
                    'received_by', nullif(reader.account_id, live.account_id)),
                'waiting', $5, $5
         from reader
         join live using (booking_id)
         join notifier.accounts account on account.account_id = reader.account_id
         cross join unnest(array['email', 'sms']) as channel
         where channel = 'email' or ($4 and account.phone is not null)
         order by booking_id, reader.account_id, channel
         on conflict (booking_id, account_id, kind, occasion, channel) do nothing",
        event_id.0,
        news.kind(),
        occasion,
        has_sms,
        now,
        news.concerns_money(),
    );
    Ok(done.execute(conn).await?.rows_affected())
}

/// Writes the reminders of one event for which they are due, once for each of its starts; gives how
/// many, or `None` when there is no such event. Whoever pays later gets none: the confirmation is
/// fresh. So is the mail of whoever receives a ticket later.
pub(crate) async fn put_reminders(
    conn: &mut PgConnection,
    has_sms: bool,
    now: DateTime<Utc>,
) -> Result<Option<u64>, sqlx::Error> {
    let due = sqlx::query!(
        "update notifier.events set reminded_for = starts_at
         where event_id = (
             select event_id from notifier.events
             where not cancelled and reminded_for is distinct from starts_at
               and remind_at <= $1 and starts_at > $1
             order by remind_at limit 1 for no key update skip locked)
         returning event_id, starts_at",
        now,
    );
    let Some(event) = due.fetch_optional(&mut *conn).await? else {
        return Ok(None);
    };
    let (event_id, start) = (EventId(event.event_id), event.starts_at.timestamp());
    let written = tell_holders(conn, event_id, News::Reminder, start, has_sms, now).await?;
    Ok(Some(written))
}

/// Takes up to `limit` due messages of one channel for the length of `lease`, the longest due first.
pub(crate) async fn claim_due(
    pool: &PgPool,
    channel: Channel,
    limit: i64,
    lease: Duration,
    now: DateTime<Utc>,
) -> Result<Vec<Due>, sqlx::Error> {
    let rows = sqlx::query!(
        r#"with due as (
             select id from notifier.notifications
             where state = 'waiting' and channel = $4 and next_try_at <= $2
             order by next_try_at limit $1
             for update skip locked)
         update notifier.notifications n
         set state = 'sending', leased_until = $3, tries = tries + 1
         from due, notifier.accounts account, notifier.events event
         where n.id = due.id and account.account_id = n.account_id and event.event_id = n.event_id
         returning n.id, n.tries, n.booking_id, n.kind, n.occasion, n.channel, n.facts,
                   n.created_at, account.email, account.name, account.phone,
                   event.event as "event: Json<Event>",
                   exists (select from notifier.bookings booking
                           where booking.booking_id = n.booking_id and booking.live) as "is_live!",
                   exists (select from notifier.notifications other
                           where other.booking_id = n.booking_id
                             and other.kind in ('confirmed', 'expired', 'cancelled'))
                       as "is_decided!",
                   case when n.kind = 'received' then
                       exists (select from notifier.holders holder
                               where holder.booking_id = n.booking_id and holder.number = n.occasion)
                   when n.kind in ('reminder', 'event_changed') then
                       exists (select from notifier.holders holder
                               where holder.booking_id = n.booking_id
                                 and holder.account_id = n.account_id)
                       or exists (select from notifier.bookings booking
                                  where booking.booking_id = n.booking_id
                                    and booking.account_id = n.account_id
                                    and booking.facts -> 'tickets' <> '[]')
                   else true end as "is_holder!""#,
        limit,
        now,
        now + lease,
        channel.as_str(),
    )
    .fetch_all(pool)
    .await?;
    let due = rows.into_iter().map(|row| Due {
        id: row.id,
        tries: row.tries,
        booking_id: BookingId(row.booking_id),
        kind: row.kind,
        occasion: row.occasion,
        channel: Channel::parse(&row.channel).expect("the table has a check"),
        facts: row.facts,
        created_at: row.created_at,
        email: row.email,
        name: row.name,
        phone: row.phone,
        event: row.event.0,
        is_live: row.is_live,
        is_decided: row.is_decided,
        is_holder: row.is_holder,
    });
    Ok(due.collect())
}

/// What a try came to.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    pub(crate) id: Uuid,
    /// With the id, the try.
    pub(crate) tries: i32,
    pub(crate) settled: Settled,
    pub(crate) error: Option<String>,
}

/// Records what tries came to. It counts even if a lease ran out meanwhile and the message was
/// called uncertain. Gives those recorded: for the others a later try has begun.
pub(crate) async fn settle(
    pool: &PgPool,
    ended: &[Ended],
    now: DateTime<Utc>,
) -> Result<HashSet<Uuid>, sqlx::Error> {
    let ids: Vec<_> = ended.iter().map(|ended| ended.id).collect();
    let tries: Vec<_> = ended.iter().map(|ended| ended.tries).collect();
    let states: Vec<_> = ended
        .iter()
        .map(|ended| ended.settled.as_str().to_owned())
        .collect();
    let errors: Vec<_> = ended.iter().map(|ended| ended.error.clone()).collect();
    let settled = sqlx::query_scalar!(
        "update notifier.notifications n
         set state = ended.state, last_error = ended.error, leased_until = null,
             sent_at = case ended.state when 'sent' then $5::timestamptz end
         from unnest($1::uuid[], $2::integer[], $3::text[], $4::text[])
              as ended (id, tries, state, error)
         where n.id = ended.id and n.tries = ended.tries and n.state in ('sending', 'uncertain')
         returning n.id",
        &ids,
        &tries,
        &states,
        errors.as_slice() as &[Option<String>],
        now,
    )
    .fetch_all(pool)
    .await?;
    Ok(settled.into_iter().collect())
}

/// Puts a message that was certainly not taken off until `next_try_at`; `false` when a later try
/// has begun.
pub(crate) async fn put_off(
    pool: &PgPool,
    due: &Due,
    error: &str,
    next_try_at: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let done = sqlx::query!(
        "update notifier.notifications
         set state = 'waiting', last_error = $3, next_try_at = $4, leased_until = null
         where id = $1 and tries = $2 and state in ('sending', 'uncertain')",
        due.id,
        due.tries,
        error,
        next_try_at,
    );
    Ok(done.execute(pool).await?.rows_affected() == 1)
}

/// Calls messages uncertain whose lease ran out; gives how many.
pub(crate) async fn doubt_expired(pool: &PgPool, now: DateTime<Utc>) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "update notifier.notifications
         set state = 'uncertain', leased_until = null,
             last_error = 'the sender stopped before it recorded the answer'
         where state = 'sending' and leased_until <= $1",
        now,
    );
    Ok(done.execute(pool).await?.rows_affected())
}

/// How many messages are not settled, or wait for a person.
pub(crate) async fn count_unsettled(pool: &PgPool) -> Result<Backlog, sqlx::Error> {
    sqlx::query_as!(
        Backlog,
        r#"select count(*) filter (where state = 'waiting') as "waiting!",
                  count(*) filter (where state = 'sending') as "sending!",
                  count(*) filter (where state = 'uncertain') as "uncertain!",
                  count(*) filter (where state = 'failed') as "failed!"
           from notifier.notifications
           where state in ('waiting', 'sending', 'uncertain', 'failed')"#
    )
    .fetch_one(pool)
    .await
}

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
         order by booking_id, kind, occasion, channel
         on conflict (booking_id, kind, occasion, channel) do nothing",
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

/// Writes news of an event to everyone with a live booking.
pub(crate) async fn tell_holders(
    conn: &mut PgConnection,
    event: &Event,
    news: News,
    has_sms: bool,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "insert into notifier.notifications
             (booking_id, event_id, account_id, kind, occasion, channel, facts, state,
              next_try_at, created_at)
         select booking.booking_id, booking.event_id, booking.account_id, $2, $3, channel,
                booking.facts, 'waiting', $5, $5
         from notifier.bookings booking
         join notifier.accounts account using (account_id)
         cross join unnest(array['email', 'sms']) as channel
         where booking.event_id = $1 and booking.live
           and (channel = 'email' or ($4 and account.phone is not null))
         on conflict (booking_id, kind, occasion, channel) do nothing",
        event.id.0,
        news.kind(),
        event.version,
        has_sms,
        now,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Writes the reminders that are due, once for each start of an event; gives how many. Whoever
/// pays later gets none: the confirmation is fresh.
pub(crate) async fn put_reminders(
    pool: &PgPool,
    has_sms: bool,
    now: DateTime<Utc>,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "with due as (
             update notifier.events set reminded_for = starts_at
             where not cancelled and reminded_for is distinct from starts_at
               and remind_at <= $2 and starts_at > $2
             returning event_id, starts_at)
         insert into notifier.notifications
             (booking_id, event_id, account_id, kind, occasion, channel, facts, state,
              next_try_at, created_at)
         select booking.booking_id, booking.event_id, booking.account_id, 'reminder',
                floor(extract(epoch from due.starts_at))::bigint, channel, booking.facts, 'waiting', $2, $2
         from due
         join notifier.bookings booking using (event_id)
         join notifier.accounts account using (account_id)
         cross join unnest(array['email', 'sms']) as channel
         where booking.live and (channel = 'email' or ($1 and account.phone is not null))
         on conflict (booking_id, kind, occasion, channel) do nothing",
        has_sms,
        now,
    );
    Ok(done.execute(pool).await?.rows_affected())
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
                       as "is_decided!""#,
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

//! The messages that wait, as a queue with a visibility timeout: a claim leaves a message `waiting`
//! and moves its next try to the end of the lease, so that what a process had in hand when it died
//! is due again by itself. Only a message that may reach the server is `sending`.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::event::Event;
use domain::{AccountId, BookingId};
use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

use crate::notice::{Channel, Notice, UnreadableNotice, Urgency};

/// Why a message waits for its reader, as it is recorded and indexed.
pub(crate) const UNCONFIRMED: &str = "the address is not confirmed";

/// One try: a later one of the same message has a higher number, which is the fencing token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Try {
    pub(crate) id: Uuid,
    pub(crate) number: i32,
}

/// A message whose turn has come, with all that is needed to write it. This process has the lease.
#[derive(Debug)]
pub(crate) struct Due {
    pub(crate) attempt: Try,
    pub(crate) booking_id: BookingId,
    pub(crate) kind: String,
    pub(crate) occasion: i64,
    pub(crate) channel: Channel,
    pub(crate) notice: Notice,
    /// When it was written, or staff had it sent again.
    pub(crate) since: DateTime<Utc>,
    pub(crate) email: String,
    /// Empty when unknown.
    pub(crate) name: String,
    pub(crate) phone: Option<String>,
    pub(crate) event: Event,
    /// Whether the booking is paid and not cancelled.
    pub(crate) is_live: bool,
    /// Whether the hold has ended, one way or the other.
    pub(crate) is_decided: bool,
    /// Whether the reader still holds the ticket of a receipt.
    pub(crate) is_received: bool,
    /// Whether the reader holds any ticket of the booking.
    pub(crate) holds_tickets: bool,
    /// Whether the reader has a message that the event is cancelled, by the same channel.
    pub(crate) hears_event_cancelled: bool,
    /// Whether the reader has still to confirm the address or phone that it goes to.
    pub(crate) is_unconfirmed: bool,
    /// How many messages the reader was sent within the last hour by the same channel; of SMS, the
    /// phone, whoever's account it is in.
    pub(crate) sent_lately: i64,
}

/// A claimed message that this version can't read: it is left to a later one.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub(crate) attempt: Try,
    pub(crate) kind: String,
    pub(crate) error: UnreadableMessage,
}

/// Why a message can't be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnreadableMessage {
    #[error(transparent)]
    Notice(#[from] UnreadableNotice),
    #[error("the event can't be read")]
    Event(#[source] serde_json::Error),
}

/// Claims up to `limit` due messages of a class for the length of `lease`, the longest due first.
/// Kinds of later versions are left alone.
pub(crate) async fn claim_due(
    pool: &PgPool,
    channel: Channel,
    urgency: Urgency,
    limit: i64,
    lease: Duration,
    now: DateTime<Utc>,
) -> Result<Vec<Result<Due, Unreadable>>, sqlx::Error> {
    let rows = sqlx::query_as!(
        Row,
        r#"with due as (
             -- The heads of a few ordered index ranges, not a sort of the whole backlog.
             select head.id from unnest($5::text[]) as class (kind)
             cross join lateral (
                 select id, next_try_at from notifier.notifications
                 where state = 'waiting' and channel = $4 and notifications.kind = class.kind
                   and next_try_at <= $2
                 order by next_try_at limit $1
                 for update skip locked) head
             order by head.next_try_at limit $1)
         update notifier.notifications n
         set tries = tries + 1, next_try_at = $3
         from due, notifier.accounts account, notifier.events event
         where n.id = due.id and account.account_id = n.account_id and event.event_id = n.event_id
         returning n.id, n.tries, n.booking_id, n.kind, n.occasion, n.channel, n.facts,
                   coalesce(n.again_at, n.created_at) as "since!",
                   account.email, account.name, account.phone, event.event,
                   exists (select from notifier.bookings booking
                           where booking.booking_id = n.booking_id and booking.live) as "is_live!",
                   exists (select from notifier.notifications other
                           where other.booking_id = n.booking_id
                             and other.kind in ('confirmed', 'expired', 'cancelled'))
                       as "is_decided!",
                   exists (select from notifier.holders holder
                           where holder.booking_id = n.booking_id and holder.number = n.occasion)
                       as "is_received!",
                   exists (select from notifier.holders holder
                           where holder.booking_id = n.booking_id
                             and holder.account_id = n.account_id)
                   or exists (select from notifier.bookings booking
                              where booking.booking_id = n.booking_id
                                and booking.account_id = n.account_id
                                and booking.facts -> 'tickets' <> '[]') as "holds_tickets!",
                   exists (select from notifier.notifications other
                           where other.booking_id = n.booking_id
                             and other.account_id = n.account_id
                             and other.kind = 'event_cancelled' and other.channel = n.channel
                             and other.state <> 'skipped') as "hears_event_cancelled!",
                   exists (select from box_office.public_unconfirmed unconfirmed
                           where unconfirmed.account_id = n.account_id
                             and case n.channel when 'sms' then unconfirmed.phone
                                 else unconfirmed.email end) as "is_unconfirmed!",
                   (select count(*) from (
                       select from notifier.notifications lately
                       where lately.account_id = any(case n.channel
                             when 'sms' then array(select other.account_id from notifier.accounts other
                                                   where other.phone = account.phone limit 100)
                             else array[n.account_id] end)
                         and lately.channel = n.channel
                         and lately.sent_at > $2::timestamptz - interval '1 hour' limit 100) counted)
                       as "sent_lately!""#,
        limit,
        now,
        now + lease,
        channel.as_str(),
        &urgency.kinds(),
    )
    .fetch_all(pool)
    .await?;
    Ok(rows.into_iter().map(Row::read).collect())
}

struct Row {
    id: Uuid,
    tries: i32,
    booking_id: Uuid,
    kind: String,
    occasion: i64,
    channel: String,
    facts: Value,
    since: DateTime<Utc>,
    email: String,
    name: String,
    phone: Option<String>,
    event: Value,
    is_live: bool,
    is_decided: bool,
    is_received: bool,
    holds_tickets: bool,
    hears_event_cancelled: bool,
    is_unconfirmed: bool,
    sent_lately: i64,
}

impl Row {
    fn read(self) -> Result<Due, Unreadable> {
        let attempt = Try {
            id: self.id,
            number: self.tries,
        };
        let notice = Notice::read(&self.kind, self.facts).map_err(UnreadableMessage::from);
        let event = serde_json::from_value(self.event).map_err(UnreadableMessage::Event);
        let (notice, event) = match (notice, event) {
            (Ok(notice), Ok(event)) => (notice, event),
            (Err(error), _) | (_, Err(error)) => {
                return Err(Unreadable {
                    attempt,
                    kind: self.kind,
                    error,
                });
            }
        };
        Ok(Due {
            attempt,
            booking_id: BookingId(self.booking_id),
            kind: self.kind,
            occasion: self.occasion,
            channel: Channel::parse(&self.channel).expect("the table has a check"),
            notice,
            since: self.since,
            email: self.email,
            name: self.name,
            phone: self.phone,
            event,
            is_live: self.is_live,
            is_decided: self.is_decided,
            is_received: self.is_received,
            holds_tickets: self.holds_tickets,
            hears_event_cancelled: self.hears_event_cancelled,
            is_unconfirmed: self.is_unconfirmed,
            sent_lately: self.sent_lately,
        })
    }
}

/// Records that these are about to be handed over: from here on they may have been sent. Returns
/// those that still are this process's.
pub(crate) async fn begin_handover(
    pool: &PgPool,
    tries: &[Try],
    leased_until: DateTime<Utc>,
) -> Result<HashSet<Uuid>, sqlx::Error> {
    let ids: Vec<_> = tries.iter().map(|attempt| attempt.id).collect();
    let numbers: Vec<_> = tries.iter().map(|attempt| attempt.number).collect();
    let begun = sqlx::query_scalar!(
        "update notifier.notifications n set state = 'sending', leased_until = $3
         from unnest($1::uuid[], $2::integer[]) as attempt (id, number)
         where n.id = attempt.id and n.tries = attempt.number and n.state = 'waiting'
         returning n.id",
        &ids,
        &numbers,
        leased_until,
    )
    .fetch_all(pool)
    .await?;
    Ok(begun.into_iter().collect())
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

/// What a try came to.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    pub(crate) attempt: Try,
    pub(crate) end: End,
    pub(crate) error: Option<String>,
}

/// How a try ended.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    Settled(Settled),
    /// It certainly was not taken, and is due again then.
    PutOff(DateTime<Utc>),
}

/// Records what tries came to. It counts even if a lease ran out meanwhile and the message was
/// called uncertain. Returns those recorded: the others were taken over by a later try, or
/// withdrawn.
pub(crate) async fn record(
    pool: &PgPool,
    ended: &[Ended],
    now: DateTime<Utc>,
) -> Result<HashSet<Uuid>, sqlx::Error> {
    let ids: Vec<_> = ended.iter().map(|ended| ended.attempt.id).collect();
    let numbers: Vec<_> = ended.iter().map(|ended| ended.attempt.number).collect();
    // What a server said, without the one character that PostgreSQL stores in no text.
    let storable = |error: &str| error.replace('\0', "\u{fffd}");
    let errors: Vec<_> = ended
        .iter()
        .map(|ended| ended.error.as_deref().map(storable))
        .collect();
    let (states, due): (Vec<_>, Vec<_>) = ended
        .iter()
        .map(|ended| match ended.end {
            End::Settled(settled) => (settled.as_str().to_owned(), None),
            End::PutOff(due) => ("waiting".to_owned(), Some(due)),
        })
        .unzip();
    let recorded = sqlx::query_scalar!(
        "update notifier.notifications n
         set state = ended.state, last_error = ended.error, leased_until = null,
             next_try_at = coalesce(ended.due, n.next_try_at),
             sent_at = case ended.state when 'sent' then $6::timestamptz end
         from unnest($1::uuid[], $2::integer[], $3::text[], $4::text[], $5::timestamptz[])
              as ended (id, number, state, error, due)
         where n.id = ended.id and n.tries = ended.number
           and n.state in ('waiting', 'sending', 'uncertain')
         returning n.id",
        &ids,
        &numbers,
        &states,
        errors.as_slice() as &[Option<String>],
        due.as_slice() as &[Option<DateTime<Utc>>],
        now,
    )
    .fetch_all(pool)
    .await?;
    Ok(recorded.into_iter().collect())
}

/// Makes what waits for an account due: it may have confirmed its address.
pub(crate) async fn hasten(
    pool: &PgPool,
    account_id: AccountId,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    sqlx::query!(
        "update notifier.notifications set next_try_at = $2
         where account_id = $1 and state = 'waiting' and next_try_at > $2 and last_error = $3",
        account_id.0,
        now,
        UNCONFIRMED,
    )
    .execute(pool)
    .await?;
    Ok(())
}

/// Calls messages uncertain whose sender died while it handed them over; returns how many.
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

/// How many messages of a kind are in a state that is not the end, or not a good one.
#[derive(Debug)]
pub(crate) struct Backlog {
    pub(crate) kind: String,
    pub(crate) state: String,
    pub(crate) notices: i64,
    /// When the longest due of them was due first.
    pub(crate) oldest: DateTime<Utc>,
}

/// Counts what is not settled, or waits for a person.
pub(crate) async fn count_unsettled(pool: &PgPool) -> Result<Vec<Backlog>, sqlx::Error> {
    sqlx::query_as!(
        Backlog,
        r#"select kind, state, count(*) as "notices!", min(coalesce(again_at, created_at)) as "oldest!"
           from notifier.notifications
           where state in ('waiting', 'sending', 'uncertain', 'failed')
           group by kind, state"#
    )
    .fetch_all(pool)
    .await
}

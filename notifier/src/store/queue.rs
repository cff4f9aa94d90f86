//! SQL of the send queue, with a visibility timeout: a claim leaves a message `waiting` and moves
//! its next attempt to the end of the lease, so that messages of a dead process become due again.
//! Only a message that may reach the server is `sending`.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::event::Event;
use domain::{AccountId, BookingId};
use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

use crate::notice::{Channel, Notice, UnreadableNotice, Urgency};

/// `last_error` of a message to an unconfirmed address. Part of an index predicate.
pub(crate) const UNCONFIRMED: &str = "the address is not confirmed";

/// One attempt at a message. Numbers increase, and serve as the fencing token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Try {
    pub(crate) id: Uuid,
    pub(crate) number: i32,
}

/// A due message leased by this process, with everything needed to check and render it.
#[derive(Debug)]
pub(crate) struct Due {
    pub(crate) attempt: Try,
    pub(crate) booking_id: BookingId,
    pub(crate) occasion: i64,
    pub(crate) channel: Channel,
    pub(crate) notice: Notice,
    /// Time at which it was written, or last resent by staff.
    pub(crate) since: DateTime<Utc>,
    pub(crate) email: String,
    /// Empty if unknown.
    pub(crate) name: String,
    pub(crate) phone: Option<String>,
    pub(crate) event: Event,
    /// True if the booking is paid and not cancelled.
    pub(crate) is_live: bool,
    /// True if the hold was confirmed, expired or cancelled.
    pub(crate) is_decided: bool,
    /// True if the transfer of a `received` notice is still the ticket's last one.
    pub(crate) is_received: bool,
    /// True if the reader holds any ticket of the booking.
    pub(crate) holds_tickets: bool,
    /// True if the reader has an `event_cancelled` notification on the same channel.
    pub(crate) hears_event_cancelled: bool,
    /// True if the reader's address or phone on this channel is unconfirmed.
    pub(crate) is_unconfirmed: bool,
    /// Messages sent to the reader within the last hour on the same channel, at most 100. SMS are
    /// counted per phone number, across accounts.
    pub(crate) sent_lately: i64,
}

/// A claimed message that this version can't parse.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub(crate) attempt: Try,
    pub(crate) kind: String,
    pub(crate) error: UnreadableMessage,
}

/// Error of parsing a claimed message.
#[derive(Debug, thiserror::Error)]
pub(crate) enum UnreadableMessage {
    #[error(transparent)]
    Notice(#[from] UnreadableNotice),
    #[error("failed to parse the event")]
    Event(#[source] serde_json::Error),
}

/// Leases up to `limit` due messages of a class, those due longest first. Kinds unknown to this
/// version are left alone.
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

/// Marks messages as `sending` right before their handover. Returns those whose lease this process
/// still has; the others must not be sent.
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

/// Final state of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled {
    Sent,
    Uncertain,
    Failed,
    Skipped,
}

impl Settled {
    /// Name in the database and in metrics.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Sent => "sent",
            Self::Uncertain => "uncertain",
            Self::Failed => "failed",
            Self::Skipped => "skipped",
        }
    }
}

/// Result of an attempt.
#[derive(Debug, Clone)]
pub(crate) struct EndedAttempt {
    pub(crate) attempt: Try,
    pub(crate) end: AttemptEnd,
    pub(crate) error: Option<String>,
}

/// The end of an attempt: a final state or a retry.
#[derive(Debug, Clone, Copy)]
pub(crate) enum AttemptEnd {
    Settled(Settled),
    /// Certainly not delivered; due again at this time.
    PutOff(DateTime<Utc>),
}

/// Records results of attempts, also of those whose lease expired and that became uncertain
/// meanwhile. Returns the ids recorded; the others were taken over by a later attempt or withdrawn.
pub(crate) async fn record(
    pool: &PgPool,
    ended: &[EndedAttempt],
    now: DateTime<Utc>,
) -> Result<HashSet<Uuid>, sqlx::Error> {
    let ids: Vec<_> = ended.iter().map(|ended| ended.attempt.id).collect();
    let numbers: Vec<_> = ended.iter().map(|ended| ended.attempt.number).collect();
    // PostgreSQL cannot store NUL in text.
    let storable = |error: &str| error.replace('\0', "\u{fffd}");
    let errors: Vec<_> = ended
        .iter()
        .map(|ended| ended.error.as_deref().map(storable))
        .collect();
    let (states, due): (Vec<_>, Vec<_>) = ended
        .iter()
        .map(|ended| match ended.end {
            AttemptEnd::Settled(settled) => (settled.as_str().to_owned(), None),
            AttemptEnd::PutOff(due) => ("waiting".to_owned(), Some(due)),
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

/// Requeues messages that wait for an account's confirmation, due at once.
pub(crate) async fn requeue_unconfirmed(
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

/// Marks messages with expired handover leases as uncertain, and returns how many.
pub(crate) async fn mark_expired_uncertain(
    pool: &PgPool,
    now: DateTime<Utc>,
) -> Result<u64, sqlx::Error> {
    let done = sqlx::query!(
        "update notifier.notifications
         set state = 'uncertain', leased_until = null,
             last_error = 'the sender stopped before it recorded the answer'
         where state = 'sending' and leased_until <= $1",
        now,
    );
    Ok(done.execute(pool).await?.rows_affected())
}

/// Number of unsettled messages of one kind and state.
#[derive(Debug)]
pub(crate) struct Backlog {
    pub(crate) kind: String,
    pub(crate) state: String,
    pub(crate) notices: i64,
    /// Time at which the oldest of them was written or resent.
    pub(crate) oldest: DateTime<Utc>,
}

/// Counts waiting, sending, uncertain and failed messages.
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

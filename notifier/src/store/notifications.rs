//! SQL that inserts notifications, idempotently.

use chrono::{DateTime, Utc};
use domain::{AccountId, EventId};
use sqlx::PgConnection;
use uuid::Uuid;

use crate::notice::{Channel, Notice};

/// A notice with its reader and channels.
#[derive(Debug)]
pub(crate) struct Addressed<'a> {
    pub(crate) notice: &'a Notice,
    pub(crate) account_id: AccountId,
    pub(crate) event_id: EventId,
    pub(crate) channels: &'static [Channel],
    /// Earliest time to send it.
    pub(crate) due_at: DateTime<Utc>,
}

impl<'a> Addressed<'a> {
    /// Sends by mail, and also by SMS if `can_sms` and the kind warrants it.
    pub(crate) fn of(
        notice: &'a Notice,
        to: (AccountId, EventId),
        can_sms: bool,
        due_at: DateTime<Utc>,
    ) -> Self {
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
            due_at,
        }
    }
}

/// Inserts one notification per notice and channel, except those that exist.
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
         select booking_id, event_id, account_id, kind, occasion, channel, facts::jsonb, 'waiting', due_at, $9
         from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::text[], $5::bigint[], $6::text[], $7::text[],
                     $8::timestamptz[])
              as new (booking_id, event_id, account_id, kind, occasion, channel, facts, due_at)
         order by booking_id, account_id, kind, occasion, channel
         on conflict (booking_id, account_id, kind, occasion, channel) do nothing",
        &rows.bookings,
        &rows.events,
        &rows.accounts,
        &rows.kinds,
        &rows.occasions,
        &rows.channels,
        &rows.facts,
        &rows.due,
        now,
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Rows as one array per column, for `unnest`.
#[derive(Default)]
struct Columns {
    bookings: Vec<Uuid>,
    events: Vec<i64>,
    accounts: Vec<i64>,
    kinds: Vec<String>,
    occasions: Vec<i64>,
    channels: Vec<String>,
    facts: Vec<String>,
    due: Vec<DateTime<Utc>>,
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
            self.kinds.push(notice.kind().as_str().to_owned());
            self.occasions.push(notice.occasion());
            self.channels.push(channel.as_str().to_owned());
            self.facts.push(facts.clone());
            self.due.push(addressed.due_at);
        }
        Ok(())
    }
}

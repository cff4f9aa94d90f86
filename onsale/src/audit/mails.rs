//! I6: checks notices, from the database alone. The demo also reads the mailbox.

use chrono::{DateTime, Utc};
use sqlx::PgPool;

use super::Check;

/// Checks that at most one notice was sent per booking, reader, kind and channel, and that every
/// paid booking has its confirmation. A notice whose outcome is unknown, or that staff had sent
/// again, is listed by `onsale mails` and counts as neither.
pub(super) async fn each_notice_once(
    db: &PgPool,
    settled_before: DateTime<Utc>,
) -> Result<Check, sqlx::Error> {
    let checked = sqlx::query_scalar!(
        r#"select count(*) as "n!" from notifier.notifications where state = 'sent'"#
    )
    .fetch_one(db)
    .await?;
    let broken = sqlx::query_scalar!(
        r#"
        select 'booking ' || booking_id || ' got ' || count(*) || ' ' || channel || ' notices ' || kind as "what!"
        from notifier.notifications where state = 'sent'
        group by booking_id, account_id, kind, occasion, channel having count(*) > 1
        union all
        select 'booking ' || b.id || ' is paid, but no confirmation was mailed'
        from booking.bookings b
        where b.captured_at <= $1 and b.state = 'confirmed'
          -- What was said of events long over is removed.
          and not exists (select from notifier.events e
              where e.event_id = b.event_id and e.starts_at < $1 - interval '30 days')
          and not exists (select from notifier.notifications n
              where n.booking_id = b.id and n.kind = 'confirmed' and n.channel = 'email'
                and (n.state in ('sent', 'uncertain') or n.again_at is not null
                     -- It waits, or waited too long, for the reader to confirm the address.
                     or n.state in ('waiting', 'skipped')
                        and n.last_error = 'the address is not confirmed'))
        "#,
        settled_before
    )
    .fetch_all(db)
    .await?;
    let checked = u64::try_from(checked).unwrap_or(0);
    Ok(Check::new(
        "I6",
        "each notice is sent once, none is lost",
        checked,
        broken,
    ))
}

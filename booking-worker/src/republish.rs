//! Sweep behind `booking.paid.v1`: a paid booking for which the notifier has written no ticket mail
//! is published again, so that a lost message costs minutes and not the tickets.
//!
//! Each round reads the last [`WINDOW`] and one of [`WINDOWS`] older ones in turn: a loss is also
//! found after a long outage, at a constant cost per round.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use metrics::counter;
use platform::outbox;
use platform::pg::run_tx;
use platform::service::Context;
use sqlx::{PgConnection, PgPool};

use crate::OWNER;
use crate::confirm::paid_entries;
use crate::store::bookings;

/// Time between two reads of the clock.
const TICK: Duration = Duration::from_secs(1);
/// Time between two rounds.
const ROUND: TimeDelta = TimeDelta::seconds(60);
/// Age from which a message counts as lost.
const LOST_AFTER: TimeDelta = TimeDelta::minutes(10);
/// The period that one statement reads.
const WINDOW: TimeDelta = TimeDelta::hours(2);
/// Older windows that take turns: a week.
const WINDOWS: i32 = 84;
/// Most bookings per statement.
const BATCH: i64 = 500;

/// Runs the sweep until shutdown.
pub(crate) async fn republish_paid(ctx: Context) -> anyhow::Result<()> {
    let stop = ctx.shutdown.soft().clone();
    let (mut due, mut round) = (ctx.clock.now(), 0);
    while !stop.is_cancelled() {
        let now = ctx.clock.now();
        if now >= due {
            due = now + ROUND;
            if let Err(error) = sweep(&ctx.db, round, now).await {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "sweeping paid bookings failed; retrying");
            }
            round = (round + 1) % WINDOWS;
        }
        stop.run_until_cancelled(tokio::time::sleep(TICK)).await;
    }
    Ok(())
}

/// Publishes lost messages again; returns how many.
async fn sweep(pool: &PgPool, round: i32, now: DateTime<Utc>) -> Result<usize, sqlx::Error> {
    let older = now - WINDOW * (1 + round);
    let mut published = 0;
    for (from, to) in [(now - WINDOW, now - LOST_AFTER), (older - WINDOW, older)] {
        let publishing = run_tx(pool, "republish_paid", |tx| {
            Box::pin(publish_again(tx, from, to, now))
        });
        published += publishing.await?;
    }
    if published > 0 {
        outbox::wake(OWNER);
        let count = u64::try_from(published).unwrap_or(u64::MAX);
        counter!("booking_swept_total", "lost" => "paid").increment(count);
        tracing::warn!(bookings = published, "republished booking.paid.v1");
    }
    Ok(published)
}

async fn publish_again(
    conn: &mut PgConnection,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    now: DateTime<Utc>,
) -> Result<usize, sqlx::Error> {
    let lost = bookings::claim_unmailed(conn, from, to, now, BATCH).await?;
    let count = lost.len();
    let entries = paid_entries(conn, lost).await?;
    outbox::put_all(conn, OWNER, entries).await?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use platform::testing::TestApp;

    use super::*;

    /// Sells a booking with two tickets at `at`; the second is another account's now.
    async fn sell(db: &PgPool, at: DateTime<Utc>) {
        let seats = r#"[{"id": 1, "section": "Floor"}, {"id": 2, "section": "Floor"}]"#;
        let selling = sqlx::query(
            "with event as (
                 insert into booking.events (event_id, version, name, date, cancelled,
                                             max_tickets_per_account)
                 values (1, 1, 'Opera', $1 + interval '60 days', false, 8)),
             section as (
                 insert into booking.sections (section_id, event_id, position, name, numbered,
                                               price_minor, currency)
                 values (1, 1, 0, 'Floor', false, 4500, 'eur')),
             booking as (
                 insert into booking.bookings (id, event_id, account_id, tickets, state, seats,
                     hold_until, captured_at, created_at, updated_at)
                 values ('0199aaaa-0000-7000-8000-000000000001', 1, 7, 2, 'confirmed', $2::jsonb,
                     $1, $1, $1, $1)),
             seats as (
                 insert into booking.seats (id, section_id, rank, state, booking_id)
                 overriding system value
                 select id, 1, id, 'sold', '0199aaaa-0000-7000-8000-000000000001'::uuid
                 from generate_series(1, 2) as new (id))
             insert into booking.tickets (id, code, booking_id, event_id, account_id, seat_id,
                                          live_seat_id, state, created_at)
             select gen_random_uuid(), 'a-code-of-twenty-letters-' || id,
                    '0199aaaa-0000-7000-8000-000000000001', 1, account_id, id, id, 'valid', $1
             from (values (1, 7), (2, 8)) as new (id, account_id)",
        );
        selling.bind(at).bind(seats).execute(db).await.unwrap();
    }

    async fn published(db: &PgPool) -> Vec<String> {
        let bodies = "delete from platform.outbox where message_name = 'booking.paid.v1'
                      returning body::text";
        sqlx::query_scalar(bodies).fetch_all(db).await.unwrap()
    }

    #[tokio::test]
    async fn a_paid_booking_without_a_ticket_mail_is_published_again_now_and_then() {
        let app = TestApp::start().await;
        let (db, paid_at) = (&app.ctx.db, app.ctx.clock.now());
        sell(db, paid_at).await;
        let minutes = |minutes| paid_at + TimeDelta::minutes(minutes);
        let swept = async |at| sweep(db, 0, at).await.unwrap();
        assert_eq!(swept(minutes(9)).await, 0, "it may be on its way");
        assert_eq!(swept(minutes(10)).await, 1);
        assert_eq!(swept(minutes(69)).await, 0, "it was just published again");
        assert_eq!(swept(minutes(70)).await, 1);
        let bodies = published(db).await;
        assert_eq!(bodies.len(), 2);
        for body in bodies {
            assert!(body.contains("a-code-of-twenty-letters-1"), "{body}");
            assert!(!body.contains("a-code-of-twenty-letters-2"), "{body}");
        }
        // Much later one round of a turn finds it.
        let days_later = paid_at + TimeDelta::days(5);
        let mut found = 0;
        for round in 0..WINDOWS {
            found += sweep(db, round, days_later).await.unwrap();
        }
        assert_eq!(found, 1);

        let write = "insert into notifier.notifications
            (booking_id, event_id, account_id, kind, channel, facts, state, next_try_at, created_at)
            values ('0199aaaa-0000-7000-8000-000000000001', 1, 7, 'confirmed', 'email', '{}',
                'waiting', now(), now())";
        sqlx::query(write).execute(db).await.unwrap();
        for round in 0..WINDOWS {
            let much_later = days_later + TimeDelta::hours(2);
            assert_eq!(
                sweep(db, round, much_later).await.unwrap(),
                0,
                "it is mailed"
            );
        }
        app.finish().await;
    }
}

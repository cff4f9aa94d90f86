//! Sweeps behind every message that is mailed: a booking about which the notifier has written no
//! notice in time has its message published again, so that a lost one costs minutes and not the
//! mail.
//!
//! Each round reads the last [`WINDOW`] and one of [`WINDOWS`] older ones in turn: a loss is also
//! found after a long outage, at a constant cost per round. Holds are short, so only the running
//! ones are read.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::message::HoldPlaced;
use metrics::counter;
use platform::outbox::{self, Entry};
use platform::pg::run_tx;
use platform::service::Context;
use sqlx::{PgConnection, PgPool};

use crate::OWNER;
use crate::confirm::paid_entries;
use crate::end::message_of;
use crate::store::lost::{self, Lost, Search};

/// Time between two reads of the clock.
const TICK: Duration = Duration::from_secs(1);
/// Time between two rounds.
const ROUND: TimeDelta = TimeDelta::seconds(60);
/// Age from which a message counts as lost.
const LOST_AFTER: TimeDelta = TimeDelta::minutes(10);
/// Age from which `hold.placed.v1` counts as lost: its buyer has minutes to pay.
const HOLD_LOST_AFTER: TimeDelta = TimeDelta::minutes(2);
/// Rest of a hold for which a mail is of use.
const HOLD_LEFT: TimeDelta = TimeDelta::minutes(1);
/// The period that one statement reads.
const WINDOW: TimeDelta = TimeDelta::hours(2);
/// Older windows that take turns: a week.
const WINDOWS: i32 = 84;
/// Most bookings per statement.
const BATCH: i64 = 500;

/// Runs the sweeps until shutdown.
pub(crate) async fn republish_lost(ctx: Context) -> anyhow::Result<()> {
    let stop = ctx.shutdown.soft().clone();
    let (mut due, mut round) = (ctx.clock.now(), 0);
    while !stop.is_cancelled() {
        let now = ctx.clock.now();
        if now >= due {
            due = now + ROUND;
            for lost in Lost::ALL {
                if let Err(error) = sweep(&ctx.db, lost, round, now).await {
                    let error: &dyn std::error::Error = &error;
                    let lost = lost.label();
                    tracing::warn!(lost, error, "sweeping lost messages failed; retrying");
                }
            }
            round = (round + 1) % WINDOWS;
        }
        stop.run_until_cancelled(tokio::time::sleep(TICK)).await;
    }
    Ok(())
}

/// Publishes lost messages of a kind again; returns how many.
async fn sweep(
    pool: &PgPool,
    lost: Lost,
    round: i32,
    now: DateTime<Utc>,
) -> Result<usize, sqlx::Error> {
    let older = now - WINDOW * (1 + round);
    let periods = match lost {
        Lost::Held => vec![(now + HOLD_LEFT, now - HOLD_LOST_AFTER)],
        _ => vec![(now - WINDOW, now - LOST_AFTER), (older - WINDOW, older)],
    };
    let mut published = 0;
    for period in periods {
        let publishing = run_tx(pool, "republish_lost", |tx| {
            Box::pin(publish_again(tx, lost, period, now))
        });
        published += publishing.await?;
    }
    if published > 0 {
        outbox::wake(OWNER);
        let count = u64::try_from(published).unwrap_or(u64::MAX);
        let lost = lost.label();
        counter!("booking_swept_total", "lost" => lost).increment(count);
        tracing::warn!(lost, messages = published, "republished lost messages");
    }
    Ok(published)
}

async fn publish_again(
    conn: &mut PgConnection,
    lost: Lost,
    (from, to): (DateTime<Utc>, DateTime<Utc>),
    now: DateTime<Utc>,
) -> Result<usize, sqlx::Error> {
    let limit = BATCH;
    let search = Search {
        from,
        to,
        limit,
        now,
    };
    let entries: Result<Vec<Entry>, _> = match lost {
        Lost::Held => {
            let lost = lost::claim_holds(conn, from, to, limit, now).await?;
            let placed = lost.into_iter().map(|booking| HoldPlaced { booking });
            placed.map(|placed| Entry::new(&placed)).collect()
        }
        Lost::Paid => {
            let lost = lost::claim_paid(conn, search).await?;
            paid_entries(conn, lost).await
        }
        Lost::Ended => {
            let lost = lost::claim_ends(conn, search).await?;
            lost.into_iter().map(message_of).collect()
        }
        Lost::Transferred => {
            let lost = lost::claim_transfers(conn, search).await?;
            lost.iter().map(Entry::new).collect()
        }
    };
    let entries = entries?;
    let count = entries.len();
    outbox::put_all(conn, OWNER, entries).await?;
    Ok(count)
}

#[cfg(test)]
mod tests {
    use platform::testing::TestApp;
    use serde_json::{Value, json};

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
        let swept = async |at| sweep(db, Lost::Paid, 0, at).await.unwrap();
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
            found += sweep(db, Lost::Paid, round, days_later).await.unwrap();
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
                sweep(db, Lost::Paid, round, much_later).await.unwrap(),
                0,
                "it is mailed"
            );
        }
        app.finish().await;
    }

    const HELD: &str = "0199aaaa-0000-7000-8000-000000000011";
    const EXPIRED: &str = "0199aaaa-0000-7000-8000-000000000012";
    const GIVEN_UP: &str = "0199aaaa-0000-7000-8000-000000000013";
    const CANCELLED: &str = "0199aaaa-0000-7000-8000-000000000014";
    const TRANSFERRED: &str = "0199aaaa-0000-7000-8000-000000000015";

    /// Inserts a booking for each message that is mailed, of `at`, without seats in the house: of
    /// the last, both tickets were transferred, one of them to be transferred on, and the code of
    /// the other replaced.
    async fn plant(db: &PgPool, at: DateTime<Utc>) {
        let mut tx = db.begin().await.unwrap();
        let alone = "set local session_replication_role = replica";
        sqlx::query(alone).execute(&mut *tx).await.unwrap();
        sqlx::query(
            "insert into booking.events (event_id, version, name, date, cancelled,
                                         max_tickets_per_account)
             values (1, 1, 'Opera', $1 + interval '60 days', false, 8)",
        )
        .bind(at)
        .execute(&mut *tx)
        .await
        .unwrap();
        for (id, state, reason) in [
            (HELD, "held", None),
            (EXPIRED, "expired", Some("payment_refused")),
            (GIVEN_UP, "cancelled", None),
            (CANCELLED, "cancelled", None),
            (TRANSFERRED, "confirmed", None),
        ] {
            sqlx::query(
                r#"insert into booking.bookings (id, event_id, account_id, tickets, state, seats,
                       total_minor, hold_until, end_reason, captured_at, created_at, updated_at)
                   values ($1::uuid, 1, 7, 2, $2,
                       '[{"id": 1, "section": "Floor"}, {"id": 2, "section": "Floor"}]', 4500,
                       $3 + interval '10 minutes', $4, case when $2 = 'confirmed' then $3 end, $3, $3)"#,
            )
            .bind(id)
            .bind(state)
            .bind(at)
            .bind(reason)
            .execute(&mut *tx)
            .await
            .unwrap();
        }
        let statements = format!(
            "insert into booking.cancellations values ('{CANCELLED}', 7, '{at}');
             insert into booking.tickets (id, code, booking_id, event_id, account_id, seat_id,
                                          live_seat_id, state, created_at, replaces)
             select ('0199bbbb-0000-7000-8000-00000000000' || n)::uuid,
                    'a-code-of-twenty-letters-' || n, '{TRANSFERRED}', 1, holder, seat,
                    case when state = 'valid' then seat end, state,
                    timestamptz '{at}' + n * interval '1 second',
                    ('0199bbbb-0000-7000-8000-00000000000' || replaces)::uuid
             from (values (1, 7, 1, 'cancelled', null), (2, 7, 2, 'cancelled', null),
                          (3, 8, 1, 'cancelled', 1), (4, 8, 2, 'valid', 2),
                          (5, 9, 1, 'valid', 3))
                  as new (n, holder, seat, state, replaces);
             insert into booking.replaced_codes
             values ('the-code-before', '0199bbbb-0000-7000-8000-000000000004',
                     timestamptz '{at}' + interval '6 seconds')"
        );
        let planting = sqlx::raw_sql(sqlx::AssertSqlSafe(statements));
        planting.execute(&mut *tx).await.unwrap();
        tx.commit().await.unwrap();
    }

    /// Takes what was published: name, booking, and the rest of the body.
    async fn taken(db: &PgPool) -> Vec<(String, Value)> {
        let taking =
            "with taken as (delete from platform.outbox returning message_name, body::text)
            select message_name, body from taken order by 1, 2";
        let rows: Vec<(String, String)> = sqlx::query_as(taking).fetch_all(db).await.unwrap();
        let read = |(name, body): (String, String)| (name, serde_json::from_str(&body).unwrap());
        rows.into_iter().map(read).collect()
    }

    /// Writes a notice, as the notifier does.
    async fn mail(db: &PgPool, id: &str, account: i64, kind: &str, occasion: i64) {
        sqlx::query(
            "insert into notifier.notifications (booking_id, event_id, account_id, kind, occasion,
                 channel, facts, state, next_try_at, created_at)
             values ($1::uuid, 1, $2, $3, $4, 'email', '{}', 'waiting', now(), now())",
        )
        .bind(id)
        .bind(account)
        .bind(kind)
        .bind(occasion)
        .execute(db)
        .await
        .unwrap();
    }

    #[tokio::test]
    async fn every_message_that_is_mailed_is_published_again_until_its_notice_is_written() {
        let app = TestApp::start().await;
        let (db, at) = (&app.ctx.db, app.ctx.clock.now());
        plant(db, at).await;
        let minutes = |minutes| at + TimeDelta::minutes(minutes);
        let swept = async |lost, at| sweep(db, lost, 0, at).await.unwrap();
        for (lost, early) in [(Lost::Held, 1), (Lost::Ended, 9), (Lost::Transferred, 9)] {
            assert_eq!(swept(lost, minutes(early)).await, 0, "it may be on its way");
        }

        assert_eq!(swept(Lost::Held, minutes(9)).await, 0, "too late to pay");
        assert_eq!(swept(Lost::Held, minutes(2)).await, 1);
        assert_eq!(
            swept(Lost::Held, minutes(3)).await,
            0,
            "it was just published again"
        );
        let published = taken(db).await;
        assert_eq!(published[0].0, "hold.placed.v1");
        assert_eq!(published[0].1["booking"]["booking_id"], HELD);

        assert_eq!(swept(Lost::Ended, minutes(11)).await, 3);
        assert_eq!(swept(Lost::Ended, minutes(70)).await, 0, "within the hour");
        let published = taken(db).await;
        let of = |id: &str| {
            let its = |(_, body): &&(String, Value)| body["booking"]["booking_id"] == id;
            let (name, body) = published.iter().find(its).unwrap();
            (name.as_str(), body.clone())
        };
        let (name, body) = of(EXPIRED);
        assert_eq!(
            (name, &body["reason"]),
            ("booking.expired.v1", &json!("payment_refused"))
        );
        let (name, body) = of(GIVEN_UP);
        assert_eq!(
            (name, &body["was_confirmed"]),
            ("booking.cancelled.v1", &json!(false))
        );
        assert_eq!(body["asked"], Value::Null);
        let (name, body) = of(CANCELLED);
        assert_eq!(
            (name, &body["was_confirmed"]),
            ("booking.cancelled.v1", &json!(true))
        );
        assert_eq!(body["asked"]["by"], 7);

        // Of each ticket the latest change: 3 is the transfer on, 4 the new code.
        assert_eq!(swept(Lost::Transferred, minutes(11)).await, 2);
        let published = taken(db).await;
        let facts = |(_, body): &(String, Value)| {
            let number = |name: &str| body[name].as_i64().unwrap();
            let code = body["ticket"]["code"].as_str().unwrap().to_owned();
            (number("number"), number("from"), number("to"), code)
        };
        let mut facts: Vec<_> = published.iter().map(facts).collect();
        facts.sort();
        let code = |n| format!("a-code-of-twenty-letters-{n}");
        assert_eq!(facts, [(3, 8, 9, code(5)), (4, 8, 8, code(4))]);

        // What is mailed is not published again.
        mail(db, EXPIRED, 7, "expired", 0).await;
        mail(db, CANCELLED, 7, "cancelled", 0).await;
        for number in [1, 2, 4] {
            mail(db, TRANSFERRED, 8, "received", number).await;
        }
        assert_eq!(swept(Lost::Ended, minutes(80)).await, 1, "the one given up");
        assert_eq!(
            swept(Lost::Transferred, minutes(80)).await,
            1,
            "the one transferred on"
        );
        // Numbered in another order, and complete.
        mail(db, TRANSFERRED, 9, "received", 1).await;
        mail(db, GIVEN_UP, 7, "cancelled", 0).await;
        let days_later = minutes(3 * 24 * 60);
        for round in 0..WINDOWS {
            for lost in [Lost::Held, Lost::Ended, Lost::Transferred] {
                assert_eq!(sweep(db, lost, round, days_later).await.unwrap(), 0);
            }
        }
        app.finish().await;
    }
}

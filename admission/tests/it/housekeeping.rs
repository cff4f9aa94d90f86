//! Retention of ended sales and old requests.

use std::time::Duration;

use chrono::TimeDelta;
use domain::EventId;
use domain::sale::SaleSettings;
use platform::testing::{TestApp, eventually};
use sqlx::PgPool;
use sqlx::types::Json;

use crate::line::sale;
use crate::shop::{PATIENCE, launch};

/// Inserts a sale changed `days` days ago, with a row in each table of its line.
async fn add(db: &PgPool, sale: &SaleSettings, days: i32) {
    sqlx::query(
        "insert into admission.sales (event_id, version, settings, updated_at)
         values ($1, 1, $2, clock_timestamp() - make_interval(days => $3))",
    )
    .bind(sale.event_id.0)
    .bind(Json(sale))
    .bind(days)
    .execute(db)
    .await
    .unwrap();
    let rows = [
        "insert into admission.claims
             (event_id, place, account_id, jti, claimed_at, issued_at, ends_at, over_at, change)
         values ($1, 1, 1, gen_random_uuid(), now(), 0, 0, now(), 1)",
        "insert into admission.claim_counts (event_id, bucket, claims) values ($1, 1, 1)",
        "insert into admission.ready (event_id, place, since, tried_at) values ($1, 2, now(), now())",
        "insert into admission.moves (event_id, seq, at) values ($1, 1000, now())",
    ];
    for row in rows {
        sqlx::query(row)
            .bind(sale.event_id.0)
            .execute(db)
            .await
            .unwrap();
    }
}

/// Returns the number of those rows left, without moves that a leader may add.
async fn rows(db: &PgPool, event_id: i64) -> i64 {
    sqlx::query_scalar(
        "select (select count(*) from admission.claims where event_id = $1)
              + (select count(*) from admission.claim_counts where event_id = $1)
              + (select count(*) from admission.ready where event_id = $1)
              + (select count(*) from admission.moves where event_id = $1 and seq = 1000)",
    )
    .bind(event_id)
    .fetch_one(db)
    .await
    .unwrap()
}

#[tokio::test]
async fn lines_of_sales_that_ended_long_ago_are_removed_and_no_others() {
    let app = TestApp::start().await;
    let db = &app.ctx.db;
    let now = app.ctx.clock.now();
    let with = |event: i64, change: fn(&mut SaleSettings)| {
        let mut sale = SaleSettings {
            event_id: EventId(event),
            opens_at: now - TimeDelta::days(100),
            ..sale()
        };
        change(&mut sale);
        sale
    };
    add(db, &with(1, |sale| sale.closed = true), 31).await;
    let ended = SaleSettings {
        closes_at: Some(now - TimeDelta::days(31)),
        ..with(2, |_| ())
    };
    add(db, &ended, 60).await;
    add(db, &with(3, |_| ()), 60).await;
    add(db, &with(4, |sale| sale.closed = true), 29).await;
    let ending = SaleSettings {
        closes_at: Some(now - TimeDelta::days(29)),
        ..with(5, |_| ())
    };
    add(db, &ending, 60).await;

    launch(&app.ctx, PATIENCE).await;
    for event in [1, 2] {
        eventually(Duration::from_secs(60), async || rows(db, event).await == 0).await;
    }
    for event in [3, 4, 5] {
        assert!(rows(db, event).await >= 4, "the line of event {event}");
    }
    app.finish().await;
}

#[tokio::test]
async fn a_busy_day_of_old_requests_is_removed_in_one_round() {
    let app = TestApp::start().await;
    let db = &app.ctx.db;
    sqlx::query(
        "insert into admission.requests (booking_id, event_id, account_id, wish, tickets, published, accepted_at)
         select gen_random_uuid(), 1, n, '{\"best\":{\"tickets\":1}}', 1, n = 1,
                now() - make_interval(hours => case when n = 2 then 23 else 25 end)
         from generate_series(1, 12000) as n",
    )
    .execute(db)
    .await
    .unwrap();
    launch(&app.ctx, PATIENCE).await;
    // Left: an undecided one, and one that is not a day old.
    eventually(Duration::from_secs(60), async || {
        let left: i64 = sqlx::query_scalar("select count(*) from admission.requests")
            .fetch_one(db)
            .await
            .unwrap();
        left == 2
    })
    .await;
    app.finish().await;
}

use std::time::Duration;

use platform::testing::{TestApp, eventually};
use sqlx::PgPool;

/// Inserts a sale last changed `days` days ago, with one number and one leaving.
async fn add(db: &PgPool, event: i64, closed: bool, days: i32) {
    let rows = [
        "insert into admission.sales (event_id, version, settings, updated_at)
         values ($1, 1, jsonb_build_object('closed', $2, 'closes_at', null),
                 clock_timestamp() - make_interval(days => $3))",
        "insert into waiting_room.numbers (event_id, account_id, number, joined_at)
         select $1, 7, 1, now() where $2 is not null and $3 is not null",
        "insert into waiting_room.leavings (event_id, number, change, left_at)
         select $1, 1, 1, now() where $2 is not null and $3 is not null",
    ];
    for row in rows {
        let row = sqlx::query(row).bind(event).bind(closed).bind(days);
        row.execute(db).await.unwrap();
    }
}

async fn rows(db: &PgPool, event: i64) -> i64 {
    sqlx::query_scalar(
        "select (select count(*) from waiting_room.numbers where event_id = $1)
              + (select count(*) from waiting_room.leavings where event_id = $1)",
    )
    .bind(event)
    .fetch_one(db)
    .await
    .unwrap()
}

#[tokio::test]
async fn numbers_of_sales_that_ended_long_ago_are_removed_and_no_others() {
    let app = TestApp::start().await;
    let db = &app.ctx.db;
    add(db, 1, true, 31).await;
    add(db, 2, true, 29).await;
    add(db, 3, false, 60).await;
    let config = waiting_room::Config::default();
    let routes = waiting_room::start(app.ctx.clone(), config).await.unwrap();
    app.serve(routes).await;
    eventually(Duration::from_secs(30), async || rows(db, 1).await == 0).await;
    assert_eq!((rows(db, 2).await, rows(db, 3).await), (2, 2));
    app.finish().await;
}

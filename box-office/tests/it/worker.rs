//! Fixtures for the booking worker's tables, which are read through its views.

use serde_json::Value;
use sqlx::PgPool;
use uuid::Uuid;

/// Inserts every section and seat of an event, as the worker does on `event.changed`.
pub(crate) async fn follow(db: &PgPool, event: &Value) {
    let id = event["id"].as_i64().unwrap();
    sqlx::query(
        "insert into booking.events (event_id, version, name, date, cancelled, max_tickets_per_account)
         values ($1, 1, 'x', now(), false, 6)",
    )
    .bind(id)
    .execute(db)
    .await
    .unwrap();
    sqlx::query(
        "insert into booking.sections
             (section_id, event_id, position, name, numbered, price_minor, currency)
         select id, event_id, position, name, numbered, price_minor, currency
         from box_office.sections where event_id = $1",
    )
    .bind(id)
    .execute(db)
    .await
    .unwrap();
    sqlx::query(
        "insert into booking.seats (section_id, rank, row_label, number)
         select id, case when numbered then 1000 * (n / seats_per_row) + n % seats_per_row else n end,
                case when numbered then chr(65 + n / seats_per_row) end,
                case when numbered then n % seats_per_row + 1 end
         from box_office.sections, generate_series(0, capacity - 1) as n
         where event_id = $1 order by id, n",
    )
    .bind(id)
    .execute(db)
    .await
    .unwrap();
}

/// Holds the seats with these ranks in the event's first section, by one booking.
pub(crate) async fn hold(db: &PgPool, event: &Value, ranks: &[i32]) {
    let (id, section) = (
        event["id"].as_i64().unwrap(),
        event["sections"][0]["id"].as_i64().unwrap(),
    );
    let booking = Uuid::now_v7();
    let tickets = i32::try_from(ranks.len()).unwrap();
    let mut tx = db.begin().await.unwrap();
    sqlx::query(
        "insert into booking.bookings
             (id, event_id, account_id, tickets, state, hold_until, created_at, updated_at)
         values ($1, $2, 1, $3, 'held', now(), now(), now())",
    )
    .bind(booking)
    .bind(id)
    .bind(tickets)
    .execute(&mut *tx)
    .await
    .unwrap();
    sqlx::query(
        "update booking.seats set state = 'held', booking_id = $1
         where section_id = $2 and rank = any($3)",
    )
    .bind(booking)
    .bind(section)
    .bind(ranks)
    .execute(&mut *tx)
    .await
    .unwrap();
    tx.commit().await.unwrap();
}

/// Holds about two in five seats, scattered over all sections of an event.
pub(crate) async fn hold_some(db: &PgPool, event: &Value) {
    let id = event["id"].as_i64().unwrap();
    let booking = Uuid::now_v7();
    let mut tx = db.begin().await.unwrap();
    let held = sqlx::query(
        "update booking.seats set state = 'held', booking_id = $1
         where hashint8(id) % 5 in (0, 1)
           and section_id in (select section_id from booking.sections where event_id = $2)",
    )
    .bind(booking)
    .bind(id)
    .execute(&mut *tx)
    .await
    .unwrap();
    sqlx::query(
        "insert into booking.bookings
             (id, event_id, account_id, tickets, state, hold_until, created_at, updated_at)
         values ($1, $2, 1, $3, 'held', now(), now(), now())",
    )
    .bind(booking)
    .bind(id)
    .bind(i32::try_from(held.rows_affected()).unwrap())
    .execute(&mut *tx)
    .await
    .unwrap();
    tx.commit().await.unwrap();
}

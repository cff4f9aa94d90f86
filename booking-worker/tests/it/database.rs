//! The database alone refuses to sell a seat twice, and counters that disagree with the seats.

use domain::booking::BookingFacts;
use sqlx::{AssertSqlSafe, PgPool};

use crate::shop::{Shop, best, euros, floor};

/// Runs statements in one transaction; returns whether the database accepted them.
async fn is_taken(db: &PgPool, statements: &str) -> bool {
    let mut tx = db.begin().await.unwrap();
    let run = sqlx::raw_sql(AssertSqlSafe(statements))
        .execute(&mut *tx)
        .await;
    run.is_ok() && tx.commit().await.is_ok()
}

/// Fills the ids of two sold seats, a free one and their bookings into a statement.
fn fill(statement: &str, sold: &BookingFacts, other: &BookingFacts, free: i64) -> String {
    statement
        .replace("$sold", &sold.seats[0].id.to_string())
        .replace("$free", &free.to_string())
        .replace("$mine", &format!("'{}'", sold.booking_id))
        .replace("$other", &format!("'{}'", other.booking_id))
}

#[tokio::test(flavor = "multi_thread")]
async fn raw_sql_cannot_sell_a_seat_twice_or_break_the_counters() {
    let shop = Shop::open(vec![floor(1, 5, euros(500)), floor(2, 5, euros(500))]).await;
    let sold = shop.buy(7, 1).await;
    let other = shop.buy(8, 1).await;
    let held = shop.hold(9, best(1)).await;
    let free = shop
        .count("select min(id) from booking.seats where state = 'available'")
        .await;
    let tries = [
        // A second ticket for a sold seat.
        "insert into booking.tickets select gen_random_uuid(), code || 'x', booking_id, event_id, account_id,
             seat_id, live_seat_id, state, created_at from booking.tickets where seat_id = $sold",
        // The same for another booking.
        "insert into booking.tickets select gen_random_uuid(), code || 'x', $other, event_id, account_id,
             seat_id, live_seat_id, state, created_at from booking.tickets where seat_id = $sold",
        // A ticket for a seat of another booking.
        "insert into booking.tickets select gen_random_uuid(), code || 'x', booking_id, event_id, account_id,
             $free, $free, state, created_at from booking.tickets where seat_id = $sold",
        // A live ticket without a seat, and a cancelled one that keeps it.
        "update booking.tickets set live_seat_id = null",
        "update booking.tickets set state = 'cancelled'",
        // Checked in without a time or an account, or a time without a check-in.
        "update booking.tickets set state = 'checked_in'",
        "update booking.tickets set checked_in_at = now(), checked_in_by = 1",
        "update booking.tickets set state = 'checked_in', checked_in_at = now()",
        // Live and transferred at once, or its own replacement.
        "update booking.tickets set transferred_at = now()",
        "update booking.tickets set replaces = id",
        // Another ticket's seat.
        "update booking.tickets set seat_id = $sold, live_seat_id = $sold where booking_id = $other",
        // A sold seat that is given to another booking, freed, held again, or deleted.
        "update booking.seats set booking_id = $other where id = $sold",
        "update booking.seats set state = 'available', booking_id = null where id = $sold",
        "update booking.seats set state = 'available' where id = $sold",
        "update booking.seats set booking_id = null where id = $sold",
        "delete from booking.seats where id = $sold",
        "delete from booking.seats where state = 'held'",
        "truncate booking.seats cascade",
        // A free seat that is taken by nobody, by an unknown booking, or by one that has ended.
        "update booking.seats set state = 'sold' where id = $free",
        "update booking.seats set state = 'held', booking_id = gen_random_uuid() where id = $free",
        "update booking.bookings set state = 'expired' where id = $mine",
        "update booking.bookings set state = 'cancelled' where state = 'held'",
        "delete from booking.bookings where id = $mine",
        // Counters that disagree with the seats.
        "update booking.sections set available = available + 1",
        "update booking.sections set available = available + 1, capacity = capacity + 1",
        "update booking.sections set available = available + 1, sold = sold - 1 where section_id = 1",
        "update booking.sections set held = 0, available = available + held",
        "insert into booking.sections (section_id, event_id, position, name, numbered, price_minor, currency,
             capacity, available) values (9, 1, 9, 'More', false, 1, 'eur', 5, 5)",
        "delete from booking.sections where section_id = 1",
    ];
    for statement in tries {
        let statement = fill(statement, &sold, &other, free);
        assert!(
            !is_taken(&shop.app.ctx.db, &statement).await,
            "taken: {statement}"
        );
    }
    // Counter-check: an honest statement is accepted.
    let honest = fill(
        "update booking.seats set section_id = 2, rank = 1000 where id = $free",
        &sold,
        &other,
        free,
    );
    assert!(is_taken(&shop.app.ctx.db, &honest).await);
    assert_eq!(
        shop.count("select capacity::bigint from booking.sections where section_id = 2")
            .await,
        6
    );
    assert_eq!(shop.state(held.booking_id).await.as_deref(), Some("held"));
    shop.close().await;
}

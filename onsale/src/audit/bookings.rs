//! I1, I5 and I10: checks seats, bookings and counters, from the database alone.

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;
use sqlx::PgPool;

use super::Check;

/// Numbers of seats and bookings by state.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Totals {
    pub(crate) capacity: i64,
    pub(crate) available: i64,
    pub(crate) held: i64,
    pub(crate) sold: i64,
    pub(crate) confirmed: i64,
    pub(crate) expired: i64,
    pub(crate) cancelled: i64,
    pub(crate) rejected: i64,
}

/// Checks that a seat has at most one live hold or ticket, and that seats, bookings and tickets
/// agree which.
pub(super) async fn no_oversell(db: &PgPool) -> Result<Check, sqlx::Error> {
    let checked = sqlx::query_scalar!(r#"select count(*) as "n!" from booking.seats"#)
        .fetch_one(db)
        .await?;
    let mut broken = sqlx::query_scalar!(
        r#"
        select 'seat ' || seat_id || ' has ' || count(*) || ' live tickets' as "what!"
        from booking.tickets where state <> 'cancelled' group by seat_id having count(*) > 1
        union all
        select 'ticket ' || t.id || ' is live, but its seat is not sold to its booking'
        from booking.tickets t left join booking.seats s on s.id = t.seat_id
        where t.state <> 'cancelled'
          and (s.id is null or s.state <> 'sold' or s.booking_id is distinct from t.booking_id)
        union all
        select 'seat ' || s.id || ' is ' || s.state || ' for a booking that is ' || coalesce(b.state, 'unknown')
        from booking.seats s left join booking.bookings b on b.id = s.booking_id
        where (s.state = 'held' and b.state is distinct from 'held')
           or (s.state = 'sold' and b.state is distinct from 'confirmed')
        "#
    )
    .fetch_all(db)
    .await?;
    broken.extend(
        sqlx::query_scalar!(
            r#"
            select 'booking ' || b.id || ' is for ' || b.tickets || ' but has ' || count(s.id) || ' seats and '
                   || (select count(*) from booking.tickets t where t.booking_id = b.id and t.state <> 'cancelled')
                   || ' tickets' as "what!"
            from booking.bookings b left join booking.seats s on s.booking_id = b.id
            where b.state in ('held', 'confirmed')
            group by b.id
            having count(s.id) <> b.tickets
                or (b.state = 'confirmed' and b.tickets <> (select count(*) from booking.tickets t
                        where t.booking_id = b.id and t.state <> 'cancelled'))
            "#
        )
        .fetch_all(db)
        .await?,
    );
    Ok(Check::new(
        "I1",
        "no seat is sold or held twice",
        count(checked),
        broken,
    ))
}

/// Retention of admission's requests, less an hour for clock skew.
const REQUEST_RETENTION: TimeDelta = TimeDelta::hours(23);

/// Checks that every booking request that was answered 2xx has an outcome, and that every booking
/// has a request. A request answered 201 has its booking by then; one answered 202 is marked as
/// published.
pub(super) async fn nothing_accepted_is_lost(
    db: &PgPool,
    settled_before: DateTime<Utc>,
) -> Result<Check, sqlx::Error> {
    let checked = sqlx::query_scalar!(
        r#"
            select count(*) as "n!" from admission.requests r
            where r.published or exists (select from booking.bookings b where b.id = r.booking_id)
            "#
    )
    .fetch_one(db)
    .await?;
    let mut broken = sqlx::query_scalar!(
        r#"
        select 'request ' || r.booking_id || ' of account ' || r.account_id || ' has no outcome' as "what!"
        from admission.requests r
        where r.published and r.accepted_at <= $1
          and not exists (select from booking.bookings b where b.id = r.booking_id)
        "#,
        settled_before
    )
    .fetch_all(db)
    .await?;
    broken.extend(
        sqlx::query_scalar!(
            r#"
            select 'booking ' || b.id || ' of account ' || b.account_id || ' is ' || b.state
                   || ', and nobody asked for it' as "what!"
            from booking.bookings b
            where b.created_at > $1
              and not exists (select from admission.requests r where r.booking_id = b.id)
            "#,
            settled_before - REQUEST_RETENTION
        )
        .fetch_all(db)
        .await?,
    );
    Ok(Check::new(
        "I5",
        "every accepted request has an outcome",
        count(checked),
        broken,
    ))
}

/// Checks that the counters of each section equal the states of its seats and add up to its
/// capacity.
pub(super) async fn stock_is_conserved(db: &PgPool) -> Result<Check, sqlx::Error> {
    let checked = sqlx::query_scalar!(r#"select count(*) as "n!" from booking.sections"#)
        .fetch_one(db)
        .await?;
    let broken = sqlx::query_scalar!(
        r#"
        select 'section ' || c.section_id || ' counts ' || c.available || '+' || c.held || '+' || c.sold
               || ' of ' || c.capacity || ', its seats ' || count(s.id) filter (where s.state = 'available')
               || '+' || count(s.id) filter (where s.state = 'held')
               || '+' || count(s.id) filter (where s.state = 'sold') as "what!"
        from booking.sections c left join booking.seats s on s.section_id = c.section_id
        group by c.section_id
        having c.available <> count(s.id) filter (where s.state = 'available')
            or c.held <> count(s.id) filter (where s.state = 'held')
            or c.sold <> count(s.id) filter (where s.state = 'sold')
            or c.available + c.held + c.sold <> c.capacity
        "#
    )
    .fetch_all(db)
    .await?;
    Ok(Check::new(
        "I10",
        "available + held + sold = capacity",
        count(checked),
        broken,
    ))
}

/// Counts seats and bookings by state.
pub(super) async fn totals(db: &PgPool) -> Result<Totals, sqlx::Error> {
    sqlx::query_as!(
        Totals,
        r#"
        select
            (select coalesce(sum(capacity), 0) from booking.sections) as "capacity!",
            (select coalesce(sum(available), 0) from booking.sections) as "available!",
            (select coalesce(sum(held), 0) from booking.sections) as "held!",
            (select coalesce(sum(sold), 0) from booking.sections) as "sold!",
            (select count(*) from booking.bookings where state = 'confirmed') as "confirmed!",
            (select count(*) from booking.bookings where state = 'expired') as "expired!",
            (select count(*) from booking.bookings where state = 'cancelled') as "cancelled!",
            (select count(*) from booking.bookings where state = 'rejected') as "rejected!"
        "#
    )
    .fetch_one(db)
    .await
}

fn count(rows: i64) -> u64 {
    u64::try_from(rows).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use platform::testing::TestApp;

    use super::*;

    #[tokio::test]
    async fn a_booking_that_nobody_asked_for_is_found() {
        let app = TestApp::start().await;
        let (db, now) = (&app.ctx.db, app.ctx.clock.now());
        for (account, age) in [
            (1_i64, TimeDelta::zero()),
            (2, TimeDelta::zero()),
            (3, TimeDelta::hours(25)),
        ] {
            sqlx::query(
                "insert into booking.bookings
                     (id, event_id, account_id, tickets, state, hold_until, created_at, updated_at)
                 values (gen_random_uuid(), 1, $1, 1, 'expired', $2, $2, $2)",
            )
            .bind(account)
            .bind(now - age)
            .execute(db)
            .await
            .unwrap();
        }
        sqlx::query(
            "insert into admission.requests (booking_id, event_id, account_id, wish, tickets, accepted_at)
             select id, 1, 1, '{}', 1, created_at from booking.bookings where account_id = 1",
        )
        .execute(db)
        .await
        .unwrap();
        let check = nothing_accepted_is_lost(db, now).await.unwrap();
        assert_eq!(check.violations, 1, "{:?}", check.examples);
        assert!(
            check.examples[0].contains("of account 2"),
            "{:?}",
            check.examples
        );
        app.finish().await;
    }
}

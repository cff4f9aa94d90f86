//! Invariants that hold after every test.

use sqlx::PgPool;

/// Each query counts violations.
const RULES: [(&str, &str); 9] = [
    (
        "I1: a seat has at most one good ticket",
        "select count(*) from (select from booking.tickets where state <> 'cancelled'
                               group by seat_id having count(*) > 1) twice",
    ),
    (
        "I1: a held seat belongs to a held booking, a sold one to a confirmed one",
        "select count(*) from booking.seats s join booking.bookings b on b.id = s.booking_id
         where (s.state, b.state) not in (('held', 'held'), ('sold', 'confirmed'))",
    ),
    (
        "a live booking has as many seats as tickets, any other none",
        "select count(*) from booking.bookings b
         where (select count(*) from booking.seats s where s.booking_id = b.id)
               <> case when b.live then b.tickets else 0 end",
    ),
    (
        "a live booking has the seats it says",
        "select count(*) from booking.bookings b cross join lateral jsonb_array_elements(b.seats) named
         where b.live and not exists (
             select from booking.seats s where s.id = (named ->> 'id')::bigint and s.booking_id = b.id)",
    ),
    (
        "a confirmed booking has a good ticket for each seat, any other none",
        "select count(*) from booking.bookings b
         where (select count(*) from booking.tickets t where t.booking_id = b.id and t.state <> 'cancelled')
               <> case when b.state = 'confirmed' then b.tickets else 0 end",
    ),
    (
        "I10: available + held + sold = capacity",
        "select count(*) from booking.sections where available + held + sold <> capacity",
    ),
    (
        "I10: the counters of a section count its seats",
        "select count(*) from booking.sections c
         where (c.available, c.held, c.sold) <> (
             select count(*) filter (where state = 'available'), count(*) filter (where state = 'held'),
                     count(*) filter (where state = 'sold')
             from booking.seats s where s.section_id = c.section_id)",
    ),
    (
        "what an account bought and gave away counts for it",
        "select count(*)
         from booking.account_tickets a
         full join (select b.event_id, b.account_id, count(*) as tickets
                    from booking.tickets t join booking.bookings b on b.id = t.booking_id
                    where t.state <> 'cancelled' and t.account_id <> b.account_id
                    group by b.event_id, b.account_id) g using (event_id, account_id)
         where coalesce(a.given_away, 0) <> coalesce(g.tickets, 0)",
    ),
    (
        "the tickets of an account are those of its holds and those it holds",
        "select count(*)
         from booking.account_tickets a
         full join (select event_id, account_id, sum(tickets) as tickets
                    from (select event_id, account_id, tickets from booking.bookings where state = 'held'
                          union all
                          select event_id, account_id, 1 from booking.tickets where state <> 'cancelled') one
                    group by event_id, account_id) b using (event_id, account_id)
         where coalesce(a.tickets, 0) <> coalesce(b.tickets, 0)",
    ),
];

/// Asserts I1 and I10, and that seats, counters, bookings, tickets and limits agree.
pub(crate) async fn assert_invariants(db: &PgPool) {
    for (rule, violations) in RULES {
        let count: i64 = sqlx::query_scalar(violations).fetch_one(db).await.unwrap();
        assert_eq!(count, 0, "violated: {rule}");
    }
}

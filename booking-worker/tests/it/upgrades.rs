//! Rolling upgrades: two versions of the booking worker on one database.

use bytes::Bytes;
use chrono::{DateTime, TimeDelta, Utc};
use domain::booking::RejectReason;
use domain::message::{Message, Outcome, PaymentAuthorised, PlaceHold};
use domain::{AccountId, BookingId};
use platform::amqp::{Exchange, Outgoing};
use platform::topology;
use sqlx::PgPool;
use sqlx::types::Uuid;

use crate::shop::{EVENT, HOLD_SECONDS, Shop, best, euros, floor};
use crate::witness::NODE;

/// The previous version's insert of a hold.
const HOLD_BEFORE: &str = "
    insert into booking.bookings
        (id, event_id, account_id, tickets, state, reason, seats, total_minor, currency, hold_until,
         created_at, updated_at)
    select $1, 1, 7, 1, 'held', null,
           jsonb_build_array(jsonb_build_object('id', s.id, 'section', 'Floor 1')), 500, 'eur', $2, $3, $3
    from booking.seats s where s.state = 'available' order by s.rank limit 1
    on conflict (id) do nothing";

/// The previous version's hold of the seats.
const SEATS_BEFORE: &str = "
    update booking.seats s set state = 'held', booking_id = b.id
    from booking.bookings b
    where b.id = $1 and s.id = (b.seats->0->>'id')::bigint and s.state = 'available'";

/// The previous version's count of an account's tickets.
const COUNT_BEFORE: &str = "
    insert into booking.account_tickets (event_id, account_id, tickets) values (1, 7, 1)
    on conflict (event_id, account_id) do update
    set tickets = booking.account_tickets.tickets + excluded.tickets";

/// The previous version's begin of an expiry.
const EXPIRE_BEFORE: &str = "
    with due as materialized (
        select id from booking.bookings
        where state = 'held' and ending is null and hold_until <= $1
        order by hold_until limit $2 for update skip locked
    )
    update booking.bookings b
    set ending = 'hold_expired', ending_asked_at = $1, ending_due_at = $3, updated_at = $1
    from due where b.id = due.id
    returning b.id";

/// The previous version's claim of paid bookings without a mail.
const REPUBLISH_BEFORE: &str = "
    with lost as materialized (
        select b.id from booking.bookings b join booking.events e using (event_id)
        where b.state = 'confirmed' and b.captured_at > $1 and b.captured_at <= $2 and e.date > $3
          and not exists (select from notifier.public_notices n
                          where n.booking_id = b.id and n.kind = 'confirmed')
          and not exists (select from booking.republished r
                          where r.booking_id = b.id and r.republished_at > $4)
        order by b.captured_at limit $6
    )
    insert into booking.republished as r (booking_id, republished_at)
    select id, $5 from lost order by id
    on conflict (booking_id) do update set republished_at = excluded.republished_at
    where r.republished_at <= $4
    returning booking_id";

/// Publishes a body as the other version writes it.
async fn publish(shop: &Shop, exchange: Exchange, key: &str, name: &str, body: String) {
    let message = Outgoing {
        exchange,
        routing_key: key.to_owned(),
        name: name.to_owned(),
        body: Bytes::from(body),
        message_id: Uuid::new_v4(),
        traceparent: None,
    };
    let published = shop.app.ctx.broker.publish_all(vec![message]).await;
    assert!(published.iter().all(Result::is_ok), "{published:?}");
}

async fn hold_before(db: &PgPool, id: BookingId, now: DateTime<Utc>) {
    let mut tx = db.begin().await.unwrap();
    sqlx::query(HOLD_BEFORE)
        .bind(id.0)
        .bind(now + TimeDelta::seconds(HOLD_SECONDS))
        .bind(now)
        .execute(&mut *tx)
        .await
        .unwrap();
    let count = sqlx::query(COUNT_BEFORE);
    count.execute(&mut *tx).await.unwrap();
    let seats = sqlx::query(SEATS_BEFORE).bind(id.0);
    let seats = seats.execute(&mut *tx).await.unwrap();
    assert_eq!(seats.rows_affected(), 1);
    tx.commit().await.unwrap();
}

#[tokio::test]
async fn the_version_before_goes_on_beside_this_one() {
    let shop = Shop::open(vec![floor(1, 10, euros(500))]).await;
    let db = &shop.app.ctx.db;
    let now = domain::clock::Clock::now(&shop.clock);

    // This version confirms what the previous one held, by the previous one's message.
    let before = BookingId::new(now);
    hold_before(db, before, now).await;
    let authorised = format!(
        r#"{{"booking_id": "{before}", "amount": {{"amount_minor": 500, "currency": "eur"}}}}"#
    );
    let name = PaymentAuthorised::NAME;
    publish(&shop, Exchange::Events, name, name, authorised).await;
    shop.eventually_state(before, "confirmed").await;
    let tickets = "select count(*) from booking.tickets where state = 'valid'";
    assert_eq!(shop.count(tickets).await, 1);

    // It holds what the previous version's admission asks for.
    let asked = BookingId::new(now);
    let place = format!(
        r#"{{"booking_id": "{asked}", "event_id": {EVENT}, "account_id": 8,
            "wish": {{"best": {{"tickets": 1, "section_id": null}}}}, "accepted_at": "{}",
            "reply_to": "{NODE}"}}"#,
        now.to_rfc3339()
    );
    let queue = topology::booking_requests_of(EVENT);
    publish(&shop, Exchange::Commands, &queue, PlaceHold::NAME, place).await;
    shop.eventually_state(asked, "held").await;

    // It ends what the previous one began to expire.
    let later = now + TimeDelta::seconds(HOLD_SECONDS);
    let begun: Vec<(Uuid,)> = sqlx::query_as(EXPIRE_BEFORE)
        .bind(later)
        .bind(500_i64)
        .bind(later + TimeDelta::seconds(60))
        .fetch_all(db)
        .await
        .unwrap();
    assert_eq!(begun, [(asked.0,)]);
    shop.void(asked).await;
    shop.eventually_state(asked, "expired").await;

    // Of a lost message each version publishes what the other has not.
    let pay = sqlx::query("update booking.bookings set captured_at = $1 where state = 'confirmed'");
    pay.bind(now).execute(db).await.unwrap();
    for expected in [1, 0] {
        let published: Vec<(Uuid,)> = sqlx::query_as(REPUBLISH_BEFORE)
            .bind(now - TimeDelta::hours(2))
            .bind(now)
            .bind(now - TimeDelta::days(30))
            .bind(now - TimeDelta::hours(1))
            .bind(now)
            .bind(500_i64)
            .fetch_all(db)
            .await
            .unwrap();
        assert_eq!(published.len(), expected);
    }
    shop.close().await;
}

#[tokio::test]
async fn what_a_later_version_wrote_is_left_to_it() {
    let shop = Shop::open(vec![floor(1, 10, euros(500))]).await;
    let db = &shop.app.ctx.db;
    let now = domain::clock::Clock::now(&shop.clock);
    let unknown = "alter table booking.bookings drop constraint bookings_reason_check,
        drop constraint bookings_state_check";
    sqlx::query(unknown).execute(db).await.unwrap();
    let (rejected, postponed) = (shop.request(1, best(1)), shop.request(2, best(1)));
    for (request, state, reason) in [
        (&rejected, "rejected", Some("full_moon")),
        (&postponed, "postponed", None),
    ] {
        sqlx::query(
            "insert into booking.bookings (id, event_id, account_id, tickets, state, reason, hold_until,
                                           created_at, updated_at)
             values ($1, 1, 1, 1, $2, $3, case when $3::text is null then $4 end, $4, $4)",
        )
        .bind(request.booking_id.0)
        .bind(state)
        .bind(reason)
        .bind(now)
        .execute(db)
        .await
        .unwrap();
    }
    let other = shop.request(3, best(1));
    for request in [&postponed, &rejected, &other] {
        shop.send(request).await;
    }
    let outcome = shop.outcomes(rejected.booking_id, 1).await.remove(0);
    assert_eq!(outcome, Outcome::Rejected(RejectReason::Unknown));
    let outcome = shop.outcomes(other.booking_id, 1).await.remove(0);
    let Outcome::Held(held) = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(held.account_id, AccountId(3));
    let (booking_id, amount) = (postponed.booking_id, held.total);
    shop.tell(&PaymentAuthorised { booking_id, amount }).await;
    shop.authorise(&held).await;
    shop.eventually_state(held.booking_id, "confirmed").await;
    let state = shop.state(postponed.booking_id).await;
    assert_eq!(state.as_deref(), Some("postponed"));
    assert!(shop.witness.outcomes(postponed.booking_id).is_empty());
    shop.app.finish().await;
}

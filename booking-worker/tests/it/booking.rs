//! The life of a booking. Every message is sent twice.

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use domain::booking::{BookingState, CancelRefusal, RejectReason, Wish};
use domain::clock::Clock as _;
use domain::event::EventState;
use domain::message::{
    AuditNoted, BookingCancelled, BookingConfirmed, BookingExpired, BookingPaid, CancelAsked,
    EventChanged, HoldPlaced, Outcome, PaymentAuthorised, PaymentCaptured, PaymentFailed,
    PlaceHold, SaleChanged, VoidPayment,
};
use domain::payment::VoidReason;
use domain::{AccountId, EventId, SeatId, SectionId};
use platform::amqp::{Exchange, dead_letters};
use platform::testing::eventually;
use platform::topology;
use uuid::Uuid;

use crate::shop::{EVENT, LIMIT, Shop, best, euros, event, floor, opening, sale, stand};

#[tokio::test(flavor = "multi_thread")]
async fn a_booking_delivered_twice_holds_once() {
    let shop = Shop::open(vec![floor(1, 10, euros(500))]).await;
    let booking = shop.hold(7, best(3)).await;
    assert_eq!(booking.seats.len(), 3);
    assert_eq!(booking.total, euros(1500));
    assert_eq!(booking.hold_until, opening() + TimeDelta::seconds(60));
    eventually(LIMIT, async || {
        !shop.witness.heard::<HoldPlaced>().is_empty()
    })
    .await;
    assert_eq!(
        shop.count("select held::bigint from booking.sections")
            .await,
        3
    );
    let witness = shop.witness.clone();
    shop.close().await;
    assert_eq!(witness.heard::<HoldPlaced>(), [HoldPlaced { booking }]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paid_booking_gets_its_tickets_once_and_gives_its_seats_back_once() {
    let shop = Shop::open(vec![floor(1, 2, euros(500))]).await;
    let booking = shop.buy(7, 2).await;
    let (booking_id, amount) = (booking.booking_id, booking.total);
    shop.tell(&PaymentCaptured { booking_id, amount }).await;
    shop.eventually_row("select from booking.bookings where captured_at is not null")
        .await;
    eventually(LIMIT, async || {
        !shop.witness.heard::<BookingPaid>().is_empty()
    })
    .await;
    let at = shop.clock.now();
    assert_eq!(shop.cancel(booking_id).await, Outcome::Cancelled);
    assert_eq!(shop.state(booking_id).await.as_deref(), Some("cancelled"));
    shop.void(booking_id).await;

    let next = shop.buy(8, 2).await;
    let witness = shop.witness.clone();
    shop.close().await;

    let confirmed = witness.heard::<BookingConfirmed>();
    assert_eq!(confirmed.len(), 2);
    assert_eq!(confirmed[0].tickets.len(), 2);
    assert_ne!(confirmed[0].tickets[0].code, confirmed[0].tickets[1].code);
    assert_eq!(confirmed[1].booking.booking_id, next.booking_id);
    let paid = witness.heard::<BookingPaid>();
    assert_eq!(paid.len(), 1);
    assert_eq!(paid[0].tickets, confirmed[0].tickets);
    let cancelled = witness.heard::<BookingCancelled>();
    assert_eq!(
        cancelled,
        [BookingCancelled {
            booking,
            was_confirmed: true,
            asked: Some(CancelAsked {
                by: AccountId(1),
                at
            }),
        }]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_free_booking_is_confirmed_at_once() {
    let shop = Shop::open(vec![floor(1, 3, euros(0))]).await;
    let (id, outcome) = shop.place(7, best(2)).await;
    assert!(matches!(outcome, Outcome::Confirmed(_)), "{outcome:?}");
    assert_eq!(shop.state(id).await.as_deref(), Some("confirmed"));
    let witness = shop.witness.clone();
    eventually(LIMIT, async || !witness.heard::<BookingPaid>().is_empty()).await;
    shop.close().await;
    assert_eq!(witness.heard::<BookingPaid>()[0].tickets.len(), 2);
    assert_eq!(witness.heard::<BookingConfirmed>().len(), 1);
    assert!(witness.heard::<HoldPlaced>().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn seats_of_an_unpaid_hold_are_on_sale_again_once_no_payment_can_come() {
    let shop = Shop::open(vec![floor(1, 2, euros(500))]).await;
    let booking = shop.hold(7, best(2)).await;
    shop.let_holds_run_out();
    eventually(LIMIT, async || {
        shop.witness.heard::<VoidPayment>().len() == 1
    })
    .await;
    let asked = shop.witness.heard::<VoidPayment>().remove(0);
    let expected = VoidPayment {
        booking_id: booking.booking_id,
        reason: VoidReason::HoldExpired,
    };
    assert_eq!(asked, expected);
    let (_, outcome) = shop.place(8, best(1)).await;
    assert_eq!(outcome, Outcome::Rejected(RejectReason::SoldOut));

    // An unanswered void is repeated.
    shop.let_holds_run_out();
    eventually(LIMIT, async || {
        shop.witness.heard::<VoidPayment>().len() == 2
    })
    .await;

    shop.void(booking.booking_id).await;
    shop.eventually_state(booking.booking_id, "expired").await;
    shop.hold(8, best(2)).await;
    let witness = shop.witness.clone();
    shop.close().await;
    assert_eq!(
        witness.heard::<BookingExpired>(),
        [BookingExpired {
            booking,
            reason: None
        }]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_whose_buyer_is_at_the_bank_is_extended_once() {
    let shop = Shop::open(vec![floor(1, 2, euros(500))]).await;
    let (paying, idle) = (shop.hold(7, best(1)).await, shop.hold(8, best(1)).await);
    sqlx::query(
        "insert into payment.payments (booking_id, amount_minor, state, created_at, updated_at, checked_at)
         values ($1, 500, 'requires_action', now(), now(), now())",
    )
    .bind(paying.booking_id.0)
    .execute(&shop.app.ctx.db)
    .await
    .unwrap();
    shop.let_holds_run_out();
    let asked = |id| {
        let witness = shop.witness.clone();
        async move || {
            let heard = witness.heard::<VoidPayment>();
            heard.iter().any(|asked| asked.booking_id == id)
        }
    };
    eventually(LIMIT, asked(idle.booking_id)).await;
    assert!(!asked(paying.booking_id)().await, "it was not extended");
    shop.eventually_row(
        "select from booking.bookings where hold_until = extended_at + interval '2 minutes'",
    )
    .await;
    shop.let_holds_run_out();
    shop.let_holds_run_out();
    eventually(LIMIT, asked(paying.booking_id)).await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_held_booking_that_is_given_up_keeps_its_seats_until_no_payment_can_come() {
    let shop = Shop::open(vec![floor(1, 1, euros(500))]).await;
    let booking = shop.hold(7, best(1)).await;
    assert_eq!(shop.cancel(booking.booking_id).await, Outcome::Cancelled);
    assert_eq!(
        shop.state(booking.booking_id).await.as_deref(),
        Some("held")
    );
    shop.void(booking.booking_id).await;
    shop.eventually_state(booking.booking_id, "cancelled").await;
    let witness = shop.witness.clone();
    shop.close().await;
    let asked = witness.heard::<VoidPayment>();
    let reason = VoidReason::Cancelled;
    assert_eq!(
        asked,
        [VoidPayment {
            booking_id: booking.booking_id,
            reason
        }]
    );
    let cancelled = witness.heard::<BookingCancelled>();
    assert_eq!(
        cancelled,
        [BookingCancelled {
            booking,
            was_confirmed: false,
            asked: None,
        }]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hold_that_is_given_up_and_taken_again_ends_no_later() {
    let shop = Shop::open(vec![floor(1, 9, euros(500))]).await;
    let first = shop.hold(1, best(2)).await;
    let sold = shop.hold(2, best(1)).await;
    shop.clock.advance(TimeDelta::seconds(40));
    for booking_id in [first.booking_id, sold.booking_id] {
        assert_eq!(shop.cancel(booking_id).await, Outcome::Cancelled);
        shop.void(booking_id).await;
        shop.eventually_state(booking_id, "cancelled").await;
    }
    let second = shop.hold(1, best(2)).await;
    assert_eq!(second.hold_until, first.hold_until);
    // Paying ends the limit.
    let bought = shop.buy(2, 1).await;
    assert_eq!(bought.hold_until, sold.hold_until);
    let whole = |shop: &Shop| shop.clock.now() + TimeDelta::seconds(60);
    assert_eq!(shop.hold(2, best(1)).await.hold_until, whole(&shop));

    shop.clock.advance(TimeDelta::seconds(20));
    let used_up = Outcome::Rejected(RejectReason::HoldUsedUp);
    assert_eq!(shop.place(1, best(2)).await.1, used_up);
    assert_eq!(shop.hold(3, best(1)).await.hold_until, whole(&shop));
    shop.void(second.booking_id).await;
    shop.eventually_state(second.booking_id, "expired").await;
    assert_eq!(shop.place(1, best(2)).await.1, used_up);
    shop.clock.advance(TimeDelta::minutes(30));
    assert_eq!(shop.hold(1, best(2)).await.hold_until, whole(&shop));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_that_is_impossible_cancels_the_booking() {
    let shop = Shop::open(vec![floor(1, 1, euros(500))]).await;
    let booking = shop.buy(7, 1).await;
    let booking_id = booking.booking_id;
    shop.tell(&PaymentFailed {
        booking_id,
        reason: "expired".to_owned(),
        is_refused: false,
    })
    .await;
    shop.eventually_state(booking_id, "cancelled").await;
    shop.hold(8, best(1)).await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn explicit_seats_are_given_all_or_none() {
    let shop = Shop::open(vec![stand(1, 2, 4)]).await;
    let ids: Vec<SeatId> = sqlx::query_scalar("select id from booking.seats order by rank")
        .fetch_all(&shop.app.ctx.db)
        .await
        .unwrap()
        .into_iter()
        .map(SeatId)
        .collect();
    let booking = shop.hold(7, Wish::Seats(vec![ids[2], ids[1]])).await;
    let numbers: Vec<_> = booking
        .seats
        .iter()
        .map(|seat| seat.number.unwrap())
        .collect();
    assert_eq!(numbers, [2, 3]);
    for (wish, reason) in [
        (vec![ids[3], ids[2]], RejectReason::SeatTaken),
        (vec![ids[3], ids[3]], RejectReason::SeatTaken),
        (vec![ids[3], SeatId(0)], RejectReason::UnknownEvent),
    ] {
        let (_, outcome) = shop.place(8, Wish::Seats(wish)).await;
        assert_eq!(outcome, Outcome::Rejected(reason));
    }
    assert_eq!(
        shop.count("select held::bigint from booking.sections")
            .await,
        2
    );
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn people_sit_together_where_they_can() {
    let shop = Shop::open(vec![stand(1, 2, 4), floor(2, 5, euros(100))]).await;
    shop.hold(7, best(3)).await;
    let together = shop.hold(8, best(2)).await;
    let places: Vec<_> = together
        .seats
        .iter()
        .map(|seat| (seat.row.clone().unwrap(), seat.number))
        .collect();
    assert_eq!(
        places,
        [("B".to_owned(), Some(1)), ("B".to_owned(), Some(2))]
    );
    let elsewhere = Wish::best_in(SectionId(2), 2);
    let standing = shop.hold(9, elsewhere).await;
    assert_eq!(standing.total, euros(200));
    let too_many = Wish::best_in(SectionId(1), 4);
    let (_, outcome) = shop.place(10, too_many).await;
    assert_eq!(outcome, Outcome::Rejected(RejectReason::SoldOut));
    let (_, outcome) = shop.place(10, best(4)).await;
    assert_eq!(outcome, Outcome::Rejected(RejectReason::NotAdjacent));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn neighbours_are_found_behind_a_thousand_seats_that_stand_alone() {
    let shop = Shop::open(vec![stand(1, 100, 20)]).await;
    // In every row but the last every other seat is gone.
    let booking = Uuid::now_v7();
    let mut tx = shop.app.ctx.db.begin().await.unwrap();
    sqlx::query(
        "insert into booking.bookings (id, event_id, account_id, tickets, state, hold_until, created_at, updated_at)
         values ($1, 1, 99, 990, 'held', 'infinity', now(), now())",
    )
    .bind(booking)
    .execute(&mut *tx)
    .await
    .unwrap();
    sqlx::query(
        "update booking.seats set state = 'held', booking_id = $1
         where number % 2 = 0 and row_label <> 'CV'",
    )
    .bind(booking)
    .execute(&mut *tx)
    .await
    .unwrap();
    sqlx::query("insert into booking.account_tickets values (1, 99, 990)")
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let together = shop.hold(7, best(2)).await;
    assert!(
        together
            .seats
            .iter()
            .all(|seat| seat.row.as_deref() == Some("CV")),
        "{together:?}"
    );
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_sold_outside_the_sale() {
    let shop = Shop::open(vec![floor(1, 9, euros(500))]).await;
    let closed = Outcome::Rejected(RejectReason::SaleClosed);
    shop.clock.advance(TimeDelta::seconds(-1));
    assert_eq!(shop.place(7, best(1)).await.1, closed);
    shop.clock.advance(TimeDelta::seconds(1));
    shop.hold(7, best(1)).await;
    let mut settings = sale(2);
    settings.closed = true;
    shop.tell(&SaleChanged { sale: settings }).await;
    shop.eventually_row("select from booking.sales where version = 2")
        .await;
    assert_eq!(shop.place(8, best(1)).await.1, closed);
    shop.tell(&SaleChanged { sale: sale(1) }).await;
    shop.tell(&SaleChanged { sale: sale(3) }).await;
    shop.eventually_row("select from booking.sales where version = 3")
        .await;
    shop.hold(8, best(1)).await;
    let mut gone = event(2, vec![floor(1, 9, euros(500))]);
    gone.state = EventState::Cancelled;
    shop.tell(&EventChanged { event: gone }).await;
    shop.eventually_row("select from booking.events where version = 2")
        .await;
    assert_eq!(shop.place(9, best(1)).await.1, closed);
    shop.close().await;
}

/// Puts another event on sale after a request for it; returns the outcome, and whether the news
/// came in the time that a request waits for it.
async fn news_after_the_request(shop: &Shop, event_id: EventId) -> (Outcome, bool) {
    // Two retries, each after a second.
    const WAITS: Duration = Duration::from_millis(1_900);
    let request = PlaceHold {
        event_id,
        ..shop.request(7, best(1))
    };
    let (mut event, mut sale) = (event(1, vec![floor(event_id.0, 9, euros(500))]), sale(1));
    event.id = event_id;
    sale.event_id = event_id;
    let sent = Instant::now();
    shop.send(&request).await;
    shop.tell(&EventChanged { event }).await;
    shop.tell(&SaleChanged { sale }).await;
    eventually(LIMIT, async || {
        let known = "select count(*) from booking.events join booking.sales using (event_id)
            where event_id = $1";
        let known = sqlx::query_scalar::<_, i64>(known).bind(event_id.0);
        known.fetch_one(&shop.app.ctx.db).await.unwrap() == 1
    })
    .await;
    let is_in_time = sent.elapsed() < WAITS;
    let outcome = shop.outcomes(request.booking_id, 1).await.remove(0);
    (outcome, is_in_time)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_waits_for_news_of_its_event() {
    let shop = Shop::start().await;
    let mut has_waited = false;
    // News that a busy machine delays for longer than a request waits says nothing.
    for id in 1..=20 {
        let (outcome, is_in_time) = news_after_the_request(&shop, EventId(id)).await;
        if is_in_time {
            assert!(matches!(outcome, Outcome::Held(_)), "{outcome:?}");
            has_waited = true;
            break;
        }
    }
    assert!(has_waited, "no news came in time");
    let unknown = PlaceHold {
        event_id: EventId(1_000),
        ..shop.request(7, best(1))
    };
    shop.send(&unknown).await;
    let outcomes = shop.outcomes(unknown.booking_id, 1).await;
    assert_eq!(outcomes, [Outcome::Rejected(RejectReason::UnknownEvent)]);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_nothing_allows_is_refused() {
    let shop = Shop::open(vec![floor(1, 1, euros(500))]).await;
    let (rejected, _) = shop.place(7, best(2)).await;
    assert_eq!(
        shop.cancel(rejected).await,
        Outcome::Refused(BookingState::Rejected)
    );
    let expired = shop.hold(7, best(1)).await.booking_id;
    shop.void(expired).await;
    shop.eventually_state(expired, "expired").await;
    assert_eq!(
        shop.cancel(expired).await,
        Outcome::Refused(BookingState::Expired)
    );
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancellation_that_overtakes_its_request_is_done_when_that_comes() {
    let shop = Shop::open(vec![floor(1, 1, euros(500))]).await;
    let request = shop.request(7, best(1));
    shop.send_cancel(request.booking_id).await;
    // Handled in order, after the cancellation.
    let (_, outcome) = shop.place(8, best(2)).await;
    assert_eq!(outcome, Outcome::Rejected(RejectReason::SoldOut));
    assert!(shop.witness.outcomes(request.booking_id).is_empty());
    shop.send(&request).await;
    let outcomes = shop.outcomes(request.booking_id, 2).await;
    assert!(matches!(outcomes[0], Outcome::Held(_)), "{outcomes:?}");
    assert_eq!(outcomes[1], Outcome::Cancelled);
    shop.void(request.booking_id).await;
    shop.eventually_state(request.booking_id, "cancelled").await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn from_the_start_of_an_event_nothing_is_sold_and_no_buyer_cancels() {
    let shop = Shop::open(vec![floor(1, 9, euros(500))]).await;
    let (first, second) = (shop.buy(1, 2).await, shop.buy(2, 1).await);
    shop.clock
        .advance(TimeDelta::days(60) - TimeDelta::seconds(1));
    let third = shop.buy(3, 1).await;
    shop.clock.advance(TimeDelta::seconds(1));
    let closed = Outcome::Rejected(RejectReason::SaleClosed);
    assert_eq!(shop.place(7, best(1)).await.1, closed);
    // Account 1 asks: as the buyer of its own booking, and as staff for the others.
    let kept = Outcome::Refused(BookingState::Confirmed);
    assert_eq!(shop.cancel(first.booking_id).await, kept);
    let why = shop.witness.refusals(first.booking_id);
    assert_eq!(why, [CancelRefusal::EventBegun; 2]);
    assert_eq!(shop.cancel(second.booking_id).await, Outcome::Cancelled);
    assert_eq!(shop.cancel(third.booking_id).await, Outcome::Cancelled);
    // A sale may go on longer than that.
    let mut longer = sale(2);
    longer.closes_at = Some(opening() + TimeDelta::days(61));
    shop.tell(&SaleChanged { sale: longer }).await;
    shop.eventually_row("select from booking.sales where version = 2")
        .await;
    shop.hold(7, best(1)).await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_log_hears_what_staff_do_with_bookings_of_others() {
    let shop = Shop::open(vec![floor(1, 9, euros(500)), floor(2, 9, euros(0))]).await;
    let placed = PlaceHold {
        asked_by: Some(AccountId(1)),
        ..shop.request(7, best(1))
    };
    shop.send(&placed).await;
    shop.outcomes(placed.booking_id, 1).await;
    let held = shop.hold(8, best(1)).await.booking_id;
    let free = shop.place(9, Wish::best_in(SectionId(2), 1)).await.0;
    let own = shop.hold(1, best(1)).await.booking_id;
    for id in [held, free, own] {
        assert_eq!(shop.cancel(id).await, Outcome::Cancelled);
    }
    let notes = || {
        let notes = shop.witness.heard::<AuditNoted>().into_iter();
        let mut notes: Vec<_> = notes
            .map(|note| (note.action, note.subject, note.actor.0))
            .collect();
        notes.sort_unstable();
        notes
    };
    let note = |action: &str, id| (action.to_owned(), format!("booking:{id}"), 1);
    let mut expected = vec![
        note("booking.place", placed.booking_id),
        note("booking.cancel", held),
        note("booking.cancel", free),
    ];
    expected.sort_unstable();
    eventually(LIMIT, async || notes() == expected).await;
    for id in [placed.booking_id, held, own] {
        shop.void(id).await;
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn news_of_a_payment_that_comes_before_its_booking_is_tried_again() {
    let shop = Shop::open(vec![floor(1, 2, euros(500))]).await;
    let request = shop.request(7, best(1));
    let booking_id = request.booking_id;
    let amount = euros(500);
    shop.tell(&PaymentAuthorised { booking_id, amount }).await;
    shop.tell(&PaymentCaptured { booking_id, amount }).await;
    // Handled in order, after both.
    shop.buy(8, 1).await;
    shop.send(&request).await;
    shop.eventually_state(booking_id, "confirmed").await;
    shop.eventually_row(
        "select from booking.bookings where account_id = 7 and captured_at is not null",
    )
    .await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_booking_that_can_not_be_cancelled_holds_up_no_other_of_a_cancelled_event() {
    let shop = Shop::open(vec![floor(1, 9, euros(500))]).await;
    let mut bookings = Vec::new();
    for account in 1..=3 {
        bookings.push(shop.buy(account, 1).await);
    }
    // A trigger by which the database refuses the first one.
    sqlx::query("alter table booking.bookings add constraint stuck check (account_id <> 1 or state <> 'cancelled')")
        .execute(&shop.app.ctx.db)
        .await
        .unwrap();
    let mut gone = event(2, vec![floor(1, 9, euros(500))]);
    gone.state = EventState::Cancelled;
    shop.tell(&EventChanged { event: gone }).await;
    for booking in &bookings[1..] {
        shop.eventually_state(booking.booking_id, "cancelled").await;
    }
    sqlx::query("alter table booking.bookings drop constraint stuck")
        .execute(&shop.app.ctx.db)
        .await
        .unwrap();
    shop.eventually_state(bookings[0].booking_id, "cancelled")
        .await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_bad_request_does_not_sink_the_others() {
    let shop = Shop::open(vec![floor(1, 20, euros(500))]).await;
    let broker = &shop.app.ctx.broker;
    let none = shop.request(7, best(0));
    let nonsense = VoidPayment {
        booking_id: none.booking_id,
        reason: VoidReason::Cancelled,
    };
    let queue = topology::booking_requests_of(EVENT);
    let good: Vec<_> = (1..=5)
        .map(|account| shop.request(account, best(2)))
        .collect();
    for request in &good {
        shop.send(request).await;
        shop.send(&none).await;
        broker
            .publish(Exchange::Commands, &queue, &nonsense, Uuid::new_v4())
            .await
            .unwrap();
    }
    for request in &good {
        let outcomes = shop.outcomes(request.booking_id, 1).await;
        assert!(matches!(outcomes[0], Outcome::Held(_)), "{outcomes:?}");
    }
    eventually(LIMIT, async || {
        dead_letters::list(broker, &shop.app.ctx.db, &queue, 100)
            .await
            .is_ok_and(|dead| dead.len() == 10)
    })
    .await;
    shop.close().await;
}

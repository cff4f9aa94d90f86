//! Races: workers for seats and limits, payments against cancellations and expiry.

use domain::SectionId;
use domain::booking::{RejectReason, Wish};
use domain::message::{Outcome, PlaceHold, VoidPayment};
use domain::payment::VoidReason;
use platform::testing::{eventually, wait_until_consumed};
use platform::topology::BOOKING_PARTITIONS;

use crate::shop::{LIMIT, Shop, best, config, euros, floor, stand};
use crate::witness::open_lanes;

/// Sends requests for one event to all partitions, so that several workers compete for it; returns
/// the outcomes.
async fn place_everywhere(shop: &Shop, requests: &[PlaceHold]) -> Vec<Outcome> {
    let sending = requests.iter().zip((0..BOOKING_PARTITIONS).cycle());
    let sending = sending.map(|(request, partition)| shop.send_to(partition, request));
    futures_util::future::join_all(sending).await;
    let mut outcomes = Vec::new();
    for request in requests {
        outcomes.push(shop.outcomes(request.booking_id, 1).await.remove(0));
    }
    outcomes
}

fn held(outcomes: &[Outcome]) -> usize {
    outcomes
        .iter()
        .filter(|outcome| matches!(outcome, Outcome::Held(_)))
        .count()
}

fn rejected(outcomes: &[Outcome], reason: RejectReason) -> usize {
    outcomes
        .iter()
        .filter(|outcome| **outcome == Outcome::Rejected(reason))
        .count()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_seat_is_sold_once_by_workers_that_compete() {
    let shop = Shop::open(vec![floor(1, 1, euros(500))]).await;
    let other = shop.app.another_node().await;
    let routes = booking_worker::start(other.clone(), config()).await;
    wait_until_consumed(&other, &routes.unwrap()).await;
    open_lanes(&other.broker).await;
    let requests: Vec<_> = (0..40)
        .map(|account| shop.request(account, best(1)))
        .collect();
    let outcomes = place_everywhere(&shop, &requests).await;
    assert_eq!(
        (held(&outcomes), rejected(&outcomes, RejectReason::SoldOut)),
        (1, 39)
    );
    other.shutdown.soft().cancel();
    other.shutdown.tasks_left().await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_is_sold_by_workers_that_compete() {
    let shop = Shop::open(vec![stand(1, 4, 10), floor(2, 20, euros(500))]).await;
    let requests: Vec<_> = (0..40)
        .map(|account| shop.request(account, best(2)))
        .collect();
    let outcomes = place_everywhere(&shop, &requests).await;
    assert_eq!(
        (held(&outcomes), rejected(&outcomes, RejectReason::SoldOut)),
        (30, 10)
    );
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_an_account_holds_over_partitions_and_batches() {
    // A section for each partition, so that workers compete for the limit and not for seats.
    let sections = (1..=4).map(|id| floor(id, 100, euros(500))).collect();
    let shop = Shop::open(sections).await;
    let requests: Vec<_> = (0..40)
        .map(|index| {
            let partition = index % i64::from(BOOKING_PARTITIONS);
            let section = SectionId(1 + partition);
            shop.request(index / 4 % 2, Wish::best_in(section, 1))
        })
        .collect();
    let outcomes = place_everywhere(&shop, &requests).await;
    assert_eq!(
        (
            held(&outcomes),
            rejected(&outcomes, RejectReason::LimitReached)
        ),
        (8, 32)
    );
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_booking_sent_to_all_workers_is_held_once() {
    let shop = Shop::open(vec![floor(1, 100, euros(500))]).await;
    let request = shop.request(7, best(2));
    let copies = vec![request.clone(); 8];
    place_everywhere(&shop, &copies).await;
    let outcomes = shop.outcomes(request.booking_id, 8).await;
    assert!(
        outcomes.iter().all(|outcome| *outcome == outcomes[0]),
        "{outcomes:?}"
    );
    assert_eq!(
        shop.count("select held::bigint from booking.sections")
            .await,
        2
    );
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booking_that_workers_decide_at_once_is_decided_once_though_no_seat_is_in_the_way() {
    let sections = (1..=4).map(|id| floor(id, 100, euros(500))).collect();
    let shop = Shop::open(sections).await;
    for account in 0..8 {
        // Requests the same booking from each worker, in another section.
        let request = shop.request(account, best(1));
        let copies: Vec<_> = (1..=4)
            .map(|section| PlaceHold {
                wish: Wish::best_in(SectionId(section), 1),
                ..request.clone()
            })
            .collect();
        place_everywhere(&shop, &copies).await;
        let outcomes = shop.outcomes(request.booking_id, 4).await;
        assert!(
            outcomes.iter().all(|outcome| *outcome == outcomes[0]),
            "{outcomes:?}"
        );
    }
    let held = "select sum(held)::bigint from booking.sections";
    assert_eq!(shop.count(held).await, 8);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authorisation_that_comes_before_the_expiry_is_answered_wins() {
    let shop = Shop::open(vec![floor(1, 1, euros(500))]).await;
    let booking = shop.hold(7, best(1)).await;
    shop.let_holds_run_out();
    eventually(LIMIT, async || {
        !shop.witness.heard::<VoidPayment>().is_empty()
    })
    .await;
    shop.authorise(&booking).await;
    shop.eventually_state(booking.booking_id, "confirmed").await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authorisation_that_finds_no_hold_is_released() {
    let shop = Shop::open(vec![floor(1, 1, euros(500))]).await;
    let booking = shop.hold(7, best(1)).await;
    shop.void(booking.booking_id).await;
    shop.eventually_state(booking.booking_id, "expired").await;
    shop.authorise(&booking).await;
    let released = VoidPayment {
        booking_id: booking.booking_id,
        reason: VoidReason::Cancelled,
    };
    eventually(LIMIT, async || {
        shop.witness.heard::<VoidPayment>().contains(&released)
    })
    .await;
    assert_eq!(
        shop.state(booking.booking_id).await.as_deref(),
        Some("expired")
    );
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_booking_given_up_is_not_confirmed_by_a_later_authorisation() {
    let shop = Shop::open(vec![floor(1, 1, euros(500))]).await;
    let booking = shop.hold(7, best(1)).await;
    assert_eq!(shop.cancel(booking.booking_id).await, Outcome::Cancelled);
    shop.authorise(&booking).await;
    shop.void(booking.booking_id).await;
    shop.eventually_state(booking.booking_id, "cancelled").await;
    assert_eq!(shop.count("select count(*) from booking.tickets").await, 0);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn authorised_cancelled_and_voided_at_once_ends_in_one_state() {
    let shop = Shop::open(vec![stand(1, 6, 10)]).await;
    let mut bookings = Vec::new();
    for account in 0..30 {
        bookings.push(shop.hold(account, best(2)).await);
    }
    shop.let_holds_run_out();
    let racing = bookings.iter().enumerate().map(|(index, booking)| {
        let shop = &shop;
        async move {
            let id = booking.booking_id;
            match index % 3 {
                0 => tokio::join!(shop.authorise(booking), shop.send_cancel(id), async {}),
                1 => tokio::join!(shop.void(id), async {}, shop.authorise(booking)),
                _ => tokio::join!(shop.authorise(booking), shop.send_cancel(id), shop.void(id)),
            }
        }
    });
    futures_util::future::join_all(racing).await;
    for booking in &bookings {
        // The outcome from the payment worker.
        shop.void(booking.booking_id).await;
    }
    for booking in &bookings {
        eventually(LIMIT, async || {
            let state = shop.state(booking.booking_id).await;
            matches!(state.as_deref(), Some("expired" | "cancelled"))
        })
        .await;
    }
    assert_eq!(
        shop.count("select available::bigint from booking.sections")
            .await,
        60
    );
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_that_asks_for_the_best_at_once_is_not_turned_away() {
    let sections = (1..=4).map(|id| stand(id, 40, 50)).collect();
    let shop = Shop::open(sections).await;
    let requests: Vec<_> = (0..160)
        .map(|account| shop.request(account, best(1 + u32::try_from(account % 4).unwrap())))
        .collect();
    let outcomes = place_everywhere(&shop, &requests).await;
    let refused = outcomes.len() - held(&outcomes);
    assert!(
        refused * 100 < outcomes.len(),
        "{refused} of 160 were refused"
    );
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn seats_that_are_given_back_are_on_sale_with_the_end_of_their_booking() {
    let shop = Shop::open(vec![floor(1, 2, euros(500))]).await;
    for round in 0..3 {
        let booking = shop.buy(round, 2).await;
        // The next request gets them: the cancellation is ahead of it in the same queue.
        assert_eq!(shop.cancel(booking.booking_id).await, Outcome::Cancelled);
        let unpaid = shop.hold(100 + round, best(2)).await;
        shop.void(unpaid.booking_id).await;
        shop.eventually_state(unpaid.booking_id, "expired").await;
        // Freed by the transaction that ended it.
        let available = "select available::bigint from booking.public_stock";
        assert_eq!(shop.count(available).await, 2);
    }
    shop.close().await;
}

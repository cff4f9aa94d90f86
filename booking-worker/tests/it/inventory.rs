//! Seats follow box-office's events.

use domain::booking::RejectReason;
use domain::message::{EventChanged, Outcome};

use crate::shop::{Shop, best, euros, event, floor, stand};

async fn change(shop: &Shop, version: i64, sections: Vec<domain::event::Section>) {
    shop.tell(&EventChanged {
        event: event(version, sections),
    })
    .await;
    let db = &shop.app.ctx.db;
    platform::testing::eventually(crate::shop::LIMIT, async || {
        let known: Option<i64> = sqlx::query_scalar("select version from booking.events")
            .fetch_optional(db)
            .await
            .unwrap();
        known == Some(version)
    })
    .await;
}

/// Capacity and sold seats of each section.
async fn capacities(shop: &Shop) -> Vec<(i32, i32)> {
    sqlx::query_as("select capacity, sold from booking.sections order by section_id")
        .fetch_all(&shop.app.ctx.db)
        .await
        .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_house_grows_and_shrinks_but_never_below_what_is_sold() {
    let shop = Shop::open(vec![stand(1, 2, 3), floor(2, 4, euros(500))]).await;
    assert_eq!(capacities(&shop).await, [(6, 0), (4, 0)]);
    shop.buy(7, 3).await;
    change(
        &shop,
        2,
        vec![
            stand(1, 3, 5),
            floor(2, 9, euros(500)),
            floor(3, 2, euros(1)),
        ],
    )
    .await;
    assert_eq!(capacities(&shop).await, [(15, 3), (9, 0), (2, 0)]);
    change(&shop, 3, vec![stand(1, 1, 2), floor(2, 1, euros(500))]).await;
    assert_eq!(capacities(&shop).await, [(3, 3), (1, 0), (0, 0)]);
    change(
        &shop,
        4,
        vec![
            stand(1, 2, 2),
            floor(2, 2, euros(500)),
            floor(3, 1, euros(1)),
        ],
    )
    .await;
    assert_eq!(capacities(&shop).await, [(5, 3), (2, 0), (1, 0)]);
    let next = shop.hold(8, best(2)).await;
    assert!(
        next.seats
            .iter()
            .all(|seat| seat.row.as_deref() == Some("B")),
        "{next:?}"
    );
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_version_that_was_passed_changes_nothing() {
    let shop = Shop::open(vec![floor(1, 4, euros(500))]).await;
    change(&shop, 3, vec![floor(1, 6, euros(500))]).await;
    shop.tell(&EventChanged {
        event: event(2, vec![floor(1, 2, euros(500))]),
    })
    .await;
    change(&shop, 4, vec![floor(1, 6, euros(700))]).await;
    assert_eq!(capacities(&shop).await, [(6, 0)]);
    assert_eq!(shop.hold(7, best(1)).await.total, euros(700));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_house_of_fifty_thousand_seats_is_laid_out() {
    let shop = Shop::open(vec![stand(1, 500, 100)]).await;
    assert_eq!(capacities(&shop).await, [(50_000, 0)]);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn seats_that_come_back_to_a_house_that_shrank_are_not_sold_again() {
    let shop = Shop::open(vec![floor(1, 10, euros(500)), stand(2, 1, 4)]).await;
    let floor_of = |tickets| domain::booking::Wish::best_in(domain::SectionId(1), tickets);
    let all = domain::booking::Wish::best_in(domain::SectionId(2), 4);
    let kept = shop.hold(1, floor_of(4)).await;
    let held = shop.hold(2, floor_of(4)).await;
    let seated = shop.hold(3, all.clone()).await;
    change(&shop, 2, vec![floor(1, 5, euros(500)), stand(2, 1, 2)]).await;
    assert_eq!(capacities(&shop).await, [(8, 0), (4, 0)]);
    for booking in [&held, &seated] {
        shop.void(booking.booking_id).await;
        shop.eventually_state(booking.booking_id, "expired").await;
    }
    assert_eq!(capacities(&shop).await, [(5, 0), (2, 0)]);
    shop.hold(4, floor_of(1)).await;
    let sold_out = Outcome::Rejected(RejectReason::SoldOut);
    assert_eq!(shop.place(5, floor_of(1)).await.1, sold_out);
    assert_eq!(shop.place(5, all).await.1, sold_out);
    // The house grows again: all free seats are on sale.
    shop.void(kept.booking_id).await;
    shop.eventually_state(kept.booking_id, "expired").await;
    change(&shop, 3, vec![floor(1, 7, euros(500)), stand(2, 1, 4)]).await;
    assert_eq!(capacities(&shop).await, [(7, 0), (4, 0)]);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_section_sells_no_more_than_it_is_to_have_even_with_seats_left_over() {
    let shop = Shop::open(vec![floor(1, 5, euros(500))]).await;
    // The state after a rolled-back hold prevented the change from deleting them.
    sqlx::query("insert into booking.seats (section_id, rank) values (1, 100), (1, 101)")
        .execute(&shop.app.ctx.db)
        .await
        .unwrap();
    shop.hold(1, best(4)).await;
    let (_, outcome) = shop.place(2, best(2)).await;
    assert_eq!(outcome, Outcome::Rejected(RejectReason::SoldOut));
    shop.hold(3, best(1)).await;
    shop.close().await;
}

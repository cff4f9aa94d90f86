//! Seats follow what box-office says of the event.

use domain::message::EventChanged;

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

//! Changes of sales' settings reach every node.

use std::time::Duration;

use domain::EventId;
use domain::sale::SaleSettings;
use platform::testing::eventually;
use serde_json::json;
use sqlx::types::Json;

use crate::line::{EVENT, sale};
use crate::shop::{BUYER, Shop, problem};

const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_change_that_commits_late_is_seen_by_every_node() {
    let shop = Shop::open().await;
    let node = shop.another_node().await;
    let db = &shop.app.ctx.db;
    let mut late = db.begin().await.unwrap();
    sqlx::query("set local idle_in_transaction_session_timeout = 0")
        .execute(&mut *late)
        .await
        .unwrap();
    // As if the commit took ten seconds, on a stalled synchronous standby for example.
    sqlx::query(
        "update admission.sales
         set version = version + 1,
             settings = settings || jsonb_build_object('closed', true, 'version', version + 1),
             updated_at = clock_timestamp() - interval '10 seconds'
         where event_id = $1",
    )
    .bind(EVENT.0)
    .execute(&mut *late)
    .await
    .unwrap();
    // Meanwhile other sales change and are read.
    for other in [50, 51] {
        shop.add_sale(EventId(other), |_| ()).await;
    }
    late.commit().await.unwrap();
    let pass = shop.pass(EVENT, BUYER, 600);
    for base in [&shop.base, &node.base] {
        eventually(SOON, async || {
            let booked = shop.book_at(base, BUYER, Some(&pass), 1, None).await;
            booked.status() == 409 && problem(booked).await == "booking-rejected"
        })
        .await;
    }
    node.stop().await;
    shop.app.finish().await;
}

#[tokio::test]
async fn a_new_sale_is_known_to_every_node_at_once() {
    let shop = Shop::open().await;
    let node = shop.another_node().await;
    for event in 60..70_i64 {
        let body = json!({"event_id": event, "user_id": BUYER, "tickets": 1});
        let book = async |base: &str| {
            let booked = shop.post_booking(base, BUYER, None, None, &body).await;
            problem(booked).await
        };
        assert_eq!(book(&node.base).await, "not-found");
        let new = SaleSettings {
            event_id: EventId(event),
            opens_at: shop.app.ctx.clock.now() - chrono::TimeDelta::seconds(60),
            ..sale()
        };
        sqlx::query("insert into admission.sales (event_id, version, settings) values ($1, 1, $2)")
            .bind(event)
            .bind(Json(&new))
            .execute(&shop.app.ctx.db)
            .await
            .unwrap();
        assert_eq!(book(&shop.base).await, "pass-required");
        assert_eq!(book(&node.base).await, "pass-required");
    }
    node.stop().await;
    shop.app.finish().await;
}

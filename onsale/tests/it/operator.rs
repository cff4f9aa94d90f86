//! Changes by an operator take effect within seconds.

use std::sync::Arc;
use std::time::Duration;

use platform::testing::eventually;
use reqwest::Method;
use serde_json::{Value, json};
use surge::buyer::{Funnel, PlanMix};
use tokio::task::JoinSet;

use crate::system::{System, in_running_time};

const SOON: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn turning_the_rate_up_changes_arrivals_within_two_seconds() {
    let system = System::start(&["all"]).await.unwrap();
    let event = system.event(100, 60, json!({})).await.unwrap();
    let path = format!("/api/sales/{event}");
    let change = async |change: Value| {
        let changing = system.staff(Method::PUT, &path, &change);
        changing.await.unwrap();
    };
    // However long the sign-ups take, everybody waits.
    change(json!({ "paused": true })).await;
    eventually(SOON, async || {
        let sale = system.staff(Method::GET, &path, &json!({})).await.unwrap();
        sale["live"]["state"] == "paused"
    })
    .await;
    let funnel = Arc::new(Funnel::default());
    let mut crowd = JoinSet::new();
    for buyer in system.buyers(event, 60, PlanMix::all_buy(), &funnel) {
        crowd.spawn(async move {
            let session = buyer.sign_up().await?;
            buyer.shop(&session).await
        });
    }
    eventually(Duration::from_secs(240), async || {
        funnel.counts().joined == 60
    })
    .await;
    assert_eq!(funnel.counts().admitted, 0);
    change(json!({ "paused": false })).await;
    eventually(SOON, async || funnel.counts().admitted >= 12).await;
    let before = funnel.counts().admitted;

    change(json!({ "rate_per_minute": 6_000 })).await;
    // At 60 a minute ten more would take ten seconds.
    in_running_time(Duration::from_secs(2), async || {
        funnel.counts().admitted >= before + 10
    })
    .await;
    system.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_sale_admits_nobody_until_it_is_resumed() {
    let system = System::start(&["all"]).await.unwrap();
    let event = system
        .event(20, 6_000, json!({ "hold_seconds": 120 }))
        .await
        .unwrap();
    let change = |paused: bool| json!({ "paused": paused });
    let path = format!("/api/sales/{event}");
    system
        .staff(Method::PUT, &path, &change(true))
        .await
        .unwrap();
    let live = async || {
        let sale = system.staff(Method::GET, &path, &json!({})).await.unwrap();
        sale["live"].clone()
    };
    eventually(SOON, async || live().await["state"] == "paused").await;
    let funnel = Arc::new(Funnel::default());
    let buyer = system
        .buyers(event, 1, PlanMix::all_buy(), &funnel)
        .remove(0);
    let shopping = tokio::spawn(async move {
        let session = buyer.sign_up().await?;
        buyer.shop(&session).await
    });
    eventually(SOON, async || live().await["waiting"] == 1).await;
    // The loop goes on with other sales: a buyer of another one gets from the queue to the ticket.
    let other = system.event(20, 6_000, json!({ "hold_seconds": 120 }));
    let other = other.await.unwrap();
    let served = Arc::new(Funnel::default());
    let quick = system
        .buyers(other, 2, PlanMix::all_buy(), &served)
        .remove(1);
    let session = quick.sign_up().await.unwrap();
    quick.shop(&session).await.unwrap();
    assert_eq!(funnel.counts().admitted, 0);
    system
        .staff(Method::PUT, &path, &change(false))
        .await
        .unwrap();
    eventually(SOON, async || funnel.counts().confirmed == 1).await;
    shopping.await.unwrap().unwrap();
    system.finish().await.unwrap();
}

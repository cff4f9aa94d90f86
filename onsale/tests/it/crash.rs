//! Each service is killed and restarted during a sale.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use platform::testing::eventually;
use surge::buyer::{ApiError, Buyer, Fate, Funnel, PlanMix};
use tokio::sync::Semaphore;

use crate::system::System;

const SEATS: u32 = 120;
const BUYERS: u32 = 160;

/// Longest time for the rest of the sale after the last crash.
const PATIENCE: Duration = Duration::from_secs(180);
/// Most sign-ups at once, since each costs a password hash.
const SIGNING_UP: usize = 8;

/// Has everybody shop as soon as they have an account.
async fn everybody_shops(buyers: Vec<Buyer>) -> Vec<Result<Fate, ApiError>> {
    let at_once = Semaphore::new(SIGNING_UP);
    let shop = async |buyer: Buyer| {
        let turn = at_once.acquire().await.expect("it is never closed");
        let session = buyer.sign_up().await?;
        drop(turn);
        buyer.shop(&session).await
    };
    join_all(buyers.into_iter().map(shop)).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sale_survives_the_death_of_each_process() {
    let services = [
        "box-office",
        "waiting-room",
        "admission",
        "booking-worker",
        "payment-worker",
        "notifier",
    ];
    let mut system = System::start(&services).await.unwrap();
    let event = system
        .event(SEATS, 600, serde_json::json!({ "hold_seconds": 30 }))
        .await
        .unwrap();
    let funnel = Arc::new(Funnel::default());
    let buyers = system.buyers(event, BUYERS, PlanMix::default(), &funnel);
    let sale = tokio::spawn(everybody_shops(buyers));

    let workers = [
        "booking-worker",
        "payment-worker",
        "notifier",
        "admission",
        "waiting-room",
        "box-office",
    ];
    for (round, name) in workers.into_iter().enumerate() {
        let enough = 5 * (round as u64 + 1);
        eventually(Duration::from_secs(120), async || {
            funnel.counts().held >= enough
        })
        .await;
        system.kill(name).unwrap();
        system.restart(name).await.unwrap();
    }

    let fates = tokio::time::timeout(PATIENCE, sale)
        .await
        .expect("the sale never ends")
        .unwrap();
    let failed: Vec<_> = fates
        .iter()
        .filter_map(|fate| fate.as_ref().err())
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
    let report = system.audit().unwrap();
    assert_eq!(report["at_rest"], true, "{report:#}");
    let kept = fates
        .iter()
        .filter(|fate| matches!(fate, Ok(Fate::Confirmed { .. })))
        .count();
    assert_eq!(
        report["totals"]["confirmed"].as_u64(),
        Some(kept as u64),
        "{report:#}"
    );
    assert!(kept > 20, "hardly anybody got tickets: {fates:?}");
    system.finish().await.unwrap();
}

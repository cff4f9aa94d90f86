//! Refreshes of the many people who share one address.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::app::{App, PASSWORD};

const CAMPUS: &str = "192.0.2.7";

fn refresh_token(answer: &Value) -> Value {
    json!({"refresh_token": answer["session"]["refresh_token"]})
}

/// Those who signed in together before a sale refresh together, four times an hour.
#[tokio::test]
async fn a_crowd_behind_one_address_refreshes_in_the_same_minute() {
    // A busy machine hashes slowly, which is not what is tested here.
    let app = App::start_with(1.0, |config| {
        config.password_wait = Duration::from_secs(600);
    })
    .await;
    let ada = json!({"email": "ada@example.org", "password": PASSWORD});
    let client = || app.nobody_at(CAMPUS);
    client().post("/api/accounts", &ada).await.expect(201);
    let people = (0..10).map(async |_| {
        let session = client().post("/api/sessions", &ada).await.expect(201);
        let mut token = refresh_token(&session);
        for _ in 0..30 {
            let renewed = client().post("/api/sessions/refresh", &token).await;
            token = refresh_token(&renewed.expect(201));
        }
    });
    futures_util::future::join_all(people).await;
    app.finish().await;
}

#[tokio::test]
async fn a_flood_of_refreshes_from_one_address_is_limited_and_others_go_on() {
    // A hundredth of the limit: 60.
    let app = App::start_with_limits(0.01).await;
    let made_up = json!({"refresh_token": "made up"});
    let refresh = async |address: &str| {
        let client = app.nobody_at(address);
        let answer = client.post("/api/sessions/refresh", &made_up).await;
        answer.status.as_u16()
    };
    let begun = Instant::now();
    let answers = futures_util::future::join_all((0..100).map(|_| refresh(CAMPUS))).await;
    // One a second comes back.
    let back = begun.elapsed().as_secs() + 1;
    let known = |status: &u16| [401, 429].contains(status);
    assert!(answers.iter().all(known), "{answers:?}");
    let refused = answers.iter().filter(|status| **status == 429).count();
    let refused = u64::try_from(refused).unwrap();
    assert!(
        refused <= 40 && refused + back >= 40,
        "{refused} of 100, {back} came back"
    );
    assert_eq!(refresh("198.51.100.9").await, 401);
    app.finish().await;
}

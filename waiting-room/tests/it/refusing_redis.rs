//! A Redis that answers and takes no writes.

use std::time::Duration;

use domain::AccountId;
use platform::testing::{OwnRedis, eventually};

use crate::hall::{BUYER, Hall, problem};

#[tokio::test]
async fn challenges_are_refused_with_503_and_joins_and_polls_go_on() {
    let redis = OwnRedis::start(&["--maxmemory-policy", "noeviction"]).await;
    let hall = Hall::with(|config| config.redis_url = redis.url().into()).await;
    let challenge = async || {
        let request = hall.client.get(hall.url("/api/events/1/queue/challenge"));
        hall.signed_in(request, BUYER).send().await.unwrap()
    };
    assert_eq!(challenge().await.status(), 200);
    let mut accounts = (100..).map(AccountId);
    for [refuse, take] in OwnRedis::REFUSING_WRITES {
        redis.command(refuse).await;
        let refused = challenge().await;
        assert_eq!(refused.status(), 503, "{refuse:?}");
        assert!(refused.headers().contains_key("retry-after"));
        assert_eq!(problem(refused).await, "overloaded");
        let account = accounts.next().unwrap();
        let (token, _) = hall.number(account).await;
        assert_eq!(hall.me_as(account, &token).await.status(), 200);
        redis.command(take).await;
        eventually(Duration::from_secs(30), async || {
            challenge().await.status() == 200
        })
        .await;
    }
    hall.app.finish().await;
}

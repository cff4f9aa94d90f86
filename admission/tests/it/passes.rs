//! Claims, moved by hand and over HTTP.

use std::time::Duration;

use admission::pass::Claim;
use chrono::TimeDelta;
use domain::message::{Message, PassRevoked};
use domain::sale::SaleSettings;
use domain::{EventId, Place};
use platform::amqp::Exchange;
use platform::testing::eventually;
use serde_json::Value;
use uuid::Uuid;

use crate::line::{EVENT, Line, sale};
use crate::shop::{BUYER, OTHER, Shop, altered, unsigned};

#[tokio::test]
async fn claims_never_exceed_the_rate_in_any_minute() {
    let mut line = Line::new(SaleSettings {
        rate_per_minute: 6_000,
        ..sale()
    })
    .await;
    line.set(|sale| sale.claim_window_seconds = 3_600);
    line.crowd(500).await;
    assert_eq!(line.ticks(21).await.cursor, Place(500));
    line.set(|sale| sale.rate_per_minute = 60);
    let mut granted = Vec::new();
    let mut place = 1;
    while granted.len() < 200 {
        match line.claim(place).await {
            Claim::Granted(_) => {
                granted.push(line.now);
                place += 1;
            }
            Claim::Full(wait) => {
                // A moment before there is none, and then there is.
                line.now += TimeDelta::from_std(wait).unwrap() - TimeDelta::milliseconds(1);
                assert!(matches!(line.claim(place).await, Claim::Full(_)));
                line.now += TimeDelta::milliseconds(1);
            }
            other => panic!("{other:?}"),
        }
        line.now += TimeDelta::milliseconds(170);
    }
    for (first, time) in granted.iter().enumerate() {
        let end = *time + TimeDelta::seconds(60);
        let within = granted[first..]
            .iter()
            .take_while(|claim| **claim < end)
            .count();
        assert!(within <= 60, "{within} claims in the minute from {time}");
    }
    line.app.finish().await;
}

#[tokio::test]
async fn a_place_claims_one_pass_and_only_when_called() {
    let mut line = Line::new(SaleSettings {
        rate_per_minute: 60,
        ..sale()
    })
    .await;
    line.crowd(5).await;
    line.tick().await;
    assert_eq!(line.claim(3).await, Claim::NotCalled(2));
    let Claim::Granted(grant) = line.claim(1).await else {
        panic!("it was called")
    };
    line.now += TimeDelta::seconds(5);
    assert_eq!(line.claim(1).await, Claim::Repeated(grant.clone()));
    line.passes
        .finish(EVENT, Place(1), "another pass")
        .await
        .unwrap();
    assert_eq!(line.claim(1).await, Claim::Repeated(grant.clone()));
    line.passes
        .finish(EVENT, Place(1), &grant.jti)
        .await
        .unwrap();
    assert_eq!(line.claim(1).await, Claim::Over);
    line.app.finish().await;
}

#[tokio::test]
async fn a_pass_ends_by_itself() {
    let mut line = Line::new(SaleSettings {
        pass_seconds: 30,
        ..sale()
    })
    .await;
    line.join(1).await;
    line.tick().await;
    assert!(matches!(line.claim(1).await, Claim::Granted(_)));
    line.now += TimeDelta::seconds(31);
    assert_eq!(line.claim(1).await, Claim::Over);
    assert_eq!(line.tick().await.shopping, 0);
    line.app.finish().await;
}

#[tokio::test]
async fn a_claim_repeated_gives_the_same_bytes_and_the_jwks_its_key() {
    let shop = Shop::open().await;
    let token = shop.join(BUYER).await;
    let first = shop.claim(EVENT, BUYER, Some(&token)).await;
    assert_eq!(first.status(), 201);
    let first = first.text().await.unwrap();
    let again = shop.claim(EVENT, BUYER, Some(&token)).await;
    assert_eq!(again.status(), 200);
    assert_eq!(again.text().await.unwrap(), first);

    let jwks = shop.get("/.well-known/jwks.json", None).await;
    assert!(
        jwks.headers()["cache-control"]
            .to_str()
            .unwrap()
            .starts_with("public")
    );
    let jwks: Value = jwks.json().await.unwrap();
    assert_eq!(jwks["keys"].as_array().unwrap().len(), 1);
    shop.app.finish().await;
}

#[tokio::test]
async fn a_queue_token_that_is_not_the_callers_own_for_this_sale_is_refused() {
    let shop = Shop::open().await;
    shop.add_sale(EventId(2), |_| ()).await;
    let token = shop.join(BUYER).await;
    let (altered, unsigned) = (altered(&token), unsigned(&token));
    let expired = shop.queue_token(BUYER, 1, -10);
    let pass = shop.pass(EVENT, BUYER, 600);
    let attacks = [
        (EVENT, OTHER, Some(&token), "queue-token-invalid"),
        (EventId(2), BUYER, Some(&token), "queue-token-invalid"),
        (EVENT, BUYER, Some(&altered), "queue-token-invalid"),
        (EVENT, BUYER, Some(&unsigned), "queue-token-invalid"),
        (EVENT, BUYER, Some(&expired), "queue-token-invalid"),
        (EVENT, BUYER, Some(&pass), "queue-token-invalid"),
        (EVENT, BUYER, None, "queue-token-required"),
    ];
    for (index, (event, account, token, problem)) in attacks.into_iter().enumerate() {
        let answer = shop.claim(event, account, token.map(String::as_str)).await;
        assert_eq!(answer.status(), 401, "attack {index}");
        assert_eq!(
            crate::shop::problem(answer).await,
            problem,
            "attack {index}"
        );
    }
    assert_eq!(
        shop.claim(EVENT, BUYER, Some(&token)).await.status(),
        201,
        "nothing changed"
    );
    shop.app.finish().await;
}

#[tokio::test]
async fn a_place_that_is_not_called_is_told_when_to_come_back() {
    let shop = Shop::open().await;
    let token = shop.queue_token(BUYER, 100, 600);
    let answer = shop.claim(EVENT, BUYER, Some(&token)).await;
    assert_eq!(answer.status(), 409);
    assert!(answer.headers().contains_key("retry-after"));
    let body: Value = answer.json().await.unwrap();
    assert!(body["retry_after_seconds"].as_i64().unwrap() > 0);
    shop.app.finish().await;
}

#[tokio::test]
async fn a_finished_pass_is_refused_on_every_node_within_a_second() {
    let shop = Shop::open().await;
    let other_node = shop.another_node().await;
    let token = shop.join(BUYER).await;
    let claimed: Value = shop
        .claim(EVENT, BUYER, Some(&token))
        .await
        .json()
        .await
        .unwrap();
    let pass = claimed["pass"].as_str().unwrap();

    let stolen = shop.delete("/api/events/1/pass", OTHER, pass).await;
    assert_eq!(crate::shop::problem(stolen).await, "pass-invalid");
    let finish = |pass| shop.delete("/api/events/1/pass", BUYER, pass);
    assert_eq!(finish(pass).await.status(), 204);
    assert_eq!(finish(pass).await.status(), 204, "a repeat changes nothing");
    for base in [&shop.base, &other_node.base] {
        eventually(Duration::from_secs(1), async || {
            let answer = shop.book_at(base, BUYER, Some(pass), 1, None).await;
            answer.status() == 403 && crate::shop::problem(answer).await == "pass-invalid"
        })
        .await;
    }
    let again = shop.claim(EVENT, BUYER, Some(&token)).await;
    assert_eq!(crate::shop::problem(again).await, "place-missed");
    eventually(Duration::from_secs(2), async || {
        shop.snapshot().await.shopping == 0
    })
    .await;
    other_node.stop().await;
    shop.app.finish().await;
}

#[tokio::test]
async fn a_pass_taken_back_by_staff_is_refused_on_every_node_within_a_second() {
    let shop = Shop::open().await;
    let other_node = shop.another_node().await;
    let token = shop.join(BUYER).await;
    let claim = async || shop.claim(EVENT, BUYER, Some(&token)).await;
    let claimed: Value = claim().await.json().await.unwrap();
    let pass = claimed["pass"].as_str().unwrap();
    let revoke = async |at| {
        let message = PassRevoked {
            event_id: EVENT,
            account_id: BUYER,
            at,
        };
        let (name, id) = (PassRevoked::NAME, Uuid::new_v4());
        let broker = &shop.app.ctx.broker;
        let published = broker.publish(Exchange::Events, name, &message, id).await;
        published.unwrap();
    };
    let now = shop.app.ctx.clock.now();
    // One that was meant for an earlier pass leaves this one alone.
    revoke(now - TimeDelta::seconds(60)).await;
    revoke(now).await;
    for base in [&shop.base, &other_node.base] {
        eventually(Duration::from_secs(1), async || {
            let answer = shop.book_at(base, BUYER, Some(pass), 1, None).await;
            answer.status() == 403 && crate::shop::problem(answer).await == "pass-invalid"
        })
        .await;
    }
    assert_eq!(crate::shop::problem(claim().await).await, "place-missed");
    eventually(Duration::from_secs(2), async || {
        shop.snapshot().await.shopping == 0
    })
    .await;
    other_node.stop().await;
    shop.app.finish().await;
}

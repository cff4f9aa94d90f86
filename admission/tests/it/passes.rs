//! Claims over HTTP.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::booking::BookingFacts;
use domain::message::{BookingConfirmed, HoldPlaced, Message, PassRevoked};
use domain::{AccountId, BookingId, Currency, EventId, Money};
use futures_util::future::join_all;
use platform::amqp::Exchange;
use platform::testing::eventually;
use serde_json::Value;
use uuid::Uuid;

use crate::line::EVENT;
use crate::machine::Machine;
use crate::shop::{BUYER, OTHER, Shop, altered, unsigned};

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
async fn a_place_that_is_not_called_is_refused_with_a_retry_delay() {
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
async fn a_visitor_without_an_account_claims_and_gives_back() {
    let shop = Shop::open().await;
    let (visitor, other) = (AccountId(-5), AccountId(-6));
    let token = shop.join(visitor).await;
    let stolen = shop.claim(EVENT, other, Some(&token)).await;
    assert_eq!(crate::shop::problem(stolen).await, "queue-token-invalid");
    let claimed = shop.claim(EVENT, visitor, Some(&token)).await;
    assert_eq!(claimed.status(), 201);
    let claimed: Value = claimed.json().await.unwrap();
    let pass = claimed["pass"].as_str().unwrap();
    let stolen = shop.delete("/api/events/1/pass", other, pass).await;
    assert_eq!(crate::shop::problem(stolen).await, "pass-invalid");
    let finished = shop.delete("/api/events/1/pass", visitor, pass).await;
    assert_eq!(finished.status(), 204);
    assert_eq!(shop.shopping().await, 0);
    shop.app.finish().await;
}

#[tokio::test]
async fn a_crowd_of_visitors_behind_one_address_claims_and_one_who_floods_is_limited() {
    const VISITORS: i64 = 80;
    let shop = Shop::open().await;
    let node = shop
        .another_node_with(|config| config.limits_scale = 1.0)
        .await;
    let first = shop.call_many(VISITORS).await.0;
    let claim = async |nth: i64| {
        let visitor = AccountId(-1_000 - nth);
        let token = shop.queue_token(visitor, first + nth, 600);
        shop.claim_at(&node.base, EVENT, visitor, Some(&token))
            .await
    };
    // The node knows of the calls a moment after the other.
    eventually(Duration::from_secs(30), async || {
        claim(0).await.status().is_success()
    })
    .await;
    for nth in 1..VISITORS {
        assert_eq!(claim(nth).await.status(), 201, "visitor {nth}");
    }
    // One of them alone is limited, to 60 a minute, and the others go on.
    let repeated = join_all((0..100).map(|_| claim(1))).await;
    let refused = repeated.into_iter().find(|claim| claim.status() == 429);
    let refused = refused.expect("a hundred claims of one visitor at once");
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(crate::shop::problem(refused).await, "rate-limited");
    assert!(claim(2).await.status().is_success());
    node.stop().await;
    shop.app.finish().await;
}

#[tokio::test]
async fn a_place_that_missed_its_turn_or_left_gets_no_pass() {
    let shop = Shop::open().await;
    let (missed, left) = (shop.join(BUYER).await, shop.join(OTHER).await);
    shop.miss(1).await;
    shop.leave(2).await;
    let refusal = async |account, token: &str| {
        let answer = shop.claim(EVENT, account, Some(token)).await;
        assert_eq!(answer.status(), 410);
        crate::shop::problem(answer).await
    };
    assert_eq!(refusal(BUYER, &missed).await, "place-missed");
    assert_eq!(refusal(OTHER, &left).await, "place-left");
    shop.app.finish().await;
}

#[tokio::test]
async fn a_full_sale_says_when_to_come_back_and_keeps_the_turn() {
    let shop = Shop::open().await;
    shop.add_sale(EventId(3), |sale| sale.shopper_cap = 1).await;
    let token = |account, number| shop.queue_token_of(EventId(3), account, number, 600);
    shop.call(EventId(3)).await;
    shop.call(EventId(3)).await;
    let first = shop.claim(EventId(3), BUYER, Some(&token(BUYER, 1))).await;
    let pass: Value = first.json().await.unwrap();
    let second = shop.claim(EventId(3), OTHER, Some(&token(OTHER, 2))).await;
    assert_eq!(second.status(), 429);
    let wait: u64 = second.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    assert!((1..=5).contains(&wait));
    assert_eq!(crate::shop::problem(second).await, "admission-full");
    let pass = pass["pass"].as_str().unwrap();
    assert_eq!(
        shop.delete("/api/events/3/pass", BUYER, pass)
            .await
            .status(),
        204
    );
    let again = shop.claim(EventId(3), OTHER, Some(&token(OTHER, 2))).await;
    assert_eq!(again.status(), 201, "the slot came back at once");
    shop.app.finish().await;
}

#[tokio::test]
async fn a_node_that_starts_refuses_what_was_revoked_before() {
    let shop = Shop::open().await;
    let token = shop.join(BUYER).await;
    let claimed = shop.claim(EVENT, BUYER, Some(&token)).await;
    let claimed: Value = claimed.json().await.unwrap();
    let pass = claimed["pass"].as_str().unwrap();
    let finished = shop.delete("/api/events/1/pass", BUYER, pass).await;
    assert_eq!(finished.status(), 204);
    let new_node = shop.another_node().await;
    let answer = shop
        .book_at(&new_node.base, BUYER, Some(pass), 1, None)
        .await;
    assert_eq!(crate::shop::problem(answer).await, "pass-invalid");
    new_node.stop().await;
    shop.app.finish().await;
}

#[tokio::test]
async fn a_finished_pass_is_refused_on_every_node_within_a_second() {
    let shop = Shop::open().await;
    let machine = Machine::watch(&shop.app.ctx.db);
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
        let is_refused = async || {
            let answer = shop.book_at(base, BUYER, Some(pass), 1, None).await;
            answer.status() == 403 && crate::shop::problem(answer).await == "pass-invalid"
        };
        machine
            .holds_within(Duration::from_secs(1), is_refused)
            .await;
    }
    let again = shop.claim(EVENT, BUYER, Some(&token)).await;
    assert_eq!(crate::shop::problem(again).await, "place-missed");
    machine
        .holds_within(Duration::from_secs(2), async || shop.shopping().await == 0)
        .await;
    machine.stop();
    other_node.stop().await;
    shop.app.finish().await;
}

#[tokio::test]
async fn a_pass_taken_back_by_staff_is_refused_on_every_node_within_a_second() {
    let shop = Shop::open().await;
    let machine = Machine::watch(&shop.app.ctx.db);
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
    // A revocation of an earlier pass leaves this one alone.
    revoke(now - TimeDelta::seconds(60)).await;
    revoke(now).await;
    for base in [&shop.base, &other_node.base] {
        let is_refused = async || {
            let answer = shop.book_at(base, BUYER, Some(pass), 1, None).await;
            answer.status() == 403 && crate::shop::problem(answer).await == "pass-invalid"
        };
        machine
            .holds_within(Duration::from_secs(1), is_refused)
            .await;
    }
    assert_eq!(crate::shop::problem(claim().await).await, "place-missed");
    machine
        .holds_within(Duration::from_secs(2), async || shop.shopping().await == 0)
        .await;
    machine.stop();
    other_node.stop().await;
    shop.app.finish().await;
}

/// Returns a booking made by an account at this time.
fn booking_of(account: AccountId, made_at: DateTime<Utc>) -> BookingFacts {
    BookingFacts {
        booking_id: BookingId::new(made_at),
        event_id: EVENT,
        account_id: account,
        seats: Vec::new(),
        total: Money::new(4_500, Currency::EUR),
        hold_until: made_at + TimeDelta::seconds(600),
        created_at: made_at,
    }
}

impl Shop {
    /// Publishes a worker's message, twice.
    async fn tell_of<M: Message>(&self, message: &M) {
        for _ in 0..2 {
            let broker = &self.app.ctx.broker;
            let id = Uuid::new_v4();
            let published = broker.publish(Exchange::Events, M::NAME, message, id);
            published.await.unwrap();
        }
    }

    /// Records that the account has `tickets` of at most 6 tickets of [`EVENT`].
    async fn has(&self, account: AccountId, tickets: i32) {
        let db = &self.app.ctx.db;
        sqlx::query(
            "insert into booking.events (event_id, version, name, date, cancelled, max_tickets_per_account)
             values ($1, 1, 'Proms', now(), false, 6) on conflict do nothing",
        )
        .bind(EVENT.0)
        .execute(db)
        .await
        .unwrap();
        sqlx::query(
            "insert into booking.account_tickets (event_id, account_id, tickets, given_away)
             values ($1, $2, $3 - 1, 1)",
        )
        .bind(EVENT.0)
        .bind(account.0)
        .bind(tickets)
        .execute(db)
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn the_pass_ends_with_a_confirmed_booking_or_a_hold_that_leaves_no_room() {
    let shop = Shop::open().await;
    let now = shop.app.ctx.clock.now();
    let (full, half, paid, later) = (AccountId(11), AccountId(12), AccountId(13), AccountId(14));
    for account in [full, half, paid, later] {
        let token = shop.join(account).await;
        let claimed = shop.claim(EVENT, account, Some(&token)).await;
        assert_eq!(claimed.status(), 201);
    }
    shop.has(full, 6).await;
    shop.has(half, 5).await;
    // A booking of an earlier visit does not end this one.
    let booking = booking_of(later, now - TimeDelta::hours(1));
    let tickets = Vec::new();
    shop.tell_of(&BookingConfirmed { booking, tickets }).await;
    let made_at = shop.app.ctx.clock.now() + TimeDelta::seconds(1);
    for account in [half, full] {
        let booking = booking_of(account, made_at);
        shop.tell_of(&HoldPlaced { booking }).await;
    }
    let booking = booking_of(paid, made_at);
    let tickets = Vec::new();
    shop.tell_of(&BookingConfirmed { booking, tickets }).await;
    let limit = Duration::from_secs(30);
    eventually(limit, async || shop.shopping().await == 2).await;
    let running: Vec<i64> = sqlx::query_scalar(
        "select account_id from admission.claims where over_at is null order by account_id",
    )
    .fetch_all(&shop.app.ctx.db)
    .await
    .unwrap();
    assert_eq!(running, [half.0, later.0]);
    shop.app.finish().await;
}

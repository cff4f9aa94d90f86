//! Proof of work before joining, and the limits shared by all nodes.

use std::net::IpAddr;

use chrono::TimeDelta;
use domain::{AccountId, EventId};
use futures_util::StreamExt as _;
use platform::limits::AddressGroup;
use platform::testing::TestApp;
use reqwest::Response;
use serde_json::{Value, json};
use waiting_room::challenge::{Attempts, Bearer, Challenges, max_number};

use crate::hall::{BUYER, EVENT, Hall, OTHER, config, problem};

/// Starts a hall whose sale requires a challenge.
async fn guarded() -> Hall {
    let mut hall = Hall::open().await;
    hall.publish(|snapshot| snapshot.challenge = true).await;
    hall
}

/// As [`guarded`], with the usual limits and all within one moment.
async fn guarded_timeless() -> Hall {
    let (mut hall, _) = Hall::timeless().await;
    hall.publish(|snapshot| snapshot.challenge = true).await;
    hall
}

impl Hall {
    async fn challenge(&self, account: AccountId, address: &str) -> Value {
        let request = self.client.get(self.url("/api/events/1/queue/challenge"));
        let request = request.header("x-forwarded-for", address);
        let answer = self.signed_in(request, account).send().await.unwrap();
        assert_eq!(answer.status(), 200);
        assert_eq!(answer.headers()["cache-control"], "no-store");
        answer.json().await.unwrap()
    }

    async fn join_with(&self, event: EventId, account: AccountId, body: &Value) -> Response {
        let url = self.url(&format!("/api/events/{event}/queue"));
        let request = self.client.post(url).header("x-forwarded-for", "192.0.2.1");
        let request = self.signed_in(request.json(body), account);
        request.send().await.unwrap()
    }
}

#[tokio::test]
async fn a_guarded_sale_is_joined_with_a_solution_and_each_is_taken_once() {
    let hall = guarded().await;
    let without = hall.join_with(EVENT, BUYER, &json!({})).await;
    assert_eq!(problem(without).await, "challenge-required");
    let solution = surge::challenge::solve(&hall.challenge(BUYER, "192.0.2.9").await);
    let body = json!({ "challenge": solution });
    let thief = hall.join_with(EVENT, OTHER, &body).await;
    assert_eq!(problem(thief).await, "challenge-invalid");
    assert_eq!(hall.join_with(EVENT, BUYER, &body).await.status(), 201);
    // A joiner that has a number gets it again without work.
    for body in [body, json!({})] {
        assert_eq!(hall.join_with(EVENT, BUYER, &body).await.status(), 200);
    }
    let elsewhere = surge::challenge::solve(&hall.challenge(OTHER, "198.51.100.1").await);
    let body = json!({ "challenge": elsewhere });
    let other_network = hall.join_with(EVENT, OTHER, &body).await;
    assert_eq!(problem(other_network).await, "challenge-invalid");
    hall.app.finish().await;
}

#[tokio::test]
async fn an_unknown_field_of_a_join_is_refused_by_its_name_and_gives_no_number() {
    let mut hall = Hall::open().await;
    for is_guarded in [false, true] {
        hall.publish(|snapshot| snapshot.challenge = is_guarded)
            .await;
        let body = json!({ "chalenge": "x" });
        let answer = hall.join_with(EVENT, BUYER, &body).await;
        assert_eq!(answer.status(), 422);
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["field"], "chalenge");
    }
    hall.publish(|snapshot| snapshot.challenge = false).await;
    let joined = hall.join_with(EVENT, BUYER, &json!({})).await;
    assert_eq!(joined.status(), 201);
    hall.app.finish().await;
}

/// Hashes per second of one core of a fast machine with SHA instructions.
const HASHES_PER_SECOND: u64 = 12_000_000;
const CORES: u64 = 2;
const NETWORKS: u64 = 50;
const ATTEMPTS: u64 = 10_000;

/// An attacker solves the cheapest challenges first; the hashes are counted, not computed.
#[tokio::test]
async fn bots_from_fifty_networks_get_less_than_a_seventh_through_in_a_minute() {
    let hall = guarded_timeless().await;
    // After this many askers every further challenge of a network costs the same.
    let asked = 12;
    let asks = (0..NETWORKS * asked).map(|n| {
        let hall = &hall;
        async move {
            let account = AccountId(i64::try_from(n).unwrap() + 1);
            let address = format!("203.0.{}.{}", n % NETWORKS, n / NETWORKS);
            hall.challenge(account, &address).await["maxnumber"]
                .as_u64()
                .unwrap()
        }
    });
    let mut prices: Vec<u64> = futures_util::stream::iter(asks)
        .buffered(16)
        .collect()
        .await;
    let dearest = *prices.iter().max().unwrap();
    prices.resize(usize::try_from(ATTEMPTS).unwrap(), dearest);
    prices.sort_unstable();
    let mut hashes = HASHES_PER_SECOND * CORES * 60;
    let through = prices
        .iter()
        .take_while(|&&highest| {
            // On average half of the numbers are tried.
            let left = hashes.checked_sub(highest / 2);
            hashes = left.unwrap_or(0);
            left.is_some()
        })
        .count();
    println!(
        "{through} of {ATTEMPTS}; prices {:?} to {dearest}",
        prices[0]
    );
    assert!(through * 7 < prices.len(), "{through} of {ATTEMPTS}");
    hall.app.finish().await;
}

/// Numbers per second that the page tries on a phone.
const PHONE: u64 = 300_000;

/// The phones' work is counted, not done.
#[tokio::test]
async fn forty_phones_behind_one_address_of_a_carrier_join_within_a_minute() {
    let hall = guarded_timeless().await;
    let address = "192.0.2.1";
    let challenges = Challenges::new(hall.app.ctx.keys.derive("challenge"));
    let mut slowest = 0;
    for account in (100..140).map(AccountId) {
        let challenge = hall.challenge(account, address).await;
        let highest = challenge["maxnumber"].as_u64().unwrap();
        slowest = slowest.max(highest.div_ceil(PHONE));
        // One like it, whose number is found at once.
        let bearer = Bearer {
            event_id: EVENT,
            account_id: account,
            group: AddressGroup::from(address.parse::<IpAddr>().unwrap()),
        };
        let highest = u32::try_from(highest).unwrap();
        let now = hall.app.ctx.clock.now();
        let solved = challenges.issue(bearer, highest, 1, rand::random(), now);
        let solution = surge::challenge::solve(&serde_json::to_value(solved).unwrap());
        let body = json!({ "challenge": solution });
        let joined = hall.join_with(EVENT, account, &body).await;
        assert_eq!(joined.status(), 201, "{account}");
    }
    println!("the dearest challenge takes a phone {slowest} s at most");
    assert!(slowest <= 20, "{slowest} s");
    hall.app.finish().await;
}

#[tokio::test]
async fn only_challenges_that_were_solved_make_a_large_sale() {
    let app = TestApp::start().await;
    let (redis, keys) = (&app.ctx.redis, &app.ctx.sale_keys(EVENT));
    let now = app.ctx.clock.now();
    let group = |address: &str| AddressGroup::from(address.parse::<IpAddr>().unwrap());
    let price = async |address: &str, asker: i64| {
        let asker = asker.to_string();
        let attempts = Attempts::count(redis, keys, group(address), &asker, now).await;
        max_number(attempts.unwrap())
    };
    let base = price("198.51.100.1", 1).await;
    let askers = futures_util::stream::iter(10..6_010);
    let asking = askers.for_each_concurrent(64, |asker| {
        let price = &price;
        async move {
            price("203.0.113.1", asker).await;
        }
    });
    asking.await;
    price("198.51.100.1", 2).await;
    assert_eq!(price("198.51.100.1", 3).await, 2 * base);
    let solved = futures_util::stream::iter(0..8_000);
    let redeeming = solved.for_each_concurrent(64, async |id| {
        let taken = Attempts::redeem(redis, keys, &id.to_string(), now).await;
        assert!(taken.unwrap());
    });
    redeeming.await;
    assert!(!Attempts::redeem(redis, keys, "7", now).await.unwrap());
    assert_eq!(price("198.51.100.1", 4).await, base);
    app.finish().await;
}

#[tokio::test]
async fn one_who_asks_again_and_again_makes_it_no_dearer_for_a_neighbour() {
    let hall = guarded_timeless().await;
    let price =
        async |account, address: &str| hall.challenge(account, address).await["maxnumber"].as_u64();
    let base = price(AccountId(50), "198.51.100.1").await;
    let mut dearest = base;
    for _ in 0..10 {
        dearest = price(BUYER, "192.0.2.1").await;
    }
    assert!(dearest > base);
    assert_eq!(price(OTHER, "192.0.2.2").await, base);
    hall.app.finish().await;
}

#[tokio::test]
async fn a_solution_is_spent_only_when_there_is_a_number_for_it() {
    let (mut hall, clock) = Hall::timeless().await;
    hall.publish(|snapshot| snapshot.challenge = true).await;
    let full = hall
        .node_with(waiting_room::Config {
            joins_per_network: 1,
            ..config()
        })
        .await;
    let solution = surge::challenge::solve(&hall.challenge(BUYER, "192.0.2.9").await);
    let body = json!({ "challenge": solution });
    let join = async |base: &str| {
        let url = format!("{base}/api/events/1/queue");
        let request = hall.client.post(url).header("x-forwarded-for", "192.0.2.1");
        let request = hall.signed_in(request.json(&body), BUYER);
        request.send().await.unwrap()
    };
    // Another account takes the network's only join.
    let other = surge::challenge::solve(&hall.challenge(OTHER, "192.0.2.9").await);
    let taken = hall.client.post(format!("{full}/api/events/1/queue"));
    let taken = taken.header("x-forwarded-for", "192.0.2.2");
    let taken = hall.signed_in(taken.json(&json!({ "challenge": other })), OTHER);
    assert_eq!(taken.send().await.unwrap().status(), 201);
    assert_eq!(problem(join(&full).await).await, "rate-limited");
    // The nodes share the network's cell, which is empty again in a minute.
    clock.advance(TimeDelta::seconds(61));
    assert_eq!(join(&full).await.status(), 201);
    hall.app.finish().await;
}

#[tokio::test]
async fn a_network_has_a_part_of_a_lobby_and_whoever_is_in_it_is_not_counted_again() {
    let (mut hall, _) = Hall::timeless().await;
    hall.publish(|snapshot| snapshot.state = domain::sale::SaleState::Lobby)
        .await;
    let base = hall
        .node_with(waiting_room::Config {
            lobby_joins_per_network: 3,
            ..config()
        })
        .await;
    let join = async |account: i64, address: &str| {
        let url = format!("{base}/api/events/1/queue");
        let request = hall.client.post(url).header("x-forwarded-for", address);
        let request = hall.signed_in(request, AccountId(account));
        request.send().await.unwrap().status().as_u16()
    };
    for account in 1..=3 {
        assert_eq!(join(account, "192.0.2.1").await, 201);
        assert_eq!(join(account, "192.0.2.1").await, 200, "again");
    }
    assert_eq!(join(4, "192.0.2.2").await, 429);
    assert_eq!(join(3, "192.0.2.1").await, 200);
    assert_eq!(join(4, "198.51.100.1").await, 201);
    hall.app.finish().await;
}

#[tokio::test]
async fn a_limit_holds_across_nodes() {
    let (hall, _) = Hall::timeless().await;
    let other = hall.another_node().await;
    let mut refused = 0;
    for n in 0..12 {
        let base = if n % 2 == 0 { &hall.base } else { &other };
        let request = hall.client.post(format!("{base}/api/events/1/queue"));
        let answer = hall.signed_in(request, BUYER).send().await.unwrap();
        if !answer.status().is_success() {
            assert!(answer.headers().contains_key("retry-after"));
            assert_eq!(problem(answer).await, "rate-limited");
            refused += 1;
        }
    }
    // Each node alone has counted six.
    assert!(refused >= 1, "{refused} refused");
    hall.app.finish().await;
}

//! Joining and leaving the queue.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use domain::sale::SaleState;
use domain::{AccountId, EventId, Number, Place};
use futures_util::future::join_all;
use platform::testing::{Proxy, eventually};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use sqlx::Executor as _;
use url::Url;
use waiting_room::store::{self, NumberRequest};

use crate::hall::{BUYER, EVENT, Hall, OTHER, config, problem};

#[tokio::test]
async fn joining_twice_gives_one_number() {
    let hall = Hall::open().await;
    let first = hall.join(BUYER).await;
    assert_eq!(first.status(), 201);
    let first: Value = first.json().await.unwrap();
    assert_eq!(
        (&first["number"], &first["place"], &first["state"]),
        (&1.into(), &1.into(), &"waiting".into())
    );
    let again = hall.join(BUYER).await;
    assert_eq!(again.status(), 200);
    let again: Value = again.json().await.unwrap();
    assert_eq!(again["number"], first["number"]);
    assert_eq!(hall.number(OTHER).await.1, 2);
    hall.app.finish().await;
}

#[tokio::test]
async fn two_hundred_who_join_at_once_get_two_hundred_numbers_without_a_gap() {
    let hall = Hall::open().await;
    // Each of them twice, as impatient people do.
    let accounts = (1..=200).chain(1..=200).map(AccountId);
    let numbers = join_all(accounts.map(|account| hall.number(account))).await;
    let distinct: BTreeSet<i64> = numbers.iter().map(|(_, number)| *number).collect();
    assert_eq!(distinct, (1..=200).collect());
    for (first, second) in numbers[..200].iter().zip(&numbers[200..]) {
        assert_eq!(first.1, second.1);
    }
    hall.app.finish().await;
}

#[tokio::test]
async fn a_join_on_several_nodes_at_once_gets_one_number() {
    let hall = Hall::open().await;
    let bases = [
        hall.base.clone(),
        hall.another_node().await,
        hall.another_node().await,
    ];
    let wishes = (1..=300).map(|n| {
        let (account, base) = (AccountId(n % 50), &bases[usize::try_from(n % 3).unwrap()]);
        let request = hall.client.post(format!("{base}/api/events/1/queue"));
        let request = hall.signed_in(request, account);
        async move {
            let body: Value = request.send().await.unwrap().json().await.unwrap();
            (account, body["number"].as_i64().unwrap())
        }
    });
    let mut numbers: BTreeMap<AccountId, BTreeSet<i64>> = BTreeMap::new();
    for (account, number) in join_all(wishes).await {
        numbers.entry(account).or_default().insert(number);
    }
    assert!(numbers.values().all(|own| own.len() == 1), "{numbers:?}");
    let all: BTreeSet<i64> = numbers.values().flatten().copied().collect();
    assert_eq!(all, (1..=50).collect());
    hall.app.finish().await;
}

#[tokio::test]
async fn one_join_that_the_database_refuses_fails_no_other() {
    let hall = Hall::open().await;
    // Any row that the database refuses will do.
    sqlx::query("alter table waiting_room.numbers add check (account_id <> 113)")
        .execute(&hall.app.ctx.db)
        .await
        .unwrap();
    let joining = (1..=200).map(async |account| {
        let answer = hall.join(AccountId(account)).await;
        (account, answer.status().as_u16())
    });
    for (account, status) in join_all(joining).await {
        let expected = if account == 113 { 500 } else { 201 };
        assert_eq!(status, expected, "account {account}");
    }
    hall.app.finish().await;
}

#[tokio::test]
async fn a_join_that_was_committed_and_never_answered_keeps_its_number() {
    let hall = Hall::open().await;
    // As done by a node that crashed before it responded.
    let asks = [BUYER, OTHER].map(|joiner| NumberRequest {
        joiner,
        used_up: None,
    });
    let now = hall.app.ctx.clock.now();
    let given = store::join(&hall.app.ctx.db, EVENT, &asks, now)
        .await
        .unwrap();
    let numbers: Vec<Number> = given.iter().map(|given| given.number).collect();
    assert_eq!(numbers, [Number(1), Number(2)]);
    assert_eq!(hall.number(AccountId(99)).await.1, 3);
    assert_eq!(hall.join(OTHER).await.status(), 200);
    assert_eq!(hall.number(OTHER).await.1, 2);
    assert_eq!(hall.number(BUYER).await.1, 1);
    hall.app.finish().await;
}

#[tokio::test]
async fn a_join_that_fails_half_way_moves_nobody_and_its_repeat_gets_a_number() {
    let hall = Hall::open().await;
    assert_eq!(hall.number(BUYER).await.1, 1);
    let db = &hall.app.ctx.db;
    db.execute(
        "create function refuse() returns trigger language plpgsql as
             $$ begin raise exception 'no'; end $$;
         create constraint trigger refuse after insert on waiting_room.numbers
             deferrable initially deferred for each row when (new.account_id = 13)
             execute function refuse()",
    )
    .await
    .unwrap();
    for _ in 0..3 {
        assert_eq!(hall.join(AccountId(13)).await.status(), 500);
    }
    assert_eq!(hall.number(OTHER).await.1, 2);
    db.execute("drop trigger refuse on waiting_room.numbers")
        .await
        .unwrap();
    let numbers = [BUYER, OTHER, AccountId(13), AccountId(14)];
    let numbers = join_all(numbers.map(|account| hall.number(account))).await;
    let numbers: Vec<i64> = numbers.into_iter().map(|(_, number)| number).collect();
    assert_eq!(numbers[..2], [1, 2]);
    let distinct: BTreeSet<i64> = numbers.into_iter().collect();
    assert_eq!(distinct, (1..=4).collect());
    hall.app.finish().await;
}

#[tokio::test]
async fn a_number_that_is_used_up_is_replaced_once() {
    let hall = Hall::open().await;
    assert_eq!(hall.number(BUYER).await.1, 1);
    let asks = [NumberRequest {
        joiner: BUYER,
        used_up: Some(Number(1)),
    }];
    let (db, now) = (&hall.app.ctx.db, hall.app.ctx.clock.now());
    let again = || async { store::join(db, EVENT, &asks, now).await.unwrap()[0] };
    let (one, two) = tokio::join!(again(), again());
    assert_eq!((one.number, two.number), (Number(2), Number(2)));
    assert!(one.is_new != two.is_new, "{one:?} {two:?}");
    hall.app.finish().await;
}

#[tokio::test]
async fn nobody_joins_a_sale_that_is_unknown_not_open_yet_or_over() {
    let mut hall = Hall::open().await;
    for state in [SaleState::Scheduled, SaleState::Closed, SaleState::SoldOut] {
        hall.publish(|snapshot| snapshot.state = state).await;
        assert_eq!(problem(hall.join(BUYER).await).await, "queue-closed");
    }
    for state in [SaleState::Lobby, SaleState::Paused] {
        hall.publish(|snapshot| snapshot.state = state).await;
        assert!(hall.join(BUYER).await.status().is_success());
    }
    let unknown = hall.client.post(hall.url("/api/events/99/queue"));
    let answer = hall.signed_in(unknown, BUYER).send().await.unwrap();
    assert_eq!(problem(answer).await, "not-found");
    let stranger = hall
        .client
        .post(hall.url("/api/events/1/queue"))
        .send()
        .await
        .unwrap();
    assert_eq!(problem(stranger).await, "signed-out");
    hall.app.finish().await;
}

#[tokio::test]
async fn a_joiner_of_a_lobby_has_a_number_and_no_place_yet() {
    let mut hall = Hall::open().await;
    hall.publish(|snapshot| snapshot.state = SaleState::Lobby)
        .await;
    let joined: Value = hall.join(BUYER).await.json().await.unwrap();
    assert_eq!(joined["number"], 1);
    assert_eq!(
        (&joined["place"], &joined["ahead"]),
        (&Value::Null, &Value::Null)
    );
    hall.app.finish().await;
}

#[tokio::test]
async fn a_joiner_that_left_joins_again_at_the_end() {
    let hall = Hall::open().await;
    let (token, _) = hall.number(BUYER).await;
    hall.number(OTHER).await;
    for repeat in 0..2 {
        assert_eq!(hall.leave(&token).await.status(), 204, "repeat {repeat}");
    }
    let leavings: Vec<(i64, i64)> =
        sqlx::query_as("select number, change from waiting_room.public_leavings")
            .fetch_all(&hall.app.ctx.db)
            .await
            .unwrap();
    assert_eq!(leavings, [(1, 1)], "a repeat changes nothing");
    // At once, before the leader has published the leaving.
    let again = hall.join(BUYER).await;
    assert_eq!(again.status(), 201);
    assert_eq!(again.json::<Value>().await.unwrap()["number"], 3);
    assert_eq!(hall.leave(&token).await.status(), 204);
    assert_eq!(hall.number(BUYER).await.1, 3, "the old token moves nobody");
    hall.app.finish().await;
}

#[tokio::test]
async fn a_crowd_that_leaves_keeps_nobody_from_joining() {
    let hall = Hall::open().await;
    let crowd: Vec<AccountId> = (1..=300).map(AccountId).collect();
    let joined = join_all(crowd.iter().map(|account| hall.number(*account))).await;
    let leave = crowd.iter().zip(&joined).map(|(account, (token, _))| {
        let hall = &hall;
        async move { hall.leave_as(*account, token).await.status().as_u16() }
    });
    let join = (301..=400).map(|account| {
        let hall = &hall;
        async move { hall.join(AccountId(account)).await.status().as_u16() }
    });
    let (left, joined) = tokio::join!(join_all(leave), join_all(join));
    assert!(left.iter().all(|status| *status == 204), "{left:?}");
    assert!(joined.iter().all(|status| *status == 201), "{joined:?}");
    let changes: Vec<i64> =
        sqlx::query_scalar("select change from waiting_room.leavings order by change")
            .fetch_all(&hall.app.ctx.db)
            .await
            .unwrap();
    assert_eq!(changes, (1..=300).collect::<Vec<_>>());
    let counted: i64 = sqlx::query_scalar("select leavings from waiting_room.lines")
        .fetch_one(&hall.app.ctx.db)
        .await
        .unwrap();
    assert_eq!(counted, 300);
    hall.app.finish().await;
}

#[tokio::test]
async fn a_leaving_counts_once_and_only_that_of_a_number_its_joiner_has() {
    let hall = Hall::open().await;
    hall.number(BUYER).await;
    hall.number(OTHER).await;
    let (db, now) = (&hall.app.ctx.db, hall.app.ctx.clock.now());
    let own = (BUYER, Number(1));
    let leavers = [own, own, (OTHER, Number(1)), (BUYER, Number(2))];
    for _ in 0..2 {
        store::leave(db, EVENT, &leavers, now).await.unwrap();
    }
    let left: Vec<(i64, i64)> = sqlx::query_as("select number, change from waiting_room.leavings")
        .fetch_all(db)
        .await
        .unwrap();
    assert_eq!(left, [(1, 1)]);
    hall.app.finish().await;
}

#[tokio::test]
async fn a_holder_of_a_pass_cannot_leave_and_joins_again_when_it_is_over() {
    let mut hall = Hall::open().await;
    let (token, number) = hall.number(BUYER).await;
    hall.call(1, 1).await;
    hall.next(|_, moved| moved.claimed = vec![Place(1)]).await;
    assert_eq!(hall.standing(&token).await.0, "claimed");
    assert_eq!(problem(hall.leave(&token).await).await, "conflict");
    assert_eq!(hall.number(BUYER).await.1, number, "the pass runs");
    hall.next(|_, moved| moved.over = vec![Place(1)]).await;
    assert_eq!(hall.number(BUYER).await.1, 2);
    hall.call(2, 2).await;
    hall.next(|_, moved| moved.missed = vec![Place(2)]).await;
    assert_eq!(hall.number(BUYER).await.1, 3, "the turn went by");
    hall.app.finish().await;
}

#[tokio::test]
async fn an_account_joins_ten_times_a_minute_at_most() {
    let hall = Hall::with_limits(1.0).await;
    let (mut joined, begun) = (0, Instant::now());
    let refused = loop {
        let answer = hall.join(BUYER).await;
        if !answer.status().is_success() {
            break answer;
        }
        joined += 1;
    };
    // One comes back each six seconds.
    let most = 10 + begun.elapsed().as_secs() / 6;
    assert!((10..=most).contains(&joined), "{joined} of {most}");
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(problem(refused).await, "rate-limited");
    assert_eq!(hall.join(OTHER).await.status(), 201);
    hall.app.finish().await;
}

#[tokio::test]
async fn a_join_outlasts_silent_connections_to_postgresql() {
    let hall = Hall::open().await;
    let url = hall.app.ctx.config.database_url.expose_secret();
    let (proxy, url) = Proxy::before(url).await;
    let ctx = hall
        .app
        .another_node_with(|config| config.database_url = url.into())
        .await;
    let base = hall.node_of(&ctx).await;
    let join = async |account| {
        let request = hall.client.post(format!("{base}/api/events/1/queue"));
        let joined = hall.signed_in(request, account).send().await.unwrap();
        joined.status().as_u16()
    };
    assert_eq!(join(BUYER).await, 201);
    proxy.mute_open();
    eventually(Duration::from_secs(30), async || {
        let status = join(OTHER).await;
        assert!([201, 503].contains(&status), "{status}");
        status == 201
    })
    .await;
    hall.app.finish().await;
}

#[tokio::test]
async fn joins_go_on_while_redis_is_away() {
    let mut proxy = None;
    let redis = std::env::var("ONSALE_REDIS_URL").unwrap();
    let mut redis = Url::parse(&redis).unwrap();
    let target = (redis.host_str().unwrap(), redis.port().unwrap_or(6379));
    let through = Proxy::to(format!("{}:{}", target.0, target.1)).await;
    redis.set_host(Some("127.0.0.1")).unwrap();
    redis.set_port(Some(through.address().port())).unwrap();
    let hall = Hall::with(|config| {
        config.redis_url = SecretString::from(redis.to_string());
        proxy = Some(through);
    })
    .await;
    assert_eq!(hall.number(BUYER).await.1, 1);
    drop(proxy);
    let accounts = (20..60).map(AccountId);
    let numbers = join_all(accounts.map(|account| hall.number(account))).await;
    let distinct: BTreeSet<i64> = numbers.iter().map(|(_, number)| *number).collect();
    assert_eq!(distinct, (2..=41).collect());
    assert_eq!(hall.number(BUYER).await.1, 1);
    hall.app.finish().await;
}

#[tokio::test]
async fn a_redis_that_is_slow_is_left_alone_and_slows_no_joins() {
    let redis = std::env::var("ONSALE_REDIS_URL").unwrap();
    let mut redis = Url::parse(&redis).unwrap();
    let target = (redis.host_str().unwrap(), redis.port().unwrap_or(6379));
    let proxy = Proxy::to(format!("{}:{}", target.0, target.1)).await;
    redis.set_host(Some("127.0.0.1")).unwrap();
    redis.set_port(Some(proxy.address().port())).unwrap();
    let hall = Hall::with(|config| {
        config.redis_url = SecretString::from(redis.to_string());
    })
    .await;
    let base = hall.node_with(waiting_room::Config::default()).await;
    let join = async |account| {
        let request = hall.client.post(format!("{base}/api/events/1/queue"));
        let joined = hall.signed_in(request, account).send().await.unwrap();
        assert_eq!(joined.status(), 201);
    };
    join(BUYER).await;
    // Successful answers, each slower than a batch should wait for.
    let delay = Duration::from_millis(800);
    proxy.slow(delay);
    let mut quick = 0;
    for account in 20..40 {
        let begun = Instant::now();
        join(AccountId(account)).await;
        quick += usize::from(begun.elapsed() < delay);
    }
    // Where the machine is busy some take as long by themselves.
    assert!(quick > 10, "only {quick} of 20 did not wait for Redis");
    hall.app.finish().await;
}

#[tokio::test]
async fn a_network_joins_as_often_as_it_may_and_others_go_on() {
    let config = waiting_room::Config {
        joins_per_network: 3,
        ..config()
    };
    let (hall, _) = Hall::timeless().await;
    let base = hall.node_with(config).await;
    let join = |account: i64, address: &'static str| {
        let request = hall.client.post(format!("{base}/api/events/1/queue"));
        let request = request.header("x-forwarded-for", address);
        let request = hall.signed_in(request, AccountId(account));
        async move { request.send().await.unwrap().status().as_u16() }
    };
    let mut greedy = join_all((1..=8).map(|n| join(n, "192.0.2.1"))).await;
    greedy.sort_unstable();
    assert_eq!(greedy, [201, 201, 201, 429, 429, 429, 429, 429]);
    assert_eq!(join(9, "192.0.2.77").await, 429, "a neighbour");
    assert_eq!(join(10, "198.51.100.1").await, 201);
    hall.app.finish().await;
}

#[tokio::test]
async fn a_sale_that_is_open_to_anybody_gives_visitors_a_secret() {
    let mut hall = Hall::open().await;
    hall.publish(|snapshot| snapshot.anonymous = true).await;
    let url = hall.url("/api/events/1/queue");
    let joined = hall.client.post(&url).send().await.unwrap();
    assert_eq!(joined.status(), 201);
    let joined: Value = joined.json().await.unwrap();
    let secret = joined["visitor_token"].as_str().unwrap();
    let token = joined["queue_token"].as_str().unwrap();

    // The sale is extended, and with it the tokens of those who join again.
    let week = chrono::TimeDelta::days(7);
    hall.publish(|snapshot| snapshot.tokens_expire_at += week.num_seconds())
        .await;
    let again = hall.client.post(&url).bearer_auth(secret);
    let again: Value = again.send().await.unwrap().json().await.unwrap();
    assert_eq!(again["number"], joined["number"]);
    let renewed = again["visitor_token"].as_str().unwrap();
    let (keys, later) = (&hall.app.ctx.keys, hall.app.ctx.clock.now() + week);
    let visitor = |token: &str| keys.verify_visitor(token, EVENT, later).map(|one| one.sub);
    assert!(visitor(renewed).is_ok_and(|sub| sub.starts_with('-')));
    assert!(visitor(secret).is_err());
    let queue = again["queue_token"].as_str().unwrap();
    assert!(keys.verify_queue(queue, EVENT, later).is_ok());
    let other: Value = hall
        .client
        .post(&url)
        .send()
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(other["number"], 2);

    let me = async |secret: &str, token: &str| {
        let request = hall.client.get(hall.url("/api/events/1/queue/me"));
        let request = request
            .bearer_auth(secret)
            .header("onsale-queue-token", token);
        request.send().await.unwrap()
    };
    assert_eq!(me(secret, token).await.status(), 200);
    let thief = other["visitor_token"].as_str().unwrap();
    assert_eq!(problem(me(thief, token).await).await, "queue-token-invalid");
    assert_eq!(hall.join(BUYER).await.status(), 201, "accounts may, too");

    hall.publish(|snapshot| snapshot.anonymous = false).await;
    let refused = hall.client.post(&url).send().await.unwrap();
    assert_eq!(problem(refused).await, "signed-out");
    let refused = hall.client.post(&url).bearer_auth(secret).send().await;
    assert_eq!(problem(refused.unwrap()).await, "signed-out");
    hall.app.finish().await;
}

#[tokio::test]
async fn a_visitors_secret_is_worth_nothing_elsewhere() {
    let mut hall = Hall::open().await;
    hall.publish(|snapshot| snapshot.anonymous = true).await;
    let secret = hall.visitor_token(EventId(2));
    let refused = hall.client.post(hall.url("/api/events/1/queue"));
    let refused = refused.bearer_auth(secret).send().await.unwrap();
    assert_eq!(problem(refused).await, "signed-out");
    hall.app.finish().await;
}

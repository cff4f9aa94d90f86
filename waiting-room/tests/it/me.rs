//! Polling the standing of a queue token.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::ahead::Ahead;
use domain::lottery::Draw;
use domain::queue::{Drawn, SEEN_SLOT_SECONDS, SEEN_SLOTS, seen_slot};
use domain::sale::SaleState;
use domain::{EventId, Number, Place};
use platform::redis::{AsyncCommands, cmd};
use platform::testing::{ShiftedClock, eventually};
use serde_json::Value;

use crate::hall::{BUYER, EVENT, Hall, OTHER, problem};

#[tokio::test]
async fn a_place_waits_is_ready_and_is_missed_once_the_leader_has_published_it() {
    let mut hall = Hall::open().await;
    let token = hall.token(EventId(1), 5, 600);
    assert_eq!(hall.standing(&token).await, ("waiting".to_owned(), 4));
    hall.publish(|snapshot| {
        snapshot.ahead = Ahead::count(Place(5), Place(9), [5, 6].map(Place).into_iter());
    })
    .await;
    assert_eq!(hall.standing(&token).await, ("waiting".to_owned(), 0));
    // Times are serialised to the millisecond.
    let before = hall.app.ctx.clock.now() - TimeDelta::milliseconds(1);
    hall.call(5, 5).await;
    let called = before..=hall.app.ctx.clock.now();
    let body: Value = hall.me(&token).await.json().await.unwrap();
    assert_eq!(body["state"], "ready");
    let until: DateTime<Utc> = body["claim_until"].as_str().unwrap().parse().unwrap();
    let began = until - TimeDelta::minutes(2);
    assert!(called.contains(&began), "{began} of {called:?}");
    hall.next(|_, moved| moved.missed = vec![Place(5)]).await;
    assert_eq!(hall.standing(&token).await.0, "missed");
    hall.app.finish().await;
}

#[tokio::test]
async fn those_who_are_not_there_are_not_ahead() {
    let mut hall = Hall::open().await;
    let token = hall.token(EventId(1), 10, 600);
    // 2, 3 and 9 are absent, and five have joined since the count.
    let present = [1, 4, 5, 6, 7, 8].map(Place);
    hall.publish(|snapshot| {
        snapshot.ahead = Ahead::count(Place(1), Place(9), present.into_iter());
    })
    .await;
    assert_eq!(hall.standing(&token).await, ("waiting".to_owned(), 6));
    let late = hall.token(EventId(1), 15, 600);
    assert_eq!(hall.standing(&late).await, ("waiting".to_owned(), 11));
    hall.app.finish().await;
}

#[tokio::test]
async fn a_joiner_that_left_has_left_once_the_leader_has_published_it() {
    let mut hall = Hall::open().await;
    let (token, _) = hall.number(BUYER).await;
    assert_eq!(hall.leave(&token).await.status(), 204);
    hall.next(|_, moved| moved.left = vec![Number(1)]).await;
    assert_eq!(hall.standing(&token).await.0, "left");
    hall.app.finish().await;
}

#[tokio::test]
async fn the_lottery_gives_the_lobby_its_places() {
    let mut hall = Hall::open().await;
    hall.publish(|snapshot| snapshot.state = SaleState::Lobby)
        .await;
    let token = hall.token(EventId(1), 2, 600);
    let body: Value = hall.me(&token).await.json().await.unwrap();
    assert_eq!(
        (&body["place"], &body["ahead"], &body["state"]),
        (&Value::Null, &Value::Null, &"waiting".into())
    );
    hall.publish(|snapshot| {
        snapshot.state = SaleState::Open;
        snapshot.lottery.drawn = Some(Drawn {
            lobby: 100,
            seed: "01".repeat(32),
            entropy: String::new(),
            entries_digest: String::new(),
        });
    })
    .await;
    let draw = Draw {
        lobby: 100,
        seed: [1; 32],
        entropy: String::new(),
    };
    let place = draw.permutation().place_of(Number(2)).0;
    eventually(Duration::from_secs(30), async || {
        let body: Value = hall.me(&token).await.json().await.unwrap();
        body["place"] == place
    })
    .await;
    let late = hall.token(EventId(1), 101, 600);
    let body: Value = hall.me(&late).await.json().await.unwrap();
    assert_eq!(body["place"], 101);
    hall.app.finish().await;
}

#[tokio::test]
async fn nobody_is_shown_a_place_before_the_draw_also_when_the_sale_is_put_off_or_closed() {
    let mut hall = Hall::open().await;
    let token = hall.token(EventId(1), 2, 600);
    for state in [
        SaleState::Lobby,
        SaleState::Scheduled,
        SaleState::Paused,
        SaleState::Closed,
    ] {
        hall.publish(|snapshot| {
            snapshot.state = state;
            snapshot.lottery.commitment = "07".repeat(32);
        })
        .await;
        let body: Value = hall.me(&token).await.json().await.unwrap();
        let nothing = (&Value::Null, &Value::Null, &Value::Null);
        let reported = (&body["place"], &body["ahead"], &body["eta_seconds"]);
        assert_eq!(reported, nothing, "{state:?}");
    }
    hall.app.finish().await;
}

#[tokio::test]
async fn a_lobby_is_drawn_after_a_draw_of_nobody() {
    let mut hall = Hall::open().await;
    let drawn = |lobby, seed: u8| Drawn {
        lobby,
        seed: format!("{seed:02x}").repeat(32),
        entropy: String::new(),
        entries_digest: String::new(),
    };
    let token = hall.token(EventId(1), 2, 600);
    hall.publish(|snapshot| snapshot.lottery.drawn = Some(drawn(0, 9)))
        .await;
    hall.publish(|snapshot| {
        snapshot.state = SaleState::Scheduled;
        snapshot.lottery.commitment = "07".repeat(32);
        snapshot.lottery.drawn = None;
    })
    .await;
    hall.publish(|snapshot| {
        snapshot.state = SaleState::Open;
        snapshot.lottery.drawn = Some(drawn(100, 1));
    })
    .await;
    let draw = Draw {
        lobby: 100,
        seed: [1; 32],
        entropy: String::new(),
    };
    let place = draw.permutation().place_of(Number(2)).0;
    eventually(Duration::from_secs(30), async || {
        let body: Value = hall.me(&token).await.json().await.unwrap();
        body["place"] == place
    })
    .await;
    hall.app.finish().await;
}

#[tokio::test]
async fn a_poll_much_before_its_time_is_refused() {
    let (mut hall, clock) = Hall::timeless().await;
    hall.publish(|snapshot| {
        snapshot.ahead = Ahead::count(Place(1), Place(600), (1..=600).map(Place));
    })
    .await;
    let token = hall.token(EventId(1), 500, 600);
    let first: Value = hall.me(&token).await.json().await.unwrap();
    let early = hall.me(&token).await;
    assert_eq!(early.status(), 429);
    let wait: u64 = early.headers()["retry-after"]
        .to_str()
        .unwrap()
        .parse()
        .unwrap();
    // `Retry-After` is rounded up to whole seconds.
    let due = first["poll_after_ms"].as_u64().unwrap().div_ceil(1_000);
    assert!((1..=due).contains(&wait), "{wait} s of {due} s");
    let early: Value = early.json().await.unwrap();
    assert!(early["type"].as_str().unwrap().ends_with("/too-early"));
    // The refusal carries the standing, for a reloaded page.
    let standing = ["number", "place", "ahead"].map(|name| early[name].as_i64());
    assert_eq!(standing, [Some(500), Some(500), Some(499)]);
    assert_eq!(
        (&early["state"], &early["sale"]),
        (&"waiting".into(), &"open".into())
    );
    assert!(early["eta_seconds"]["p50"].as_f64() > Some(10.0));
    let left = early["poll_after_ms"].as_u64().unwrap();
    assert!(left <= due * 1_000);
    let other = hall.token(EventId(1), 501, 600);
    assert_eq!(hall.me(&other).await.status(), 200, "others may ask");
    let left = TimeDelta::milliseconds(left.cast_signed());
    clock.advance(left - TimeDelta::milliseconds(1));
    assert_eq!(hall.me(&token).await.status(), 429, "a moment too early");
    clock.advance(TimeDelta::milliseconds(1));
    assert_eq!(hall.me(&token).await.status(), 200);
    hall.app.finish().await;
}

impl Hall {
    /// The slot of now by the clock of Redis, which all nodes share.
    async fn slot(&self) -> i64 {
        let mut redis = self.app.ctx.redis.clone();
        let (now, _): (i64, i64) = cmd("TIME").query_async(&mut redis).await.unwrap();
        seen_slot(DateTime::from_timestamp(now, 0).unwrap())
    }

    /// Returns a slot since `since` in which `number` was seen.
    async fn seen_since(&self, since: i64, number: usize) -> Option<i64> {
        let keys = self.app.ctx.sale_keys(EVENT);
        let mut redis = self.app.ctx.redis.clone();
        for slot in since..=self.slot().await {
            if redis.getbit(keys.seen(slot, 0), number).await.unwrap() {
                return Some(slot);
            }
        }
        None
    }
}

#[tokio::test]
async fn a_poll_or_a_join_is_recorded_as_presence() {
    let hall = Hall::open().await;
    let since = hall.slot().await;
    let (_, number) = hall.number(OTHER).await;
    assert_eq!(number, 1);
    assert_eq!(
        hall.me(&hall.token(EventId(1), 70_000, 600)).await.status(),
        200
    );
    let keys = hall.app.ctx.sale_keys(EVENT);
    let seen = async |number| {
        let slot = hall.seen_since(since, number).await;
        if let Some(slot) = slot {
            let mut redis = hall.app.ctx.redis.clone();
            let kept: i64 = redis.ttl(keys.seen(slot, 0)).await.unwrap();
            assert!((1..=SEEN_SLOT_SECONDS * SEEN_SLOTS).contains(&kept));
        }
        slot.is_some()
    };
    for number in [1, 70_000] {
        eventually(Duration::from_secs(30), async || seen(number).await).await;
    }
    assert!(!seen(2).await);
    hall.app.finish().await;
}

/// The release leader counts those as gone whom it does not find in the slots of the last seconds.
#[tokio::test]
async fn presence_is_recorded_although_the_clock_of_the_node_is_wrong() {
    let hall = Hall::open().await;
    let since = hall.slot().await;
    for (number, offset) in [(5, TimeDelta::minutes(-4)), (6, TimeDelta::minutes(4))] {
        let ctx = hall.app.another_node_at(ShiftedClock::shared(offset)).await;
        let base = hall.node_of(&ctx).await;
        let request = hall.client.get(format!("{base}/api/events/1/queue/me"));
        let request = hall.signed_in_at(ctx.clock.now(), request, BUYER);
        let token = hall.token_at(ctx.clock.now(), EventId(1), number, 600);
        let request = request.header("onsale-queue-token", token);
        assert_eq!(request.send().await.unwrap().status(), 200);
        let number = usize::try_from(number).unwrap();
        eventually(Duration::from_secs(30), async || {
            hall.seen_since(since, number).await.is_some()
        })
        .await;
        ctx.shutdown.soft().cancel();
        ctx.shutdown.tasks_left().await;
        ctx.db.close().await;
    }
    hall.app.finish().await;
}

#[tokio::test]
async fn polls_say_when_the_sale_is_sold_out() {
    let mut hall = Hall::open().await;
    let token = hall.token(EventId(1), 600, 600);
    let sale = async |hall: &Hall| {
        let body: Value = hall.me(&token).await.json().await.unwrap();
        (body["state"].clone(), body["sale"].clone())
    };
    assert_eq!(sale(&hall).await, ("waiting".into(), "open".into()));
    hall.publish(|snapshot| snapshot.state = SaleState::SoldOut)
        .await;
    assert_eq!(sale(&hall).await, ("waiting".into(), "sold_out".into()));
    hall.app.finish().await;
}

#[tokio::test]
async fn the_answer_says_how_long_and_when_to_ask_again() {
    let mut hall = Hall::open().await;
    hall.publish(|snapshot| "Hello".clone_into(&mut snapshot.message))
        .await;
    let token = hall.token(EventId(1), 600, 600);
    let response = hall.me(&token).await;
    assert_eq!(response.headers()["cache-control"], "no-store");
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["sale"], "open");
    assert_eq!(body["eta_seconds"]["p50"], 60.0);
    assert!(body["eta_seconds"]["p90"].as_f64().unwrap() > 60.0);
    assert!((4_800..=7_200).contains(&body["poll_after_ms"].as_i64().unwrap()));
    assert_eq!(body["message"], "Hello");
    hall.publish(|snapshot| snapshot.pace = None).await;
    let body: Value = hall.me(&token).await.json().await.unwrap();
    assert_eq!(body["eta_seconds"], Value::Null);
    hall.app.finish().await;
}

#[tokio::test]
async fn a_token_that_is_not_of_this_sale_or_not_ours_is_refused() {
    let hall = Hall::open().await;
    let good = hall.token(EventId(1), 5, 600);
    let mut parts: Vec<String> = good.split('.').map(str::to_owned).collect();
    let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoicXVldWUrand0In0.{}.", parts[1]);
    let letter = if parts[1].ends_with('A') { "B" } else { "A" };
    parts[1].pop();
    parts[1].push_str(letter);
    let attacks = [
        hall.token(EventId(2), 5, 600),
        hall.token(EventId(1), 5, -10),
        parts.join("."),
        unsigned,
        "nonsense".to_owned(),
    ];
    for (index, token) in attacks.iter().enumerate() {
        assert_eq!(
            problem(hall.me(token).await).await,
            "queue-token-invalid",
            "attack {index}"
        );
        let left = hall.leave(token).await;
        assert_eq!(problem(left).await, "queue-token-invalid", "attack {index}");
    }
    let request = hall.client.delete(hall.url("/api/events/1/queue/me"));
    let without = hall.signed_in(request, BUYER).send().await.unwrap();
    assert_eq!(problem(without).await, "queue-token-required");
    assert_eq!(hall.standing(&good).await.0, "waiting", "nothing changed");
    hall.app.finish().await;
}

#[tokio::test]
async fn an_account_finds_its_place_on_another_device() {
    let mut hall = Hall::open().await;
    let find = async |hall: &Hall, account| {
        let request = hall.client.get(hall.url("/api/events/1/queue/me"));
        hall.signed_in(request, account).send().await.unwrap()
    };
    assert_eq!(problem(find(&hall, BUYER).await).await, "not-found");
    let (_, first) = hall.number(OTHER).await;
    let (_, number) = hall.number(BUYER).await;
    // Also in a sale that is no longer joinable.
    hall.publish(|snapshot| snapshot.state = SaleState::SoldOut)
        .await;
    let found = find(&hall, BUYER).await;
    assert_eq!(found.headers()["cache-control"], "no-store");
    let found: Value = found.json().await.unwrap();
    assert_eq!((first, &found["number"]), (1, &number.into()));
    assert_eq!((&found["place"], &found["ahead"]), (&2.into(), &1.into()));
    let token = found["queue_token"].as_str().unwrap();
    assert_eq!(hall.standing(token).await, ("waiting".to_owned(), 1));
    let nobody = hall.get("/api/events/1/queue/me").await;
    assert_eq!(problem(nobody).await, "signed-out");
    hall.app.finish().await;
}

#[tokio::test]
async fn a_stream_with_a_queue_token_is_recorded_as_presence() {
    let hall = Hall::open().await;
    let (token, number) = hall.number(BUYER).await;
    let request = hall.client.get(hall.url("/api/events/1/queue/stream"));
    let request = hall.signed_in(request, BUYER);
    let mut stream = request
        .header("onsale-queue-token", token)
        .send()
        .await
        .unwrap();
    assert_eq!(stream.status(), 200);
    tokio::spawn(async move { while let Ok(Some(_)) = stream.chunk().await {} });
    // A slot that begins after the join.
    let next = hall.slot().await + 1;
    let number = usize::try_from(number).unwrap();
    eventually(Duration::from_secs(40), async || {
        hall.seen_since(next, number).await.is_some()
    })
    .await;
    hall.app.finish().await;
}

#[tokio::test]
async fn a_queue_token_alone_is_worth_nothing() {
    let hall = Hall::open().await;
    let token = hall.token(EventId(1), 5, 600);
    let path = hall.url("/api/events/1/queue/me");
    for request in [hall.client.get(&path), hall.client.delete(&path)] {
        let request = request.header("onsale-queue-token", &token);
        assert_eq!(problem(request.send().await.unwrap()).await, "signed-out");
    }
    let thief = hall.me_as(OTHER, &token).await;
    assert_eq!(problem(thief).await, "queue-token-invalid");
    let thief = hall.leave_as(OTHER, &token).await;
    assert_eq!(problem(thief).await, "queue-token-invalid");
    assert_eq!(hall.standing(&token).await.0, "waiting");
    hall.app.finish().await;
}

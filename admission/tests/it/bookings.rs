//! The booking API.

use std::time::Duration;

use chrono::TimeDelta;
use domain::booking::BookingState;
use domain::message::{Outcome, PlaceHold};
use domain::{AccountId, BookingId, EventId};
use futures_util::future::join_all;
use platform::amqp::{Exchange, QueueSpec};
use platform::service::Context;
use platform::testing::Proxy;
use platform::topology;
use reqwest::Response;
use serde_json::{Value, json};

use crate::line::EVENT;
use crate::machine::Machine;
use crate::shop::{
    A_MOMENT, BUYER, OTHER, PATIENCE, REFUSED_BECAUSE, STAFF, Shop, altered, confirmed, held,
    launch, problem, sold_out, unsigned,
};

async fn booking(response: Response) -> Value {
    let body: Value = response.json().await.unwrap();
    body["booking"].clone()
}

fn id(booking: &Value) -> BookingId {
    booking["id"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_request_that_is_held_is_answered_201_with_its_seats() {
    let shop = Shop::open().await;
    let seen = shop.worker(held, None).await;
    let pass = shop.pass(EVENT, BUYER, 600);
    let response = shop.book_at(&shop.base, BUYER, Some(&pass), 1, None).await;
    assert_eq!(response.status(), 201);
    let booking = booking(response).await;
    assert_eq!(booking["state"], "held");
    assert_eq!(booking["user_id"], 7);
    assert_eq!(booking["tickets"], 1);
    assert_eq!(booking["seats"][0]["row"], "C");
    assert_eq!(
        booking["total"],
        json!({"amount_minor": 4500, "currency": "eur"})
    );
    assert_eq!(seen.lock().unwrap()[0].booking_id, id(&booking));
    shop.app.finish().await;
}

#[tokio::test]
async fn a_request_that_is_rejected_is_answered_409_with_the_reason() {
    let shop = Shop::open().await;
    shop.worker(sold_out, None).await;
    let pass = shop.pass(EVENT, BUYER, 600);
    let response = shop.book_at(&shop.base, BUYER, Some(&pass), 1, None).await;
    assert_eq!(response.status(), 409);
    let body: Value = response.json().await.unwrap();
    assert_eq!(body["reason"], "sold_out");
    shop.app.finish().await;
}

#[tokio::test]
async fn a_request_without_an_outcome_is_answered_202_and_shows_as_requested() {
    let shop = Shop::impatient().await;
    shop.worker(|_| None, None).await;
    let pass = shop.pass(EVENT, BUYER, 600);
    let response = shop.book_at(&shop.base, BUYER, Some(&pass), 2, None).await;
    assert_eq!(response.status(), 202);
    assert!(response.headers().contains_key("retry-after"));
    let location = response.headers()["location"].to_str().unwrap().to_owned();
    assert_eq!(booking(response).await["state"], "requested");

    let read = booking(shop.get(&location, Some(BUYER)).await).await;
    assert_eq!(
        (&read["state"], &read["tickets"]),
        (&json!("requested"), &json!(2))
    );
    let list: Value = shop
        .get("/api/bookings/user/7", Some(BUYER))
        .await
        .json()
        .await
        .unwrap();
    assert_eq!(list["bookings"][0]["id"], read["id"]);
    assert_eq!(
        problem(shop.get(&location, Some(OTHER)).await).await,
        "forbidden"
    );
    // Staff use the internal listener.
    assert_eq!(
        problem(shop.get(&location, Some(STAFF)).await).await,
        "forbidden"
    );
    shop.app.finish().await;
}

#[tokio::test]
async fn a_repeated_key_gives_the_first_answer_and_another_body_is_refused() {
    let shop = Shop::open().await;
    let seen = shop.worker(held, None).await;
    let pass = shop.pass(EVENT, BUYER, 600);
    let book = |tickets, pass: Option<String>| {
        let shop = &shop;
        async move {
            shop.book_at(&shop.base, BUYER, pass.as_deref(), tickets, Some("key-1"))
                .await
        }
    };
    let first = book(1, Some(pass.clone())).await.text().await.unwrap();
    // A replay needs no pass: it may have ended since.
    let again = book(1, None).await;
    assert_eq!(again.status(), 201);
    assert_eq!(again.headers()["idempotent-replayed"], "true");
    assert_eq!(again.text().await.unwrap(), first);
    assert_eq!(
        problem(book(2, Some(pass.clone())).await).await,
        "idempotency-key-reused"
    );
    assert_eq!(seen.lock().unwrap().len(), 1);

    let body = json!({"event_id": EVENT, "user_id": BUYER, "tickets": 1});
    let other = shop
        .post_booking(&shop.base, OTHER, Some(&pass), Some("key-1"), &body)
        .await;
    assert_eq!(
        problem(other).await,
        "forbidden",
        "a key is its caller's own"
    );
    shop.app.finish().await;
}

#[tokio::test]
async fn of_two_requests_with_one_key_at_once_one_is_done() {
    let shop = Shop::open().await;
    let seen = shop.worker(held, None).await;
    let pass = shop.pass(EVENT, BUYER, 600);
    let book = || shop.book_at(&shop.base, BUYER, Some(&pass), 1, Some("key-1"));
    let (first, second) = tokio::join!(book(), book());
    let statuses = [first.status().as_u16(), second.status().as_u16()];
    assert!(statuses.contains(&201), "{statuses:?}");
    assert!(
        statuses.iter().all(|status| [201, 409].contains(status)),
        "{statuses:?}"
    );
    assert_eq!(seen.lock().unwrap().len(), 1);
    shop.app.finish().await;
}

#[tokio::test]
async fn a_full_queue_is_an_honest_503_that_changes_nothing() {
    let shop = Shop::impatient().await;
    let name = topology::booking_requests_of(EVENT);
    let queue = QueueSpec::durable(&name)
        .bind(Exchange::Commands, &name)
        .max_length(1);
    shop.app.ctx.broker.declare_patiently(&queue).await;
    let pass = shop.pass(EVENT, BUYER, 600);
    let mut refused = None;
    for attempt in 0..20 {
        let key = format!("key-{attempt}");
        let answer = shop
            .book_at(&shop.base, BUYER, Some(&pass), 1, Some(&key))
            .await;
        if answer.status() != 202 {
            refused = Some((key, answer));
            break;
        }
    }
    let (key, answer) = refused.expect("a queue for one message takes no twenty");
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    assert_eq!(problem(answer).await, "overloaded");
    // The key was released: once a worker has made room the same request succeeds.
    shop.worker_on(queue, held, None).await;
    let is_taken = async || {
        let again = shop.book_at(&shop.base, BUYER, Some(&pass), 1, Some(&key));
        again.await.status() == 201
    };
    platform::testing::eventually(Duration::from_secs(60), is_taken).await;
    shop.app.finish().await;
}

#[tokio::test]
async fn without_a_queue_for_it_a_request_is_refused_and_its_key_keeps_its_booking() {
    let shop = Shop::open().await;
    let pass = shop.pass(EVENT, BUYER, 600);
    let answer = shop
        .book_at(&shop.base, BUYER, Some(&pass), 1, Some("key-1"))
        .await;
    assert_eq!(answer.status(), 503);
    let seen = shop.worker(held, None).await;
    let again = shop
        .book_at(&shop.base, BUYER, Some(&pass), 1, Some("key-1"))
        .await;
    assert_eq!(again.status(), 201);
    assert_eq!(seen.lock().unwrap().len(), 1);
    shop.app.finish().await;
}

#[tokio::test]
async fn a_pass_that_is_not_the_callers_own_for_this_sale_is_refused() {
    let shop = Shop::open().await;
    let good = shop.pass(EVENT, BUYER, 600);
    let attacks = [
        (None, "pass-required"),
        (Some(shop.pass(EVENT, OTHER, 600)), "pass-invalid"),
        (Some(shop.pass(EventId(2), BUYER, 600)), "pass-invalid"),
        (Some(shop.pass(EVENT, BUYER, -10)), "pass-invalid"),
        (Some(shop.queue_token(BUYER, 1, 600)), "pass-invalid"),
        (Some(altered(&good)), "pass-invalid"),
        (Some(unsigned(&good)), "pass-invalid"),
    ];
    for (index, (pass, expected)) in attacks.into_iter().enumerate() {
        let answer = shop
            .book_at(&shop.base, BUYER, pass.as_deref(), 1, None)
            .await;
        assert_eq!(answer.status(), 403, "attack {index}");
        assert_eq!(problem(answer).await, expected, "attack {index}");
    }
    shop.app.finish().await;
}

#[tokio::test]
async fn a_misspelt_field_of_a_request_books_nothing() {
    let shop = Shop::open().await;
    let pass = shop.pass(EVENT, BUYER, 600);
    let mut section = json!({"event_id": EVENT, "user_id": BUYER, "tickets": 1});
    section["secton_id"] = json!(3);
    let part = json!({"tickets": 1, "teir": "Balcony"});
    let parts = json!({"event_id": EVENT, "user_id": BUYER, "wanted": [part]});
    for (body, field) in [(section, "secton_id"), (parts, "teir")] {
        let answer = shop.post_booking(&shop.base, BUYER, Some(&pass), None, &body);
        let answer = answer.await;
        assert_eq!(answer.status(), 422, "{body}");
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["field"], field);
    }
    let requests = sqlx::query_scalar::<_, i64>("select count(*) from admission.requests");
    let requests = requests.fetch_one(&shop.app.ctx.db).await.unwrap();
    assert_eq!(requests, 0);
    shop.app.finish().await;
}

#[tokio::test]
async fn an_invalid_request_is_refused_with_the_reason() {
    let shop = Shop::open().await;
    shop.add_sale(EventId(3), |sale| sale.closed = true).await;
    let pass = shop.pass(EVENT, BUYER, 600);
    let requests = [
        (
            json!({"event_id": 1, "user_id": 7, "tickets": 0}),
            "invalid",
        ),
        (
            json!({"event_id": 1, "user_id": 7, "tickets": -1}),
            "invalid",
        ),
        (
            json!({"event_id": 1, "user_id": 7, "tickets": 21}),
            "invalid",
        ),
        (
            json!({"event_id": 1, "user_id": 7, "tickets": "two"}),
            "malformed",
        ),
        (json!({"event_id": 1, "tickets": 1}), "malformed"),
        (
            json!({"event_id": 1, "user_id": 8, "tickets": 1}),
            "forbidden",
        ),
        (
            json!({"event_id": 99, "user_id": 7, "tickets": 1}),
            "not-found",
        ),
        (
            json!({"event_id": 3, "user_id": 7, "tickets": 1}),
            "booking-rejected",
        ),
    ];
    for (body, expected) in requests {
        let answer = shop
            .post_booking(&shop.base, BUYER, Some(&pass), None, &body)
            .await;
        assert_eq!(problem(answer).await, expected, "{body}");
    }
    shop.app.finish().await;
}

#[tokio::test]
async fn a_sale_without_a_queue_takes_bookings_without_a_pass() {
    let shop = Shop::open().await;
    shop.add_sale(EventId(5), |sale| sale.queue = false).await;
    shop.worker(held, None).await;
    let body = json!({"event_id": 5, "user_id": BUYER, "tickets": 1});
    let answer = shop
        .post_booking(&shop.base, BUYER, None, None, &body)
        .await;
    assert_eq!(answer.status(), 201);
    shop.app.finish().await;
}

/// Inserts a booking and its payment, as the workers do.
async fn store_held(shop: &Shop, state: &'static str) -> BookingId {
    let now = shop.app.ctx.clock.now();
    let id = BookingId::new(now);
    sqlx::query(
        "insert into booking.bookings
             (id, event_id, account_id, tickets, state, total_minor, hold_until, created_at, updated_at)
         values ($1, $2, $3, 1, $4, 4500, $5, $6, $6)",
    )
    .bind(id.0)
    .bind(EVENT.0)
    .bind(BUYER.0)
    .bind(state)
    .bind(now + TimeDelta::seconds(600))
    .bind(now)
    .execute(&shop.app.ctx.db)
    .await
    .unwrap();
    sqlx::query(
        "insert into payment.payments
             (booking_id, amount_minor, state, intent_id, client_secret, checked_at, created_at, updated_at)
         values ($1, 4500, 'pending', 'pi_' || $1, 'pi_1_secret', $2, $2, $2)",
    )
    .bind(id.0)
    .bind(now)
    .execute(&shop.app.ctx.db)
    .await
    .unwrap();
    id
}

#[tokio::test]
async fn only_the_owner_sees_how_to_pay() {
    let shop = Shop::open().await;
    let id = store_held(&shop, "held").await;
    let path = format!("/api/bookings/{id}");
    let own = booking(shop.get(&path, Some(BUYER)).await).await;
    assert_eq!(own["payment"]["client_secret"], "pi_1_secret");
    assert_eq!(own["payment"]["publishable_key"], "pk_test_1");
    for other in [OTHER, STAFF] {
        let refused = shop.get(&path, Some(other)).await;
        assert_eq!(problem(refused).await, "forbidden");
    }
    assert_eq!(problem(shop.get(&path, None).await).await, "signed-out");
    let others = shop.get("/api/bookings/user/7", Some(OTHER)).await;
    assert_eq!(problem(others).await, "forbidden");
    let unknown = format!("/api/bookings/{}", BookingId::new(shop.app.ctx.clock.now()));
    assert_eq!(
        problem(shop.get(&unknown, Some(BUYER)).await).await,
        "not-found"
    );
    shop.app.finish().await;
}

#[tokio::test]
async fn a_cancellation_says_what_the_worker_says() {
    let answers = [
        (Some(Outcome::Cancelled), 200),
        (Some(Outcome::Refused(BookingState::Expired)), 409),
        (None, 202),
    ];
    for (outcome, status) in answers {
        let shop = match outcome {
            Some(_) => Shop::open().await,
            None => Shop::impatient().await,
        };
        shop.worker(held, outcome).await;
        let id = store_held(&shop, "held").await;
        assert_eq!(problem(shop.cancel(OTHER, id).await).await, "forbidden");
        assert_eq!(shop.cancel(BUYER, id).await.status(), status);
        shop.app.finish().await;
    }
}

#[tokio::test]
async fn a_cancellation_that_is_refused_says_why() {
    let shop = Shop::open().await;
    let kept = Outcome::Refused(BookingState::Confirmed);
    shop.worker(held, Some(kept)).await;
    let id = store_held(&shop, "held").await;
    let answer = shop.cancel(BUYER, id).await;
    assert_eq!(answer.status(), 409);
    let body: Value = answer.json().await.unwrap();
    assert_eq!(body["reason"], json!(REFUSED_BECAUSE));
    let detail = "The event has begun, so only staff can cancel the booking.";
    assert_eq!(body["detail"], detail);
    shop.app.finish().await;
}

#[tokio::test]
async fn a_cancellation_with_a_key_that_is_none_is_refused_and_cancels_nothing() {
    let shop = Shop::open().await;
    shop.worker(held, Some(Outcome::Cancelled)).await;
    let id = store_held(&shop, "held").await;
    let long = "k".repeat(256);
    for (key, status) in [("", 422), ("a b", 422), (&long, 422), ("k", 200)] {
        let answer = shop.cancel_with(BUYER, id, key).await;
        assert_eq!(answer.status(), status, "{key:?}");
    }
    shop.app.finish().await;
}

#[tokio::test]
async fn an_ended_booking_is_not_asked_about_again() {
    let shop = Shop::open().await;
    let cancelled = store_held(&shop, "cancelled").await;
    let answer = shop.cancel(BUYER, cancelled).await;
    assert_eq!(
        answer.json::<Value>().await.unwrap(),
        json!({"message": "success"})
    );
    shop.app.finish().await;
}

#[tokio::test]
async fn a_change_of_the_sale_acts_on_every_node_within_two_seconds() {
    let shop = Shop::open().await;
    let machine = Machine::watch(&shop.app.ctx.db);
    let node = shop.another_node().await;
    let pass = shop.pass(EVENT, BUYER, 600);
    let status = async |base: &str| {
        shop.book_at(base, BUYER, Some(&pass), 1, None)
            .await
            .status()
            .as_u16()
    };
    assert_eq!(
        status(&node.base).await,
        503,
        "no queue takes it, but the sale is open"
    );
    shop.add_sale(EVENT, |sale| {
        sale.version = 2;
        sale.closed = true;
        sale.rate_per_minute = 1;
    })
    .await;
    let within = Duration::from_secs(2);
    let acts = async || status(&node.base).await == 409 && status(&shop.base).await == 409;
    machine.holds_within(within, acts).await;
    machine.stop();
    node.stop().await;
    shop.app.finish().await;
}

#[tokio::test]
async fn one_bad_order_never_fails_anothers() {
    let shop = Shop::open().await;
    shop.worker(held, None).await;
    // Any row that the database refuses will do.
    sqlx::query("alter table admission.requests add check (tickets <> 3)")
        .execute(&shop.app.ctx.db)
        .await
        .unwrap();
    let orders = (0..60_u32).map(|number| {
        let account = AccountId(100 + i64::from(number));
        let (shop, tickets) = (&shop, if number % 20 == 7 { 3 } else { 1 });
        async move {
            let pass = shop.pass(EVENT, account, 600);
            let key = format!("key-{number}");
            let answer = shop.book_at(&shop.base, account, Some(&pass), tickets, Some(&key));
            let answer = answer.await;
            let status = answer.status().as_u16();
            (tickets, status, answer.text().await.unwrap())
        }
    });
    for (tickets, status, body) in join_all(orders).await {
        let expected = if tickets == 3 { 500 } else { 201 };
        assert_eq!(status, expected, "an order for {tickets}: {body}");
    }
    shop.app.finish().await;
}

#[tokio::test]
async fn one_booking_that_can_not_be_read_hides_no_other() {
    let shop = Shop::open().await;
    let mut ids = Vec::new();
    for _ in 0..20 {
        ids.push(store_held(&shop, "held").await);
    }
    sqlx::query("update booking.bookings set seats = '{}' where id = $1")
        .bind(ids[7].0)
        .execute(&shop.app.ctx.db)
        .await
        .unwrap();
    let reading = ids.iter().map(async |id| {
        let answer = shop.get(&format!("/api/bookings/{id}"), Some(BUYER)).await;
        (id, answer.status().as_u16())
    });
    for (id, status) in join_all(reading).await {
        assert_eq!(status, if *id == ids[7] { 500 } else { 200 });
    }
    shop.app.finish().await;
}

#[tokio::test]
async fn text_that_the_database_can_not_store_is_refused_on_every_route() {
    let shop = Shop::open().await;
    let pass = shop.pass(EVENT, BUYER, 600);
    let tier = |name: &str| format!(r#"{{"event_id":1,"user_id":7,"tickets":1,"tier":"{name}"}}"#);
    let wanted = r#"{"event_id":1,"user_id":7,"wanted":[{"tickets":1,"tier":"\u0000"}]}"#;
    for body in [
        tier(r"\u0000"),
        tier(r"\ud800"),
        tier(r"a\u0000b"),
        wanted.to_owned(),
    ] {
        let answer = shop
            .post_text("/api/bookings", BUYER, &pass, body.clone())
            .await;
        assert_eq!(answer.status(), 400, "{body}");
        assert_eq!(problem(answer).await, "malformed", "{body}");
    }
    for path in ["/api/bookings/%00", "/api/bookings/user/%00"] {
        let answer = shop.get(path, Some(BUYER)).await;
        assert_eq!(problem(answer).await, "malformed", "{path}");
    }
    for path in ["/api/bookings/%00/cancel", "/api/events/%00/pass"] {
        let answer = shop.put_or_post(path, BUYER).await;
        assert_eq!(problem(answer).await, "malformed", "{path}");
    }
    shop.app.finish().await;
}

/// Connects a node that reaches RabbitMQ through a proxy.
async fn behind_a_proxy(shop: &Shop) -> (Proxy, Context) {
    let mut config = platform::config::PlatformConfig::clone(&shop.app.ctx.config);
    let url = secrecy::ExposeSecret::expose_secret(&config.amqp_url);
    let (proxy, url) = Proxy::before(url).await;
    config.amqp_url = url.into();
    let ctx = Context::connect("test", config, shop.app.ctx.clock.clone())
        .await
        .unwrap();
    (proxy, ctx)
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_is_one_booking_whatever_the_broker_does() {
    let shop = Shop::impatient().await;
    // One buyer's booking is held, the other's is free and thus confirmed.
    let decide = |hold: &PlaceHold| match hold.account_id {
        OTHER => confirmed(hold),
        _ => held(hold),
    };
    let seen = shop.worker(decide, None).await;
    let (proxy, ctx) = behind_a_proxy(&shop).await;
    let (base, running) = launch(&ctx, A_MOMENT).await;
    let book_with = |seconds: i64, account: AccountId, key: &'static str| {
        let (shop, base) = (&shop, &base);
        async move {
            let pass = shop.pass(EVENT, account, seconds);
            let answer = shop.book_at(base, account, Some(&pass), 1, Some(key)).await;
            (answer.status().as_u16(), answer)
        }
    };
    let book = |account, key| book_with(600, account, key);
    // Every channel is open when the broker falls silent.
    for number in 0..8 {
        let (status, _) = book(AccountId(100 + number), "warm").await;
        assert!([201, 202].contains(&status), "{status}");
    }
    proxy.deafen();
    // RabbitMQ receives the requests, but no confirm arrives; every channel is abandoned.
    let mut asking = vec![(BUYER, "key"), (OTHER, "key")];
    asking.extend((0..8).map(|number| (AccountId(200 + number), "key")));
    let silent = asking.iter().map(|(account, key)| book(*account, key));
    for (status, _) in join_all(silent).await {
        assert_eq!(status, 503);
    }
    // No channel opens, so this attempt was certainly not sent.
    let (first, second) = tokio::join!(book(BUYER, "key"), book(OTHER, "key"));
    assert_eq!([first.0, second.0], [503, 503]);
    proxy.cut();
    // A pass ends with the purchase, which the buyer whose booking is confirmed was not told of.
    for (account, seconds) in [(BUYER, 600), (OTHER, -600)] {
        // Accepted again under the first id, whether or not it has been decided by then.
        let again = async || matches!(book_with(seconds, account, "key").await.0, 201 | 202);
        platform::testing::eventually(Duration::from_secs(60), again).await;
        let placed = || -> Vec<_> {
            let seen = seen.lock().unwrap();
            let own = seen.iter().filter(|hold| hold.account_id == account);
            own.map(|hold| hold.booking_id).collect()
        };
        let arrived = async || placed().len() >= 2;
        platform::testing::eventually(Duration::from_secs(60), arrived).await;
        let mut placed = placed();
        placed.dedup();
        assert_eq!(placed.len(), 1, "one key made several bookings: {placed:?}");
    }
    let (_, refused) = book_with(-600, OTHER, "new").await;
    assert_eq!(problem(refused).await, "pass-invalid");
    running.stop().await.unwrap();
    ctx.shutdown.soft().cancel();
    shop.app.finish().await;
}

#[tokio::test]
async fn staff_book_for_accounts_that_exist_and_for_no_others() {
    let shop = Shop::open().await;
    shop.add_sale(EventId(5), |sale| sale.queue = false).await;
    shop.worker(held, None).await;
    let account: i64 = sqlx::query_scalar(
        "insert into box_office.accounts (email, password_hash, created_at, updated_at)
         values ('ada@example.org', '-', now(), now()) returning id",
    )
    .fetch_one(&shop.app.ctx.db)
    .await
    .unwrap();
    let (_, node) = launch(&shop.app.another_node().await, PATIENCE).await;
    let internal = format!("http://{}", node.internal_addr);
    let book = async |account: i64| {
        let body = json!({"event_id": 5, "user_id": account, "tickets": 1});
        shop.post_booking(&internal, STAFF, None, None, &body).await
    };
    let on_the_public_one = json!({"event_id": 5, "user_id": account, "tickets": 1});
    let refused = shop.post_booking(&shop.base, STAFF, None, None, &on_the_public_one);
    assert_eq!(problem(refused.await).await, "forbidden");
    assert_eq!(book(account).await.status(), 201);
    for nobody in [0, -5, i64::MAX, i64::MIN, account + 1, 1_000_000_007] {
        let answer = book(nobody).await;
        assert_eq!(answer.status(), 422, "account {nobody}");
        let body: Value = answer.json().await.unwrap();
        assert_eq!(body["field"], "user_id", "account {nobody}");
    }
    node.stop().await.unwrap();
    shop.app.finish().await;
}

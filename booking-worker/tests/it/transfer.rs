//! Transfers of tickets: one holder and one code, whatever else happens at the same time.

use domain::AccountId;
use domain::account::Role;
use domain::booking::{BookingFacts, RejectReason};
use domain::message::{CancelBooking, EventChanged, Outcome, PaymentCaptured, TicketTransferred};
use platform::service::Running;
use platform::testing::eventually;
use serde_json::{Value, json};

use crate::door::access_of;
use crate::shop::{EVENT, LIMIT, Shop, best, config, euros, event, floor};
use crate::witness::NODE;

/// A shop whose event allows transfers, with a server for tickets.
struct Exchange {
    shop: Shop,
    http: reqwest::Client,
    running: Running,
}

impl Exchange {
    /// Raises the limit of tickets per account.
    async fn lift_limits(&self) {
        sqlx::query("update booking.events set max_tickets_per_account = 100")
            .execute(&self.shop.app.ctx.db)
            .await
            .unwrap();
    }

    async fn open(seats: u32) -> Self {
        let shop = Shop::empty().await;
        let routes = booking_worker::start(shop.app.ctx.clone(), config());
        let routes = routes.await.unwrap();
        let running = shop.app.serve(routes).await;
        let sections = vec![floor(1, seats, euros(500))];
        shop.put_on_sale(sections.clone()).await;
        let mut event = event(2, sections);
        event.ticket_transfer = true;
        shop.tell(&EventChanged { event }).await;
        shop.eventually_row("select from booking.events where ticket_transfer")
            .await;
        let http = reqwest::Client::new();
        Self {
            shop,
            http,
            running,
        }
    }

    /// Signs up an account with this address.
    async fn sign_up(&self, email: &str) -> i64 {
        sqlx::query_scalar(
            "insert into box_office.accounts (email, password_hash, created_at, updated_at, email_confirmed_at)
             values ($1, '-', now(), now(), now()) returning id",
        )
        .bind(email)
        .fetch_one(&self.shop.app.ctx.db)
        .await
        .unwrap()
    }

    /// Sets whether the owner of an address has confirmed it.
    async fn confirm(&self, email: &str, is_confirmed: bool) {
        sqlx::query(
            "update box_office.accounts set email_confirmed_at = case when $2 then now() end
             where email = $1",
        )
        .bind(email)
        .bind(is_confirmed)
        .execute(&self.shop.app.ctx.db)
        .await
        .unwrap();
    }

    /// Sells a booking; returns it with the codes of its tickets.
    async fn buy(&self, account: i64, tickets: u32) -> (BookingFacts, Vec<String>) {
        let booking = self.shop.buy(account, tickets).await;
        let (booking_id, amount) = (booking.booking_id, booking.total);
        self.shop
            .tell(&PaymentCaptured { booking_id, amount })
            .await;
        eventually(LIMIT, async || {
            self.number(
                "select count(*) from booking.bookings where captured_at is not null and id = $1",
                &booking,
            )
            .await
                == 1
        })
        .await;
        let codes = sqlx::query_scalar(
            "select code from booking.tickets where booking_id = $1 order by seat_id",
        );
        let codes = codes.bind(booking_id.0).fetch_all(&self.shop.app.ctx.db);
        (booking, codes.await.unwrap())
    }

    async fn number(&self, query: &'static str, booking: &BookingFacts) -> i64 {
        let asking = sqlx::query_scalar(query).bind(booking.booking_id.0);
        asking.fetch_one(&self.shop.app.ctx.db).await.unwrap()
    }

    async fn transfer(&self, code: &str, by: i64, to: &str) -> (u16, Value) {
        let url = format!(
            "http://{}/api/tickets/{code}/transfer",
            self.running.public_addr
        );
        let token = access_of(&self.shop, by, Role::Customer);
        let request = self.http.post(url).bearer_auth(token);
        let answer = request.json(&json!({ "to": to })).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    async fn check_in(&self, code: &str) -> (u16, Value) {
        let url = format!(
            "http://{}/api/tickets/{code}/check-in",
            self.running.internal_addr
        );
        let token = access_of(&self.shop, 1, Role::Operator);
        let request = self.http.post(url).bearer_auth(token);
        let request = request.json(&json!({ "event_id": EVENT }));
        let answer = request.send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// Requests a new code.
    async fn replace(&self, code: &str, by: i64) -> (u16, Value) {
        let url = format!(
            "http://{}/api/tickets/{code}/replace",
            self.running.public_addr
        );
        let token = access_of(&self.shop, by, Role::Customer);
        let answer = self.http.post(url).bearer_auth(token).send().await.unwrap();
        (answer.status().as_u16(), answer.json().await.unwrap())
    }

    /// Lists what changed hands, as the account sees it.
    async fn seen_by(&self, account: i64) -> Vec<Value> {
        let url = format!("http://{}/api/tickets", self.running.public_addr);
        let token = access_of(&self.shop, account, Role::Customer);
        let answer = self.http.get(url).bearer_auth(token).send().await.unwrap();
        let mut answer: Value = answer.json().await.unwrap();
        serde_json::from_value(answer["tickets"].take()).unwrap()
    }

    /// Cancels on behalf of an account; returns the outcome.
    async fn cancel(&self, booking: &BookingFacts, asked_by: i64) -> Outcome {
        let id = booking.booking_id;
        let before = self.shop.witness.outcomes(id).len();
        let command = CancelBooking {
            booking_id: id,
            event_id: booking.event_id,
            asked_by: AccountId(asked_by),
            reply_to: NODE.to_owned(),
        };
        self.shop.send_cancellation(&command).await;
        self.shop.outcomes(id, before + 1).await[before].clone()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_has_one_holder_and_its_old_code_is_dead() {
    let exchange = Exchange::open(6).await;
    let (ada, bob) = (
        exchange.sign_up("ada@example.org").await,
        exchange.sign_up("Bob@Example.org").await,
    );
    let (booking, codes) = exchange.buy(ada, 2).await;
    let (status, given) = exchange.transfer(&codes[0], ada, "bob@example.org").await;
    assert_eq!(
        (status, &given["ticket"]["state"]),
        (200, &json!("transferred"))
    );
    assert_eq!(given["ticket"]["transferred_to"], bob);
    assert!(given["ticket"].get("code").is_none(), "{given}");

    // A repeat gets the same answer; another recipient does not.
    let again = exchange.transfer(&codes[0], ada, "BOB@example.org ").await;
    assert_eq!(again, (200, given));
    exchange.sign_up("eve@example.org").await;
    let (status, _) = exchange.transfer(&codes[0], ada, "eve@example.org").await;
    assert_eq!(status, 409);

    // Both see who holds it; only the holder sees the code, which is genuine.
    let (mine, theirs) = (exchange.seen_by(ada).await, exchange.seen_by(bob).await);
    assert_eq!(mine.len(), 1);
    assert_eq!(mine[0]["state"], "transferred");
    assert_eq!(
        (&mine[0]["transferred_to"], &mine[0]["code"]),
        (&json!(bob), &json!(null))
    );
    assert_eq!(
        (theirs.len(), &theirs[0]["received_from"]),
        (1, &json!(ada))
    );
    assert_eq!(theirs[0]["seat"]["id"], json!(booking.seats[0].id));
    let code = theirs[0]["code"].as_str().unwrap().to_owned();
    let keys = exchange.shop.app.ctx.keys.jwks().to_string();
    let keys = platform::tokens::PublishedKeys::parse(keys.as_bytes()).unwrap();
    assert_eq!(
        keys.verify_ticket(&code).unwrap().seat_id,
        booking.seats[0].id
    );
    let told = exchange.shop.witness.heard::<TicketTransferred>();
    assert!(
        told.iter()
            .all(|told| told.ticket.code == code && told.to.0 == bob)
    );

    let (status, refusal) = exchange.check_in(&codes[0]).await;
    assert_eq!(status, 409);
    assert!(refusal["transferred_at"].is_string(), "{refusal}");
    // Only its holder can transfer it.
    assert_eq!(
        exchange.transfer(&code, ada, "eve@example.org").await.0,
        403
    );
    assert_eq!(exchange.check_in(&code).await.0, 200);
    assert_eq!(
        exchange.transfer(&code, bob, "eve@example.org").await.0,
        409
    );
    exchange.shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_may_not_have_it_is_not_told_apart_from_who_is_not_there() {
    let exchange = Exchange::open(10).await;
    let ada = exchange.sign_up("ada@example.org").await;
    let full = exchange.sign_up("full@example.org").await;
    exchange.buy(full, 4).await;
    let (_, codes) = exchange.buy(ada, 1).await;
    exchange.sign_up("unread@example.org").await;
    exchange.confirm("unread@example.org", false).await;
    let mut answers = Vec::new();
    for to in [
        "nobody@example.org",
        "full@example.org",
        "ada@example.org",
        "unread@example.org",
    ] {
        answers.push(exchange.transfer(&codes[0], ada, to).await);
    }
    assert_eq!(answers[0].0, 409);
    assert!(
        answers.iter().all(|answer| *answer == answers[0]),
        "{answers:?}"
    );
    assert_eq!(exchange.transfer(&codes[0], ada, "no address").await.0, 422);
    assert_eq!(
        exchange
            .transfer("T1.no.such.code", ada, "full@example.org")
            .await
            .0,
        404
    );
    // None of it had an effect.
    assert_eq!(exchange.check_in(&codes[0]).await.0, 200);
    // Who reads the mail that is sent there may have one.
    let (_, codes) = exchange.buy(ada, 1).await;
    exchange.confirm("unread@example.org", true).await;
    let given = exchange.transfer(&codes[0], ada, "unread@example.org");
    assert_eq!(given.await.0, 200);
    exchange.shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_if_the_event_allows_it_and_the_money_stays() {
    let exchange = Exchange::open(4).await;
    let ada = exchange.sign_up("ada@example.org").await;
    exchange.sign_up("bob@example.org").await;
    let (booking, codes) = exchange.buy(ada, 1).await;
    sqlx::query(
        "insert into payment.payments (booking_id, event_id, account_id, amount_minor, currency, state,
             captured_minor, refunded_minor, created_at, updated_at, checked_at)
         values ($1, 1, $2, 500, 'eur', 'captured', 500, 100, now(), now(), now())",
    )
    .bind(booking.booking_id.0)
    .bind(ada)
    .execute(&exchange.shop.app.ctx.db)
    .await
    .unwrap();
    let (status, refusal) = exchange.transfer(&codes[0], ada, "bob@example.org").await;
    assert_eq!(status, 409, "{refusal}");

    let (_, codes) = exchange.buy(ada, 1).await;
    let event = event(3, vec![floor(1, 4, euros(500))]);
    exchange.shop.tell(&EventChanged { event }).await;
    exchange
        .shop
        .eventually_row("select from booking.events where not ticket_transfer")
        .await;
    let (status, refusal) = exchange.transfer(&codes[0], ada, "bob@example.org").await;
    assert_eq!(status, 409, "{refusal}");
    exchange.shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_against_the_door_and_against_another_transfer_has_one_winner() {
    let exchange = Exchange::open(40).await;
    exchange.sign_up("bob@example.org").await;
    exchange.sign_up("eve@example.org").await;
    exchange.lift_limits().await;
    for number in 0..10 {
        let ada = exchange.sign_up(&format!("ada{number}@example.org")).await;
        let (_, codes) = exchange.buy(ada, 2).await;
        let (given, entered) = tokio::join!(
            exchange.transfer(&codes[0], ada, "bob@example.org"),
            exchange.check_in(&codes[0])
        );
        let mut statuses = [given.0, entered.0];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 409], "{given:?} {entered:?}");

        let (bob, eve) = tokio::join!(
            exchange.transfer(&codes[1], ada, "bob@example.org"),
            exchange.transfer(&codes[1], ada, "eve@example.org")
        );
        let mut statuses = [bob.0, eve.0];
        statuses.sort_unstable();
        assert_eq!(statuses, [200, 409], "{bob:?} {eve:?}");
    }
    exchange.shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_buyer_can_not_cancel_what_somebody_else_holds_but_staff_can() {
    let exchange = Exchange::open(20).await;
    let bob = exchange.sign_up("bob@example.org").await;
    exchange.lift_limits().await;
    for number in 0..10 {
        let ada = exchange.sign_up(&format!("ada{number}@example.org")).await;
        let (booking, codes) = exchange.buy(ada, 1).await;
        let ((status, _), outcome) = tokio::join!(
            exchange.transfer(&codes[0], ada, "bob@example.org"),
            exchange.cancel(&booking, ada)
        );
        match status {
            200 => assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}"),
            409 => assert_eq!(outcome, Outcome::Cancelled),
            other => panic!("answered {other}"),
        }
        if status == 200 {
            assert_eq!(exchange.cancel(&booking, -1).await, Outcome::Cancelled);
        }
        let live =
            "select count(*) from booking.tickets where booking_id = $1 and state <> 'cancelled'";
        assert_eq!(exchange.number(live, &booking).await, 0);
    }
    // Bob's ticket is cancelled and no longer counts.
    let held: i64 = sqlx::query_scalar(
        "select coalesce(sum(tickets), 0) from booking.account_tickets where account_id = $1",
    )
    .bind(bob)
    .fetch_one(&exchange.shop.app.ctx.db)
    .await
    .unwrap();
    assert_eq!(held, 0);
    exchange.shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_bought_and_given_away_counts_for_the_limit() {
    let exchange = Exchange::open(20).await;
    let ada = exchange.sign_up("ada@example.org").await;
    let bob = exchange.sign_up("bob@example.org").await;
    let (booking, codes) = exchange.buy(ada, 4).await;
    for code in &codes[..2] {
        assert_eq!(exchange.transfer(code, ada, "bob@example.org").await.0, 200);
    }
    let full = Outcome::Rejected(RejectReason::LimitReached);
    assert_eq!(exchange.shop.place(ada, best(1)).await.1, full);
    // A received ticket counts as well, and one that returns counts once.
    assert_eq!(exchange.shop.place(bob, best(3)).await.1, full);
    let theirs = exchange.seen_by(bob).await;
    let code = theirs[0]["code"].as_str().unwrap();
    assert_eq!(exchange.transfer(code, bob, "ada@example.org").await.0, 200);
    assert_eq!(exchange.shop.place(ada, best(1)).await.1, full);
    exchange.shop.hold(bob, best(3)).await;
    // Tickets of a cancelled booking don't count.
    assert_eq!(exchange.cancel(&booking, -1).await, Outcome::Cancelled);
    exchange.shop.hold(ada, best(4)).await;
    exchange.shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_holder_gets_another_code_and_the_old_one_is_refused_with_a_reason() {
    let exchange = Exchange::open(4).await;
    let ada = exchange.sign_up("ada@example.org").await;
    let bob = exchange.sign_up("bob@example.org").await;
    let (booking, codes) = exchange.buy(ada, 2).await;
    assert_eq!(exchange.replace(&codes[0], bob).await.0, 403);
    assert_eq!(exchange.replace("T1.no.such.code", ada).await.0, 404);
    let (status, replaced) = exchange.replace(&codes[0], ada).await;
    assert_eq!(status, 200, "{replaced}");
    let new = replaced["ticket"]["code"].as_str().unwrap().to_owned();
    assert_ne!(new, codes[0]);
    let seat = booking.seats.iter().map(|seat| json!(seat.id));
    assert!(
        seat.into_iter()
            .any(|seat| seat == replaced["ticket"]["seat_id"])
    );
    // A repeat gets the same answer, for the holder only.
    assert_eq!(exchange.replace(&codes[0], ada).await, (200, replaced));
    assert_eq!(exchange.replace(&codes[0], bob).await.0, 403);

    let (status, refusal) = exchange.check_in(&codes[0]).await;
    assert_eq!(status, 409);
    assert!(refusal["replaced_at"].is_string(), "{refusal}");
    let (status, refusal) = exchange.transfer(&codes[0], ada, "bob@example.org").await;
    assert_eq!(status, 409);
    assert!(refusal["replaced_at"].is_string(), "{refusal}");
    // The holder gets it by mail, too; nothing changed hands.
    let told = || exchange.shop.witness.heard::<TicketTransferred>();
    eventually(LIMIT, async || !told().is_empty()).await;
    assert_eq!((told()[0].from.0, told()[0].to.0), (ada, ada));
    assert_eq!(told()[0].ticket.code, new);
    assert!(exchange.seen_by(ada).await.is_empty());
    // The new code works as the old one did, once.
    assert_eq!(exchange.transfer(&new, ada, "bob@example.org").await.0, 200);
    assert_eq!(exchange.replace(&new, ada).await.0, 409);
    let theirs = exchange.seen_by(bob).await[0]["code"].clone();
    let (status, replaced) = exchange.replace(theirs.as_str().unwrap(), bob).await;
    assert_eq!(status, 200, "{replaced}");
    let last = replaced["ticket"]["code"].as_str().unwrap();
    assert_eq!(exchange.check_in(last).await.0, 200);
    assert_eq!(exchange.replace(last, bob).await.0, 409);
    exchange.shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unknown_field_of_a_transfer_or_a_check_in_is_refused_by_its_name() {
    let exchange = Exchange::open(4).await;
    let ada = exchange.sign_up("ada@example.org").await;
    exchange.sign_up("bob@example.org").await;
    let (_, codes) = exchange.buy(ada, 1).await;
    let (code, running) = (&codes[0], &exchange.running);
    let requests = [
        (
            format!("http://{}/api/tickets/{code}/transfer", running.public_addr),
            json!({ "to": "bob@example.org", "form": ada }),
            "form",
        ),
        (
            format!(
                "http://{}/api/tickets/{code}/check-in",
                running.internal_addr
            ),
            json!({ "event_id": EVENT, "event": 2 }),
            "event",
        ),
    ];
    for (url, body, field) in requests {
        let token = access_of(&exchange.shop, ada, Role::Operator);
        let request = exchange.http.post(&url).bearer_auth(token).json(&body);
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 422, "{url}");
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(problem["field"], field, "{url}");
    }
    assert_eq!(
        exchange.check_in(code).await.0,
        200,
        "the ticket is as it was"
    );
    exchange.shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn text_that_the_database_can_not_store_is_refused_on_every_route() {
    let exchange = Exchange::open(4).await;
    let ada = exchange.sign_up("ada@example.org").await;
    let (_, codes) = exchange.buy(ada, 1).await;
    let public = exchange.running.public_addr;
    let internal = exchange.running.internal_addr;
    let code = &codes[0];
    let requests = [
        (
            format!("http://{public}/api/tickets/%00/transfer"),
            r#"{"to":"bob@example.org"}"#,
        ),
        (
            format!("http://{public}/api/tickets/{code}/transfer"),
            r#"{"to":"b\u0000@example.org"}"#,
        ),
        (
            format!("http://{public}/api/tickets/{code}/transfer"),
            r#"{"to":"b\ud800@example.org"}"#,
        ),
        (format!("http://{public}/api/tickets/a%00b/replace"), ""),
        (
            format!("http://{internal}/api/tickets/%00/check-in"),
            r#"{"event_id":1}"#,
        ),
        (
            format!("http://{internal}/api/tickets/{code}%00/check-in"),
            r#"{"event_id":1}"#,
        ),
    ];
    for (url, body) in requests {
        let token = access_of(&exchange.shop, ada, Role::Operator);
        let request = exchange.http.post(&url).bearer_auth(token).body(body);
        let request = request.header("content-type", "application/json");
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 400, "{url}");
        let problem: Value = answer.json().await.unwrap();
        assert_eq!(
            problem["type"], "https://onsale.dev/problems/malformed",
            "{url}"
        );
    }
    let token = access_of(&exchange.shop, ada, Role::Operator);
    let url = format!("http://{internal}/api/tickets/%00/check-in");
    let answer = exchange.http.delete(url).bearer_auth(token).send().await;
    assert_eq!(answer.unwrap().status(), 400);
    exchange.shop.close().await;
}

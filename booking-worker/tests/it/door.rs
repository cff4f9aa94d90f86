//! Tickets at the door: verified offline, and accepted once.

use domain::EventId;
use domain::account::Role;
use domain::event::EventState;
use domain::message::{AuditNoted, BookingCancelled, BookingConfirmed, EventChanged, Outcome};
use domain::token::{ACCESS_AUDIENCE, AccessClaims, ISSUER};
use platform::testing::eventually;
use platform::tokens::PublishedKeys;
use serde_json::{Value, json};

use crate::shop::{EVENT, LIMIT, Shop, euros, event, floor};

/// An access token of account 1 with this role.
fn access(shop: &Shop, role: Role) -> String {
    access_of(shop, 1, role)
}

/// An access token of an account with this role.
pub(crate) fn access_of(shop: &Shop, account: i64, role: Role) -> String {
    let now = domain::clock::Clock::now(&shop.clock).timestamp();
    shop.app.ctx.keys.sign_access(&AccessClaims {
        iss: ISSUER.to_owned(),
        aud: ACCESS_AUDIENCE.to_owned(),
        sub: account.to_string(),
        roles: vec![role],
        iat: now,
        nbf: now,
        exp: now + 900,
    })
}

struct Door {
    url: String,
    http: reqwest::Client,
}

impl Door {
    async fn open(shop: &Shop) -> (Self, platform::service::Running) {
        let routes = booking_worker::start(shop.app.ctx.clone(), crate::shop::config())
            .await
            .unwrap();
        let running = shop.app.serve(routes).await;
        let url = format!("http://{}/api/tickets", running.internal_addr);
        let http = reqwest::Client::new();
        (Self { url, http }, running)
    }

    async fn check_in(&self, code: &str, access: &str) -> (u16, Value) {
        self.scan(code, access, EVENT, None).await
    }

    async fn scan(
        &self,
        code: &str,
        access: &str,
        event_id: EventId,
        key: Option<&str>,
    ) -> (u16, Value) {
        let url = format!("{}/{code}/check-in", self.url);
        let request = self.http.post(url).bearer_auth(access);
        let mut request = request.json(&json!({ "event_id": event_id }));
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let answer = request.send().await.unwrap();
        (
            answer.status().as_u16(),
            answer.json().await.unwrap_or_default(),
        )
    }

    async fn undo(&self, code: &str, access: &str) -> (u16, Value) {
        let url = format!("{}/{code}/check-in", self.url);
        let request = self.http.delete(url).bearer_auth(access);
        let answer = request.send().await.unwrap();
        (
            answer.status().as_u16(),
            answer.json().await.unwrap_or_default(),
        )
    }
}

/// The codes of the first confirmed booking.
async fn codes(shop: &Shop) -> Vec<String> {
    eventually(LIMIT, async || {
        !shop.witness.heard::<BookingConfirmed>().is_empty()
    })
    .await;
    let confirmed = shop.witness.heard::<BookingConfirmed>().remove(0);
    confirmed
        .tickets
        .into_iter()
        .map(|ticket| ticket.code)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_is_genuine_offline_and_lets_one_person_in_once() {
    let shop = Shop::open(vec![floor(1, 3, euros(500))]).await;
    let booking = shop.buy(7, 2).await;
    let codes = codes(&shop).await;
    let jwks = shop.app.ctx.keys.jwks().to_string();
    let face = PublishedKeys::parse(jwks.as_bytes())
        .unwrap()
        .verify_ticket(&codes[0])
        .unwrap();
    assert_eq!((face.event_id, face.seat_id), (EVENT, booking.seats[0].id));

    let (door, _running) = Door::open(&shop).await;
    let staff = access(&shop, Role::Operator);
    let customer = access(&shop, Role::Customer);
    assert_eq!(door.check_in(&codes[0], &customer).await.0, 403);
    assert_eq!(door.check_in("T1.nobody", &staff).await.0, 404);
    let racing = (0..8).map(|_| door.check_in(&codes[0], &staff));
    let mut statuses: Vec<_> = futures_util::future::join_all(racing)
        .await
        .into_iter()
        .map(|(status, _)| status)
        .collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 409, 409, 409, 409, 409, 409, 409]);
    let (_, again) = door.check_in(&codes[0], &staff).await;
    assert!(again["checked_in_at"].is_string(), "{again}");

    // A booking can't be cancelled once its holder is inside.
    let outcome = shop.cancel(booking.booking_id).await;
    assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_was_let_in_is_refunded_when_the_event_is_cancelled() {
    let shop = Shop::open(vec![floor(1, 3, euros(500))]).await;
    let booking = shop.buy(7, 2).await;
    let codes = codes(&shop).await;
    let (door, _running) = Door::open(&shop).await;
    let staff = access(&shop, Role::Operator);
    assert_eq!(door.check_in(&codes[0], &staff).await.0, 200);
    let mut event = event(2, vec![floor(1, 3, euros(500))]);
    event.state = EventState::Cancelled;
    shop.tell(&EventChanged { event }).await;
    shop.eventually_state(booking.booking_id, "cancelled").await;
    let cancelled = || shop.witness.heard::<BookingCancelled>();
    eventually(LIMIT, async || !cancelled().is_empty()).await;
    assert_eq!(cancelled()[0].booking.booking_id, booking.booking_id);
    assert!(cancelled()[0].was_confirmed);
    for code in &codes {
        assert_eq!(door.check_in(code, &staff).await.0, 409);
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_ticket_lets_nobody_in_and_a_race_has_one_winner() {
    let shop = Shop::open(vec![floor(1, 8, euros(500))]).await;
    let (door, _running) = Door::open(&shop).await;
    let staff = access(&shop, Role::Operator);
    for account in 0..8 {
        let booking = shop.buy(account, 1).await;
        let code: String =
            sqlx::query_scalar("select code from booking.tickets where booking_id = $1")
                .bind(booking.booking_id.0)
                .fetch_one(&shop.app.ctx.db)
                .await
                .unwrap();
        let ((status, _), outcome) = tokio::join!(
            door.check_in(&code, &staff),
            shop.cancel(booking.booking_id)
        );
        match status {
            200 => assert!(matches!(outcome, Outcome::Refused(_)), "{outcome:?}"),
            409 => assert_eq!(outcome, Outcome::Cancelled),
            other => panic!("answered {other}"),
        }
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_lets_nobody_into_another_event() {
    let shop = Shop::open(vec![floor(1, 3, euros(500))]).await;
    shop.buy(7, 1).await;
    let codes = codes(&shop).await;
    let (door, _running) = Door::open(&shop).await;
    let staff = access(&shop, Role::Operator);
    let (status, refusal) = door.scan(&codes[0], &staff, EventId(2), None).await;
    assert_eq!((status, &refusal["event_id"]), (409, &json!(EVENT)));
    // The refusal did not use it up.
    assert_eq!(door.check_in(&codes[0], &staff).await.0, 200);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_scan_repeated_with_its_key_is_answered_as_before_and_a_copy_is_not() {
    let shop = Shop::open(vec![floor(1, 3, euros(500))]).await;
    shop.buy(7, 2).await;
    let codes = codes(&shop).await;
    let (door, _running) = Door::open(&shop).await;
    let staff = access(&shop, Role::Operator);
    let scan = async |code: &str, key| door.scan(code, &staff, EVENT, Some(key)).await;
    let first = scan(&codes[0], "door-1").await;
    assert_eq!(first.0, 200, "{first:?}");
    assert_eq!(scan(&codes[0], "door-1").await, first);
    assert_eq!(scan(&codes[0], "door-2").await.0, 409);
    assert_eq!(scan(&codes[1], "door-1").await.0, 422);
    assert_eq!(scan(&codes[1], "door-3").await.0, 200);
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_in_is_taken_back_and_the_audit_log_has_both() {
    let shop = Shop::open(vec![floor(1, 3, euros(500))]).await;
    let booking = shop.buy(7, 1).await;
    let codes = codes(&shop).await;
    let (door, _running) = Door::open(&shop).await;
    let staff = access(&shop, Role::Operator);
    assert_eq!(door.check_in(&codes[0], &staff).await.0, 200);
    let customer = access(&shop, Role::Customer);
    assert_eq!(door.undo(&codes[0], &customer).await.0, 403);
    assert_eq!(door.undo("T1.nobody", &staff).await.0, 404);
    for _ in 0..2 {
        let (status, undone) = door.undo(&codes[0], &staff).await;
        assert_eq!((status, &undone["ticket"]["state"]), (200, &json!("valid")));
    }
    let actions = || {
        let notes = shop.witness.heard::<AuditNoted>().into_iter();
        let own = notes.filter(|note| note.subject == format!("booking:{}", booking.booking_id));
        own.map(|note| (note.action, note.actor.0))
            .collect::<Vec<_>>()
    };
    let expected = [
        ("ticket.check-in".to_owned(), 1),
        ("ticket.check-in.undo".to_owned(), 1),
    ];
    eventually(LIMIT, async || actions() == expected).await;
    // The ticket is valid again, for the door and for its buyer.
    assert_eq!(door.check_in(&codes[0], &staff).await.0, 200);
    assert_eq!(door.undo(&codes[0], &staff).await.0, 200);
    assert_eq!(shop.cancel(booking.booking_id).await, Outcome::Cancelled);
    assert_eq!(door.undo(&codes[0], &staff).await.0, 409);
    shop.close().await;
}

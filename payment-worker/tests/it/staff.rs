//! Staff routes for money, and changes made in Stripe's dashboard.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, TimeDelta};
use domain::account::Role;
use domain::clock::Clock;
use domain::message::{AuditNoted, Message};
use domain::{AccountId, BookingId, Currency, EventId, Money};
use futures_util::future::join_all;
use platform::amqp::{Delivery, Exchange, Handler, Settings, Verdict, consume};
use platform::testing::{Reads, eventually};
use platform::topology;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use stand_ins::stripe::{ApiFault, Operation, PaymentIntent, Status};
use tokio_util::sync::CancellationToken;

use crate::pipeline::{EVENT, PATIENCE, PRICE, Pipeline};

const STAFF: i64 = 900;

impl Pipeline {
    /// Calls the internal listener with this role.
    pub(crate) async fn staff(
        &self,
        role: Role,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: &Value,
    ) -> (StatusCode, Value) {
        let token = self.access_token(STAFF, vec![role]);
        let url = self.internal_url(path);
        let mut request = self.http.request(method, url).bearer_auth(token).json(body);
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        let answer = request.send().await.unwrap();
        let status = answer.status();
        (status, answer.json().await.unwrap_or_default())
    }

    /// Inserts an organiser as the owner of the event.
    async fn organised_by(&self, organiser: i64) {
        sqlx::query(
            "with organiser as (
                 insert into box_office.accounts (id, email, password_hash, created_at, updated_at)
                 overriding system value
                 values ($1, 'organiser@example.org', 'none', now(), now()) returning id)
             update box_office.events set created_by = organiser.id from organiser
             where events.id = $2",
        )
        .bind(organiser)
        .bind(EVENT.0)
        .execute(&self.app.ctx.db)
        .await
        .unwrap();
    }

    pub(crate) async fn refund(
        &self,
        id: BookingId,
        key: &str,
        amount: i64,
    ) -> (StatusCode, Value) {
        let path = format!("/api/bookings/{id}/refunds");
        let body = json!({ "amount_minor": amount });
        self.staff(Role::Operator, Method::POST, &path, Some(key), &body)
            .await
    }

    /// Changes something in Stripe's dashboard.
    pub(crate) async fn in_dashboard(&self, path: &str, form: &[(&str, &str)]) {
        let url = format!("{}{path}", self.stripe.url());
        let key = self.stripe.secret_key();
        let answer = self.http.post(url).bearer_auth(key).form(form).send().await;
        let answer = answer.unwrap();
        assert!(
            answer.status().is_success(),
            "{}",
            answer.text().await.unwrap()
        );
    }

    pub(crate) async fn reconcile(&self, days: i64) -> payment_worker::Reconciled {
        let (db, clock) = (self.app.ctx.db.clone(), Arc::new(self.clock.clone()));
        let since = self.clock.now() - TimeDelta::days(days);
        payment_worker::reconcile(db, clock, self.config(), since)
            .await
            .unwrap()
    }

    /// The entries of the audit log so far.
    async fn audit_notes(&self) -> Vec<AuditNoted> {
        let (by, now) = (AccountId(STAFF), self.clock.now());
        let last = AuditNoted::new(by, "end", String::new(), Value::Null, now);
        let ctx = &self.app.ctx;
        // A message still in the outbox would arrive after the end.
        let waiting = "select count(*) from platform.outbox";
        eventually(PATIENCE, async || self.count(waiting).await == 0).await;
        let (notes, queue) = (Notes::default(), topology::box_office_audit());
        let sending = ctx
            .broker
            .publish(Exchange::Events, AuditNoted::NAME, &last, last.id);
        sending.await.unwrap();
        let in_order = Settings {
            concurrency: 1,
            ..Settings::default()
        };
        let stop = CancellationToken::new();
        let reading = consume(&ctx.broker, &stop, &queue, in_order, notes.clone());
        let until_the_end = async {
            let is_over = || {
                notes
                    .0
                    .lock()
                    .unwrap()
                    .last()
                    .is_some_and(|note| note.id == last.id)
            };
            eventually(PATIENCE, async || is_over()).await;
            stop.cancel();
        };
        let (read, ()) = tokio::join!(reading, until_the_end);
        read.unwrap();
        let mut notes = notes.0.lock().unwrap().clone();
        notes.pop();
        // Those of two services may overtake each other.
        notes.sort_by_key(|note| note.at);
        notes
    }

    async fn refunded(&self, id: BookingId) -> i64 {
        let intent = self.intent(id).await.unwrap();
        self.stripe.ledger().refunded_total(&intent)
    }
}

/// Consumer in place of the audit log.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<AuditNoted>>>);

impl Handler for Notes {
    /// As the audit log, it has each note once.
    async fn handle(&self, delivery: Delivery) -> Verdict {
        let (mut notes, note) = (self.0.lock().unwrap(), delivery.parse::<AuditNoted>());
        let note = note.unwrap();
        if notes.iter().all(|known| known.id != note.id) {
            notes.push(note);
        }
        Verdict::Ack
    }
}

/// Action, actor, subject and detail of each entry.
fn entries(notes: &[AuditNoted]) -> Vec<(&str, i64, &str, &Value)> {
    notes
        .iter()
        .map(|n| (n.action.as_str(), n.actor.0, n.subject.as_str(), &n.detail))
        .collect()
}

/// Without rounds of the reconciler.
async fn alone(seats: u32) -> Pipeline {
    Pipeline::open_with(seats, |config| {
        config.reconcile_interval = Duration::from_secs(3_600);
    })
    .await
}

#[tokio::test]
async fn of_fifty_parallel_refunds_of_sixty_percent_exactly_one_succeeds() {
    let pipeline = Pipeline::open(1).await;
    let id = pipeline.sell(1).await;
    let keys: Vec<_> = (0..50).map(|number| format!("key-{number}")).collect();
    // Where a busy machine has no connection for it in time, it is asked again.
    let refund = async |key: &String| loop {
        let answer = pipeline.refund(id, key, PRICE * 6 / 10).await;
        if answer.0 != StatusCode::SERVICE_UNAVAILABLE {
            break answer;
        }
    };
    let answers = join_all(keys.iter().map(refund)).await;
    let with = |status| answers.iter().filter(|(s, _)| *s == status).count();
    assert_eq!(with(StatusCode::CREATED), 1);
    assert_eq!(with(StatusCode::CONFLICT), 49);
    pipeline.come_to_rest().await;
    assert_eq!(pipeline.stripe.ledger().refunds().len(), 1);
    assert_eq!(pipeline.refunded(id).await, PRICE * 6 / 10);
    // A cancellation refunds the rest.
    pipeline.cancel(id, 1).await;
    pipeline.wait_for_booking(id, "cancelled").await;
    pipeline.come_to_rest().await;
    assert_eq!(pipeline.refunded(id).await, PRICE);
    pipeline.close().await;
}

#[tokio::test]
async fn a_refund_by_staff_needs_a_key_and_the_role_and_happens_once_per_key() {
    let pipeline = Pipeline::open(1).await;
    let id = pipeline.sell(1).await;
    let path = format!("/api/bookings/{id}/refunds");
    let body = json!({ "amount_minor": 100 });
    for (role, key, expected) in [
        (Role::Customer, Some("k"), StatusCode::FORBIDDEN),
        (Role::Organiser, Some("k"), StatusCode::FORBIDDEN),
        (Role::Operator, None, StatusCode::BAD_REQUEST),
    ] {
        let (status, _) = pipeline.staff(role, Method::POST, &path, key, &body).await;
        assert_eq!(status, expected);
    }
    let answers = join_all((0..5).map(|_| pipeline.refund(id, "k", 100))).await;
    assert!(
        answers
            .iter()
            .all(|(status, _)| *status == StatusCode::CREATED)
    );
    let refund = &answers[0].1["refund"];
    assert_eq!(refund["amount"]["amount_minor"], 100);
    assert!(
        answers
            .iter()
            .all(|(_, answer)| answer["refund"]["id"] == refund["id"])
    );
    let (status, _) = pipeline.refund(id, "k", 101).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    let (status, _) = pipeline.refund(id, "other", 0).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    pipeline.come_to_rest().await;
    assert_eq!(pipeline.refunded(id).await, 100);
    let notes = pipeline.audit_notes().await;
    assert_eq!(notes.len(), 1, "{notes:?}");
    assert_eq!(
        (notes[0].action.as_str(), notes[0].actor.0),
        ("refund.staff", STAFF)
    );
    assert_eq!(notes[0].subject, format!("booking:{id}"));
    assert_eq!(notes[0].detail["amount"]["amount_minor"], 100);
    pipeline.close().await;
}

#[tokio::test]
async fn what_a_buyer_who_cancels_gets_back_is_the_events_policy() {
    let pipeline = Pipeline::open(3).await;
    let tomorrow = (pipeline.clock.now() + TimeDelta::days(1)).timestamp();
    let until = DateTime::from_timestamp(tomorrow, 0).unwrap();
    let path = format!("/api/events/{EVENT}/refund-policy");
    let policy = json!({ "until": until, "fee_percent": 10, "fee_minor": 50 });
    // The policy that the event's page shows.
    let shown = async || {
        let asking = pipeline.http.get(pipeline.public_url(&path)).send();
        asking.await.unwrap().json::<Value>().await.unwrap()
    };
    // Without a policy everything is refunded until the event starts.
    let everything = shown().await;
    assert_eq!(everything["refund_policy"]["fee_percent"], 0);
    assert!(everything["refund_policy"]["until"].is_string());
    let (status, _) = pipeline
        .staff(Role::Customer, Method::PUT, &path, None, &policy)
        .await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    // The event has another owner.
    let (status, _) = pipeline
        .staff(Role::Organiser, Method::PUT, &path, None, &policy)
        .await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    pipeline.organised_by(STAFF).await;
    let (status, answer) = pipeline
        .staff(Role::Organiser, Method::PUT, &path, None, &policy)
        .await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(answer["refund_policy"], policy);
    // Buyers are shown it a second later at the latest.
    pipeline.clock.jump(TimeDelta::seconds(1));
    assert_eq!(shown().await, answer);

    let ids = [
        pipeline.sell(1).await,
        pipeline.sell(2).await,
        pipeline.sell(3).await,
    ];
    let decided = "select count(*) from payment.payments where kept_on_cancel_minor is not null";
    let wait_until_decided = async |count| {
        let is_decided = async || pipeline.count(decided).await == count;
        pipeline.in_time(is_decided).await;
    };
    pipeline.cancel(ids[0], 1).await;
    wait_until_decided(1).await;
    pipeline.clock.jump(TimeDelta::days(2));
    pipeline.cancel(ids[1], 2).await;
    pipeline.cancel(ids[2], STAFF).await;
    wait_until_decided(3).await;
    pipeline.come_to_rest().await;
    assert_eq!(pipeline.refunded(ids[0]).await, PRICE - PRICE / 10 - 50);
    assert_eq!(pipeline.refunded(ids[1]).await, 0, "too late");
    assert_eq!(
        pipeline.refunded(ids[2]).await,
        PRICE,
        "staff give all back"
    );
    let notes = pipeline.audit_notes().await;
    let fee = PRICE / 10 + 50;
    let euros = |minor: i64| json!({ "amount_minor": minor, "currency": "eur" });
    let [first, _, last] = ids.map(|id| format!("booking:{id}"));
    let kept = json!({ "amount": euros(PRICE - fee), "kept_minor": fee });
    let whose = json!({ "account_id": 3 });
    let nothing_kept = json!({ "amount": euros(PRICE), "kept_minor": 0 });
    let event = format!("event:{EVENT}");
    assert_eq!(
        entries(&notes),
        [
            ("refund-policy.change", STAFF, event.as_str(), &policy),
            ("refund.policy", 1, first.as_str(), &kept),
            ("booking.cancel", STAFF, last.as_str(), &whose),
            ("refund.cancel", STAFF, last.as_str(), &nothing_kept),
        ]
    );
    pipeline.close().await;
}

#[tokio::test]
async fn the_policy_that_two_hundred_buyers_read_at_once_is_loaded_three_times_at_most() {
    let pipeline = alone(1).await;
    // Else a busy machine reads it for longer than it is kept.
    pipeline.clock.stop();
    let url = pipeline.public_url(&format!("/api/events/{EVENT}/refund-policy"));
    let db = &pipeline.app.ctx.db;
    let reads = Reads::of(db, "payment", "refund_policy_history").await;
    let answers = join_all((0..200).map(|_| pipeline.http.get(&url).send())).await;
    for answer in answers {
        let answer = answer.unwrap();
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()["cache-control"], "public, max-age=1");
    }
    let loaded = reads.count().await;
    assert!((1..=3).contains(&loaded), "{loaded} loads");
    pipeline.close().await;
}

#[tokio::test]
async fn an_event_that_does_not_exist_has_no_terms_and_leaves_none_to_the_next() {
    let pipeline = alone(1).await;
    let (policy, refunds) = (
        "/api/events/2/refund-policy".to_owned(),
        "/api/events/2/refunds".to_owned(),
    );
    let shown = async |path: &str| {
        let asking = pipeline.http.get(pipeline.public_url(path)).send();
        let answer = asking.await.unwrap();
        let status = answer.status();
        (status, answer.json::<Value>().await.unwrap())
    };
    let nothing = json!({ "until": "2020-01-01T00:00:00Z" });
    for (role, method, path, body) in [
        (Role::Organiser, Method::PUT, &policy, &nothing),
        (Role::Organiser, Method::GET, &policy, &Value::Null),
        (Role::Operator, Method::GET, &refunds, &Value::Null),
        (Role::Operator, Method::POST, &refunds, &Value::Null),
    ] {
        let asking = pipeline.staff(role, method.clone(), path, None, body);
        assert_eq!(asking.await.0, StatusCode::NOT_FOUND, "{method} {path}");
    }
    assert_eq!(shown(&policy).await.0, StatusCode::NOT_FOUND);
    assert!(pipeline.audit_notes().await.is_empty());

    pipeline.write_event(EventId(2)).await;
    eventually(PATIENCE, async || shown(&policy).await.0 == StatusCode::OK).await;
    let answer = shown(&policy).await.1;
    let everything = json!({ "until": null, "fee_percent": 0, "fee_minor": 0 });
    assert_eq!(answer["refund_policy"], everything);
    let (status, _) = pipeline
        .staff(Role::Operator, Method::GET, &refunds, None, &Value::Null)
        .await;
    assert_eq!(status, StatusCode::OK);
    pipeline.close().await;
}

#[tokio::test]
async fn terms_that_say_nothing_or_lie_beyond_the_calendar_are_refused() {
    let pipeline = alone(1).await;
    let path = format!("/api/events/{EVENT}/refund-policy");
    for (body, expected) in [
        (json!({}), StatusCode::BAD_REQUEST),
        (
            json!({ "until": "-9999-01-01T00:00:00Z" }),
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
        (
            json!({ "until": "+262000-01-01T00:00:00Z" }),
            StatusCode::UNPROCESSABLE_ENTITY,
        ),
        (json!({ "until": null }), StatusCode::OK),
    ] {
        let setting = pipeline.staff(Role::Admin, Method::PUT, &path, None, &body);
        assert_eq!(setting.await.0, expected, "{body}");
    }
    let path = "/api/payment-findings/dispute/du_%00";
    let settling = pipeline.staff(Role::Operator, Method::DELETE, path, None, &Value::Null);
    assert_eq!(settling.await.0, StatusCode::BAD_REQUEST);
    pipeline.close().await;
}

#[tokio::test]
async fn a_misspelt_amount_refunds_nothing() {
    let pipeline = alone(1).await;
    let id = pipeline.sell(1).await;
    let path = format!("/api/bookings/{id}/refunds");
    let body = json!({ "amount": 500 });
    let asking = pipeline.staff(Role::Operator, Method::POST, &path, Some("key"), &body);
    let (status, problem) = asking.await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
    assert_eq!(problem["field"], "amount");
    pipeline.come_to_rest().await;
    assert_eq!(pipeline.refunded(id).await, 0);
    pipeline.close().await;
}

#[tokio::test]
async fn a_misspelt_fee_leaves_the_policy_as_it_was() {
    let pipeline = alone(1).await;
    let path = format!("/api/events/{EVENT}/refund-policy");
    let policy = json!({ "until": null, "fee_percent": 10, "fee_minor": 0 });
    let setting = pipeline.staff(Role::Admin, Method::PUT, &path, None, &policy);
    assert_eq!(setting.await.0, StatusCode::OK);
    let body = json!({ "until": null, "fee_percnt": 30 });
    let setting = pipeline.staff(Role::Admin, Method::PUT, &path, None, &body);
    let (status, problem) = setting.await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
    assert_eq!(problem["field"], "fee_percnt");
    let reading = pipeline.staff(Role::Admin, Method::GET, &path, None, &Value::Null);
    assert_eq!(reading.await.1["refund_policy"]["fee_percent"], 10);
    pipeline.close().await;
}

#[tokio::test]
async fn a_buyer_can_read_what_a_cancellation_gives_back_before_it() {
    let pipeline = alone(2).await;
    let id = pipeline.sell(1).await;
    let shown = async |account: i64, roles: Vec<Role>| {
        let url = pipeline.public_url(&format!("/api/bookings/{id}/refund"));
        let token = pipeline.access_token(account, roles);
        let answer = pipeline.http.get(url).bearer_auth(token).send().await;
        let answer = answer.unwrap();
        (answer.status(), answer.json::<Value>().await.unwrap())
    };
    let euros = |minor: i64| json!({ "amount_minor": minor, "currency": "eur" });
    let preview = |amount: i64, kept: i64| {
        json!({ "refund": {
            "paid": euros(amount + kept), "amount": euros(amount), "kept": euros(kept),
        } })
    };
    assert_eq!(shown(1, vec![]).await, (StatusCode::OK, preview(PRICE, 0)));
    let path = format!("/api/events/{EVENT}/refund-policy");
    let policy = json!({ "until": null, "fee_percent": 30 });
    pipeline
        .staff(Role::Admin, Method::PUT, &path, None, &policy)
        .await;
    let fee = PRICE * 3 / 10;
    assert_eq!(shown(1, vec![]).await.1, preview(PRICE - fee, fee));
    assert_eq!(
        shown(STAFF, vec![Role::Operator]).await.1,
        preview(PRICE, 0)
    );
    assert_eq!(shown(2, vec![]).await.0, StatusCode::FORBIDDEN);
    let over = json!({ "until": "2020-01-01T00:00:00Z" });
    pipeline
        .staff(Role::Admin, Method::PUT, &path, None, &over)
        .await;
    assert_eq!(shown(1, vec![]).await.1, preview(0, PRICE));
    pipeline.cancel(id, 1).await;
    pipeline.wait_for_booking(id, "cancelled").await;
    pipeline.come_to_rest().await;
    assert_eq!(shown(1, vec![]).await.1, preview(0, 0), "it is settled");
    pipeline.close().await;
}

#[tokio::test]
async fn the_policy_holds_however_long_the_capture_takes() {
    let pipeline = alone(2).await;
    let path = format!("/api/events/{EVENT}/refund-policy");
    let policy = json!({ "until": null, "fee_percent": 100 });
    let set = async |policy: &Value| {
        let setting = pipeline.staff(Role::Admin, Method::PUT, &path, None, policy);
        assert_eq!(setting.await.0, StatusCode::OK);
    };
    set(&policy).await;
    let down = ApiFault::CutBeforeEffect;
    let faults = pipeline.stripe.faults();
    faults.sometimes(1.0, Operation::CapturePaymentIntent, down);
    let ids = [pipeline.hold(1).await, pipeline.hold(2).await];
    for id in ids {
        assert!(pipeline.pay(id, "pm_card_visa").await);
        pipeline.wait_for_booking(id, "confirmed").await;
    }
    pipeline.cancel(ids[0], 1).await;
    pipeline.wait_for_booking(ids[0], "cancelled").await;
    let third = json!({ "until": null, "fee_percent": 30 });
    set(&third).await;
    pipeline.cancel(ids[1], 2).await;
    pipeline.wait_for_booking(ids[1], "cancelled").await;
    // Repeated by the message about the late authorisation, the decision stays.
    faults.clear();
    pipeline.come_to_rest().await;
    assert_eq!(pipeline.refunded(ids[0]).await, 0);
    assert_eq!(pipeline.refunded(ids[1]).await, PRICE - PRICE * 3 / 10);
    for id in ids {
        let intent = pipeline.intent(id).await.unwrap();
        assert_eq!(pipeline.stripe.ledger().captured_total(&intent), PRICE);
    }
    pipeline.close().await;
}

#[tokio::test]
async fn a_fixed_fee_is_in_the_currency_the_event_is_priced_in() {
    let pipeline = alone(1).await;
    let path = format!("/api/events/{EVENT}/refund-policy");
    let price = async |section: &str, currency: &str| {
        let pricing = sqlx::query(
            "insert into box_office.sections
                 (event_id, position, name, numbered, capacity, tier, price_minor, currency)
             values (1, 0, $1, false, 50, 'Standard', 1000, $2)",
        );
        let pricing = pricing.bind(section).bind(currency);
        pricing.execute(&pipeline.app.ctx.db).await.unwrap();
    };
    let set = async |policy: Value| {
        pipeline
            .staff(Role::Admin, Method::PUT, &path, None, &policy)
            .await
    };
    price("Floor", "eur").await;
    let (status, answer) = set(json!({ "until": null, "fee_minor": 100 })).await;
    assert_eq!(status, StatusCode::OK);
    assert_eq!(answer["refund_policy"]["fee_currency"], "eur");
    price("Balcony", "usd").await;
    let (status, answer) = set(json!({ "until": null, "fee_minor": 100 })).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY);
    assert_eq!(answer["field"], "fee_currency");
    let of_usd = json!({ "until": null, "fee_minor": 100, "fee_currency": "usd" });
    assert_eq!(set(of_usd).await.0, StatusCode::OK);
    // A payment in euros owes no fee in dollars.
    let id = pipeline.sell(1).await;
    pipeline.cancel(id, 1).await;
    pipeline.wait_for_booking(id, "cancelled").await;
    pipeline.come_to_rest().await;
    assert_eq!(pipeline.refunded(id).await, PRICE);
    pipeline.close().await;
}

#[tokio::test]
async fn a_cancelled_event_is_refunded_in_bulk_and_goes_on_after_a_crash() {
    const SEATS: u32 = 12;
    let pipeline = Pipeline::open(SEATS).await;
    let mut sold = Vec::new();
    for account in 0..8 {
        sold.push(pipeline.sell(account).await);
    }
    let unpaid = pipeline.hold(20).await;
    let paying = pipeline.hold(21).await;
    let slow = ApiFault::Delay { milliseconds: 300 };
    pipeline
        .stripe
        .faults()
        .sometimes(1.0, Operation::CreateRefund, slow);
    pipeline
        .stripe
        .faults()
        .next(2, Operation::CreateRefund, ApiFault::ServerError);
    let (_, paid) = tokio::join!(
        pipeline.cancel_event(SEATS),
        pipeline.pay(paying, "pm_card_visa")
    );
    // Booked during the cancellation: in either order it has no ticket in the end.
    let late = pipeline.request(22, 1).await;
    let begun = "select count(*) from payment.refunds";
    eventually(PATIENCE, async || pipeline.count(begun).await > 0).await;
    pipeline.crash_payments().await;
    pipeline.crash_bookings().await;
    pipeline.start_bookings(None).await;
    pipeline.start_payments(None).await;
    pipeline.assert_kept().await;

    let path = format!("/api/events/{EVENT}/refunds");
    pipeline.organised_by(STAFF).await;
    let (_, answer) = pipeline
        .staff(Role::Organiser, Method::GET, &path, None, &Value::Null)
        .await;
    let progress = &answer["refunds"];
    assert_eq!(progress["bookings_left"], 0, "{progress}");
    assert_eq!(progress["failed"], 0, "{progress}");
    assert_eq!(progress["left_minor"], 0, "{progress}");
    for id in sold {
        assert_eq!(pipeline.booking(id).await, "cancelled");
        assert_eq!(pipeline.refunded(id).await, PRICE);
    }
    for id in [unpaid, paying] {
        let state = pipeline.booking(id).await;
        assert!(
            state == "cancelled" || state == "expired",
            "{state}, paid: {paid}"
        );
    }
    assert_ne!(pipeline.booking(late).await, "confirmed");
    pipeline.close().await;
}

#[tokio::test]
async fn refunds_of_an_event_read_its_payments_alone() {
    let pipeline = alone(1).await;
    let db = &pipeline.app.ctx.db;
    let others = "insert into payment.payments
                      (booking_id, event_id, account_id, amount_minor, state, created_at,
                       updated_at, checked_at)
                  select gen_random_uuid(), 2, n, 500, 'voided', now(), now(), now()
                  from generate_series(1, 50000) as n";
    for statement in [others, "analyze payment.payments"] {
        sqlx::query(statement).execute(db).await.unwrap();
    }
    let id = pipeline.sell(1).await;
    let counts = async || -> (i64, i64) {
        let query = "select seq_tup_read, (select idx_scan from pg_stat_user_indexes
                         where indexrelname = 'payments_event')
                     from pg_stat_user_tables where schemaname = 'payment' and relname = 'payments'";
        sqlx::query_as(query).fetch_one(db).await.unwrap()
    };
    let path = format!("/api/events/{EVENT}/refunds");
    for (method, expected) in [
        (Method::GET, StatusCode::OK),
        (Method::POST, StatusCode::ACCEPTED),
    ] {
        let (rows_before, scans_before) = counts().await;
        let asking = pipeline.staff(Role::Operator, method, &path, None, &Value::Null);
        let (status, answer) = asking.await;
        assert_eq!(status, expected, "{answer}");
        // A connection reports both counts at once, a while after its statement.
        let mut rows = 0;
        eventually(PATIENCE, async || {
            let (rows_now, scans_now) = counts().await;
            rows = rows_now - rows_before;
            scans_now > scans_before
        })
        .await;
        assert!(rows < 1_000, "{rows} rows were read one after the other");
    }
    assert_eq!(pipeline.booking(id).await, "confirmed");
    // The made-up payments have no bookings, so not everything is consistent.
    pipeline.leave().await;
}

#[tokio::test]
async fn a_refund_that_failed_is_found_and_begun_again() {
    let pipeline = Pipeline::open(1).await;
    let id = pipeline.hold(1).await;
    assert!(pipeline.pay(id, "pm_card_refundFail").await);
    pipeline.wait_for_payment(id, "captured").await;
    pipeline.cancel(id, 1).await;
    let failed = "select count(*) from payment.findings where kind = 'refund_failed'";
    eventually(PATIENCE, async || pipeline.count(failed).await == 1).await;
    let path = format!("/api/events/{EVENT}/refunds");
    let (status, answer) = pipeline
        .staff(Role::Operator, Method::POST, &path, None, &Value::Null)
        .await;
    assert_eq!(
        (status, &answer["begun"]),
        (StatusCode::ACCEPTED, &json!(1))
    );
    let begun = "select count(*) from payment.refunds";
    assert_eq!(pipeline.count(begun).await, 2);
    // Refunds to this card always fail; staff settle the findings.
    eventually(PATIENCE, async || pipeline.count(failed).await == 2).await;
    let (_, answer) = pipeline
        .staff(
            Role::Operator,
            Method::GET,
            "/api/payment-findings",
            None,
            &Value::Null,
        )
        .await;
    let findings = answer["findings"].as_array().unwrap().clone();
    assert_eq!(findings.len(), 2);
    for finding in &findings {
        let subject = finding["subject"].as_str().unwrap();
        let path = format!("/api/payment-findings/refund_failed/{subject}");
        let settling = pipeline.staff(Role::Admin, Method::DELETE, &path, None, &Value::Null);
        assert_eq!(settling.await.0, StatusCode::NO_CONTENT);
    }
    let open = "select count(*) from payment.findings where settled_at is null";
    assert_eq!(pipeline.count(open).await, 0);
    // Settling is idempotent; an unknown finding can't be settled.
    let settle = async |subject: &str| {
        let path = format!("/api/payment-findings/refund_failed/{subject}");
        let settling = pipeline.staff(Role::Admin, Method::DELETE, &path, None, &Value::Null);
        settling.await.0
    };
    let subjects = [&findings[0], &findings[1]].map(|f| f["subject"].as_str().unwrap());
    assert_eq!(settle(subjects[0]).await, StatusCode::NO_CONTENT);
    assert_eq!(settle("unheard-of").await, StatusCode::NOT_FOUND);
    let notes = pipeline.audit_notes().await;
    let booking = format!("booking:{id}");
    let [first, second] = subjects.map(|s| format!("payment-finding:refund_failed/{s}"));
    let about = json!({ "booking_id": id });
    let nothing_kept = json!({
        "amount": { "amount_minor": PRICE, "currency": "eur" }, "kept_minor": 0,
    });
    assert_eq!(
        entries(&notes),
        [
            ("refund.policy", 1, booking.as_str(), &nothing_kept),
            ("refund.again", STAFF, booking.as_str(), &json!({})),
            ("payment-finding.settle", STAFF, first.as_str(), &about),
            ("payment-finding.settle", STAFF, second.as_str(), &about),
        ]
    );
    pipeline.leave().await;
}

#[tokio::test]
async fn a_stray_authorisation_of_ours_is_released_and_a_strangers_is_shown() {
    let pipeline = alone(1).await;
    let id = pipeline.sell(1).await;
    let stranger = BookingId::new(pipeline.clock.now());
    for booking_id in [id, stranger] {
        let booking_id = booking_id.to_string();
        let form = [
            ("amount", "4500"),
            ("currency", "eur"),
            ("capture_method", "manual"),
            ("confirm", "true"),
            ("payment_method", "pm_card_visa"),
            ("automatic_payment_methods[enabled]", "true"),
            ("automatic_payment_methods[allow_redirects]", "never"),
            ("metadata[booking_id]", booking_id.as_str()),
        ];
        pipeline.in_dashboard("/v1/payment_intents", &form).await;
    }
    let reserved = || {
        let intents = pipeline.stripe.ledger().payment_intents();
        let of = |intent: &PaymentIntent| intent.metadata["booking_id"].clone();
        let is_reserved = |intent: &&PaymentIntent| intent.status == Status::RequiresCapture;
        intents
            .iter()
            .filter(is_reserved)
            .map(of)
            .collect::<Vec<_>>()
    };
    assert_eq!(reserved().len(), 2);
    let reconciled = pipeline.reconcile(7).await;
    assert_eq!(reconciled.repaired, 1);
    assert_eq!(reserved(), [stranger.to_string()]);
    let kinds: Vec<_> = reconciled
        .findings
        .iter()
        .map(|f| f.kind.as_str())
        .collect();
    assert_eq!(kinds, ["unknown_authorisation"]);
    assert_eq!(pipeline.reconcile(7).await.repaired, 0, "once");
    assert_eq!(pipeline.booking(id).await, "confirmed");
    // The stranger's authorisation stays, so the pipeline's invariants don't hold.
    pipeline.leave().await;
}

#[tokio::test]
async fn another_amount_at_stripe_is_shown_and_changed_by_nobody() {
    let pipeline = alone(1).await;
    let id = pipeline.sell(1).await;
    let alter = "update payment.payments set captured_minor = captured_minor - 1";
    sqlx::query(alter)
        .execute(&pipeline.app.ctx.db)
        .await
        .unwrap();
    for _ in 0..2 {
        let reconciled = pipeline.reconcile(7).await;
        let details: Vec<_> = reconciled
            .findings
            .iter()
            .map(|f| (f.kind.as_str(), f.detail.as_str(), f.booking_id))
            .collect();
        let [taken, recorded] = [PRICE, PRICE - 1].map(|minor| Money::new(minor, Currency::EUR));
        let detail = format!("Stripe captured {taken}, our records say {recorded}");
        assert_eq!(details, [("amount_differs", detail.as_str(), Some(id.0))]);
        assert_eq!(reconciled.repaired, 0);
    }
    // The records are wrong on purpose.
    pipeline.leave().await;
}

#[tokio::test]
async fn refunds_and_disputes_in_the_dashboard_are_noticed_with_and_without_webhooks() {
    for webhooks in [true, false] {
        let pipeline = alone(2).await;
        let (refunded, disputed) = (pipeline.sell(1).await, pipeline.sell(2).await);
        if !webhooks {
            pipeline.lose_webhooks();
        }
        let intent = pipeline.intent(refunded).await.unwrap();
        let form = [("payment_intent", intent.as_str()), ("amount", "1000")];
        pipeline.in_dashboard("/v1/refunds", &form).await;
        let intent = pipeline.intent(disputed).await.unwrap();
        let path = format!("/test/payment_intents/{intent}/dispute");
        pipeline.in_dashboard(&path, &[]).await;
        if !webhooks {
            let reconciled = pipeline.reconcile(7).await;
            let kinds: Vec<_> = reconciled
                .findings
                .iter()
                .map(|f| f.kind.as_str())
                .collect();
            assert_eq!(kinds, ["refund_elsewhere", "dispute"]);
            assert_eq!(reconciled.repaired, 1);
            assert_eq!(pipeline.reconcile(7).await.repaired, 0, "once");
        }
        let found = "select count(*) from payment.findings
            where kind in ('dispute', 'refund_elsewhere') and booking_id is not null";
        eventually(PATIENCE, async || pipeline.count(found).await == 2).await;
        let known = "select count(*) from payment.refunds where state = 'succeeded' and amount_minor = 1000";
        eventually(PATIENCE, async || pipeline.count(known).await == 1).await;
        // A cancellation refunds the rest alone.
        pipeline.cancel(refunded, 1).await;
        pipeline.wait_for_booking(refunded, "cancelled").await;
        pipeline.come_to_rest().await;
        assert_eq!(pipeline.refunded(refunded).await, PRICE);
        pipeline.close().await;
    }
}

#[tokio::test]
async fn four_days_without_any_webhook_are_made_up_for() {
    let pipeline = alone(5).await;
    pipeline.lose_webhooks();
    let mut ids = Vec::new();
    for account in 0..5 {
        ids.push(pipeline.hold(account).await);
    }
    // The payment worker is down for four days, while buyers pay and staff use the dashboard.
    pipeline.crash_payments().await;
    for id in &ids[..4] {
        assert!(pipeline.pay(*id, "pm_card_visa").await);
    }
    let dashboard = |intent: Option<String>, what: &str| {
        format!("/v1/payment_intents/{}/{what}", intent.unwrap())
    };
    let taken = dashboard(pipeline.intent(ids[1]).await, "capture");
    pipeline.in_dashboard(&taken, &[]).await;
    let given_up = dashboard(pipeline.intent(ids[2]).await, "cancel");
    pipeline.in_dashboard(&given_up, &[]).await;
    pipeline.clock.jump(TimeDelta::days(4));
    pipeline.start_payments(None).await;
    let reconciled = pipeline.reconcile(7).await;
    assert!(reconciled.findings.is_empty(), "{:?}", reconciled.findings);
    pipeline.assert_kept().await;
    for (id, state) in ids
        .iter()
        .zip(["confirmed", "confirmed", "expired", "confirmed", "expired"])
    {
        assert_eq!(pipeline.booking(*id).await, state);
    }
    pipeline.close().await;
}

#[tokio::test]
async fn the_timeline_tells_a_bookings_whole_story_from_one_query() {
    let pipeline = Pipeline::open(1).await;
    let id = pipeline.hold(1).await;
    assert!(!pipeline.pay(id, "pm_card_visa_chargeDeclined").await);
    assert!(pipeline.pay(id, "pm_card_visa").await);
    let paid = "select count(*) from booking.bookings where captured_at is not null";
    eventually(PATIENCE, async || pipeline.count(paid).await == 1).await;
    pipeline.cancel(id, 1).await;
    pipeline.wait_for_booking(id, "cancelled").await;
    pipeline.come_to_rest().await;

    let path = format!("/api/bookings/{id}/timeline");
    let asking = pipeline.staff(Role::Customer, Method::GET, &path, None, &Value::Null);
    assert_eq!(asking.await.0, StatusCode::FORBIDDEN);
    let (_, answer) = pipeline
        .staff(Role::Operator, Method::GET, &path, None, &Value::Null)
        .await;
    let entries = answer["timeline"].as_array().unwrap();
    let shown: Vec<_> = entries
        .iter()
        .map(|e| {
            format!(
                "{} {}",
                e["part"].as_str().unwrap(),
                e["what"].as_str().unwrap()
            )
        })
        .collect();
    for expected in [
        "booking held",
        "payment due",
        "stripe call create succeeded",
        "webhook payment_intent.payment_failed",
        "webhook payment_intent.amount_capturable_updated",
        "booking confirmed",
        "stripe call capture succeeded",
        "booking paid",
        "booking cancelled",
        "stripe call refund succeeded",
        "refund succeeded",
    ] {
        assert!(
            shown.contains(&expected.to_owned()),
            "no {expected} in {shown:#?}"
        );
    }
    let times: Vec<_> = entries.iter().map(|e| e["at"].as_str().unwrap()).collect();
    assert!(times.is_sorted(), "{times:?}");
    let intent = pipeline.intent(id).await.unwrap();
    assert!(answer.to_string().contains(&intent));
    assert!(answer.to_string().contains("Your card was declined."));

    let path = format!(
        "/api/bookings/{}/timeline",
        BookingId::new(pipeline.clock.now())
    );
    let asking = pipeline.staff(Role::Operator, Method::GET, &path, None, &Value::Null);
    assert_eq!(asking.await.0, StatusCode::NOT_FOUND);
    pipeline.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn text_and_dates_that_the_database_can_not_store_are_refused_on_every_route() {
    let pipeline = Pipeline::open(1).await;
    let nothing = Value::Null;
    let nul = json!({ "amount_minor": 1, "until": "a\0b" });
    let policy = format!("/api/events/{EVENT}/refund-policy");
    for (method, path, body) in [
        (Method::DELETE, "/api/payment-findings/%00/a", &nothing),
        (Method::DELETE, "/api/payment-findings/a/b%00", &nothing),
        (Method::PUT, policy.as_str(), &nul),
        (Method::POST, "/api/bookings/%00/refunds", &nul),
    ] {
        let asked = pipeline.staff(Role::Admin, method, path, Some("key"), body);
        let (status, problem) = asked.await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{path} {problem}");
    }
    for until in ["-9999-01-01T00:00:00Z", "+262000-01-01T00:00:00Z"] {
        let body = json!({ "until": until });
        let asked = pipeline.staff(Role::Admin, Method::PUT, &policy, None, &body);
        let (status, problem) = asked.await;
        assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
        assert_eq!(problem["field"], "until", "{problem}");
    }
    let token = pipeline.access_token(7, vec![Role::Customer]);
    let card = pipeline.public_url("/api/saved-cards/%00");
    let answer = pipeline.http.delete(card).bearer_auth(&token).send().await;
    assert_eq!(answer.unwrap().status(), StatusCode::BAD_REQUEST);
    let id = pipeline.hold(7).await;
    let card = pipeline.public_url(&format!("/api/bookings/{id}/card"));
    let request = pipeline.http.put(card).bearer_auth(&token);
    let answer = request.json(&json!({ "saved_card": "pm_\0" })).send().await;
    assert_eq!(answer.unwrap().status(), StatusCode::BAD_REQUEST);
    pipeline.close().await;
}

//! Every change has an audit entry and an outbox message.

use std::time::Duration;

use domain::AccountId;
use domain::account::Role;
use domain::message::{AccountChanged, AuditNoted, EventChanged, Message, SaleChanged};
use platform::amqp::Exchange;
use platform::testing::eventually;
use platform::topology;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::app::{App, PASSWORD, whole_body};

/// Returns outbox messages by name. None are relayed, since no consumer has declared a queue.
async fn waiting(app: &App, name: &str) -> Vec<Value> {
    sqlx::query_scalar(
        "select body from platform.outbox where owner = 'box-office' and message_name = $1
         order by id",
    )
    .bind(name)
    .fetch_all(&app.test.ctx.db)
    .await
    .unwrap()
}

#[tokio::test]
async fn a_change_of_a_sale_is_recorded_and_told() {
    let app = App::start().await;
    let event = app.event(json!({"capacity": 5})).await;
    let operator = app.with_role(Role::Operator).await;
    let path = format!("/api/sales/{}", event["id"]);
    operator
        .staff_put(&path, &json!({"rate_per_minute": 77}))
        .await
        .expect(200);

    let told: Vec<SaleChanged> = waiting(&app, "sale.changed.v1")
        .await
        .into_iter()
        .map(|body| serde_json::from_value(body).unwrap())
        .collect();
    let last = told.last().unwrap();
    assert_eq!((last.sale.rate_per_minute, last.sale.version), (77, 2));

    let log = format!("/api/audit-log?subject=sale:{}", event["id"]);
    let log = operator.staff_get(&log).await.expect(200);
    let me = operator.get("/api/accounts/me").await.expect(200)["account"]["id"].clone();
    let newest = &log["entries"][0];
    assert_eq!(
        (&newest["action"], &newest["actor"]),
        (&json!("sale.change"), &me)
    );
    assert_eq!(newest["detail"], json!({"rate_per_minute": 77}));
    assert_eq!(log["entries"][1]["action"], "sale.open");
    assert_eq!(log["next_cursor"], Value::Null);
    app.finish().await;
}

#[tokio::test]
async fn what_another_service_notes_is_in_the_log_once() {
    let app = App::start().await;
    let operator = app.with_role(Role::Operator).await;
    let (subject, detail) = ("booking:1".to_owned(), json!({ "amount_minor": 100 }));
    let at = "2026-11-01T12:00:00Z".parse().unwrap();
    let note = AuditNoted::new(AccountId(7), "refund.staff", subject, detail, at);
    let broker = &app.test.ctx.broker;
    broker
        .declare_patiently(&topology::box_office_audit())
        .await;
    let other = AuditNoted {
        id: Uuid::new_v4(),
        ..note.clone()
    };
    for note in [&note, &note, &other] {
        let name = AuditNoted::NAME;
        let sending = broker.publish(Exchange::Events, name, note, note.id);
        sending.await.unwrap();
    }
    let queue = "/api/audit-log?subject=booking:1";
    eventually(Duration::from_secs(60), async || {
        let log = operator.staff_get(queue).await.expect(200);
        log["entries"].as_array().unwrap().len() == 2
    })
    .await;
    let log = operator.staff_get(queue).await.expect(200);
    for entry in log["entries"].as_array().unwrap() {
        assert_eq!(
            (&entry["actor"], &entry["action"]),
            (&json!(7), &json!("refund.staff"))
        );
        assert_eq!(entry["detail"], note.detail);
    }
    app.finish().await;
}

#[tokio::test]
async fn every_change_of_an_event_is_told_with_its_version() {
    let app = App::start().await;
    let event = app.event(json!({"capacity": 5})).await;
    let admin = app.admin().await;
    let path = format!("/api/events/{}", event["id"]);
    admin
        .staff_put(&path, &whole_body(json!({"capacity": 6})))
        .await
        .expect(200);
    admin.staff_delete(&path).await.expect(200);
    let told: Vec<EventChanged> = waiting(&app, "event.changed.v1")
        .await
        .into_iter()
        .map(|body| serde_json::from_value(body).unwrap())
        .collect();
    let versions: Vec<_> = told
        .iter()
        .map(|told| (told.event.version, told.event.capacity))
        .collect();
    assert_eq!(versions, [(1, 5), (2, 6), (3, 6)]);
    assert_eq!(told[2].event.state, domain::event::EventState::Cancelled);
    let sales = waiting(&app, "sale.changed.v1").await;
    assert_eq!(sales.last().unwrap()["sale"]["closed"], true);

    let log = admin
        .staff_get(&format!("/api/audit-log?subject=event:{}", event["id"]))
        .await;
    let log = log.expect(200);
    let actions: Vec<_> = log["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["action"].clone())
        .collect();
    assert_eq!(actions, ["event.delete", "event.change", "event.create"]);
    app.finish().await;
}

#[tokio::test]
async fn accounts_are_told_and_the_command_line_is_actor_zero() {
    let app = App::start().await;
    let body = json!({"email": "ada@example.org", "password": PASSWORD, "phone": "+31201234567"});
    app.nobody().post("/api/accounts", &body).await.expect(201);
    let told: Vec<AccountChanged> = waiting(&app, "account.changed.v1")
        .await
        .into_iter()
        .map(|body| serde_json::from_value(body).unwrap())
        .collect();
    let last = told.last().unwrap();
    assert_eq!((last.email.as_str(), last.version), ("ada@example.org", 1));
    assert_eq!(last.phone.as_deref(), Some("+31201234567"));

    let log = app
        .admin()
        .await
        .staff_get("/api/audit-log")
        .await
        .expect(200);
    assert_eq!(log["entries"][0]["action"], "account.roles");
    assert_eq!(log["entries"][0]["actor"], 0);
    app.finish().await;
}

#[tokio::test]
async fn a_refused_change_is_neither_recorded_nor_told() {
    let app = App::start().await;
    let event = app.event(json!({"capacity": 5})).await;
    let operator = app.with_role(Role::Operator).await;
    let recorded = "select count(*) from box_office.audit_log";
    let (before, told) = (
        app.count(recorded).await,
        waiting(&app, "sale.changed.v1").await,
    );
    let path = format!("/api/sales/{}", event["id"]);
    operator
        .staff_put(&path, &json!({"rate_per_minute": -1}))
        .await
        .invalid("rate_per_minute");
    assert_eq!(app.count(recorded).await, before);
    assert_eq!(waiting(&app, "sale.changed.v1").await, told);
    app.finish().await;
}

#[tokio::test]
async fn the_log_is_read_in_pages() {
    let app = App::start().await;
    let event = app.event(json!({"capacity": 5})).await;
    let operator = app.with_role(Role::Operator).await;
    let path = format!("/api/sales/{}", event["id"]);
    for rate in 1..=60 {
        operator
            .staff_put(&path, &json!({"rate_per_minute": rate}))
            .await
            .expect(200);
    }
    let log = format!("/api/audit-log?subject=sale:{}", event["id"]);
    let first = operator.staff_get(&log).await.expect(200);
    assert_eq!(first["entries"].as_array().unwrap().len(), 50);
    let next = first["next_cursor"].as_str().unwrap();
    let second = operator
        .staff_get(&format!("{log}&cursor={next}"))
        .await
        .expect(200);
    assert_eq!(second["entries"].as_array().unwrap().len(), 11);
    assert_eq!(
        second["entries"][0]["detail"],
        json!({"rate_per_minute": 10})
    );
    operator
        .staff_get(&format!("{log}&cursor=x"))
        .await
        .invalid("cursor");
    app.finish().await;
}

#[tokio::test]
async fn sign_ins_of_staff_and_what_they_look_up_are_recorded() {
    let app = App::start().await;
    let credentials = |password: &str| json!({"email": "admin@example.org", "password": password});
    let wrong = credentials("wrong horse battery");
    app.nobody()
        .staff_post("/api/sessions", &wrong)
        .await
        .problem("wrong-credentials");
    let right = credentials(PASSWORD);
    app.nobody()
        .staff_post("/api/sessions", &right)
        .await
        .expect(201);
    let admin = app.admin().await;
    admin.staff_get("/api/accounts?email=a").await.expect(200);
    let log = admin.staff_get("/api/audit-log").await.expect(200);
    let actions: Vec<_> = (0..3)
        .map(|n| log["entries"][n]["action"].clone())
        .collect();
    assert_eq!(
        actions,
        ["accounts.search", "session.begin", "session.refused"]
    );
    assert_eq!(log["entries"][0]["detail"], json!({"email": "a"}));
    app.finish().await;
}

#[tokio::test]
async fn each_version_of_a_sale_has_an_entry() {
    let app = App::start().await;
    let event = app.event(json!({"capacity": 5})).await;
    let admin = app.admin().await;
    let path = format!("/api/events/{}", event["id"]);
    let fewer = whole_body(json!({"capacity": 5, "max_tickets_per_account": 2}));
    admin.staff_put(&path, &fewer).await.expect(200);
    admin
        .staff_delete(&format!("{path}?bookings=cancel"))
        .await
        .expect(200);
    let log = format!("/api/audit-log?subject=sale:{}", event["id"]);
    let log = admin.staff_get(&log).await.expect(200);
    assert_eq!(log["entries"].as_array().unwrap().len(), 3);
    assert_eq!(log["entries"][1]["detail"]["max_tickets_per_account"], 2);
    let log = format!("/api/audit-log?subject=event:{}", event["id"]);
    let log = admin.staff_get(&log).await.expect(200);
    let deleted = json!({"state": "cancelled", "bookings": "cancel", "held": 0, "sold": 0});
    assert_eq!(log["entries"][0]["detail"], deleted);
    app.finish().await;
}

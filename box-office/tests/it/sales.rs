use chrono::TimeDelta;
use domain::account::Role;
use domain::queue::Snapshot;
use reqwest::Method;
use serde_json::{Value, json};

use crate::app::{App, event_body};
use crate::worker;

#[tokio::test]
async fn a_change_of_the_rate_keeps_the_other_settings_and_grows_the_version() {
    let app = App::start().await;
    let event = app.event(json!({"capacity": 5})).await;
    let operator = app.with_role(Role::Operator).await;
    let path = format!("/api/sales/{}", event["id"]);
    let before = operator.staff_get(&path).await.expect(200)["sale"].clone();
    let body = json!({"rate_per_minute": 6000, "message": "Welcome"});
    let after = operator.staff_put(&path, &body).await.expect(200)["sale"].clone();
    let mut expected = before;
    expected["rate_per_minute"] = json!(6000);
    expected["message"] = json!("Welcome");
    expected["version"] = json!(2);
    assert_eq!(after, expected);

    let same = operator.staff_put(&path, &body).await.expect(200);
    assert_eq!(
        same["sale"]["version"], 2,
        "a change that changes nothing is none"
    );
    let stale = json!({"rate_per_minute": 1, "version": 1});
    operator.staff_put(&path, &stale).await.problem("conflict");
    app.finish().await;
}

#[tokio::test]
async fn a_sale_is_paused_resumed_and_closed() {
    let app = App::start().await;
    let event = app.event(json!({"capacity": 5})).await;
    let operator = app.with_role(Role::Operator).await;
    let path = format!("/api/sales/{}", event["id"]);
    let steps = [
        (json!({"paused": true}), "paused"),
        (json!({"paused": false}), "open"),
        (json!({"opens_at": "2026-11-01T12:10:00Z"}), "lobby"),
        (json!({"opens_at": "2026-11-02T12:00:00Z"}), "scheduled"),
        (
            json!({"opens_at": "2026-10-01T12:00:00Z", "closes_at": "2026-11-01T12:00:00Z"}),
            "closed",
        ),
        (json!({"closes_at": null}), "open"),
        (json!({"closed": true}), "closed"),
    ];
    for (change, state) in steps {
        let sale = operator.staff_put(&path, &change).await.expect(200);
        assert_eq!(sale["sale"]["state"], state, "after {change}");
    }
    app.finish().await;
}

#[tokio::test]
async fn a_setting_out_of_bounds_is_refused_by_its_name_and_changes_nothing() {
    let app = App::start().await;
    let event = app.event(json!({"capacity": 5})).await;
    let operator = app.with_role(Role::Operator).await;
    let path = format!("/api/sales/{}", event["id"]);
    let before = operator.staff_get(&path).await.expect(200)["sale"].clone();
    let cases = [
        ("rate_per_minute", json!(-1)),
        ("rate_per_minute", json!(600_001)),
        ("shopper_cap", json!(1_000_001)),
        ("lobby_seconds", json!(604_801)),
        ("claim_window_seconds", json!(4)),
        ("claim_window_seconds", json!(3_601)),
        ("pass_seconds", json!(29)),
        ("hold_seconds", json!(4)),
        ("hold_seconds", json!(7_201)),
        ("message", json!("x".repeat(501))),
        ("entropy_source", json!("x".repeat(201))),
        ("entropy_source", json!("two\nlines")),
        ("entropy", json!("x".repeat(201))),
        ("opens_at", json!("1999-12-31T00:00:00Z")),
        ("closes_at", json!("2026-10-31T00:00:00Z")),
    ];
    for (field, value) in cases {
        operator
            .staff_put(&path, &json!({field: value}))
            .await
            .invalid(field);
    }
    operator
        .staff_put(&path, &json!({"rate_per_minute": "fast"}))
        .await
        .problem("malformed");
    assert_eq!(operator.staff_get(&path).await.expect(200)["sale"], before);
    app.finish().await;
}

/// Creates an event whose lobby opens at 12:10 and sale at 12:12.
async fn before_its_lobby(app: &App) -> (Value, String) {
    let sale = json!({"opens_at": "2026-11-01T12:12:00Z", "lobby_seconds": 120});
    let event = app.event(json!({"capacity": 5, "sale": sale})).await;
    let path = format!("/api/sales/{}", event["id"]);
    (event, path)
}

/// Inserts the row with which admission fixes the lottery's entries at the opening.
async fn fix_entries(app: &App, event: &Value) {
    sqlx::query(
        "insert into admission.draws (event_id, seed, commitment, committed_at, lobby, entries,
                                      entropy_source, entries_digest, fixed_at)
         values ($1, $2, $2, now(), 0, 0, '', $2, now())",
    )
    .bind(event["id"].as_i64().unwrap())
    .bind([7_u8; 32])
    .execute(&app.test.ctx.db)
    .await
    .unwrap();
}

#[tokio::test]
async fn a_source_of_entropy_is_announced_before_the_lobby_opens_and_stays() {
    let app = App::start().await;
    let operator = app.with_role(Role::Operator).await;
    let (_, path) = before_its_lobby(&app).await;
    for source in ["the weather", "", "the drand beacon of 12:13"] {
        let sale = operator
            .staff_put(&path, &json!({"entropy_source": source}))
            .await
            .expect(200)["sale"]
            .clone();
        assert_eq!(
            (&sale["entropy_source"], &sale["state"]),
            (&json!(source), &json!("scheduled"))
        );
    }
    let other = json!({"entropy_source": "the weather"});
    // Neither in the lobby, nor together with postponing the lobby.
    app.clock.advance(TimeDelta::minutes(10));
    let later = json!({"entropy_source": "the weather", "opens_at": "2026-11-02T12:00:00Z"});
    for change in [&other, &later] {
        operator.staff_put(&path, change).await.problem("conflict");
    }
    // Nor after postponing the lobby, once somebody has joined.
    let later = json!({"opens_at": "2026-11-02T12:00:00Z"});
    operator.staff_put(&path, &later).await.expect(200);
    sqlx::query("insert into waiting_room.lines (event_id, joined) select event_id, 1 from box_office.sales")
        .execute(&app.test.ctx.db)
        .await
        .unwrap();
    operator.staff_put(&path, &other).await.problem("conflict");
    app.finish().await;
}

#[tokio::test]
async fn entropy_is_told_once_and_not_before_it_is_fixed_who_takes_part() {
    let app = App::start().await;
    let operator = app.with_role(Role::Operator).await;
    let (event, path) = before_its_lobby(&app).await;
    let tell = json!({"entropy": "4 8 15 16 23 42"});
    operator.staff_put(&path, &tell).await.problem("conflict");
    let source = json!({"entropy_source": "the lottery numbers of tonight"});
    operator.staff_put(&path, &source).await.expect(200);
    app.clock.advance(TimeDelta::minutes(12));
    operator.staff_put(&path, &tell).await.problem("conflict");
    let sale = operator.staff_get(&path).await.expect(200)["sale"].clone();
    assert_eq!(
        sale["state"], "lobby",
        "without the entropy nobody has a place"
    );

    fix_entries(&app, &event).await;
    let sale = operator.staff_put(&path, &tell).await.expect(200)["sale"].clone();
    assert_eq!(
        (&sale["entropy"], &sale["state"]),
        (&json!("4 8 15 16 23 42"), &json!("open"))
    );
    operator.staff_put(&path, &tell).await.expect(200);
    for other in ["4 8 15 16 23 43", ""] {
        let other = json!({"entropy": other});
        operator.staff_put(&path, &other).await.problem("conflict");
    }
    let log = format!("/api/audit-log?subject=sale:{}", event["id"]);
    let log = operator.staff_get(&log).await.expect(200);
    assert_eq!(log["entries"][0]["detail"], tell);
    app.finish().await;
}

/// Inserts a line with one visitor.
async fn join(app: &App, event: &Value) {
    let joined = "insert into waiting_room.lines (event_id, joined) values ($1, 1)";
    sqlx::query(joined)
        .bind(event["id"].as_i64().unwrap())
        .execute(&app.test.ctx.db)
        .await
        .unwrap();
}

#[tokio::test]
async fn whether_there_is_a_lottery_stays_once_somebody_has_joined() {
    let app = App::start().await;
    let lobby = |seconds: i64| json!({"lobby_seconds": seconds});
    // Adding a lobby to an open sale, and removing one from a sale in the lobby.
    for (before, after) in [(3_600, 0), (0, 60)] {
        let operator = app.with_role(Role::Operator).await;
        let sale = json!({"opens_at": "2026-11-01T12:12:00Z", "lobby_seconds": before});
        let event = app.event(json!({"capacity": 5, "sale": sale})).await;
        let path = format!("/api/sales/{}", event["id"]);
        operator.staff_put(&path, &lobby(after)).await.expect(200);
        operator.staff_put(&path, &lobby(before)).await.expect(200);
        join(&app, &event).await;
        let refused = operator.staff_put(&path, &lobby(after)).await;
        refused.problem("conflict");
        if before > 0 {
            let longer = operator.staff_put(&path, &lobby(before * 2)).await;
            assert_eq!(longer.expect(200)["sale"]["lobby_seconds"], before * 2);
        }
        if before == 0 {
            app.clock.advance(TimeDelta::minutes(20));
            let operator = app.with_role(Role::Operator).await;
            let refused = operator.staff_put(&path, &lobby(after)).await;
            refused.problem("conflict");
        }
    }
    app.finish().await;
}

#[tokio::test]
async fn a_drawn_sale_is_not_put_off_any_more() {
    let app = App::start().await;
    let operator = app.with_role(Role::Operator).await;
    let (event, path) = before_its_lobby(&app).await;
    let put_off = |until: &str| json!({"opens_at": until});
    // Postponing is allowed in the lobby, and after an opening that nobody had joined.
    app.clock.advance(TimeDelta::minutes(11));
    let soon = put_off("2026-11-01T12:15:00Z");
    operator.staff_put(&path, &soon).await.expect(200);
    app.clock.advance(TimeDelta::minutes(11));
    let operator = app.with_role(Role::Operator).await;
    let later = put_off("2026-11-01T13:00:00Z");
    operator.staff_put(&path, &later).await.expect(200);

    join(&app, &event).await;
    let later = put_off("2026-11-01T14:00:00Z");
    operator.staff_put(&path, &later).await.expect(200);
    app.clock.advance(TimeDelta::hours(3));
    let operator = app.with_role(Role::Operator).await;
    let again = put_off("2026-11-02T12:00:00Z");
    operator.staff_put(&path, &again).await.problem("conflict");
    let earlier = put_off("2026-11-01T13:30:00Z");
    operator.staff_put(&path, &earlier).await.expect(200);
    app.finish().await;
}

#[tokio::test]
async fn a_sale_is_not_made_with_a_lottery_that_can_be_chosen() {
    let app = App::start().await;
    let admin = app.admin().await;
    let sales = [
        json!({"entropy_source": "the weather"}),
        json!({"opens_at": "2026-11-02T12:00:00Z", "entropy_source": "x", "entropy": "y"}),
    ];
    for sale in sales {
        let body = event_body(json!({"capacity": 5, "sale": sale}));
        admin
            .staff_post("/api/events", &body)
            .await
            .problem("conflict");
    }
    app.finish().await;
}

#[tokio::test]
async fn visitors_without_an_account_join_only_where_nothing_is_sold() {
    let app = App::start().await;
    let operator = app.with_role(Role::Operator).await;
    let (event, path) = before_its_lobby(&app).await;
    let switch = |on: bool| json!({"anonymous": on});
    worker::follow(&app.test.ctx.db, &event).await;
    for on in [true, false] {
        let sale = operator.staff_put(&path, &switch(on)).await.expect(200);
        assert_eq!(sale["sale"]["anonymous"], on);
    }
    worker::hold(&app.test.ctx.db, &event, &[2]).await;
    operator
        .staff_put(&path, &switch(true))
        .await
        .problem("conflict");
    app.finish().await;
}

#[tokio::test]
async fn sales_are_for_operators_and_admins() {
    let app = App::start().await;
    let event = app.event(json!({"capacity": 5})).await;
    let path = format!("/api/sales/{}", event["id"]);
    for role in [Role::Customer, Role::Organiser] {
        let client = app.with_role(role).await;
        client.staff_get(&path).await.problem("forbidden");
        client
            .staff_get(&format!("{path}/stream"))
            .await
            .problem("forbidden");
        client
            .staff_put(&path, &json!({"closed": true}))
            .await
            .problem("forbidden");
        client
            .staff_get("/api/audit-log")
            .await
            .problem("forbidden");
    }
    let operator = app.with_role(Role::Operator).await;
    operator.staff_get(&path).await.expect(200);
    operator
        .staff_get("/api/sales/999")
        .await
        .problem("not-found");
    operator
        .staff_put("/api/sales/999", &json!({"closed": true}))
        .await
        .problem("not-found");
    operator
        .staff_get("/api/sales/999/stream")
        .await
        .problem("not-found");
    app.finish().await;
}

#[tokio::test]
async fn staff_have_one_limit_for_all_changes() {
    let app = App::start_with_limits(0.01).await;
    let admin = app.admin().await;
    let body = event_body(json!({"capacity": 5}));
    let event = admin.staff_post("/api/events", &body).await.expect(201)["event"].clone();
    let path = format!("/api/sales/{}", event["id"]);
    let refused = admin.staff_put(&path, &json!({"paused": true})).await;
    assert!(refused.headers.contains_key("retry-after"));
    refused.problem("rate-limited");
    assert_eq!(
        admin.staff_get(&path).await.expect(200)["sale"]["paused"],
        false
    );
    app.finish().await;
}

#[tokio::test]
async fn taking_back_a_pass_is_for_operators_and_is_written_down_with_its_message() {
    let app = App::start().await;
    let event = app.event(json!({"capacity": 5})).await;
    let path = format!("/api/sales/{}/passes/7", event["id"]);
    let organiser = app.with_role(Role::Organiser).await;
    organiser.staff_delete(&path).await.problem("forbidden");
    let operator = app.with_role(Role::Operator).await;
    operator.staff_delete(&path).await.expect(202);
    operator
        .staff_delete("/api/sales/999/passes/7")
        .await
        .problem("not-found");
    let log = format!("/api/audit-log?subject=sale:{}", event["id"]);
    let log = operator.staff_get(&log).await.expect(200);
    assert_eq!(log["entries"][0]["action"], "pass.revoke");
    assert_eq!(log["entries"][0]["detail"], json!({"account_id": 7}));
    app.finish().await;
}

fn snapshot(app: &App, event: &Value) -> Snapshot {
    serde_json::from_value(json!({
        "event_id": event["id"], "seq": 7, "at": app.now(), "state": "open", "message": "",
        "rate_per_minute": 600, "joined": 90, "cursor": 40, "left": 2,
        "waiting": 48, "shopping": 5, "shopper_cap": 1000, "claimed_last_minute": 33,
        "available": 4, "tokens_expire_at": 0, "poll_after_ms": 1000
    }))
    .unwrap()
}

/// Publishes a snapshot as admission's release leader does.
async fn put_snapshot(app: &App, event: &Value) {
    let snapshot = snapshot(app, event);
    sqlx::query("insert into admission.lines (event_id, seq, snapshot) values ($1, $2, $3)")
        .bind(snapshot.event_id.0)
        .bind(snapshot.seq)
        .bind(sqlx::types::Json(&snapshot))
        .execute(&app.test.ctx.db)
        .await
        .unwrap();
}

#[tokio::test]
async fn live_figures_come_from_the_queue_and_the_booking_worker() {
    let app = App::start().await;
    let event = app.event(json!({"capacity": 5})).await;
    let operator = app.with_role(Role::Operator).await;
    let path = format!("/api/sales/{}", event["id"]);
    let none = operator.staff_get(&path).await.expect(200)["live"].clone();
    assert_eq!(none, json!({"stock": null}), "nobody has told anything yet");

    worker::follow(&app.test.ctx.db, &event).await;
    worker::hold(&app.test.ctx.db, &event, &[2]).await;
    put_snapshot(&app, &event).await;
    let live = operator.staff_get(&path).await.expect(200)["live"].clone();
    assert_eq!(live["stock"], json!({"available": 4, "held": 1, "sold": 0}));
    assert_eq!(
        (&live["waiting"], &live["claimed_last_minute"]),
        (&json!(48), &json!(33))
    );
    app.finish().await;
}

#[tokio::test]
async fn the_stream_shows_a_change_and_ends_at_shutdown() {
    let app = App::start().await;
    let event = app.event(json!({"capacity": 5})).await;
    put_snapshot(&app, &event).await;
    let operator = app.with_role(Role::Operator).await;
    let path = format!("/api/sales/{}/stream", event["id"]);
    let request = operator.request(app.internal, Method::GET, &path);
    let mut response = request.send().await.unwrap();
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    let mut text = String::new();
    let mut changed = false;
    while let Some(chunk) = response.chunk().await.unwrap() {
        text.push_str(std::str::from_utf8(&chunk).unwrap());
        if !changed && text.contains("\"rate_per_minute\":600") {
            let path = format!("/api/sales/{}", event["id"]);
            operator
                .staff_put(&path, &json!({"rate_per_minute": 77}))
                .await
                .expect(200);
            app.next_second();
            changed = true;
        }
        if text.contains("\"rate_per_minute\":77") {
            app.test.ctx.shutdown.soft().cancel();
        }
    }
    assert!(
        text.contains("\nretry: 1000\n") || text.starts_with("retry: 1000\n"),
        "{text}"
    );
    let first = text.split("\n\n").next().unwrap();
    assert!(
        first.lines().any(|line| line.starts_with("id: ")),
        "{first}"
    );
    let data = first
        .lines()
        .find_map(|line| line.strip_prefix("data: "))
        .unwrap();
    let data: Value = serde_json::from_str(data).unwrap();
    assert_eq!(data["live"]["waiting"], 48);
    assert_eq!(data["sale"]["state"], "open");
    app.finish().await;
}

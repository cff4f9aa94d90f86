use domain::account::Role;
use futures_util::future::join_all;
use platform::testing::Reads;
use serde_json::{Value, json};

use crate::app::{App, event_body, fields_of, whole_body};
use crate::worker;

#[tokio::test]
async fn a_name_a_date_and_a_capacity_make_an_event_with_a_sale_that_is_open() {
    let app = App::start().await;
    let event = app.event(json!({"capacity": 500})).await;
    assert_eq!(event["capacity"], 500);
    assert_eq!(event["state"], "announced");
    assert_eq!(event["version"], 1);
    assert_eq!(event["sections"][0]["name"], "General");
    let price = json!({"amount_minor": 0, "currency": "eur"});
    assert_eq!(
        event["sections"][0]["tier"],
        json!({"name": "Standard", "price": price})
    );

    let path = format!("/api/events/{}", event["id"]);
    assert_eq!(app.nobody().get(&path).await.expect(200)["event"], event);
    let path = format!("/api/sales/{}", event["id"]);
    let sale = app.admin().await.staff_get(&path).await.expect(200)["sale"].clone();
    assert_eq!(sale["state"], "open");
    assert_eq!(
        (&sale["rate_per_minute"], &sale["shopper_cap"]),
        (&json!(600), &json!(1000))
    );
    app.finish().await;
}

#[tokio::test]
async fn an_event_keeps_everything_it_is_given() {
    let app = App::start().await;
    let sections = json!([
        {"name": "Stalls", "numbered": true, "rows": 10, "seats_per_row": 20,
         "tier": {"name": "Gold", "price": {"amount_minor": 9000, "currency": "EUR"}}},
        {"name": "Standing", "capacity": 300}
    ]);
    let event = app
        .event(json!({
            "sections": sections, "price": {"amount_minor": 4500, "currency": "eur"},
            "description": "Two\nlines", "category": "concert", "venue": "Ahoy",
            "city": "Rotterdam", "country": "nl", "time_zone": "Europe/Amsterdam",
            "max_tickets_per_account": 4, "reminder_before_seconds": null,
            "sale": {"opens_at": "2026-12-01T09:00:00Z", "rate_per_minute": 60}
        }))
        .await;
    assert_eq!(event["capacity"], 500);
    assert_eq!(event["country"], "NL");
    assert_eq!(event["reminder_before_seconds"], Value::Null);
    assert_eq!(event["sections"][0]["capacity"], 200);
    assert_eq!(event["sections"][0]["tier"]["price"]["currency"], "eur");
    assert_eq!(event["sections"][1]["tier"]["price"]["amount_minor"], 4500);
    let path = format!("/api/sales/{}", event["id"]);
    let sale = app.admin().await.staff_get(&path).await.expect(200)["sale"].clone();
    assert_eq!(sale["state"], "scheduled");
    assert_eq!(sale["rate_per_minute"], 60);
    assert_eq!(sale["max_tickets_per_account"], 4);
    app.finish().await;
}

#[tokio::test]
async fn a_price_that_stripe_refuses_makes_no_event_and_changes_none() {
    let app = App::start().await;
    let admin = app.admin().await;
    let event = app.event(json!({"capacity": 10})).await;
    let path = format!("/api/events/{}", event["id"]);
    for (amount, currency, field) in [
        (30, "eur", "amount_minor"),
        (1, "usd", "amount_minor"),
        (4_505, "kwd", "amount_minor"),
        (350_050, "isk", "amount_minor"),
        (100_000_000, "eur", "amount_minor"),
        (4_500, "eru", "currency"),
        (0, "zzz", "currency"),
        (4_500, "iqd", "currency"),
    ] {
        let price = json!({"amount_minor": amount, "currency": currency});
        let section =
            json!({"name": "A", "capacity": 10, "tier": {"name": "Seated", "price": price}});
        for (fields, field) in [
            (
                json!({"capacity": 10, "price": price}),
                format!("price.{field}"),
            ),
            (
                json!({"sections": [section]}),
                format!("sections[0].tier.price.{field}"),
            ),
        ] {
            let body = event_body(fields.clone());
            admin.staff_post("/api/events", &body).await.invalid(&field);
            let body = whole_body(fields);
            admin.staff_put(&path, &body).await.invalid(&field);
        }
    }
    assert_eq!(app.count("select count(*) from box_office.events").await, 1);
    for (amount, currency) in [
        (80_000_000, "idr"),
        (20_000_000, "cop"),
        (5_000_000, "huf"),
        (5_000_000, "krw"),
        (38_000, "ugx"),
        (4_510, "kwd"),
    ] {
        let price = json!({"amount_minor": amount, "currency": currency});
        let made = app.event(json!({"capacity": 10, "price": price})).await;
        assert_eq!(made["sections"][0]["tier"]["price"], price);
    }
    app.finish().await;
}

#[tokio::test]
async fn a_value_out_of_bounds_is_refused_by_its_name_and_makes_no_event() {
    let app = App::start().await;
    let admin = app.admin().await;
    let section = |changes: Value| {
        let mut section = json!({"name": "A", "numbered": true, "rows": 2, "seats_per_row": 3});
        section.as_object_mut().unwrap().extend(fields_of(changes));
        json!({"capacity": null, "sections": [section]})
    };
    let many: Vec<Value> = (0..201)
        .map(|n| json!({"name": n.to_string(), "capacity": 1}))
        .collect();
    let cases = [
        (json!({"name": ""}), "name"),
        (json!({"name": "x".repeat(201)}), "name"),
        (json!({"name": "a\u{1}b"}), "name"),
        (json!({"date": "1999-01-01T00:00:00Z"}), "date"),
        (json!({"capacity": 0}), "capacity"),
        (json!({"capacity": -1}), "capacity"),
        (json!({"capacity": 50_001}), "capacity"),
        (json!({"capacity": null}), "capacity"),
        (
            json!({"price": {"amount_minor": -1, "currency": "eur"}}),
            "price.amount_minor",
        ),
        (
            json!({"price": {"amount_minor": 16_666_667, "currency": "eur"}}),
            "price.amount_minor",
        ),
        (
            json!({"price": {"amount_minor": 1, "currency": "euro"}}),
            "price.currency",
        ),
        (json!({"description": "x".repeat(10_001)}), "description"),
        (json!({"city": "x".repeat(101)}), "city"),
        (json!({"country": "NLD"}), "country"),
        (json!({"time_zone": "Mars/Olympus"}), "time_zone"),
        (
            json!({"max_tickets_per_account": 0}),
            "max_tickets_per_account",
        ),
        (
            json!({"reminder_before_seconds": 5}),
            "reminder_before_seconds",
        ),
        (json!({"sections": []}), "sections"),
        (json!({"sections": many}), "sections"),
        (section(json!({"name": ""})), "sections[0].name"),
        (section(json!({"rows": 0})), "sections[0].rows"),
        (
            section(json!({"rows": 1000, "seats_per_row": 1000})),
            "sections[0].rows",
        ),
        (
            section(json!({"seats_per_row": 1001})),
            "sections[0].seats_per_row",
        ),
        (section(json!({"capacity": 7})), "sections[0].capacity"),
        (section(json!({"numbered": false})), "sections[0].rows"),
        (
            json!({"sale": {"rate_per_minute": -1}}),
            "sale.rate_per_minute",
        ),
        (
            json!({"sale": {"closes_at": "2026-01-01T00:00:00Z"}}),
            "sale.closes_at",
        ),
    ];
    for (changes, field) in cases {
        let mut body = event_body(json!({"capacity": 10}));
        body.as_object_mut().unwrap().extend(fields_of(changes));
        admin.staff_post("/api/events", &body).await.invalid(field);
    }
    admin
        .staff_post("/api/events", &json!({"name": "x"}))
        .await
        .problem("malformed");
    assert_eq!(app.count("select count(*) from box_office.events").await, 0);
    let log = "select count(*) from box_office.audit_log where subject like 'event:%'";
    assert_eq!(app.count(log).await, 0);
    app.finish().await;
}

#[tokio::test]
async fn events_are_for_organisers_and_admins_to_change() {
    let app = App::start().await;
    let body = event_body(json!({"capacity": 5}));
    let organiser = app.with_role(Role::Organiser).await;
    let event = organiser.staff_post("/api/events", &body).await.expect(201);
    let path = format!("/api/events/{}", event["event"]["id"]);
    for role in [Role::Customer, Role::Operator] {
        let client = app.with_role(role).await;
        client
            .staff_post("/api/events", &body)
            .await
            .problem("forbidden");
        client.staff_put(&path, &body).await.problem("forbidden");
        client.staff_delete(&path).await.problem("forbidden");
    }
    app.nobody()
        .staff_post("/api/events", &body)
        .await
        .problem("signed-out");
    organiser.staff_delete(&path).await.expect(200);
    app.finish().await;
}

#[tokio::test]
async fn nothing_can_be_changed_through_the_public_listener() {
    let app = App::start().await;
    let event = app.event(json!({"capacity": 5})).await;
    let id = &event["id"];
    let admin = app.admin().await;
    let body = event_body(json!({"capacity": 5}));
    admin
        .post("/api/events", &body)
        .await
        .problem("method-not-allowed");
    let path = format!("/api/events/{id}");
    admin
        .delete(&path, &json!({}))
        .await
        .problem("method-not-allowed");
    admin
        .get(&format!("/api/sales/{id}"))
        .await
        .problem("not-found");
    admin
        .get(&format!("/api/sales/{id}/stream"))
        .await
        .problem("not-found");
    admin.get("/api/audit-log").await.problem("not-found");
    admin
        .get("/api/accounts?email=a")
        .await
        .problem("method-not-allowed");
    app.finish().await;
}

#[tokio::test]
async fn a_replaced_event_keeps_its_sections_and_grows_its_version() {
    let app = App::start().await;
    let event = app.event(json!({"capacity": 5})).await;
    let admin = app.admin().await;
    let path = format!("/api/events/{}", event["id"]);
    let body = whole_body(json!({
        "name": "Moved", "max_tickets_per_account": 2,
        "sections": [{"name": "Balcony", "capacity": 3}, {"name": "General", "capacity": 8}]
    }));
    let changed = admin.staff_put(&path, &body).await.expect(200)["event"].clone();
    assert_eq!(
        (&changed["name"], &changed["version"]),
        (&json!("Moved"), &json!(2))
    );
    assert_eq!(changed["capacity"], 11);
    assert_eq!(changed["sections"][1]["id"], event["sections"][0]["id"]);
    let sale = admin
        .staff_get(&format!("/api/sales/{}", event["id"]))
        .await
        .expect(200);
    assert_eq!(
        sale["sale"]["version"], 2,
        "the sale follows the limit per account"
    );
    assert_eq!(sale["sale"]["max_tickets_per_account"], 2);

    let stale = whole_body(json!({"capacity": 5, "version": 1}));
    admin.staff_put(&path, &stale).await.problem("conflict");
    app.next_second();
    assert_eq!(app.nobody().get(&path).await.expect(200)["event"], changed);
    admin
        .staff_put("/api/events/999", &body)
        .await
        .problem("not-found");
    app.finish().await;
}

#[tokio::test]
async fn a_replacement_that_leaves_something_out_is_refused_and_loses_nothing() {
    let app = App::start().await;
    let event = app
        .event(json!({
            "capacity": 100, "time_zone": "Europe/Amsterdam", "max_tickets_per_account": 2,
            "ticket_transfer": true, "price": {"amount_minor": 2500, "currency": "eur"},
            "venue": "Ahoy",
        }))
        .await;
    let admin = app.admin().await;
    let path = format!("/api/events/{}", event["id"]);
    let moved = event_body(json!({"capacity": 120}));
    let refused = admin.staff_put(&path, &moved).await.problem("invalid");
    let missing = [
        "time_zone",
        "max_tickets_per_account",
        "reminder_before_seconds",
        "ticket_transfer",
        "description",
        "category",
        "venue",
        "city",
        "country",
        "price",
    ];
    assert_eq!(refused["missing"], json!(missing));
    assert_eq!(refused["field"], "time_zone");
    let sections = json!([{"name": "General", "capacity": 100},
                          {"name": "Box", "capacity": 1, "tier": {"price": {"amount_minor": 1, "currency": "eur"}}}]);
    let mut body = whole_body(json!({"sections": sections}));
    body.as_object_mut().unwrap().remove("price");
    let refused = admin.staff_put(&path, &body).await.problem("invalid");
    assert_eq!(
        refused["missing"],
        json!(["sections[0].tier", "sections[1].tier.name"])
    );
    assert_eq!(admin.staff_get(&path).await.expect(200)["event"], event);

    // An event as returned by GET is a complete body.
    let same = admin.staff_put(&path, &event).await.expect(200)["event"].clone();
    let mut expected = event.clone();
    expected["version"] = json!(2);
    assert_eq!(same, expected);
    let other = app.event(json!({"capacity": 1})).await;
    admin.staff_put(&path, &other).await.invalid("id");
    app.finish().await;
}

#[tokio::test]
async fn a_misspelt_field_is_refused_by_its_name() {
    let app = App::start().await;
    let admin = app.admin().await;
    let event = app.event(json!({"capacity": 1})).await;
    let sale = format!("/api/sales/{}", event["id"]);
    for (path, body, field) in [
        (
            "/api/events",
            event_body(json!({"capacity": 1, "max_ticket_per_account": 2})),
            "max_ticket_per_account",
        ),
        (
            "/api/events",
            event_body(json!({"capacity": 1, "sale": {"rate": 60}})),
            "rate",
        ),
        (
            "/api/events",
            event_body(json!({"sections": [{"name": "A", "capacity": 1, "colour": "red"}]})),
            "colour",
        ),
    ] {
        admin.staff_post(path, &body).await.invalid(field);
    }
    admin
        .staff_put(&sale, &json!({"pause": true}))
        .await
        .invalid("pause");
    let version = json!({"version": 1});
    for nothing in [json!({}), version] {
        admin.staff_put(&sale, &nothing).await.problem("invalid");
    }
    let roles = json!({"roles": ["customer"], "role": "admin"});
    admin
        .staff_put("/api/accounts/1/roles", &roles)
        .await
        .invalid("role");
    let sign_up =
        json!({"email": "ada@example.org", "password": crate::app::PASSWORD, "nme": "Ada"});
    app.nobody()
        .post("/api/accounts", &sign_up)
        .await
        .invalid("nme");
    app.finish().await;
}

#[tokio::test]
async fn an_event_is_at_the_local_time_that_was_meant() {
    let app = App::start().await;
    let admin = app.admin().await;
    let at = |date: &str, zone: Value| {
        let mut body = event_body(json!({"capacity": 1, "date": date}));
        if !zone.is_null() {
            body["time_zone"] = zone;
        }
        body
    };
    let moncton = json!("America/Moncton");
    for (body, date) in [
        (
            at("2027-09-01T20:00:00", moncton.clone()),
            "2027-09-01T23:00:00Z",
        ),
        (
            at("2027-09-01T20:00:00-03:00", moncton.clone()),
            "2027-09-01T23:00:00Z",
        ),
        (
            at("2027-09-01T23:00:00Z", moncton.clone()),
            "2027-09-01T23:00:00Z",
        ),
        (
            at("2027-09-01T20:00:00-04:00", Value::Null),
            "2027-09-02T00:00:00Z",
        ),
    ] {
        let made = admin.staff_post("/api/events", &body).await.expect(201);
        assert_eq!(made["event"]["date"], date);
    }
    for body in [
        at("2027-09-01T20:00:00-04:00", moncton),
        at("2027-03-28T02:30:00", json!("Europe/Amsterdam")),
        at("2027-10-31T02:30:00", json!("Europe/Amsterdam")),
        at("next Friday", json!("Europe/Amsterdam")),
    ] {
        admin.staff_post("/api/events", &body).await.invalid("date");
    }
    let zoneless = at("2027-09-01T20:00:00", Value::Null);
    admin
        .staff_post("/api/events", &zoneless)
        .await
        .invalid("time_zone");
    app.finish().await;
}

#[tokio::test]
async fn an_organiser_changes_their_own_events_alone() {
    let app = App::start().await;
    let (one, other) = (
        app.with_role(Role::Organiser).await,
        app.with_role(Role::Organiser).await,
    );
    let body = whole_body(json!({"capacity": 5}));
    let made = one.staff_post("/api/events", &body).await.expect(201);
    let path = format!("/api/events/{}", made["event"]["id"]);
    other.staff_put(&path, &body).await.problem("not-found");
    other.staff_delete(&path).await.problem("not-found");
    one.staff_put(&path, &body).await.expect(200);
    app.admin().await.staff_put(&path, &body).await.expect(200);
    one.staff_delete(&path).await.expect(200);
    app.finish().await;
}

#[tokio::test]
async fn tickets_can_be_transferred_once_the_organiser_says_so() {
    let app = App::start().await;
    let sections = json!([
        {"name": "Stalls", "numbered": true, "rows": 2, "seats_per_row": 3},
        {"name": "Standing", "capacity": 3}
    ]);
    let event = app
        .event(json!({"sections": sections, "reminder_before_seconds": null}))
        .await;
    assert_eq!(event["ticket_transfer"], false);
    let path = format!("/api/events/{}", event["id"]);
    let organiser = app.admin().await;

    // As the console does: the event as it was read, with one field changed.
    let mut wanted = organiser.staff_get(&path).await.expect(200)["event"].clone();
    wanted["ticket_transfer"] = json!(true);
    let changed = organiser.staff_put(&path, &wanted).await.expect(200)["event"].clone();
    wanted["version"] = json!(2);
    assert_eq!(changed, wanted, "nothing else changes");
    app.next_second();
    assert_eq!(app.nobody().get(&path).await.expect(200)["event"], changed);
    let told = "select count(*) from platform.outbox where message_name = 'event.changed.v1'
                and body #>> '{event,version}' = '2' and body #>> '{event,ticket_transfer}' = 'true'";
    assert_eq!(app.count(told).await, 1);

    // A stale version is refused.
    let stale = json!({"version": 1, "ticket_transfer": false});
    let mut old = event.clone();
    old.as_object_mut().unwrap().extend(fields_of(stale));
    organiser.staff_put(&path, &old).await.problem("conflict");
    for wrong in [json!("yes"), json!(1)] {
        let mut body = changed.clone();
        body["ticket_transfer"] = wrong;
        organiser.staff_put(&path, &body).await.problem("malformed");
    }
    app.next_second();
    assert_eq!(app.nobody().get(&path).await.expect(200)["event"], changed);
    app.finish().await;
}

#[tokio::test]
async fn an_event_cannot_lose_seats_that_are_held() {
    let app = App::start().await;
    let stalls = |rows: u32, seats: u32| {
        whole_body(json!({"sections": [
            {"name": "Stalls", "numbered": true, "rows": rows, "seats_per_row": seats}]}))
    };
    let admin = app.admin().await;
    let event = admin
        .staff_post("/api/events", &stalls(3, 4))
        .await
        .expect(201)["event"]
        .clone();
    worker::follow(&app.test.ctx.db, &event).await;
    // The third seat of row B.
    worker::hold(&app.test.ctx.db, &event, &[1002]).await;
    let path = format!("/api/events/{}", event["id"]);

    admin
        .staff_put(&path, &stalls(1, 4))
        .await
        .problem("conflict");
    admin
        .staff_put(&path, &stalls(3, 2))
        .await
        .problem("conflict");
    let other = whole_body(json!({"sections": [{"name": "Other", "capacity": 50}]}));
    admin.staff_put(&path, &other).await.problem("conflict");
    let standing = whole_body(json!({"sections": [{"name": "Stalls", "capacity": 50}]}));
    admin.staff_put(&path, &standing).await.problem("conflict");
    admin.staff_delete(&path).await.problem("conflict");
    assert_eq!(app.nobody().get(&path).await.expect(200)["event"], event);
    admin.staff_put(&path, &stalls(2, 3)).await.expect(200);
    app.finish().await;
}

#[tokio::test]
async fn a_section_that_gets_numbers_is_another_section() {
    let app = App::start().await;
    let event = app.event(json!({"capacity": 6})).await;
    let numbered = whole_body(json!({"sections": [
        {"name": "General", "numbered": true, "rows": 2, "seats_per_row": 3}]}));
    let path = format!("/api/events/{}", event["id"]);
    let changed = app
        .admin()
        .await
        .staff_put(&path, &numbered)
        .await
        .expect(200);
    assert_ne!(
        changed["event"]["sections"][0]["id"],
        event["sections"][0]["id"]
    );
    app.finish().await;
}

#[tokio::test]
async fn a_general_section_keeps_room_for_what_is_held() {
    let app = App::start().await;
    let event = app.event(json!({"capacity": 5})).await;
    worker::follow(&app.test.ctx.db, &event).await;
    worker::hold(&app.test.ctx.db, &event, &[3, 4]).await;
    let admin = app.admin().await;
    let path = format!("/api/events/{}", event["id"]);
    let with = |capacity: u32| whole_body(json!({"capacity": capacity}));
    admin.staff_put(&path, &with(1)).await.problem("conflict");
    admin.staff_put(&path, &with(2)).await.expect(200);
    app.finish().await;
}

#[tokio::test]
async fn a_deleted_event_is_off_the_list_and_its_sale_is_closed() {
    let app = App::start().await;
    let event = app.event(json!({"capacity": 5})).await;
    let admin = app.admin().await;
    let path = format!("/api/events/{}", event["id"]);
    for _ in 0..2 {
        let answer = admin.staff_delete(&path).await.expect(200);
        assert_eq!(answer, json!({"message": "success"}));
    }
    assert_eq!(
        app.nobody().get("/api/events").await.expect(200)["events"],
        json!([])
    );
    app.next_second();
    let after = app.nobody().get(&path).await.expect(200)["event"].clone();
    assert_eq!(
        (&after["state"], &after["version"]),
        (&json!("cancelled"), &json!(2))
    );
    let sale_path = format!("/api/sales/{}", event["id"]);
    let sale = admin.staff_get(&sale_path).await.expect(200);
    assert_eq!(sale["sale"]["state"], "closed");
    admin
        .staff_put(&sale_path, &json!({"closed": false}))
        .await
        .problem("conflict");
    admin
        .staff_put(&path, &whole_body(json!({"capacity": 5})))
        .await
        .problem("conflict");
    admin
        .staff_delete("/api/events/999")
        .await
        .problem("not-found");
    app.finish().await;
}

#[tokio::test]
async fn an_unknown_event_is_not_found() {
    let app = App::start().await;
    for path in [
        "/api/events/7",
        "/api/events/7/availability",
        "/api/events/7/seats",
    ] {
        app.nobody().get(path).await.problem("not-found");
    }
    app.nobody()
        .get("/api/events/seven")
        .await
        .problem("malformed");
    app.finish().await;
}

#[tokio::test]
async fn an_event_that_two_hundred_buyers_read_at_once_is_loaded_three_times_at_most() {
    let app = App::start().await;
    let event = app.event(json!({"capacity": 5})).await;
    let path = format!("/api/events/{}", event["id"]);
    let reads = Reads::of(&app.test.ctx.db, "box_office", "sections").await;
    let nobody = app.nobody();
    for answer in join_all((0..200).map(|_| nobody.get(&path))).await {
        answer.expect(200);
    }
    let loaded = reads.count().await;
    assert!((1..=3).contains(&loaded), "{loaded} loads");
    app.finish().await;
}

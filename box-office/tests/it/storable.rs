//! Values that PostgreSQL cannot store are refused before a statement is run.

use serde_json::json;

use crate::app::{App, event_body, whole_body};

#[tokio::test]
async fn text_that_the_database_can_not_store_is_refused_on_every_route() {
    let app = App::start().await;
    let (admin, nobody) = (app.admin().await, app.nobody());
    let event = app.event(json!({"capacity": 5})).await;
    let id = &event["id"];
    let nul = "a\0b";
    let public = [
        (
            "/api/accounts",
            json!({"email": nul, "password": "correct horse"}),
        ),
        (
            "/api/accounts",
            json!({"email": "a@example.org", "password": nul}),
        ),
        (
            "/api/accounts",
            json!({"email": "a@example.org", "password": "correct horse", "name": nul}),
        ),
        (
            "/api/sessions",
            json!({"email": nul, "password": "correct horse"}),
        ),
        (
            "/api/sessions",
            json!({"email": "a@example.org", "password": nul}),
        ),
        ("/api/sessions/refresh", json!({"refresh_token": nul})),
    ];
    for (path, body) in public {
        nobody.post(path, &body).await.problem("malformed");
    }
    for field in [
        "name",
        "description",
        "category",
        "venue",
        "city",
        "country",
        "time_zone",
    ] {
        let body = event_body(json!({"capacity": 5, field: nul}));
        admin
            .staff_post("/api/events", &body)
            .await
            .problem("malformed");
        let path = format!("/api/events/{id}");
        admin.staff_put(&path, &body).await.problem("malformed");
    }
    let section = json!([{"name": nul, "capacity": 5}]);
    let body = event_body(json!({ "sections": section }));
    admin
        .staff_post("/api/events", &body)
        .await
        .problem("malformed");
    for field in ["message", "entropy_source", "entropy"] {
        let path = format!("/api/sales/{id}");
        let answer = admin.staff_put(&path, &json!({field: nul})).await;
        answer.problem("malformed");
    }
    for query in ["q", "city", "country", "category", "cursor"] {
        let path = format!("/api/events?{query}=a%00b");
        nobody.get(&path).await.problem("malformed");
    }
    let path = "/api/accounts?email=a%00b";
    admin.staff_get(path).await.problem("malformed");
    for query in ["subject", "cursor"] {
        let path = format!("/api/audit-log?{query}=a%00b");
        admin.staff_get(&path).await.problem("malformed");
    }
    app.finish().await;
}

/// Each date has a form that its route can parse, so that only the check of the year refuses it.
#[tokio::test]
async fn dates_that_no_ticket_could_be_for_are_refused_on_every_route() {
    let app = App::start().await;
    let admin = app.admin().await;
    let event = app.event(json!({"capacity": 5})).await;
    let (event, sale) = (
        format!("/api/events/{}", event["id"]),
        format!("/api/sales/{}", event["id"]),
    );
    for date in [
        "0001-01-01T00:00:00Z",
        "1999-12-31T23:59:59Z",
        "2200-01-01T00:00:00Z",
    ] {
        let body = whole_body(json!({"capacity": 5, "date": date}));
        admin.staff_post("/api/events", &body).await.invalid("date");
        admin.staff_put(&event, &body).await.invalid("date");
        for field in ["from", "to"] {
            let path = format!("/api/events?{field}={date}");
            app.nobody().get(&path).await.invalid(field);
        }
    }
    for date in [
        "-9999-01-01T00:00:00Z",
        "1999-12-31T23:59:59Z",
        "+262000-01-01T00:00:00Z",
    ] {
        let answer = admin.staff_put(&sale, &json!({"opens_at": date})).await;
        answer.invalid("opens_at");
    }
    // An earlier one would be refused as being before the opening.
    for date in ["2200-01-01T00:00:00Z", "+262000-01-01T00:00:00Z"] {
        let answer = admin.staff_put(&sale, &json!({"closes_at": date})).await;
        answer.invalid("closes_at");
    }
    app.finish().await;
}

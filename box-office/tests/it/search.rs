use serde_json::{Value, json};

use crate::app::{App, event_body, fields_of};

async fn with_events(events: &[Value]) -> App {
    let app = App::start().await;
    let admin = app.admin().await;
    for event in events {
        let mut body = event_body(json!({"capacity": 5}));
        body.as_object_mut()
            .unwrap()
            .extend(fields_of(event.clone()));
        admin.staff_post("/api/events", &body).await.expect(201);
    }
    app
}

async fn names(app: &App, query: &str) -> Vec<String> {
    let found = app
        .nobody()
        .get(&format!("/api/events?{query}"))
        .await
        .expect(200);
    let name = |event: &Value| event["name"].as_str().unwrap().to_owned();
    found["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(name)
        .collect()
}

#[tokio::test]
async fn events_are_found_by_text_place_kind_and_date() {
    let app = with_events(&[
        json!({"name": "Night of the Proms", "city": "Rotterdam", "country": "NL",
               "category": "concert", "venue": "Ahoy", "date": "2027-01-30T19:00:00Z"}),
        json!({"name": "Swan Lake", "city": "Antwerp", "country": "BE", "category": "ballet",
               "description": "With the proms orchestra", "date": "2027-02-10T19:00:00Z"}),
        json!({"name": "Rock Night", "city": "rotterdam", "country": "NL", "category": "Concert",
               "date": "2027-03-01T19:00:00Z"}),
    ])
    .await;
    let all = ["Night of the Proms", "Swan Lake", "Rock Night"];
    let cases: [(&str, &[usize]); 16] = [
        ("", &[0, 1, 2]),
        ("q=proms", &[0, 1]),
        ("q=PRO", &[0, 1]),
        ("q=night", &[0, 2]),
        ("q=night+pro", &[0]),
        ("q=%22night+of%22", &[0]),
        ("q=night+-rock", &[0]),
        ("q=swan+or+rock", &[1, 2]),
        ("q=ahoy", &[0]),
        ("q=nothing", &[]),
        ("city=Rotterdam", &[0, 2]),
        ("country=be", &[1]),
        ("category=concert", &[0, 2]),
        ("from=2027-02-01T00:00:00Z", &[1, 2]),
        ("from=2027-02-01T00:00:00Z&to=2027-02-28T00:00:00Z", &[1]),
        ("q=night&city=ROTTERDAM&to=2027-02-28T00:00:00Z", &[0]),
    ];
    for (query, expected) in cases {
        let expected: Vec<_> = expected.iter().map(|&index| all[index]).collect();
        assert_eq!(names(&app, query).await, expected, "{query}");
    }
    app.finish().await;
}

#[tokio::test]
async fn search_text_is_never_syntax() {
    let app = with_events(&[json!({"name": "a & b | c"})]).await;
    for text in [
        "%27", "%26", "a%3A*", "%28%29", "%21%21", "%5C", "%22", "a%26", "%27%3A*",
    ] {
        app.nobody()
            .get(&format!("/api/events?q={text}"))
            .await
            .expect(200);
    }
    let nul = app.nobody().get("/api/events?q=a%00b").await;
    nul.problem("malformed");
    app.finish().await;
}

#[tokio::test]
async fn pages_hold_every_event_once_while_others_are_added() {
    let app = App::start().await;
    let admin = app.admin().await;
    let add = async |name: String, day: u32| {
        let date = format!("2027-01-{day:02}T19:00:00Z");
        let body = event_body(json!({"capacity": 1, "name": name, "date": date}));
        admin.staff_post("/api/events", &body).await.expect(201);
    };
    // Some share a date, so that the order depends on the id.
    for number in 0..7_u32 {
        add(format!("old {number}"), 10 + number / 3).await;
    }
    let mut seen = Vec::new();
    let mut cursor = String::new();
    loop {
        let page = app
            .nobody()
            .get(&format!("/api/events?limit=2{cursor}"))
            .await
            .expect(200);
        for event in page["events"].as_array().unwrap() {
            seen.push(event["name"].as_str().unwrap().to_owned());
        }
        add("new, before all".to_owned(), 1).await;
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    let expected: Vec<_> = (0..7).map(|number| format!("old {number}")).collect();
    assert_eq!(seen, expected);
    app.finish().await;
}

#[tokio::test]
async fn a_filter_out_of_bounds_is_refused_by_its_name() {
    let app = App::start().await;
    let cases = [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=-1", "limit"),
        ("cursor=x", "cursor"),
        ("cursor=f_________8AAAAAAAAAAA", "cursor"),
        ("country=NLD", "country"),
        ("from=1066-10-14T00:00:00Z", "from"),
    ];
    for (query, field) in cases {
        app.nobody()
            .get(&format!("/api/events?{query}"))
            .await
            .invalid(field);
    }
    let long = format!("/api/events?q={}", "x".repeat(201));
    app.nobody().get(&long).await.invalid("q");
    let no_day = app.nobody().get("/api/events?from=tomorrow").await;
    no_day.invalid("from");
    app.finish().await;
}

#[tokio::test]
async fn what_is_over_is_listed_only_when_asked_for() {
    let app = with_events(&[
        json!({"name": "Last month", "date": "2026-10-01T19:00:00Z"}),
        json!({"name": "Tonight", "date": "2026-11-01T19:00:00Z"}),
        json!({"name": "New year", "date": "2027-01-01T00:30:00Z"}),
    ])
    .await;
    let cases: [(&str, &[&str]); 6] = [
        ("", &["Tonight", "New year"]),
        ("from=2026-01-01", &["Last month", "Tonight", "New year"]),
        ("to=2026-10-31", &["Last month"]),
        ("to=2026-12-31", &["Tonight"]),
        ("from=2027-01-01&to=2027-01-01", &["New year"]),
        ("from=2027-01-01T01:00:00+01:00", &["New year"]),
    ];
    for (query, expected) in cases {
        assert_eq!(names(&app, query).await, expected, "{query}");
    }
    for wrong in ["from=tomorrow", "to=2026-13-01"] {
        let field = wrong.split('=').next().unwrap();
        let answer = app.nobody().get(&format!("/api/events?{wrong}")).await;
        answer.invalid(field);
    }
    app.finish().await;
}

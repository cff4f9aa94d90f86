use reqwest::Method;
use serde_json::json;

use crate::app::App;
use crate::worker;

#[tokio::test]
async fn a_new_event_has_everything_left() {
    let app = App::start().await;
    let event = app.event(json!({"capacity": 5})).await;
    let path = format!("/api/events/{}/availability", event["id"]);
    let answer = app.nobody().get(&path).await.expect(200);
    assert_eq!(answer["available"], 5);
    let section = json!({"section_id": event["sections"][0]["id"], "name": "General",
                         "capacity": 5, "available": 5, "held": 0, "sold": 0});
    assert_eq!(answer["sections"], json!([section]));
    app.finish().await;
}

#[tokio::test]
async fn availability_is_a_second_old_at_most() {
    let app = App::start().await;
    let event = app.event(json!({"capacity": 5})).await;
    worker::follow(&app.test.ctx.db, &event).await;
    let path = format!("/api/events/{}/availability", event["id"]);
    assert_eq!(app.nobody().get(&path).await.expect(200)["available"], 5);
    worker::hold(&app.test.ctx.db, &event, &[0, 1]).await;
    assert_eq!(
        app.nobody().get(&path).await.expect(200)["available"],
        5,
        "kept for a second"
    );
    app.next_second();
    let answer = app.nobody().get(&path).await.expect(200);
    assert_eq!(answer["available"], 3);
    assert_eq!(answer["sections"][0]["held"], 2);
    app.finish().await;
}

#[tokio::test]
async fn who_has_the_newest_availability_gets_304() {
    let app = App::start().await;
    let event = app.event(json!({"capacity": 5})).await;
    worker::follow(&app.test.ctx.db, &event).await;
    for what in ["availability", "seats"] {
        let path = format!("/api/events/{}/{what}", event["id"]);
        let first = app.nobody().get(&path).await;
        assert_eq!(first.headers["cache-control"], "public, max-age=1");
        let etag = first.headers["etag"].to_str().unwrap();
        let again = app.nobody().request(app.public, Method::GET, &path);
        let again = again.header("if-none-match", etag).send().await.unwrap();
        assert_eq!(again.status(), 304);
        assert_eq!(again.headers()["etag"], etag);

        worker::hold(
            &app.test.ctx.db,
            &event,
            &[if what == "seats" { 1 } else { 0 }],
        )
        .await;
        app.next_second();
        let changed = app.nobody().request(app.public, Method::GET, &path);
        let changed = changed.header("if-none-match", etag).send().await.unwrap();
        assert_eq!(changed.status(), 200);
    }
    app.finish().await;
}

#[tokio::test]
async fn the_seat_map_has_a_letter_and_an_id_for_each_seat() {
    let app = App::start().await;
    let event = app
        .event(json!({"sections": [
            {"name": "Stalls", "numbered": true, "rows": 2, "seats_per_row": 3},
            {"name": "Standing", "capacity": 4}]}))
        .await;
    let path = format!("/api/events/{}/seats", event["id"]);
    let empty = app.nobody().get(&path).await.expect(200);
    assert_eq!(
        empty["sections"][0]["rows"],
        json!([]),
        "the worker has not made the seats"
    );

    worker::follow(&app.test.ctx.db, &event).await;
    worker::hold(&app.test.ctx.db, &event, &[1001]).await;
    app.next_second();
    let map = app.nobody().get(&path).await.expect(200);
    assert_eq!(map["event_id"], event["id"]);
    let [stalls, standing] = map["sections"].as_array().unwrap().as_slice() else {
        panic!()
    };
    assert_eq!(
        (&stalls["name"], &stalls["numbered"]),
        (&json!("Stalls"), &json!(true))
    );
    assert_eq!(
        stalls["rows"][0],
        json!({"row": "A", "first": 1, "states": "aaa", "ids": [[1, 3]]})
    );
    assert_eq!(
        stalls["rows"][1],
        json!({"row": "B", "first": 1, "states": "aha", "ids": [[4, 3]]})
    );
    let places = json!({"row": null, "first": 1, "states": "aaaa", "ids": [[7, 4]]});
    assert_eq!(standing["rows"], json!([places]));
    app.finish().await;
}

#[tokio::test]
async fn the_map_of_fifty_thousand_seats_is_under_30_kb_compressed() {
    let app = App::start().await;
    let blocks: Vec<_> = (0..5)
        .map(|nth| {
            json!({"name": format!("Block {nth}"), "numbered": true, "rows": 100, "seats_per_row": 100})
        })
        .collect();
    let event = app.event(json!({ "sections": blocks })).await;
    worker::follow(&app.test.ctx.db, &event).await;
    // Scattered holds, as in the middle of a sale, compress worse than a full house.
    let db = &app.test.ctx.db;
    worker::hold_some(db, &event).await;
    let path = format!("/api/events/{}/seats", event["id"]);
    let request = app.nobody().request(app.public, Method::GET, &path);
    let answer = request
        .header("accept-encoding", "gzip")
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.headers()["content-encoding"], "gzip");
    let bytes = answer.bytes().await.unwrap().len();
    assert!(bytes < 30_000, "{bytes} bytes");
    app.finish().await;
}

//! The shared snapshot, polled and streamed.

use std::time::Duration;

use platform::testing::eventually;
use reqwest::Response;
use serde_json::Value;

use crate::hall::{Hall, problem};

const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn everyone_gets_the_same_bytes() {
    let hall = Hall::open().await;
    let first = hall.get("/api/events/1/queue").await;
    assert_eq!(
        first.headers()["cache-control"],
        "public, max-age=1, stale-while-revalidate=5, stale-if-error=600"
    );
    let etag = first.headers()["etag"].clone();
    let first = first.bytes().await.unwrap();
    let second = hall.get("/api/events/1/queue").await;
    assert_eq!(second.headers()["etag"], etag);
    assert_eq!(second.bytes().await.unwrap(), first);
    let body: Value = serde_json::from_slice(&first).unwrap();
    assert_eq!(
        (&body["state"], &body["available"]),
        (&"open".into(), &10.into())
    );
    assert!(body.get("tokens_expire_at").is_none());

    let request = hall.client.get(hall.url("/api/events/1/queue"));
    let known = request
        .header("if-none-match", etag.clone())
        .send()
        .await
        .unwrap();
    assert_eq!(known.status(), 304);
    assert_eq!(known.headers()["etag"], etag);
    assert_eq!(
        problem(hall.get("/api/events/99/queue").await).await,
        "not-found"
    );
    assert_eq!(
        problem(hall.get("/api/events/x/queue").await).await,
        "malformed"
    );
    hall.app.finish().await;
}

#[tokio::test]
async fn a_change_makes_a_new_body() {
    let mut hall = Hall::open().await;
    let etag = hall.get("/api/events/1/queue").await.headers()["etag"].clone();
    hall.publish(|snapshot| snapshot.waiting = 5).await;
    let request = hall.client.get(hall.url("/api/events/1/queue"));
    let answer = request.header("if-none-match", etag).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.json::<Value>().await.unwrap()["waiting"], 5);
    hall.app.finish().await;
}

/// Reads a stream until its text contains `enough`; returns the text and whether the stream ended.
async fn read_until(mut response: Response, enough: &str) -> (String, bool) {
    let mut text = String::new();
    let reading = async {
        while !text.contains(enough) {
            match response.chunk().await.unwrap() {
                Some(chunk) => text.push_str(std::str::from_utf8(&chunk).unwrap()),
                None => return true,
            }
        }
        false
    };
    let has_ended = tokio::time::timeout(SOON, reading)
        .await
        .expect("the stream says something");
    (text, has_ended)
}

#[tokio::test]
async fn a_stream_sends_the_present_and_every_change() {
    let mut hall = Hall::open().await;
    let response = hall.get("/api/events/1/queue/stream").await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    hall.publish(|snapshot| snapshot.waiting = 5).await;
    let (text, _) = read_until(response, "\"waiting\":5").await;
    assert!(text.starts_with("retry: "), "{text}");
    assert!(text.contains("\n\nevent: snapshot\nid: 1\n"), "{text}");
    assert!(text.contains("\n\nevent: snapshot\nid: 2\n"), "{text}");
    hall.app.finish().await;
}

#[tokio::test]
async fn a_stream_that_is_opened_again_does_not_repeat_what_the_client_has() {
    let mut hall = Hall::open().await;
    let request = hall.client.get(hall.url("/api/events/1/queue/stream"));
    let response = request.header("last-event-id", "1").send().await.unwrap();
    hall.publish(|snapshot| snapshot.waiting = 5).await;
    let (text, _) = read_until(response, "\"waiting\":5").await;
    assert!(text.contains("\n\nevent: snapshot\nid: 2\n"), "{text}");
    assert!(!text.contains("id: 1"), "{text}");
    hall.app.finish().await;
}

#[tokio::test]
async fn a_stream_has_an_event_a_second_however_often_the_line_moves() {
    let mut hall = Hall::open().await;
    let begun = std::time::Instant::now();
    let response = hall.get("/api/events/1/queue/stream").await;
    for waiting in 1..=6 {
        hall.publish(|snapshot| snapshot.waiting = waiting).await;
    }
    let (text, _) = read_until(response, "\"waiting\":6").await;
    let events = text.matches("event: snapshot").count();
    let most = usize::try_from(begun.elapsed().as_secs()).unwrap() + 1;
    assert!(events <= most, "{events} events in {:?}", begun.elapsed());
    hall.app.finish().await;
}

#[tokio::test]
async fn streams_of_one_address_are_limited_and_polls_go_on() {
    let hall = Hall::with_limits(1.0).await;
    let base = hall
        .node_with(waiting_room::Config {
            streams_per_address: 2,
            ..waiting_room::Config::default()
        })
        .await;
    let open = async |address: &str| {
        let url = format!("{base}/api/events/1/queue/stream");
        let request = hall.client.get(url).header("x-forwarded-for", address);
        request.send().await.unwrap()
    };
    let first = open("192.0.2.1").await;
    let second = open("192.0.2.1").await;
    let refused = open("192.0.2.1").await;
    assert_eq!(refused.status(), 503);
    assert!(refused.headers().contains_key("retry-after"));
    assert_eq!(problem(refused).await, "overloaded");
    assert_eq!(open("192.0.2.2").await.status(), 200);
    let poll = hall.client.get(format!("{base}/api/events/1/queue"));
    assert_eq!(poll.send().await.unwrap().status(), 200);
    drop((first, second));
    eventually(SOON, async || open("192.0.2.1").await.status() == 200).await;
    hall.app.finish().await;
}

#[tokio::test]
async fn the_snapshot_has_the_time_of_the_opening() {
    let mut hall = Hall::open().await;
    let at = hall.app.ctx.clock.now();
    hall.publish(|snapshot| {
        snapshot.lobby_opens_at = Some(at);
        snapshot.opens_at = Some(at + chrono::TimeDelta::minutes(5));
    })
    .await;
    let body: Value = hall.get("/api/events/1/queue").await.json().await.unwrap();
    let time = |name: &str| body[name].as_str().map(|text| text.parse().unwrap());
    assert_eq!(time("lobby_opens_at"), Some(at));
    assert_eq!(time("opens_at"), Some(at + chrono::TimeDelta::minutes(5)));
    assert_eq!(body["closes_at"], Value::Null);
    hall.app.finish().await;
}

#[tokio::test]
async fn streams_end_at_soft_shutdown() {
    let hall = Hall::open().await;
    let response = hall.get("/api/events/1/queue/stream").await;
    hall.app.ctx.shutdown.soft().cancel();
    let (_, has_ended) = read_until(response, "never said").await;
    assert!(has_ended);
    hall.app.finish().await;
}

#[tokio::test]
async fn the_loops_of_a_node_and_of_its_sales_are_watched() {
    let hall = Hall::open().await;
    assert_eq!(hall.get("/api/events/1/queue").await.status(), 200);
    eventually(SOON, async || {
        let loops = hall.app.ctx.health.readiness(false).loops;
        let watched = ["lines.catch-up", "lines.refresh", "waiting-room.sale"];
        watched
            .iter()
            .all(|name| loops.get(name).is_some_and(|found| found == "ok"))
    })
    .await;
    hall.app.finish().await;
}

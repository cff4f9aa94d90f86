//! The shared snapshot, polled and streamed.

use std::time::Duration;

use reqwest::Response;
use serde_json::Value;

use crate::hall::{Hall, problem};

const SOON: Duration = Duration::from_secs(5);

#[tokio::test]
async fn everyone_gets_the_same_bytes() {
    let hall = Hall::open().await;
    let first = hall.get("/api/events/1/queue").await;
    assert_eq!(first.headers()["cache-control"], "public, max-age=1");
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

/// The text of a stream until `enough` is in it, or until it ends.
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
async fn a_stream_tells_now_and_every_change() {
    let mut hall = Hall::open().await;
    let response = hall.get("/api/events/1/queue/stream").await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    assert_eq!(response.headers()["x-accel-buffering"], "no");
    hall.publish(|snapshot| snapshot.waiting = 5).await;
    let (text, _) = read_until(response, "\"waiting\":5").await;
    assert!(
        text.starts_with("event: snapshot\nid: 1\nretry: "),
        "{text}"
    );
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
    assert!(text.starts_with("event: snapshot\nid: 2\n"), "{text}");
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

//! Creates the demo's event through the staff API, like any other.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use chrono::TimeDelta;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use super::stage::Stage;

/// Short, so that the demo shows seats of unpaid holds coming back, and is not long about it: the
/// last may be held, and left unpaid, once more.
const HOLD_SECONDS: u32 = 15;
const CLAIM_WINDOW_SECONDS: u32 = 10;
/// Longest wait until the other services know the event.
const PATIENCE: Duration = Duration::from_secs(30);

/// Creates an event with `seats` seats whose sale calls `rate` people a minute once it is open.
pub(super) async fn event(stage: &Stage, seats: u32, rate: u32) -> anyhow::Result<i64> {
    let now = stage.clock().now();
    let event = json!({
        "name": "Night of the Comets",
        "date": now + TimeDelta::days(60),
        "description": "One evening, one stage, and more people than seats.",
        "category": "concert",
        "venue": "Harbour Hall",
        "city": "Rotterdam",
        "country": "NL",
        "time_zone": "Europe/Amsterdam",
        "max_tickets_per_account": 4,
        "sections": sections(seats),
        "sale": {
            "opens_at": now + TimeDelta::hours(1),
            "lobby_seconds": 0,
            "rate_per_minute": rate,
            "shopper_cap": (rate / 4).clamp(20, (seats / 4).max(20)),
            "claim_window_seconds": CLAIM_WINDOW_SECONDS,
            "hold_seconds": HOLD_SECONDS,
        },
    });
    let answer = stage
        .staff(Method::POST, "/api/events", Some(&event))
        .await?;
    let id = answer["event"]["id"]
        .as_i64()
        .context("the answer has no event id")?;
    wait_for_stock(stage, id, seats).await?;
    Ok(id)
}

/// Opens the sale now.
pub(super) async fn open(stage: &Stage, event_id: i64) -> anyhow::Result<()> {
    let change = json!({ "opens_at": stage.clock().now() });
    stage
        .staff(
            Method::PUT,
            &format!("/api/sales/{event_id}"),
            Some(&change),
        )
        .await?;
    let snapshot = stage
        .public_url()
        .join(&format!("/api/events/{event_id}/queue"))?;
    wait_for(stage, &snapshot, |snapshot| snapshot["state"] == "open").await
}

/// A numbered section for the front, general admission for the rest.
fn sections(seats: u32) -> Value {
    const SEATS_PER_ROW: u32 = 20;
    let price = |minor: u32| json!({ "amount_minor": minor, "currency": "eur" });
    let rows = seats * 2 / 5 / SEATS_PER_ROW;
    let standing = seats - rows * SEATS_PER_ROW;
    let floor = json!({
        "name": "Floor", "numbered": false, "capacity": standing,
        "tier": { "name": "Standing", "price": price(4_500) },
    });
    if rows == 0 {
        return json!([floor]);
    }
    let stalls = json!({
        "name": "Stalls", "numbered": true, "rows": rows, "seats_per_row": SEATS_PER_ROW,
        "tier": { "name": "Seated", "price": price(7_500) },
    });
    json!([stalls, floor])
}

async fn wait_for_stock(stage: &Stage, event_id: i64, seats: u32) -> anyhow::Result<()> {
    let availability = stage
        .public_url()
        .join(&format!("/api/events/{event_id}/availability"))?;
    wait_for(stage, &availability, |stock| stock["available"] == seats).await
}

async fn wait_for(
    stage: &Stage,
    url: &url::Url,
    holds: impl Fn(&Value) -> bool,
) -> anyhow::Result<()> {
    let started = Instant::now();
    loop {
        let answer = stage.http().get(url.clone()).send().await?;
        let answer: Value = answer.json().await.unwrap_or_default();
        if holds(&answer) {
            return Ok(());
        }
        ensure!(started.elapsed() < PATIENCE, "{url} still answers {answer}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

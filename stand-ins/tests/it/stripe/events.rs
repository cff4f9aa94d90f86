use serde_json::{Value, json};
use stripe_client_core::StripeMethod::Get;
use stripe_shared::{ApiErrorsCode, Event};
use stripe_types::List;

use super::{Stage, refusal};

impl Stage {
    async fn listed(&self, query: Value) -> (Vec<Event>, bool) {
        let list: List<Event> = self.send(Get, "/events", query).await.unwrap();
        (list.data, list.has_more)
    }
}

fn kinds(events: &[Event]) -> Vec<&str> {
    events.iter().map(|event| event.type_.as_str()).collect()
}

#[tokio::test]
async fn events_are_listed_newest_first_by_type_and_time_also_those_not_sent() {
    let stage = Stage::set().await;
    stage.stripe.webhooks().enable_events(["refund.created"]);
    stage.captured().await;
    let all = [
        "payment_intent.succeeded",
        "charge.captured",
        "payment_intent.amount_capturable_updated",
        "charge.succeeded",
        "payment_intent.created",
    ];
    let (events, has_more) = stage.listed(json!({})).await;
    assert_eq!(
        (kinds(&events).as_slice(), has_more),
        (all.as_slice(), false)
    );

    let (first, has_more) = stage.listed(json!({ "limit": 2 })).await;
    assert!(has_more);
    let after = json!({ "starting_after": first[1].id });
    let (rest, has_more) = stage.listed(after).await;
    assert_eq!((kinds(&rest).as_slice(), has_more), (&all[2..], false));

    let one = json!({ "type": "charge.captured" });
    assert_eq!(kinds(&stage.listed(one).await.0), ["charge.captured"]);
    let two = json!({ "types": ["charge.captured", "charge.succeeded"] });
    assert_eq!(
        kinds(&stage.listed(two).await.0),
        ["charge.captured", "charge.succeeded"]
    );
    let made = events[0].created;
    let later = json!({ "created": { "gt": made } });
    assert!(stage.listed(later).await.0.is_empty());
    let since = json!({ "created": { "gte": events[4].created } });
    assert_eq!(stage.listed(since).await.0.len(), 5);
}

#[tokio::test]
async fn one_event_is_shown_and_an_unknown_one_is_missing() {
    let stage = Stage::set().await;
    stage.intent().await;
    let (events, _) = stage.listed(json!({})).await;
    let path = format!("/events/{}", events[0].id);
    let shown: Event = stage.send(Get, &path, json!({})).await.unwrap();
    assert_eq!(shown.type_.as_str(), "payment_intent.created");
    let answer = stage
        .send::<Event>(Get, "/events/evt_missing", json!({}))
        .await;
    let (error, status) = refusal(answer);
    assert_eq!(
        (status, error.code),
        (404, Some(ApiErrorsCode::ResourceMissing))
    );
    let after = json!({ "starting_after": "evt_missing" });
    assert_eq!(
        refusal(stage.send::<List<Event>>(Get, "/events", after).await).1,
        404
    );
    let both = json!({ "type": "a", "types": ["b"] });
    assert_eq!(
        refusal(stage.send::<List<Event>>(Get, "/events", both).await).1,
        400
    );
}

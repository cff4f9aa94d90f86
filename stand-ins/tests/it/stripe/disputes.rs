use serde_json::{Value, json};
use stripe_client_core::StripeMethod::Get;
use stripe_shared::{Dispute, DisputeStatus};
use stripe_types::List;

use super::Stage;

async fn post(stage: &Stage, path: &str, form: &[(&str, &str)]) -> (u16, Value) {
    let request = crate::http().post(format!("{}{path}", stage.stripe.url()));
    let request = request.bearer_auth(stage.stripe.secret_key()).form(form);
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.json().await.unwrap())
}

#[tokio::test]
async fn a_dispute_is_told_from_its_opening_to_its_end() {
    for (outcome, status, last) in [
        ("won", DisputeStatus::Won, "charge.dispute.funds_reinstated"),
        ("lost", DisputeStatus::Lost, "charge.dispute.closed"),
    ] {
        let stage = Stage::set().await;
        let intent = stage.captured().await;
        let path = format!("/test/payment_intents/{}/dispute", intent.id);
        let (_, dispute) = post(&stage, &path, &[]).await;
        let path = format!("/test/disputes/{}/close", dispute["id"].as_str().unwrap());
        assert_eq!(post(&stage, &path, &[("outcome", "drawn")]).await.0, 400);
        assert_eq!(post(&stage, &path, &[("outcome", outcome)]).await.0, 200);
        assert_eq!(
            post(&stage, &path, &[("outcome", outcome)]).await.0,
            400,
            "once"
        );

        let list: List<Dispute> = stage.send(Get, "/disputes", json!({})).await.unwrap();
        assert_eq!(list.data[0].status, status);
        let events = stage.stripe.webhooks().events();
        let kinds: Vec<_> = events.iter().map(|event| event.kind.as_str()).collect();
        for kind in [
            "charge.dispute.created",
            "charge.dispute.funds_withdrawn",
            "charge.dispute.closed",
        ] {
            assert!(kinds.contains(&kind), "no {kind} in {kinds:?}");
        }
        assert_eq!(*kinds.last().unwrap(), last);
        assert!(stage.stripe.ledger().charges()[0].is_disputed);
    }
}

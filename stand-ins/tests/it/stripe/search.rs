use stripe_core::payment_intent::{CancelPaymentIntent, SearchPaymentIntent};

use super::{Stage, refusal};

#[tokio::test]
async fn intents_are_found_by_metadata_and_status_page_by_page() {
    let stage = Stage::set().await;
    let mut wanted = Vec::new();
    for number in 0..5 {
        let intent = stage.intent().await;
        if number != 2 {
            wanted.push(intent.id.to_string());
            continue;
        }
        CancelPaymentIntent::new(intent.id)
            .send(&stage.client)
            .await
            .unwrap();
    }
    wanted.reverse();
    let query = "status:'requires_payment_method' AND metadata['booking_id']:'b-1'";
    let (mut found, mut page) = (Vec::new(), None);
    loop {
        let mut request = SearchPaymentIntent::new(query).limit(3);
        if let Some(page) = page {
            request = request.page(page);
        }
        let answer = request.send(&stage.client).await.unwrap();
        assert_eq!(answer.url, "/v1/payment_intents/search");
        assert_eq!(answer.has_more, answer.next_page.is_some());
        found.push(answer.data.into_iter().map(|intent| intent.id.to_string()));
        page = answer.next_page;
        if page.is_none() {
            break;
        }
    }
    assert_eq!(
        found.iter().map(ExactSizeIterator::len).collect::<Vec<_>>(),
        [3, 1]
    );
    assert_eq!(found.into_iter().flatten().collect::<Vec<_>>(), wanted);

    for (query, count) in [
        ("metadata['booking_id']:'b-2'", 0),
        ("status:'canceled'", 1),
        ("-status:'canceled' AND amount>4999", 4),
        ("customer:null", 5),
    ] {
        let answer = SearchPaymentIntent::new(query)
            .send(&stage.client)
            .await
            .unwrap();
        assert_eq!(answer.data.len(), count, "{query}");
    }
}

#[tokio::test]
async fn a_search_that_says_nothing_is_refused() {
    let stage = Stage::set().await;
    for query in [
        "status",
        "colour:'red'",
        "status:'a' OR status:'b' AND status:'c'",
    ] {
        let answer = SearchPaymentIntent::new(query).send(&stage.client).await;
        assert_eq!(refusal(answer).1, 400, "{query}");
    }
    let wrong_page = SearchPaymentIntent::new("status:'succeeded'").page("nonsense");
    assert_eq!(refusal(wrong_page.send(&stage.client).await).1, 400);
}

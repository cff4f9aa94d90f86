//! Saved cards: saving one with a payment, paying with it, removing it.

mod crashes;

use domain::BookingId;
use domain::account::Role;
use platform::testing::eventually;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use stand_ins::stripe::{ApiFault, Customer, FutureUsage, Operation, PaymentIntent};

use crate::pipeline::{PATIENCE, Pipeline, UNLIMITED};

/// The buyer, and another account.
const ANNA: i64 = 1;
const BERT: i64 = 2;

impl Pipeline {
    /// Calls the public listener as this account.
    async fn buyer(
        &self,
        account: i64,
        method: Method,
        path: &str,
        body: &Value,
    ) -> (StatusCode, Value) {
        let token = self.access_token(account, vec![Role::Customer]);
        let request = self.http.request(method, self.public_url(path));
        let answer = request.bearer_auth(token).json(body).send().await.unwrap();
        let status = answer.status();
        (status, answer.json().await.unwrap_or_default())
    }

    /// Chooses the card to pay with, or to save the card that pays.
    async fn choose(&self, account: i64, id: BookingId, choice: Value) -> StatusCode {
        let path = format!("/api/bookings/{id}/card");
        self.buyer(account, Method::PUT, &path, &choice).await.0
    }

    async fn saved_cards(&self, account: i64) -> Vec<Value> {
        let asking = self.buyer(account, Method::GET, "/api/saved-cards", &Value::Null);
        let (status, answer) = asking.await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["saved_cards"].as_array().unwrap().clone()
    }

    /// The id of the newest saved card.
    async fn saved_card(&self, account: i64) -> String {
        let cards = self.saved_cards(account).await;
        cards[0]["id"].as_str().unwrap().to_owned()
    }

    async fn remove(&self, account: i64, card: &str) -> StatusCode {
        let path = format!("/api/saved-cards/{card}");
        let removing = self.buyer(account, Method::DELETE, &path, &Value::Null);
        removing.await.0
    }

    /// Sells a booking and saves its card.
    async fn sell_and_save(&self, account: i64, card: &str) -> BookingId {
        let id = self.hold(account).await;
        let saving = self.choose(account, id, json!({ "save": true }));
        assert_eq!(saving.await, StatusCode::OK);
        assert!(self.pay(id, card).await);
        if card.contains("threeDSecure") {
            assert!(self.authenticate(id).await);
        }
        self.wait_for_payment(id, "captured").await;
        id
    }

    /// The PaymentIntent as Stripe has it.
    async fn at_stripe(&self, id: BookingId) -> PaymentIntent {
        let intent = self.intent(id).await.unwrap();
        self.stripe.ledger().payment_intent(&intent).unwrap()
    }

    fn customers(&self) -> Vec<Customer> {
        self.stripe.ledger().customers()
    }
}

#[tokio::test]
async fn a_card_saved_with_the_first_payment_pays_the_next_booking() {
    let pipeline = Pipeline::open(3).await;
    let first = pipeline.sell_and_save(ANNA, "pm_card_mastercard").await;
    let cards = pipeline.saved_cards(ANNA).await;
    assert_eq!(cards.len(), 1);
    let card = &cards[0];
    assert_eq!(
        (&card["brand"], &card["last4"]),
        (&json!("mastercard"), &json!("4444"))
    );
    assert_eq!(
        (&card["exp_month"], &card["exp_year"]),
        (&json!(12), &json!(2099))
    );

    for _ in 0..2 {
        let next = pipeline.hold(ANNA).await;
        let choice = json!({ "saved_card": card["id"] });
        // Idempotent.
        assert_eq!(
            pipeline.choose(ANNA, next, choice.clone()).await,
            StatusCode::OK
        );
        assert_eq!(pipeline.choose(ANNA, next, choice).await, StatusCode::OK);
        assert!(pipeline.confirm(next, &[]).await.is_some());
        pipeline.wait_for_payment(next, "captured").await;
        assert_eq!(
            pipeline.at_stripe(next).await.customer,
            pipeline.at_stripe(first).await.customer
        );
    }
    assert_eq!(pipeline.saved_cards(ANNA).await, cards);
    assert_eq!(pipeline.customers().len(), 1);
    pipeline.close().await;
}

/// After a restore, and in another installation on the same Stripe account, the id of an account is
/// another person's.
#[tokio::test]
async fn the_number_of_an_account_leads_to_nobody_elses_cards() {
    let pipeline = Pipeline::open(3).await;
    pipeline.sell_and_save(ANNA, "pm_card_visa").await;
    let forgetting = sqlx::query("delete from payment.customers");
    forgetting.execute(&pipeline.app.ctx.db).await.unwrap();
    let id = pipeline.hold(ANNA).await;
    // Neither the idempotency key nor a search finds the first one.
    let spoilt = ApiFault::SavedServerError;
    let faults = pipeline.stripe.faults();
    faults.next(1, Operation::CreateCustomer, spoilt);
    eventually(PATIENCE, async || {
        let saving = pipeline.choose(ANNA, id, json!({ "save": true }));
        saving.await == StatusCode::OK
    })
    .await;
    assert!(pipeline.saved_cards(ANNA).await.is_empty());
    let customers = pipeline.customers();
    assert_eq!(customers.len(), 2);
    for customer in customers {
        let metadata = customer.metadata.into_iter().collect::<Vec<_>>();
        assert!(
            metadata.iter().all(|(_, value)| *value != ANNA.to_string()),
            "{metadata:?}"
        );
    }
    pipeline.cancel(id, ANNA).await;
    pipeline.close().await;
}

#[tokio::test]
async fn who_saves_no_card_makes_no_call_and_no_customer() {
    let pipeline = Pipeline::open_with(2, |config| config.stripe_timeout = UNLIMITED).await;
    let id = pipeline.sell(ANNA).await;
    pipeline.come_to_rest().await;
    let accepted = pipeline.stripe.requests().accepted;
    assert!(pipeline.saved_cards(ANNA).await.is_empty());
    let unpaid = pipeline.hold(ANNA).await;
    let accepted_for_hold = pipeline.stripe.requests().accepted;
    assert_eq!(
        accepted_for_hold,
        accepted + 1,
        "to create the PaymentIntent"
    );
    assert_eq!(
        pipeline
            .choose(ANNA, unpaid, json!({ "save": false }))
            .await,
        StatusCode::OK
    );
    assert_eq!(pipeline.stripe.requests().accepted, accepted_for_hold);
    assert!(pipeline.customers().is_empty());
    assert_eq!(pipeline.at_stripe(id).await.customer, None);
    let rows = "select (select count(*) from payment.customers)
        + (select count(*) from payment.operations where kind not in ('create', 'capture'))";
    assert_eq!(pipeline.count(rows).await, 0);
    pipeline.close().await;
}

#[tokio::test]
async fn nobody_pays_with_removes_or_chooses_for_what_is_anothers() {
    let pipeline = Pipeline::open(4).await;
    pipeline.sell_and_save(ANNA, "pm_card_visa").await;
    pipeline.sell_and_save(BERT, "pm_card_mastercard").await;
    let (annas, berts) = (
        pipeline.saved_card(ANNA).await,
        pipeline.saved_card(BERT).await,
    );
    assert_ne!(annas, berts);
    let (anna, bert) = (pipeline.hold(ANNA).await, pipeline.hold(BERT).await);

    let with_hers = json!({ "saved_card": annas });
    assert_eq!(
        pipeline.choose(BERT, bert, with_hers.clone()).await,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        pipeline.choose(BERT, anna, with_hers).await,
        StatusCode::FORBIDDEN
    );
    assert_eq!(
        pipeline.choose(BERT, anna, json!({ "save": true })).await,
        StatusCode::FORBIDDEN
    );
    assert_eq!(pipeline.remove(BERT, &annas).await, StatusCode::NOT_FOUND);
    // Stripe refuses it as well, also with his booking and his own customer.
    assert!(!pipeline.pay(bert, &annas).await);
    let with_his = json!({ "saved_card": berts });
    assert_eq!(pipeline.choose(BERT, bert, with_his).await, StatusCode::OK);
    assert!(!pipeline.pay(bert, &annas).await);

    assert_eq!(pipeline.saved_card(ANNA).await, annas);
    assert_eq!(pipeline.at_stripe(anna).await.customer, None);
    assert!(pipeline.confirm(bert, &[]).await.is_some());
    pipeline.wait_for_payment(bert, "captured").await;
    pipeline.close().await;
}

#[tokio::test]
async fn a_saved_card_that_is_declined_leaves_the_hold_and_another_pays() {
    let pipeline = Pipeline::open(2).await;
    pipeline.sell_and_save(ANNA, "pm_card_visa").await;
    let customer = &pipeline.customers()[0].id;
    let path = "/v1/payment_methods/pm_card_chargeDeclined/attach";
    pipeline.in_dashboard(path, &[("customer", customer)]).await;
    let declined = pipeline.saved_card(ANNA).await;

    let id = pipeline.hold(ANNA).await;
    let choice = json!({ "saved_card": declined });
    assert_eq!(pipeline.choose(ANNA, id, choice).await, StatusCode::OK);
    assert!(pipeline.confirm(id, &[]).await.is_none());
    let recorded = "select count(*) from payment.payments
        where state = 'pending' and last_error = 'Your card was declined.'";
    eventually(PATIENCE, async || pipeline.count(recorded).await == 1).await;
    assert_eq!(pipeline.booking(id).await, "held");
    assert_eq!(pipeline.saved_cards(ANNA).await.len(), 2, "it stays saved");

    assert!(pipeline.pay(id, "pm_card_visa").await);
    pipeline.wait_for_payment(id, "captured").await;
    assert_eq!(
        pipeline.saved_cards(ANNA).await.len(),
        2,
        "no other is kept unasked"
    );
    pipeline.close().await;
}

#[tokio::test]
async fn a_bank_may_ask_for_another_step_with_a_saved_card_too() {
    let pipeline = Pipeline::open(2).await;
    pipeline
        .sell_and_save(ANNA, "pm_card_threeDSecure2Required")
        .await;
    let id = pipeline.hold(ANNA).await;
    let choice = json!({ "saved_card": pipeline.saved_card(ANNA).await });
    assert_eq!(pipeline.choose(ANNA, id, choice).await, StatusCode::OK);
    let answer = pipeline.confirm(id, &[]).await.unwrap();
    assert_eq!(answer["status"], "requires_action");
    pipeline.wait_for_payment(id, "requires_action").await;
    assert!(pipeline.authenticate(id).await);
    pipeline.wait_for_payment(id, "captured").await;
    pipeline.close().await;
}

#[tokio::test]
async fn a_wish_to_save_is_taken_back_until_the_payment_is_made() {
    let pipeline = Pipeline::open(1).await;
    let id = pipeline.hold(ANNA).await;
    for save in [true, false, true, false] {
        assert_eq!(
            pipeline.choose(ANNA, id, json!({ "save": save })).await,
            StatusCode::OK
        );
        let usage = pipeline.at_stripe(id).await.setup_future_usage;
        assert_eq!(usage, save.then_some(FutureUsage::OnSession));
    }
    assert!(pipeline.pay(id, "pm_card_visa").await);
    pipeline.wait_for_payment(id, "captured").await;
    assert!(pipeline.saved_cards(ANNA).await.is_empty());
    assert_eq!(
        pipeline.choose(ANNA, id, json!({ "save": true })).await,
        StatusCode::CONFLICT
    );
    pipeline.close().await;
}

#[tokio::test]
async fn a_removal_that_stripe_refuses_is_not_reported_as_done() {
    let pipeline = Pipeline::open(1).await;
    pipeline.sell_and_save(ANNA, "pm_card_visa").await;
    let card = pipeline.saved_card(ANNA).await;
    let refused = ApiFault::Refused { status: 400 };
    let faults = pipeline.stripe.faults();
    faults.next(1, Operation::DetachPaymentMethod, refused);
    let refused = pipeline.remove(ANNA, &card).await;
    assert_eq!(refused, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(pipeline.saved_card(ANNA).await, card, "it is still there");
    assert_eq!(pipeline.remove(ANNA, &card).await, StatusCode::NO_CONTENT);
    assert!(pipeline.saved_cards(ANNA).await.is_empty());
    pipeline.close().await;
}

#[tokio::test]
async fn a_removed_card_is_gone_however_often_it_was_saved() {
    let pipeline = Pipeline::open(4).await;
    pipeline.sell_and_save(ANNA, "pm_card_visa").await;
    let older = pipeline.saved_card(ANNA).await;
    pipeline.sell_and_save(ANNA, "pm_card_mastercard").await;
    pipeline.sell_and_save(ANNA, "pm_card_visa").await;
    let customer = &pipeline.customers()[0].id;
    let kept = || pipeline.stripe.ledger().payment_methods_of(customer).len();
    assert_eq!(
        (kept(), pipeline.saved_cards(ANNA).await.len()),
        (3, 2),
        "shown once"
    );

    let visa = pipeline.saved_card(ANNA).await;
    assert_eq!(pipeline.remove(ANNA, &visa).await, StatusCode::NO_CONTENT);
    assert_eq!(kept(), 1);
    assert_eq!(pipeline.saved_cards(ANNA).await[0]["brand"], "mastercard");
    assert_eq!(pipeline.remove(ANNA, &visa).await, StatusCode::NOT_FOUND);
    let id = pipeline.hold(ANNA).await;
    let choice = json!({ "saved_card": older });
    assert_eq!(
        pipeline.choose(ANNA, id, choice).await,
        StatusCode::NOT_FOUND
    );
    assert!(!pipeline.pay(id, &older).await);
    pipeline.close().await;
}

#[tokio::test]
async fn what_makes_no_sense_is_refused() {
    let pipeline = Pipeline::open(1).await;
    let id = pipeline.hold(ANNA).await;
    let both = json!({ "save": true, "saved_card": "pm_1" });
    assert_eq!(
        pipeline.choose(ANNA, id, both).await,
        StatusCode::UNPROCESSABLE_ENTITY
    );
    let path = format!("/api/bookings/{id}/card");
    let misspelt = json!({ "saved_crd": "pm_1" });
    let choosing = pipeline.buyer(ANNA, Method::PUT, &path, &misspelt);
    let (status, problem) = choosing.await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{problem}");
    assert_eq!(problem["field"], "saved_crd");
    let none = json!({ "saved_card": "../../payment_intents" });
    assert_eq!(pipeline.choose(ANNA, id, none).await, StatusCode::NOT_FOUND);
    let unheard_of = BookingId::new(domain::clock::Clock::now(&pipeline.clock));
    let saving = pipeline.choose(ANNA, unheard_of, json!({ "save": true }));
    assert_eq!(saving.await, StatusCode::NOT_FOUND);
    let url = pipeline.public_url("/api/saved-cards");
    let unsigned = pipeline.http.get(url).send().await.unwrap();
    assert_eq!(unsigned.status(), StatusCode::UNAUTHORIZED);
    assert!(pipeline.customers().is_empty());
    pipeline.close().await;
}

#[tokio::test]
async fn a_customer_that_was_deleted_at_stripe_is_replaced() {
    let pipeline = Pipeline::open(3).await;
    pipeline.sell_and_save(ANNA, "pm_card_visa").await;
    let delete = async || {
        let customers = pipeline.customers();
        let path = format!("/v1/customers/{}", customers.last().unwrap().id);
        let url = format!("{}{path}", pipeline.stripe.url());
        let request = pipeline
            .http
            .delete(url)
            .bearer_auth(pipeline.stripe.secret_key());
        assert!(request.send().await.unwrap().status().is_success());
    };
    delete().await;
    assert!(pipeline.saved_cards(ANNA).await.is_empty());
    pipeline.sell_and_save(ANNA, "pm_card_visa").await;
    assert_eq!(pipeline.saved_cards(ANNA).await.len(), 1);
    assert_eq!(pipeline.customers().len(), 2);

    // Noticed only when it is used: refused once, and accepted at the next try.
    delete().await;
    let id = pipeline.hold(ANNA).await;
    let save = json!({ "save": true });
    assert_eq!(
        pipeline.choose(ANNA, id, save.clone()).await,
        StatusCode::CONFLICT
    );
    assert_eq!(pipeline.choose(ANNA, id, save).await, StatusCode::OK);
    assert!(pipeline.pay(id, "pm_card_visa").await);
    pipeline.wait_for_payment(id, "captured").await;
    assert_eq!(pipeline.saved_cards(ANNA).await.len(), 1);
    pipeline.close().await;
}

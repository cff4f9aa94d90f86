//! Confirmation of addresses and phones by a code.

use chrono::TimeDelta;
use domain::message::ConfirmationAsked;
use platform::tokens::Confirmation;
use serde_json::{Value, json};

use crate::app::{App, Client, PASSWORD};

/// Signs up an account whose address is unconfirmed.
async fn newcomer(app: &App) -> Client<'_> {
    let body = json!({"email": "ada@example.org", "password": PASSWORD, "phone": "+31201234567"});
    let made = app.nobody().post("/api/accounts", &body).await.expect(201);
    assert_eq!(made["account"]["email_confirmed"], false);
    Client::with_token(app, made["session"]["access_token"].as_str().unwrap())
}

/// Returns the codes requested so far, oldest first, derived as by the notifier.
async fn codes(app: &App) -> Vec<String> {
    let asked: Vec<Value> = sqlx::query_scalar(
        "select body from platform.outbox
         where message_name = 'account.confirmation-asked.v1' order by id",
    )
    .fetch_all(&app.test.ctx.db)
    .await
    .unwrap();
    let code = |asked: Value| {
        let asked: ConfirmationAsked = serde_json::from_value(asked).unwrap();
        app.test.ctx.keys.confirmation_code(&Confirmation {
            nonce: asked.nonce,
            account_id: asked.account_id,
            address: &asked.address,
        })
    };
    asked.into_iter().map(code).collect()
}

async fn known_addresses(app: &App) -> i64 {
    let sql = "select count(*) from box_office.public_addresses where address = 'ada@example.org'";
    app.count(sql).await
}

const CONFIRMATIONS: &str = "/api/accounts/confirmations";
const CODES: &str = "/api/accounts/confirmations/codes";

#[tokio::test]
async fn a_code_that_comes_back_confirms_the_address_and_tickets_can_go_there() {
    let app = App::start_confirming().await;
    let ada = newcomer(&app).await;
    assert_eq!(known_addresses(&app).await, 0);
    let code = codes(&app).await.remove(0);
    for _ in 0..2 {
        let answer = ada.post(CONFIRMATIONS, &json!({"code": code})).await;
        let account = answer.expect(200)["account"].clone();
        assert_eq!(account["email_confirmed"], true);
        assert_eq!(account["phone_confirmed"], false);
    }
    assert_eq!(known_addresses(&app).await, 1);
    let stored: Vec<String> =
        sqlx::query_scalar("select row_to_json(o)::text from platform.outbox o")
            .fetch_all(&app.test.ctx.db)
            .await
            .unwrap();
    assert!(
        stored.iter().all(|row| !row.contains(&code)),
        "the code is stored"
    );

    // The phone has its own code, available once the address is confirmed.
    ada.post(CODES, &json!({"channel": "sms"}))
        .await
        .expect(202);
    let code = codes(&app).await.remove(1);
    let given = json!({"channel": "sms", "code": code});
    let account = ada.post(CONFIRMATIONS, &given).await.expect(200);
    assert_eq!(account["account"]["phone_confirmed"], true);
    app.finish().await;
}

#[tokio::test]
async fn a_code_is_good_for_five_tries_and_ten_minutes() {
    let app = App::start_confirming().await;
    let ada = newcomer(&app).await;
    let first = codes(&app).await.remove(0);
    let wrong = json!({"code": if first == "000000" { "000001" } else { "000000" }});
    for left in (0..5).rev() {
        let refused = ada.post(CONFIRMATIONS, &wrong).await.problem("invalid");
        assert_eq!(refused["tries_left"], left);
    }
    let right = json!({"code": first});
    ada.post(CONFIRMATIONS, &right).await.problem("conflict");

    let early = ada.post(CODES, &json!({})).await;
    assert_eq!(early.headers["retry-after"], "60");
    early.problem("rate-limited");
    app.clock.advance(TimeDelta::seconds(60));
    ada.post(CODES, &json!({})).await.expect(202);
    ada.post(CONFIRMATIONS, &right).await.invalid("code");
    app.clock.advance(TimeDelta::minutes(10));
    let late = json!({"code": codes(&app).await.remove(1)});
    ada.post(CONFIRMATIONS, &late).await.problem("conflict");
    app.finish().await;
}

#[tokio::test]
async fn a_stranger_gets_ten_codes_a_day_and_no_text_before_the_mail_is_read() {
    let app = App::start_confirming().await;
    let ada = newcomer(&app).await;
    let sms = json!({"channel": "sms"});
    ada.post(CODES, &sms).await.problem("conflict");
    for _ in 1..10 {
        app.clock.advance(TimeDelta::seconds(60));
        ada.post(CODES, &json!({})).await.expect(202);
    }
    app.clock.advance(TimeDelta::seconds(60));
    ada.post(CODES, &json!({})).await.problem("rate-limited");
    assert_eq!(codes(&app).await.len(), 10);
    app.finish().await;
}

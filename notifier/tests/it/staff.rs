//! Staff API: listing failed and uncertain messages, and resending them.

use std::sync::{Arc, Mutex};

use chrono::TimeDelta;
use domain::AccountId;
use domain::account::Role;
use domain::message::AuditNoted;
use domain::token::{ACCESS_AUDIENCE, AccessClaims, ISSUER};
use platform::amqp::{Delivery, Handler, Settings, Verdict, consume};
use platform::testing::eventually;
use platform::topology;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use stand_ins::mail::MailFault;

use crate::stage::{EMAIL, SOON, Stage, event};

const STAFF: AccountId = AccountId(900);

impl Stage {
    /// Calls the internal listener with a token for this role.
    async fn call(&self, role: Role, method: Method, path: &str) -> (StatusCode, Value) {
        let now = self.app.ctx.clock.now();
        let token = self.app.ctx.keys.sign_access(&AccessClaims {
            iss: ISSUER.to_owned(),
            aud: ACCESS_AUDIENCE.to_owned(),
            sub: STAFF.to_string(),
            roles: vec![role],
            iat: now.timestamp(),
            nbf: now.timestamp(),
            exp: (now + TimeDelta::hours(1)).timestamp(),
        });
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let url = format!("http://{}{path}", self.staff);
        let request = client.request(method, url).bearer_auth(token);
        let answer = request.send().await.unwrap();
        let status = answer.status();
        (status, answer.json().await.unwrap_or_default())
    }
}

/// Collects audit notes in place of box-office.
#[derive(Clone, Default)]
struct Notes(Arc<Mutex<Vec<AuditNoted>>>);

impl Handler for Notes {
    async fn handle(&self, delivery: Delivery) -> Verdict {
        self.0.lock().unwrap().push(delivery.parse().unwrap());
        Verdict::Ack
    }
}

#[tokio::test]
async fn a_mail_that_failed_is_shown_and_sent_again_once_and_that_is_noted() {
    let stage = Stage::start().await;
    let event = event(&stage.app.ctx.clock);
    stage.introduce(&event, None).await;
    let refused = MailFault::PermanentFailure;
    stage.mail.faults().next(1, EMAIL.to_owned(), refused);
    let id = stage.pay(&event).await.booking.booking_id;
    stage.mail_is(id, "confirmed", "failed").await;

    let (status, answer) = stage.call(Role::Operator, Method::GET, "/api/mails").await;
    assert_eq!(status, StatusCode::OK);
    let mails = answer["mails"].as_array().unwrap();
    assert_eq!(mails.len(), 1);
    assert_eq!(mails[0]["booking_id"], id.to_string());
    let error = mails[0]["error"].as_str().unwrap();
    assert!(error.contains("No such mailbox"), "{error}");
    let only = "/api/mails?state=uncertain";
    let (_, none) = stage.call(Role::Operator, Method::GET, only).await;
    assert_eq!(none["mails"].as_array().unwrap().len(), 0);

    let again = format!("/api/mails/{}/again", mails[0]["id"].as_str().unwrap());
    let (status, _) = stage.call(Role::Customer, Method::POST, &again).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    let (status, _) = stage.call(Role::Operator, Method::POST, &again).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    stage.mail_is(id, "confirmed", "sent").await;
    assert_eq!(stage.mails(id, "confirmed").len(), 1);
    let (status, _) = stage.call(Role::Operator, Method::POST, &again).await;
    assert_eq!(status, StatusCode::CONFLICT);

    let (notes, queue) = (Notes::default(), topology::box_office_audit());
    let stop = stage.app.ctx.shutdown.soft().child_token();
    let reading = consume(
        &stage.app.ctx.broker,
        &stop,
        &queue,
        Settings::default(),
        notes.clone(),
    );
    let until_told = async {
        eventually(SOON, async || !notes.0.lock().unwrap().is_empty()).await;
        stop.cancel();
    };
    let (read, ()) = tokio::join!(reading, until_told);
    read.unwrap();
    let notes = notes.0.lock().unwrap().clone();
    assert_eq!((notes.len(), notes[0].actor), (1, STAFF));
    assert_eq!(notes[0].action, "mail.again");
    assert_eq!(notes[0].subject, format!("booking:{id}"));
    stage.app.finish().await;
}

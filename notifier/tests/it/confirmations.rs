//! Confirmation codes, and messages to unconfirmed addresses.

use std::time::{Duration, Instant};

use domain::clock::SystemClock;
use domain::message::{AccountChanged, ContactChannel};
use platform::testing::eventually;
use platform::tokens::Confirmation;
use platform::topology;
use stand_ins::mail;

use crate::stage::{ACCOUNT, EMAIL, PHONE, SOON, Stage, event};

impl Stage {
    /// Inserts the account into box-office's table, or changes whether it is confirmed.
    async fn sign_up(&self, is_confirmed: bool) {
        sqlx::query(
            "insert into box_office.accounts
                 (id, email, password_hash, phone, created_at, updated_at,
                  email_confirmed_at, phone_confirmed_at)
             overriding system value
             values ($1, $2, 'none', $3, now(), now(),
                     case when $4 then now() end, case when $4 then now() end)
             on conflict (id) do update
             set email_confirmed_at = excluded.email_confirmed_at,
                 phone_confirmed_at = excluded.phone_confirmed_at",
        )
        .bind(ACCOUNT.0)
        .bind(EMAIL)
        .bind(PHONE)
        .bind(is_confirmed)
        .execute(&self.app.ctx.db)
        .await
        .unwrap();
    }

    async fn put_off(&self) -> i64 {
        let sql = "select count(*) from notifier.notifications
                   where state = 'waiting' and last_error like '%confirmed%'";
        sqlx::query_scalar(sql)
            .fetch_one(&self.app.ctx.db)
            .await
            .unwrap()
    }
}

#[tokio::test]
async fn every_queue_that_the_notifier_consumes_is_waited_for() {
    let stage = Stage::start().await;
    let node = stage.app.another_node().await;
    let routes = stage.start_notifier(node.clone()).await;
    let waited_for: Vec<&str> = routes.consumes.iter().map(|queue| &*queue.name).collect();
    for queue in topology::all() {
        let is_its = queue.name.starts_with("notifier.");
        assert_eq!(waited_for.contains(&&*queue.name), is_its, "{}", queue.name);
    }
    node.shutdown.soft().cancel();
    node.shutdown.tasks_left().await;
    stage.app.finish().await;
}

#[tokio::test]
async fn a_code_is_mailed_and_texted_to_whom_nothing_else_goes() {
    let stage = Stage::start().await;
    stage.sign_up(false).await;
    for (channel, address) in [(ContactChannel::Email, EMAIL), (ContactChannel::Sms, PHONE)] {
        let nonce = stage.ask_for_code(channel, address).await;
        let code = stage.app.ctx.keys.confirmation_code(&Confirmation {
            nonce,
            account_id: ACCOUNT,
            address,
        });
        eventually(SOON, async || match channel {
            ContactChannel::Email => {
                let mails = stage.mail.inbox().all();
                mails
                    .iter()
                    .any(|mail| mail.subject == format!("{code} is your code"))
            }
            ContactChannel::Sms => {
                let texts = stage.sms.inbox().all();
                texts
                    .iter()
                    .any(|text| text.to == PHONE && text.body.starts_with(&code))
            }
        })
        .await;
    }
    stage.app.finish().await;
}

#[tokio::test]
async fn codes_go_no_faster_than_the_operator_allows() {
    let slowly = &["--mails-per-second=5"];
    let stage = Stage::start_at(SystemClock::shared(), mail::Config::default(), slowly).await;
    stage.sign_up(false).await;
    let started = Instant::now();
    for _ in 0..10 {
        stage.ask_for_code(ContactChannel::Email, EMAIL).await;
    }
    // Each is delivered twice. The bucket holds five, five are borrowed, and ten come at the rate.
    stage.mail.inbox().wait_for(20, SOON).await.unwrap();
    assert!(started.elapsed() >= Duration::from_millis(1_800));
    stage.app.finish().await;
}

#[tokio::test]
async fn what_is_due_waits_for_the_confirmation_and_is_sent_after_it() {
    let stage = Stage::start().await;
    stage.sign_up(false).await;
    let event = event(&stage.app.ctx.clock);
    stage.introduce(&event, Some(PHONE)).await;
    stage.pay(&event).await;
    eventually(SOON, async || stage.put_off().await == 2).await;
    assert_eq!(stage.mail.inbox().len(), 0);
    assert_eq!(stage.sms.inbox().len(), 0);

    stage.sign_up(true).await;
    stage
        .tell(&AccountChanged {
            account_id: ACCOUNT,
            version: 2,
            email: EMAIL.into(),
            name: "Ada".into(),
            phone: Some(PHONE.into()),
        })
        .await;
    eventually(SOON, async || {
        stage.mail.inbox().len() == 1 && stage.sms.inbox().len() == 1
    })
    .await;
    stage.app.finish().await;
}

use std::collections::HashMap;
use std::time::Duration;

use domain::BookingId;
use domain::clock::{Clock, SystemClock};
use domain::message::{Message, PaymentVoided};
use platform::amqp::{Delivery, Exchange, Handler, QueueSpec, Settings, Verdict, consume};
use platform::outbox::{self, Entry, Staged};
use platform::pg::run_tx;
use platform::testing::{TestApp, eventually};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

const SOON: Duration = Duration::from_secs(60);
const OWNER: &str = "tests";

fn spec() -> QueueSpec {
    QueueSpec::durable("payments").bind(Exchange::Events, PaymentVoided::NAME)
}

fn message() -> PaymentVoided {
    PaymentVoided {
        booking_id: BookingId::new(SystemClock.now()),
    }
}

struct Probe(mpsc::UnboundedSender<BookingId>);

impl Handler for Probe {
    async fn handle(&self, delivery: Delivery) -> Verdict {
        let _ = self
            .0
            .send(delivery.parse::<PaymentVoided>().unwrap().booking_id);
        Verdict::Ack
    }
}

fn listen(app: &TestApp) -> mpsc::UnboundedReceiver<BookingId> {
    let (sender, seen) = mpsc::unbounded_channel();
    let (broker, stop) = (app.ctx.broker.clone(), app.ctx.shutdown.soft().clone());
    app.ctx.spawn("consumer", async move {
        consume(&broker, &stop, &spec(), Settings::default(), Probe(sender)).await
    });
    seen
}

fn start_relay(app: &TestApp) {
    let (pool, broker) = (app.ctx.db.clone(), app.ctx.broker.clone());
    let stop = app.ctx.shutdown.soft().clone();
    app.ctx
        .spawn("relay", outbox::relay(pool, broker, stop, OWNER));
}

async fn left(app: &TestApp) -> i64 {
    sqlx::query_scalar("SELECT count(*) FROM platform.outbox")
        .fetch_one(&app.ctx.db)
        .await
        .unwrap()
}

#[tokio::test]
async fn a_message_is_sent_if_and_only_if_its_transaction_commits() {
    let app = TestApp::start().await;
    app.ctx.broker.declare_patiently(&spec()).await;
    let mut seen = listen(&app);
    start_relay(&app);

    let (staged, dropped) = (message(), message());
    let mut tx = app.ctx.db.begin().await.unwrap();
    outbox::put(&mut tx, OWNER, &dropped).await.unwrap();
    tx.rollback().await.unwrap();
    let kept_too = &staged;
    run_tx(&app.ctx.db, "test", |tx| {
        Box::pin(outbox::put(tx, OWNER, kept_too))
    })
    .await
    .unwrap();
    outbox::wake(OWNER);

    let first = tokio::time::timeout(SOON, seen.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(first, staged.booking_id);
    eventually(SOON, async || left(&app).await == 0).await;
    assert!(seen.try_recv().is_err());
    app.finish().await;
}

#[tokio::test]
async fn what_a_crashed_relay_had_claimed_is_sent_when_its_lease_runs_out() {
    let app = TestApp::start().await;
    app.ctx.broker.declare_patiently(&spec()).await;
    let mut seen = listen(&app);
    let message = message();
    outbox::put(&mut app.ctx.db.acquire().await.unwrap(), OWNER, &message)
        .await
        .unwrap();
    // As a relay leaves it that dies after the claim.
    sqlx::query(
        "UPDATE platform.outbox SET attempts = 1, available_at = now() + interval '2 seconds'",
    )
    .execute(&app.ctx.db)
    .await
    .unwrap();
    start_relay(&app);
    let sent = tokio::time::timeout(SOON, seen.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(sent, message.booking_id);
    eventually(SOON, async || left(&app).await == 0).await;
    app.finish().await;
}

#[tokio::test]
async fn nothing_is_lost_when_relays_are_killed_at_any_moment() {
    const MESSAGES: usize = 3_000;
    let app = TestApp::start().await;
    app.ctx.broker.declare_patiently(&spec()).await;
    let mut seen = listen(&app);
    let mut missing = HashMap::new();
    let mut entries = Vec::new();
    for _ in 0..MESSAGES {
        let message = message();
        entries.push(Entry::new(&message).unwrap());
        missing.insert(message.booking_id, ());
    }
    outbox::put_all(&mut app.ctx.db.acquire().await.unwrap(), OWNER, entries)
        .await
        .unwrap();

    for life in 1..=6 {
        let (pool, broker) = (app.ctx.db.clone(), app.ctx.broker.clone());
        let relay = tokio::spawn(outbox::relay(pool, broker, CancellationToken::new(), OWNER));
        let enough = missing.len().saturating_sub(life * 37);
        while missing.len() > enough {
            let sent = tokio::time::timeout(SOON, seen.recv()).await.unwrap();
            missing.remove(&sent.unwrap());
        }
        relay.abort();
        let _killed = relay.await;
        // The lease of the dead would run out by itself, later.
        sqlx::query("UPDATE platform.outbox SET available_at = now()")
            .execute(&app.ctx.db)
            .await
            .unwrap();
    }
    start_relay(&app);
    while !missing.is_empty() {
        missing.remove(
            &tokio::time::timeout(SOON, seen.recv())
                .await
                .unwrap()
                .unwrap(),
        );
    }
    eventually(SOON, async || left(&app).await == 0).await;
    app.finish().await;
}

#[tokio::test]
async fn a_message_nobody_takes_yet_waits_without_holding_others_up() {
    let app = TestApp::start().await;
    app.ctx.broker.declare_patiently(&spec()).await;
    let mut seen = listen(&app);
    let (early, message) = (message(), message());
    let key = "payments.later";
    let entries = vec![
        Entry::to(Exchange::Commands, key, &early).unwrap(),
        Entry::new(&message).unwrap(),
    ];
    outbox::put_all(&mut app.ctx.db.acquire().await.unwrap(), OWNER, entries)
        .await
        .unwrap();
    start_relay(&app);
    let first = tokio::time::timeout(SOON, seen.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(first, message.booking_id);
    eventually(SOON, async || left(&app).await == 1).await;

    app.ctx
        .broker
        .declare_patiently(&spec().bind(Exchange::Commands, key))
        .await;
    let second = tokio::time::timeout(SOON, seen.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(second, early.booking_id);
    app.finish().await;
}

/// Stores `message` in a transaction, to be sent by its writer.
async fn stage(app: &TestApp, message: &PaymentVoided) -> Staged {
    run_tx(&app.ctx.db, "test", |tx| {
        Box::pin(async move {
            let mut staged = Staged::of(OWNER);
            staged.put_all(tx, vec![Entry::new(message)?]).await?;
            Ok::<_, sqlx::Error>(staged)
        })
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn a_staged_message_is_sent_by_its_writer_and_not_by_a_relay_as_well() {
    let app = TestApp::start().await;
    app.ctx.broker.declare_patiently(&spec()).await;
    let mut seen = listen(&app);
    start_relay(&app);
    let message = message();
    let staged = stage(&app, &message).await;
    staged.send(&app.ctx.outbox).await;
    assert_eq!(left(&app).await, 0);
    let first = tokio::time::timeout(SOON, seen.recv()).await.unwrap();
    assert_eq!(first, Some(message.booking_id));
    app.finish().await;
    assert_eq!(seen.recv().await, None, "it came twice");
}

#[tokio::test]
async fn a_staged_message_whose_writer_died_is_sent_by_a_relay_when_its_time_is_over() {
    let app = TestApp::start().await;
    app.ctx.broker.declare_patiently(&spec()).await;
    let mut seen = listen(&app);
    let message = message();
    drop(stage(&app, &message).await);
    start_relay(&app);
    outbox::wake(OWNER);
    sqlx::query("UPDATE platform.outbox SET available_at = now()")
        .execute(&app.ctx.db)
        .await
        .unwrap();
    let first = tokio::time::timeout(SOON, seen.recv()).await.unwrap();
    assert_eq!(first, Some(message.booking_id));
    app.finish().await;
}

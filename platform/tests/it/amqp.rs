use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use domain::BookingId;
use domain::clock::{Clock, SystemClock};
use domain::message::{Message, PaymentVoided};
use platform::amqp::{
    BatchHandler, Broker, Delivery, Exchange, Handler, Outgoing, PublishError, QueueSpec, Settings,
    Verdict, consume, consume_batches, dead_letters,
};
use platform::telemetry::{TraceContext, span_for};
use platform::testing::{Proxy, TestApp, eventually};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;
use uuid::Uuid;

const SOON: Duration = Duration::from_secs(60);
const QUEUE: &str = "payments";

fn spec() -> QueueSpec {
    QueueSpec::durable(QUEUE).bind(Exchange::Events, PaymentVoided::NAME)
}

fn message() -> PaymentVoided {
    PaymentVoided {
        booking_id: BookingId::new(SystemClock.now()),
    }
}

async fn publish(broker: &Broker) -> Uuid {
    let id = Uuid::new_v4();
    broker
        .publish(Exchange::Events, PaymentVoided::NAME, &message(), id)
        .await
        .unwrap();
    id
}

fn outgoing(name: &str, body: &'static str) -> Outgoing {
    Outgoing {
        exchange: Exchange::Events,
        routing_key: PaymentVoided::NAME.to_owned(),
        name: name.to_owned(),
        body: body.into(),
        message_id: Uuid::new_v4(),
        traceparent: None,
    }
}

/// Forwards every delivery to the test, and returns its verdict.
struct Probe<F> {
    seen: mpsc::UnboundedSender<Delivery>,
    answer: F,
}

impl<F: Fn(&Delivery) -> Verdict + Send + Sync + 'static> Handler for Probe<F> {
    async fn handle(&self, delivery: Delivery) -> Verdict {
        let verdict = (self.answer)(&delivery);
        // The test may be over.
        let _ = self.seen.send(delivery);
        verdict
    }
}

struct Consumer {
    seen: mpsc::UnboundedReceiver<Delivery>,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Consumer {
    fn start(
        broker: &Broker,
        spec: QueueSpec,
        settings: Settings,
        answer: impl Fn(&Delivery) -> Verdict + Send + Sync + 'static,
    ) -> Self {
        let (seen_by, seen) = mpsc::unbounded_channel();
        let stop = CancellationToken::new();
        let (broker, until) = (broker.clone(), stop.clone());
        let task = tokio::spawn(async move {
            consume(
                &broker,
                &until,
                &spec,
                settings,
                Probe {
                    seen: seen_by,
                    answer,
                },
            )
            .await
        });
        Self { seen, stop, task }
    }

    async fn next(&mut self) -> Delivery {
        tokio::time::timeout(SOON, self.seen.recv())
            .await
            .expect("a delivery in time")
            .unwrap()
    }

    async fn stop(self) {
        self.stop.cancel();
        tokio::time::timeout(SOON, self.task)
            .await
            .expect("leaves in time")
            .unwrap()
            .unwrap();
    }
}

#[tokio::test]
async fn a_message_keeps_its_id_and_name_and_is_in_the_trace_of_its_booking() {
    let app = TestApp::start().await;
    let mut consumer = Consumer::start(&app.ctx.broker, spec(), Settings::default(), |_| {
        Verdict::Ack
    });
    app.ctx.broker.declare_patiently(&spec()).await;

    let sender = TraceContext::root();
    let sent = message();
    let id = Uuid::new_v4();
    app.ctx
        .broker
        .publish(Exchange::Events, PaymentVoided::NAME, &sent, id)
        .instrument(span_for(Some(&sender), "test"))
        .await
        .unwrap();

    let delivery = consumer.next().await;
    assert_eq!((delivery.message_id, delivery.attempt), (id, 1));
    assert_eq!(delivery.parse::<PaymentVoided>().unwrap(), sent);
    let of_booking = TraceContext::of_booking(sent.booking_id);
    assert_eq!(delivery.trace.unwrap().trace_id(), of_booking.trace_id());
    consumer.stop().await;
    app.finish().await;
}

#[tokio::test]
async fn a_message_whose_consumer_dies_is_delivered_to_another() {
    let app = TestApp::start().await;
    let broker = &app.ctx.broker;
    broker.declare_patiently(&spec()).await;
    let id = publish(broker).await;

    let dying = app.another_node().await;
    let (started, mut begun) = mpsc::unbounded_channel();
    struct Hangs(mpsc::UnboundedSender<Uuid>);
    impl Handler for Hangs {
        async fn handle(&self, delivery: Delivery) -> Verdict {
            let _ = self.0.send(delivery.message_id);
            std::future::pending().await
        }
    }
    let (node, forever) = (dying.broker.clone(), CancellationToken::new());
    let task = tokio::spawn(async move {
        consume(
            &node,
            &forever,
            &spec(),
            Settings::default(),
            Hangs(started),
        )
        .await
    });
    assert_eq!(
        tokio::time::timeout(SOON, begun.recv()).await.unwrap(),
        Some(id)
    );
    task.abort();
    dying.broker.close().await;

    let mut consumer = Consumer::start(broker, spec(), Settings::default(), |_| Verdict::Ack);
    let again = consumer.next().await;
    assert_eq!(again.message_id, id);
    assert!(again.attempt > 1, "attempt {}", again.attempt);
    consumer.stop().await;
    app.finish().await;
}

#[tokio::test]
async fn a_retry_comes_back_after_its_delay_as_the_next_attempt() {
    let app = TestApp::start().await;
    let broker = &app.ctx.broker;
    broker.declare_patiently(&spec()).await;
    let delay = Duration::from_secs(1);
    let handled = Arc::new(Mutex::new(Vec::new()));
    let times = Arc::clone(&handled);
    let mut consumer = Consumer::start(broker, spec(), Settings::default(), move |delivery| {
        times.lock().unwrap().push(Instant::now());
        if delivery.attempt == 1 {
            Verdict::RetryAfter(delay)
        } else {
            Verdict::Ack
        }
    });
    let id = publish(broker).await;

    let first = consumer.next().await;
    let second = consumer.next().await;
    let times = handled.lock().unwrap().clone();
    let waited = times[1] - times[0];
    assert!(waited >= Duration::from_millis(900), "{waited:?}");
    assert_eq!((first.message_id, second.message_id), (id, id));
    assert_eq!((first.attempt, second.attempt), (1, 2));
    assert_eq!(first.body, second.body);
    consumer.stop().await;
    app.finish().await;
}

#[tokio::test]
async fn a_short_retry_does_not_wait_behind_a_long_one() {
    let app = TestApp::start().await;
    let broker = &app.ctx.broker;
    broker.declare_patiently(&spec()).await;
    let mut consumer = Consumer::start(broker, spec(), Settings::default(), |delivery| {
        match (delivery.attempt, delivery.name.as_str()) {
            (1, "slow") => Verdict::RetryAfter(Duration::from_secs(300)),
            (1, _) => Verdict::RetryAfter(Duration::ZERO),
            _ => Verdict::Ack,
        }
    });
    broker
        .publish_all(vec![outgoing("slow", "{}")])
        .await
        .remove(0)
        .unwrap();
    assert_eq!(consumer.next().await.name, "slow");
    broker
        .publish_all(vec![outgoing("quick", "{}")])
        .await
        .remove(0)
        .unwrap();
    let (first, second) = (consumer.next().await, consumer.next().await);
    assert_eq!(
        (first.name.as_str(), second.name.as_str()),
        ("quick", "quick")
    );
    consumer.stop().await;
    app.finish().await;
}

#[tokio::test]
async fn a_message_that_cannot_be_read_is_put_aside_and_the_consumer_goes_on() {
    let app = TestApp::start().await;
    let broker = &app.ctx.broker;
    broker.declare_patiently(&spec()).await;
    let mut consumer =
        Consumer::start(
            broker,
            spec(),
            Settings::default(),
            |delivery| match delivery.parse::<PaymentVoided>() {
                Ok(_) => Verdict::Ack,
                Err(error) => error.into(),
            },
        );
    let bad = outgoing(PaymentVoided::NAME, "not json");
    let bad_id = bad.message_id;
    broker.publish_all(vec![bad]).await.remove(0).unwrap();
    let good_id = publish(broker).await;

    let seen = HashSet::from([
        consumer.next().await.message_id,
        consumer.next().await.message_id,
    ]);
    assert_eq!(seen, HashSet::from([bad_id, good_id]));
    eventually(SOON, async || {
        dead_letters::count(broker, QUEUE).await.unwrap() == 1
    })
    .await;
    let letter = dead_letters::list(broker, &app.ctx.db, QUEUE, 10)
        .await
        .unwrap()
        .remove(0);
    assert_eq!((letter.id, letter.queue.as_str()), (bad_id, QUEUE));
    assert_eq!(letter.body.as_ref(), b"not json");
    assert!(letter.reason.contains("expected"), "{}", letter.reason);
    assert!(letter.died_at.is_some());
    consumer.stop().await;
    app.finish().await;
}

#[tokio::test]
async fn dead_letters_can_be_brought_back_or_discarded() {
    let app = TestApp::start().await;
    let broker = &app.ctx.broker;
    broker.declare_patiently(&spec()).await;
    let is_repaired = Arc::new(AtomicBool::new(false));
    let repaired = is_repaired.clone();
    let mut consumer = Consumer::start(broker, spec(), Settings::default(), move |_| {
        if repaired.load(Ordering::SeqCst) {
            Verdict::Ack
        } else {
            Verdict::DeadLetter("broken".into())
        }
    });
    let (kept, discarded) = (publish(broker).await, publish(broker).await);
    consumer.next().await;
    consumer.next().await;
    eventually(SOON, async || {
        dead_letters::count(broker, QUEUE).await.unwrap() == 2
    })
    .await;

    let gone = dead_letters::discard(broker, &app.ctx.db, QUEUE, &HashSet::from([discarded]))
        .await
        .unwrap();
    assert_eq!(gone, 1);
    is_repaired.store(true, Ordering::SeqCst);
    eventually(SOON, async || {
        dead_letters::redrive(broker, &app.ctx.db, QUEUE, 10)
            .await
            .unwrap()
            == 1
    })
    .await;
    let back = consumer.next().await;
    assert_eq!((back.message_id, back.attempt), (kept, 1));
    assert_eq!(dead_letters::count(broker, QUEUE).await.unwrap(), 0);
    consumer.stop().await;
    app.finish().await;
}

#[tokio::test]
async fn looking_at_dead_letters_removes_none() {
    let app = TestApp::start().await;
    let broker = &app.ctx.broker;
    broker.declare_patiently(&spec()).await;
    let mut consumer = Consumer::start(broker, spec(), Settings::default(), |_| {
        Verdict::DeadLetter("broken".into())
    });
    publish(broker).await;
    consumer.next().await;
    for _ in 0..30 {
        eventually(SOON, async || {
            dead_letters::list(broker, &app.ctx.db, QUEUE, 10)
                .await
                .unwrap()
                .len()
                == 1
        })
        .await;
        assert_eq!(dead_letters::count(broker, QUEUE).await.unwrap(), 0);
    }
    consumer.stop().await;
    app.finish().await;
}

#[tokio::test]
async fn a_message_is_given_up_after_the_last_attempt() {
    let app = TestApp::start().await;
    let broker = &app.ctx.broker;
    broker.declare_patiently(&spec()).await;
    let settings = Settings {
        max_attempts: 2,
        ..Settings::default()
    };
    let mut consumer = Consumer::start(broker, spec(), settings, |_| {
        Verdict::RetryAfter(Duration::ZERO)
    });
    publish(broker).await;
    consumer.next().await;
    consumer.next().await;
    eventually(SOON, async || {
        dead_letters::count(broker, QUEUE).await.unwrap() == 1
    })
    .await;
    let letter = dead_letters::list(broker, &app.ctx.db, QUEUE, 1)
        .await
        .unwrap()
        .remove(0);
    assert_eq!(letter.reason, "given up after 2 attempts");
    assert_eq!(letter.attempts, 2);
    consumer.stop().await;
    app.finish().await;
}

#[tokio::test]
async fn a_handler_that_panics_or_hangs_is_a_failed_attempt() {
    struct Fails(AtomicU32, mpsc::UnboundedSender<Delivery>);
    impl Handler for Fails {
        async fn handle(&self, delivery: Delivery) -> Verdict {
            match self.0.fetch_add(1, Ordering::SeqCst) {
                0 => panic!("expected by the test"),
                1 => std::future::pending().await,
                _ => {
                    let _ = self.1.send(delivery);
                    Verdict::Ack
                }
            }
        }
    }
    let app = TestApp::start().await;
    let broker = app.ctx.broker.clone();
    broker.declare_patiently(&spec()).await;
    let id = publish(&broker).await;
    let (sender, mut seen) = mpsc::unbounded_channel();
    let stop = app.ctx.shutdown.soft().clone();
    app.ctx.spawn("consumer", async move {
        let settings = Settings {
            time_limit: Duration::from_millis(100),
            ..Settings::default()
        };
        consume(
            &broker,
            &stop,
            &spec(),
            settings,
            Fails(AtomicU32::new(0), sender),
        )
        .await
    });
    let third = tokio::time::timeout(SOON, seen.recv())
        .await
        .unwrap()
        .unwrap();
    assert_eq!((third.message_id, third.attempt), (id, 3));
    app.finish().await;
}

#[tokio::test]
async fn a_full_queue_refuses_and_says_so() {
    let app = TestApp::start().await;
    let broker = &app.ctx.broker;
    broker.declare_patiently(&spec().max_length(5)).await;
    // RabbitMQ checks the bound a little late.
    let mut outcome = Ok(());
    for _ in 0..500 {
        outcome = broker
            .publish(
                Exchange::Events,
                PaymentVoided::NAME,
                &message(),
                Uuid::new_v4(),
            )
            .await;
        if outcome.is_err() {
            break;
        }
    }
    assert!(matches!(outcome, Err(PublishError::Full)), "{outcome:?}");
    app.finish().await;
}

#[tokio::test]
async fn a_message_for_nobody_is_reported_and_never_another_one() {
    let app = TestApp::start().await;
    let broker = &app.ctx.broker;
    broker.declare_patiently(&spec()).await;
    let messages: Vec<_> = (0..2_000)
        .map(|at| {
            let mut message = outgoing(PaymentVoided::NAME, "{}");
            if at % 3 == 0 {
                message.routing_key = "nobody.listens.v1".to_owned();
            }
            message
        })
        .collect();
    for (at, outcome) in broker.publish_all(messages).await.into_iter().enumerate() {
        if at % 3 == 0 {
            assert!(
                matches!(outcome, Err(PublishError::Unroutable)),
                "{at}: {outcome:?}"
            );
        } else {
            assert!(outcome.is_ok(), "{at}: {outcome:?}");
        }
    }
    app.finish().await;
}

#[tokio::test]
async fn an_outcome_reaches_the_node_that_waits_and_is_dropped_when_it_is_gone() {
    let app = TestApp::start().await;
    let broker = &app.ctx.broker;
    let spec = QueueSpec::transient("outcomes").bind(Exchange::Outcomes, "node-1");
    let mut consumer = Consumer::start(broker, spec, Settings::default(), |_| Verdict::Ack);
    let send = async || {
        let id = Uuid::new_v4();
        broker
            .publish(Exchange::Outcomes, "node-1", &message(), id)
            .await
            .unwrap();
    };
    eventually(SOON, async || {
        send().await;
        consumer.seen.try_recv().is_ok()
    })
    .await;
    consumer.stop().await;
    send().await;
    app.finish().await;
}

/// A broker reached through a proxy that can be cut.
async fn through_proxy(app: &TestApp) -> (Broker, Proxy) {
    use secrecy::ExposeSecret;
    let (proxy, url) = Proxy::before(app.ctx.config.amqp_url.expose_secret()).await;
    let broker = Broker::connect(&url, &app.ctx.config.namespace)
        .await
        .unwrap();
    (broker, proxy)
}

#[tokio::test]
async fn publisher_and_consumer_recover_when_their_connections_are_cut() {
    let app = TestApp::start().await;
    let (broker, proxy) = through_proxy(&app).await;
    app.ctx.broker.declare_patiently(&spec()).await;
    let mut consumer = Consumer::start(&broker, spec(), Settings::default(), |_| Verdict::Ack);
    publish(&broker).await;
    consumer.next().await;

    for _ in 0..3 {
        proxy.cut();
        let id = Uuid::new_v4();
        let back = async || {
            broker
                .publish(Exchange::Events, PaymentVoided::NAME, &message(), id)
                .await
                .is_ok()
        };
        eventually(SOON, back).await;
        while consumer.next().await.message_id != id {}
    }
    consumer.stop().await;
    broker.close().await;
    app.finish().await;
}

#[tokio::test]
async fn nothing_confirmed_is_lost_while_connections_are_cut_under_load() {
    let app = TestApp::start().await;
    let (broker, proxy) = through_proxy(&app).await;
    app.ctx.broker.declare_patiently(&spec()).await;
    let mut confirmed = HashSet::new();
    let mut round = 0;
    // A few rounds more where the machine is too slow for the timeouts.
    while round < 20 || (confirmed.len() < 2_000 && round < 100) {
        let messages: Vec<_> = (0..200)
            .map(|_| outgoing(PaymentVoided::NAME, "{}"))
            .collect();
        let ids: Vec<_> = messages.iter().map(|message| message.message_id).collect();
        let sending = broker.publish_all(messages);
        let cutting = async {
            if round % 4 == 1 {
                tokio::task::yield_now().await;
                proxy.cut();
            }
        };
        let (outcomes, ()) = tokio::join!(sending, cutting);
        confirmed.extend(
            ids.iter()
                .zip(outcomes)
                .filter(|(_, o)| o.is_ok())
                .map(|(id, _)| *id),
        );
        round += 1;
    }
    assert!(
        confirmed.len() >= 2_000,
        "only {} were confirmed",
        confirmed.len()
    );
    let mut consumer = Consumer::start(&app.ctx.broker, spec(), Settings::default(), |_| {
        Verdict::Ack
    });
    while !confirmed.is_empty() {
        confirmed.remove(&consumer.next().await.message_id);
    }
    consumer.stop().await;
    broker.close().await;
    app.finish().await;
}

#[tokio::test]
async fn soft_shutdown_finishes_what_was_begun_and_leaves_the_rest() {
    let app = TestApp::start().await;
    let broker = &app.ctx.broker;
    broker.declare_patiently(&spec()).await;
    for _ in 0..10 {
        publish(broker).await;
    }
    let settings = Settings {
        concurrency: 1,
        prefetch: 10,
        ..Settings::default()
    };
    let (gate, stop) = (CancellationToken::new(), CancellationToken::new());
    struct Waits(CancellationToken, CancellationToken, Arc<AtomicU32>);
    impl Handler for Waits {
        async fn handle(&self, _: Delivery) -> Verdict {
            self.0.cancel();
            self.1.cancelled().await;
            self.2.fetch_add(1, Ordering::SeqCst);
            Verdict::Ack
        }
    }
    let finished = Arc::new(AtomicU32::new(0));
    let handler = Waits(gate.clone(), stop.clone(), finished.clone());
    let task = {
        let (broker, until) = (broker.clone(), stop.clone());
        tokio::spawn(async move { consume(&broker, &until, &spec(), settings, handler).await })
    };
    gate.cancelled().await;
    stop.cancel();
    tokio::time::timeout(SOON, task)
        .await
        .expect("leaves in time")
        .unwrap()
        .unwrap();
    assert_eq!(finished.load(Ordering::SeqCst), 1);

    let mut consumer = Consumer::start(broker, spec(), Settings::default(), |_| Verdict::Ack);
    for _ in 0..9 {
        consumer.next().await;
    }
    consumer.stop().await;
    app.finish().await;
}

struct Batches {
    seen: mpsc::UnboundedSender<Vec<Delivery>>,
    poison: Option<Uuid>,
}

impl BatchHandler for Batches {
    async fn handle_batch(&self, batch: Vec<Delivery>) -> Vec<Verdict> {
        let is_poisoned = batch
            .iter()
            .any(|delivery| Some(delivery.message_id) == self.poison);
        assert!(!is_poisoned, "expected by the test");
        let verdicts = vec![Verdict::Ack; batch.len()];
        let _ = self.seen.send(batch);
        verdicts
    }
}

#[tokio::test]
async fn batches_hold_what_has_arrived_in_order() {
    let app = TestApp::start().await;
    let broker = app.ctx.broker.clone();
    let spec = spec().single_active_consumer();
    broker.declare_patiently(&spec).await;
    let mut sent = Vec::new();
    for _ in 0..50 {
        sent.push(publish(&broker).await);
    }
    let (sender, mut seen) = mpsc::unbounded_channel();
    let stop = app.ctx.shutdown.soft().clone();
    app.ctx.spawn("consumer", async move {
        let settings = Settings {
            prefetch: 64,
            max_batch: 20,
            ..Settings::default()
        };
        let handler = Batches {
            seen: sender,
            poison: None,
        };
        consume_batches(&broker, &stop, &spec, settings, handler).await
    });
    let mut received = Vec::new();
    let mut batches = 0;
    while received.len() < sent.len() {
        let batch = tokio::time::timeout(SOON, seen.recv())
            .await
            .unwrap()
            .unwrap();
        assert!(batch.len() <= 20);
        batches += 1;
        received.extend(batch.into_iter().map(|delivery| delivery.message_id));
    }
    assert_eq!(received, sent);
    assert!(batches < 50, "one message at a time");
    app.finish().await;
}

#[tokio::test]
async fn one_bad_message_does_not_take_its_batch_with_it() {
    let app = TestApp::start().await;
    let broker = app.ctx.broker.clone();
    broker.declare_patiently(&spec()).await;
    let mut good = HashSet::new();
    let mut poison = None;
    for at in 0..10 {
        let id = publish(&broker).await;
        if at == 4 {
            poison = Some(id);
        } else {
            assert!(good.insert(id));
        }
    }
    let (sender, mut seen) = mpsc::unbounded_channel();
    let stop = app.ctx.shutdown.soft().clone();
    let consumer = broker.clone();
    app.ctx.spawn("consumer", async move {
        let settings = Settings {
            max_attempts: 1,
            ..Settings::default()
        };
        let handler = Batches {
            seen: sender,
            poison,
        };
        consume_batches(&consumer, &stop, &spec(), settings, handler).await
    });
    while !good.is_empty() {
        for delivery in tokio::time::timeout(SOON, seen.recv())
            .await
            .unwrap()
            .unwrap()
        {
            good.remove(&delivery.message_id);
        }
    }
    eventually(SOON, async || {
        dead_letters::count(&broker, QUEUE).await.unwrap() == 1
    })
    .await;
    let letter = dead_letters::list(&broker, &app.ctx.db, QUEUE, 10)
        .await
        .unwrap()
        .remove(0);
    assert_eq!(Some(letter.id), poison);
    app.finish().await;
}

#[tokio::test]
async fn a_broker_that_lost_everything_is_declared_everything_again() {
    let app = TestApp::start().await;
    let broker = &app.ctx.broker;
    broker.declare_patiently(&spec()).await;
    let mut consumer = Consumer::start(broker, spec(), Settings::default(), |_| Verdict::Ack);
    publish(broker).await;
    consumer.next().await;

    let other = app.another_node().await;
    other.broker.delete_all(&[spec()]).await.unwrap();
    let (id, body) = (Uuid::new_v4(), message());
    eventually(SOON, async || {
        let name = PaymentVoided::NAME;
        let published = broker.publish(Exchange::Events, name, &body, id);
        published.await.is_ok()
    })
    .await;
    while consumer.next().await.message_id != id {}
    consumer.stop().await;
    app.finish().await;
}

#[tokio::test]
async fn a_retry_whose_copy_cannot_be_stored_keeps_its_original() {
    use secrecy::ExposeSecret;
    let app = TestApp::start().await;
    let broker = &app.ctx.broker;
    broker.declare_patiently(&spec()).await;
    // The copy is for nobody as long as this queue is missing.
    let url = app.ctx.config.amqp_url.expose_secret();
    let connection = lapin::Connection::connect(url, lapin::ConnectionProperties::default())
        .await
        .unwrap();
    let channel = connection.create_channel().await.unwrap();
    let retries = format!("{}.retry.250ms", broker.namespace());
    // RabbitMQ breaks when a queue goes before its dead-letter worker has begun; a purge waits.
    let purge = lapin::options::QueuePurgeOptions::default();
    channel
        .queue_purge(retries.as_str().into(), purge)
        .await
        .unwrap();
    let delete = lapin::options::QueueDeleteOptions::default();
    channel.queue_delete(retries.into(), delete).await.unwrap();
    let mut consumer = Consumer::start(broker, spec(), Settings::default(), |delivery| {
        if delivery.attempt < 3 {
            Verdict::RetryAfter(Duration::ZERO)
        } else {
            Verdict::Ack
        }
    });
    let id = publish(broker).await;
    for _ in 0..3 {
        assert_eq!(consumer.next().await.message_id, id);
    }
    consumer.stop().await;
    connection.close(200, "done".into()).await.unwrap();
    app.finish().await;
}

#[tokio::test]
async fn a_full_queue_does_not_hold_up_the_retries_of_others() {
    let app = TestApp::start().await;
    let broker = &app.ctx.broker;
    let bounded = QueueSpec::durable("bounded")
        .bind(Exchange::Commands, "bounded")
        .max_length(5);
    broker.declare_patiently(&bounded).await;
    broker.declare_patiently(&spec()).await;
    let mut busy = Consumer::start(broker, bounded, Settings::default(), |_| {
        Verdict::RetryAfter(Duration::from_secs(1))
    });
    let mut handled = 0;
    let body = message();
    while handled < 60 {
        let id = Uuid::new_v4();
        // It may be full for a moment.
        let _ = broker
            .publish(Exchange::Commands, "bounded", &body, id)
            .await;
        while busy.seen.try_recv().is_ok() {
            handled += 1;
        }
    }
    // Nobody consumes it any more: its retries come back to a full queue.
    busy.stop().await;
    eventually(SOON, async || {
        let id = Uuid::new_v4();
        let published = broker.publish(Exchange::Commands, "bounded", &body, id);
        matches!(published.await, Err(PublishError::Full))
    })
    .await;
    let mut other = Consumer::start(broker, spec(), Settings::default(), |delivery| {
        if delivery.attempt == 1 {
            Verdict::RetryAfter(Duration::from_secs(1))
        } else {
            Verdict::Ack
        }
    });
    publish(broker).await;
    other.next().await;
    assert_eq!(other.next().await.attempt, 2);
    other.stop().await;
    app.finish().await;
}

#[tokio::test]
async fn a_queue_with_other_arguments_is_named_and_used_as_it_is() {
    let app = TestApp::start().await;
    app.ctx.broker.declare_patiently(&spec()).await;
    let newer = app.another_node().await.broker;
    let changed = spec().max_length(3);
    newer.declare_patiently(&changed).await;
    assert_eq!(newer.mismatched(), [QUEUE]);
    let mut consumer = Consumer::start(&newer, changed, Settings::default(), |_| Verdict::Ack);
    publish(&newer).await;
    consumer.next().await;
    consumer.stop().await;
    newer.close().await;
    app.finish().await;
}

/// Declares a queue with other arguments than the platform's.
async fn declare_plain(app: &TestApp, queue: &str) {
    use lapin::types::{AMQPValue, FieldTable};
    use secrecy::ExposeSecret;
    let url = app.ctx.config.amqp_url.expose_secret();
    let connection = lapin::Connection::connect(url, lapin::ConnectionProperties::default())
        .await
        .unwrap();
    let channel = connection.create_channel().await.unwrap();
    let mut arguments = FieldTable::default();
    arguments.insert(
        "x-queue-type".into(),
        AMQPValue::LongString("quorum".into()),
    );
    arguments.insert("x-max-length".into(), AMQPValue::LongLongInt(1_000));
    let name = format!("{}.{queue}", app.ctx.broker.namespace());
    channel
        .queue_declare(
            name.into(),
            lapin::options::QueueDeclareOptions::durable(),
            arguments,
        )
        .await
        .unwrap();
    connection.close(200, "done".into()).await.unwrap();
}

#[tokio::test]
async fn a_dead_or_a_retry_queue_with_other_arguments_is_named_and_its_queue_works() {
    let app = TestApp::start().await;
    let broker = &app.ctx.broker;
    let (dead, retry) = (format!("{QUEUE}.dead"), "retry.1000ms");
    declare_plain(&app, &dead).await;
    declare_plain(&app, retry).await;
    broker.declare_patiently(&spec()).await;
    assert_eq!(broker.mismatched(), [dead.as_str(), retry]);

    let mut consumer = Consumer::start(broker, spec(), Settings::default(), |_| {
        Verdict::DeadLetter("broken".into())
    });
    let id = publish(broker).await;
    assert_eq!(consumer.next().await.message_id, id);
    eventually(SOON, async || {
        dead_letters::count(broker, QUEUE).await.unwrap() == 1
    })
    .await;
    consumer.stop().await;
    app.finish().await;
}

#[tokio::test]
async fn only_the_retry_queues_of_wanted_queues_are_declared() {
    use secrecy::ExposeSecret;
    let app = TestApp::start().await;
    let broker = &app.ctx.broker;
    let url = app.ctx.config.amqp_url.expose_secret();
    let connection = lapin::Connection::connect(url, lapin::ConnectionProperties::default())
        .await
        .unwrap();
    let exists = async |queue: &str| {
        let passive = lapin::options::QueueDeclareOptions {
            passive: true,
            ..lapin::options::QueueDeclareOptions::default()
        };
        let name = format!("{}.{queue}", broker.namespace());
        let arguments = lapin::types::FieldTable::default();
        let channel = connection.create_channel().await.unwrap();
        let found = channel.queue_declare(name.into(), passive, arguments).await;
        if found.is_ok() {
            channel.close(200, "done".into()).await.unwrap();
        }
        found.is_ok()
    };
    broker.ensure_declared().await.unwrap();
    assert!(!exists("retry.250ms").await);
    broker.declare_patiently(&spec()).await;
    assert!(exists("retry.250ms").await && !exists("retry-bounded.250ms").await);
    let bounded = QueueSpec::durable("bounded").max_length(5);
    broker.declare_patiently(&bounded).await;
    assert!(exists("retry-bounded.250ms").await);
    connection.close(200, "done".into()).await.unwrap();
    app.finish().await;
}

/// RabbitMQ before 3.13 may break when this is done at once.
#[tokio::test]
async fn queues_may_be_deleted_right_after_their_declaration() {
    let app = TestApp::start().await;
    let queues = ["one", "two", "three", "four"].map(QueueSpec::durable);
    for _ in 0..10 {
        let node = app.another_node().await.broker;
        node.want(&queues);
        node.ensure_declared().await.unwrap();
        node.delete_all(&[]).await.unwrap();
        node.close().await;
    }
    app.ctx.broker.declare_patiently(&spec()).await;
    app.finish().await;
}

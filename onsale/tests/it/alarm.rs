//! A memory alarm of RabbitMQ blocks publishers: messages wait, and are published afterwards.

#![expect(clippy::unwrap_used, reason = "a test's own steps")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use domain::BookingId;
use domain::clock::{Clock as _, SystemClock};
use domain::message::{Message as _, PaymentVoided};
use platform::amqp::{
    Broker, BrokerError, Delivery, Exchange, Handler, PublishError, QueueSpec, Settings, Verdict,
    consume,
};
use platform::testing::eventually;
use servers::RabbitMq;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

const PATIENCE: Duration = Duration::from_secs(60);

/// A private RabbitMQ; dropping it removes its files.
struct OwnRabbitMq {
    server: RabbitMq,
    dir: PathBuf,
}

impl OwnRabbitMq {
    async fn start() -> Self {
        let name = format!("onsale-alarm-{:016x}", rand::random::<u64>());
        let dir = std::env::temp_dir().join(name);
        let at = dir.clone();
        let server = spawn_blocking(move || RabbitMq::start(&at))
            .await
            .unwrap()
            .unwrap();
        Self { server, dir }
    }

    /// Sets the fraction of the machine's memory beyond which it blocks publishers.
    async fn set_watermark(&self, watermark: &str) {
        let pid = self.server.pid().unwrap();
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap();
        let mapper = environment
            .split(|byte| *byte == 0)
            .find_map(|entry| entry.strip_prefix(b"ERL_EPMD_PORT="))
            .map(|port| String::from_utf8_lossy(port).into_owned())
            .unwrap();
        let cookie = fs::read_to_string(self.dir.join(".erlang.cookie")).unwrap();
        let mut command = Command::new(control());
        command
            .args([
                "--node",
                "onsale@localhost",
                "--erlang-cookie",
                cookie.trim(),
            ])
            .arg("set_vm_memory_high_watermark")
            .args(watermark.split(' '))
            .env("HOME", &self.dir)
            .env("LC_ALL", "C.UTF-8")
            .env("ERL_EPMD_PORT", mapper);
        let output = spawn_blocking(move || command.output())
            .await
            .unwrap()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
    }
}

impl Drop for OwnRabbitMq {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// `rabbitmqctl` beside the server; the system's wrapper switches to another user.
fn control() -> PathBuf {
    let packaged = Path::new("/usr/lib/rabbitmq/bin/rabbitmqctl");
    if packaged.exists() {
        packaged.to_owned()
    } else {
        PathBuf::from("rabbitmqctl")
    }
}

/// A handler that retries the first delivery.
struct Early(Arc<AtomicU32>);

impl Handler for Early {
    async fn handle(&self, delivery: Delivery) -> Verdict {
        self.0.fetch_add(1, Ordering::SeqCst);
        if delivery.attempt == 1 {
            Verdict::RetryAfter(Duration::ZERO)
        } else {
            Verdict::Ack
        }
    }
}

#[tokio::test]
async fn a_message_that_is_early_waits_for_the_end_of_an_alarm_without_going_back_and_forth() {
    let rabbitmq = OwnRabbitMq::start().await;
    let broker = Broker::connect(&rabbitmq.server.url(), "alarm")
        .await
        .unwrap();
    let queue = QueueSpec::durable("early").bind(Exchange::Events, PaymentVoided::NAME);
    broker.declare_patiently(&queue).await;
    let message = PaymentVoided {
        booking_id: BookingId::new(SystemClock.now()),
    };
    let publish = async || {
        let id = Uuid::new_v4();
        broker
            .publish(Exchange::Events, PaymentVoided::NAME, &message, id)
            .await
    };
    publish().await.unwrap();
    let mut published = 1;
    rabbitmq.set_watermark("absolute 1").await;
    // RabbitMQ notifies a connection of an alarm when it next publishes.
    eventually(PATIENCE, async || {
        published += u32::from(publish().await.is_ok());
        broker.blocked().is_some()
    })
    .await;
    let refused = publish().await.unwrap_err();
    assert!(
        matches!(refused, PublishError::NotSent(BrokerError::Blocked { .. })),
        "{refused:?}"
    );

    let handled = Arc::new(AtomicU32::new(0));
    let stop = CancellationToken::new();
    let (consuming, until, handler) = (broker.clone(), stop.clone(), Early(handled.clone()));
    let consumer = tokio::spawn(async move {
        consume(&consuming, &until, &queue, Settings::default(), handler).await
    });
    eventually(PATIENCE, async || {
        handled.load(Ordering::SeqCst) >= published
    })
    .await;
    let before = handled.load(Ordering::SeqCst);
    // Longer than a publish and a retry's delay together.
    tokio::time::sleep(Duration::from_secs(8)).await;
    assert_eq!(handled.load(Ordering::SeqCst), before, "it went back");

    rabbitmq.set_watermark("0.9").await;
    eventually(PATIENCE, async || {
        handled.load(Ordering::SeqCst) >= 2 * before
    })
    .await;
    stop.cancel();
    consumer.await.unwrap().unwrap();
    broker.close().await;
}

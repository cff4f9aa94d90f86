//! Payers: poll held bookings until the PaymentIntent exists, and confirm it at the stand-in for
//! Stripe.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::task::JoinSet;
use tokio::time::Instant;
use uuid::Uuid;

use super::super::wire::Connection;
use super::crowd::Crowd;

/// Delay of the first poll of a booking, and of later ones.
const FIRST_LOOK: Duration = Duration::from_millis(500);
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// A booking to be paid.
pub(super) struct Held {
    pub(super) booking_id: Uuid,
    pub(super) access: String,
    pub(super) at: Instant,
}

/// Tasks that pay, each with one connection and one queue of bookings.
pub(super) struct Payers {
    queues: Vec<UnboundedSender<Held>>,
    working: JoinSet<anyhow::Result<()>>,
}

struct Payer {
    onsale: Connection,
    stripe: Connection,
    host: String,
    stripe_host: String,
    publishable_key: String,
    think: Duration,
}

impl Payers {
    pub(super) async fn hire(
        crowd: &Crowd<'_>,
        count: u32,
        think: Duration,
    ) -> anyhow::Result<Self> {
        let mut payers = Self {
            queues: Vec::new(),
            working: JoinSet::new(),
        };
        for _ in 0..count.max(1) {
            let (queue, held) = mpsc::unbounded_channel();
            let payer = Payer {
                onsale: open(crowd.subject.address).await?,
                stripe: open(crowd.stripe_address).await?,
                host: crowd.subject.address.to_string(),
                stripe_host: crowd.stripe_address.to_string(),
                publishable_key: crowd.stripe.publishable_key().to_owned(),
                think: think.max(FIRST_LOOK),
            };
            payers.working.spawn(payer.pay_all(held));
            payers.queues.push(queue);
        }
        Ok(payers)
    }

    /// Returns the queue of the payer that serves `lane`.
    pub(super) fn of_lane(&self, lane: u32) -> UnboundedSender<Held> {
        let lane = usize::try_from(lane).expect("few lanes");
        self.queues[lane % self.queues.len()].clone()
    }

    /// Waits until every payer has finished.
    pub(super) async fn leave(mut self) -> anyhow::Result<()> {
        self.queues.clear();
        while let Some(payer) = self.working.join_next().await {
            payer??;
        }
        Ok(())
    }
}

async fn open(address: SocketAddr) -> anyhow::Result<Connection> {
    let connection = Connection::open(address).await;
    connection.with_context(|| format!("connecting to {address}"))
}

impl Payer {
    async fn pay_all(mut self, mut held: UnboundedReceiver<Held>) -> anyhow::Result<()> {
        // FIFO is due order, since all wait equally long.
        let mut waiting: VecDeque<(Instant, Held)> = VecDeque::new();
        loop {
            while let Ok(next) = held.try_recv() {
                waiting.push_back((next.at + self.think, next));
            }
            let Some((due, next)) = waiting.pop_front() else {
                match held.recv().await {
                    Some(next) => waiting.push_back((next.at + self.think, next)),
                    None => return Ok(()),
                }
                continue;
            };
            tokio::time::sleep_until(due).await;
            if !self.pay(&next).await? {
                waiting.push_back((Instant::now() + LOOK_AGAIN, next));
            }
        }
    }

    /// Confirms the payment; `false` when the PaymentIntent does not exist yet.
    async fn pay(&mut self, held: &Held) -> anyhow::Result<bool> {
        let request = look(&self.host, &held.access, held.booking_id);
        let answer = self.onsale.exchange(&request).await?;
        let id = held.booking_id;
        ensure!(answer.status == 200, "booking {id}: {}", answer.status);
        let mut answer: Value = serde_json::from_slice(answer.body)?;
        let booking = answer["booking"].take();
        ensure!(booking["state"] == "held", "booking {id}: {booking}");
        let payment = &booking["payment"];
        let (Some(intent), Some(secret)) = (
            payment["intent_id"].as_str(),
            payment["client_secret"].as_str(),
        ) else {
            return Ok(false);
        };
        let body = format!("client_secret={secret}&payment_method=pm_card_visa");
        let request = format!(
            "POST /v1/payment_intents/{intent}/confirm HTTP/1.1\r\nhost: {}\r\n\
             authorization: Bearer {}\r\ncontent-type: application/x-www-form-urlencoded\r\n\
             content-length: {}\r\n\r\n{body}",
            self.stripe_host,
            self.publishable_key,
            body.len()
        );
        let answer = self.stripe.exchange(request.as_bytes()).await?;
        ensure!(
            answer.status == 200,
            "{intent}: Stripe says {}",
            answer.status
        );
        Ok(true)
    }
}

/// Returns a `GET /api/bookings/{id}` request.
pub(super) fn look(host: &str, access: &str, id: Uuid) -> Vec<u8> {
    format!(
        "GET /api/bookings/{id} HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer {access}\r\n\r\n"
    )
    .into_bytes()
}

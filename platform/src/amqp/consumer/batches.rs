use std::time::Instant;

use metrics::histogram;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::super::delivery::{Delivery, Verdict};
use super::call::guarded;
use super::session::ConsumerSession;
use super::settle::Received;
use super::{BatchHandler, Mode};
use crate::telemetry::span_for;

/// Sequential dispatch in batches of what has arrived.
pub(super) struct Batches<H>(pub(super) H);

impl<H: BatchHandler> Mode for Batches<H> {
    async fn run(&self, session: ConsumerSession, stop: &CancellationToken) {
        run(session, stop, &self.0).await;
    }
}

async fn run<H: BatchHandler>(mut session: ConsumerSession, stop: &CancellationToken, handler: &H) {
    while let Some(first) = session.next(stop).await {
        let mut batch = vec![first];
        while batch.len() < session.settings.max_batch
            && let Some(next) = session.next_ready()
        {
            batch.push(next);
        }
        let verdicts = verdicts(handler, &session, &batch).await;
        session.settler.settle_all(batch, verdicts).await;
        if !session.is_open() {
            break;
        }
    }
    session.cancel().await;
    session.close().await;
}

async fn verdicts<H: BatchHandler>(
    handler: &H,
    session: &ConsumerSession,
    batch: &[Received],
) -> Vec<Verdict> {
    let deliveries: Vec<_> = batch
        .iter()
        .map(|received| received.delivery.clone())
        .collect();
    if let Some(verdicts) = call(handler, session, deliveries.clone()).await {
        return verdicts;
    }
    let mut verdicts = Vec::with_capacity(deliveries.len());
    for delivery in deliveries {
        let alone = call(handler, session, vec![delivery.clone()]).await;
        let verdict = alone.and_then(|mut verdicts| verdicts.pop());
        verdicts.push(verdict.unwrap_or_else(|| Verdict::retry(&delivery)));
    }
    verdicts
}

/// Returns `None` unless the handler returned one verdict per message.
async fn call<H: BatchHandler>(
    handler: &H,
    session: &ConsumerSession,
    batch: Vec<Delivery>,
) -> Option<Vec<Verdict>> {
    let queue = session.settler.queue();
    let expected = batch.len();
    // A batch belongs to many traces; its own span names the first, the handler the others.
    let span = span_for(
        batch.first().and_then(|first| first.trace.as_ref()),
        "consume",
    );
    let started = Instant::now();
    let working = handler.handle_batch(batch);
    let outcome = guarded(session.settings.time_limit, working)
        .instrument(span)
        .await;
    histogram!("amqp_handling_seconds", "queue" => queue.to_owned())
        .record(started.elapsed().as_secs_f64());
    match outcome {
        Ok(verdicts) if verdicts.len() == expected => Some(verdicts),
        Ok(verdicts) => {
            let got = verdicts.len();
            tracing::error!(
                queue,
                expected,
                got,
                "handler gave a wrong number of verdicts"
            );
            None
        }
        Err(failure) => {
            tracing::error!(queue, messages = expected, ?failure, "handler failed");
            None
        }
    }
}

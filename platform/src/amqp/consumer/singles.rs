use std::sync::Arc;
use std::time::Instant;

use metrics::histogram;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::super::delivery::Verdict;
use super::call::guarded;
use super::session::ConsumerSession;
use super::settle::Received;
use super::{Handler, Mode};
use crate::telemetry::span_for;

/// Concurrent dispatch. It drains before it returns: on a new channel the messages in flight would
/// be redelivered beside their first delivery.
pub(super) struct Singles<H>(pub(super) Arc<H>);

impl<H: Handler> Mode for Singles<H> {
    async fn run(&self, session: ConsumerSession, stop: &CancellationToken) {
        run(session, stop, &self.0).await;
    }
}

async fn run<H: Handler>(mut session: ConsumerSession, stop: &CancellationToken, handler: &Arc<H>) {
    let permits = Arc::new(Semaphore::new(session.settings.concurrency.max(1)));
    let mut running = JoinSet::new();
    loop {
        let permit = permits
            .clone()
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        let Some(received) = session.next(stop).await else {
            break;
        };
        while running.try_join_next().is_some() {}
        let handler = handler.clone();
        let settler = session.settler.clone();
        let time_limit = session.settings.time_limit;
        running.spawn(async move {
            let verdict = verdict(&*handler, &received, time_limit, settler.queue()).await;
            settler.settle(received, verdict).await;
            drop(permit);
        });
    }
    session.cancel().await;
    while running.join_next().await.is_some() {}
    session.close().await;
}

async fn verdict<H: Handler>(
    handler: &H,
    received: &Received,
    time_limit: std::time::Duration,
    queue: &str,
) -> Verdict {
    let delivery = received.delivery.clone();
    let span = span_for(delivery.trace.as_ref(), "consume");
    let started = Instant::now();
    let outcome = guarded(time_limit, handler.handle(delivery))
        .instrument(span)
        .await;
    histogram!("amqp_handling_seconds", "queue" => queue.to_owned())
        .record(started.elapsed().as_secs_f64());
    outcome.unwrap_or_else(|failure| {
        tracing::error!(queue, message_id = %received.delivery.message_id, ?failure, "handler failed");
        Verdict::retry(&received.delivery)
    })
}

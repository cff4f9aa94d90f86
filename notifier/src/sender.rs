//! Sends what is due: leases it, hands it to the server with no transaction and no connection to
//! the database held (I13), and records what became of it.

mod relevance;

use std::error::Error;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use platform::amqp;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::causes::with_causes;
use crate::channels::{Channels, Outcome, SENDING_LIMIT};
use crate::metrics;
use crate::notice::{Channel, Notice};
use crate::recorder::{RecordError, Recorder};
use crate::shared::Shared;
use crate::store::notifications::{self, Due, Ended, Settled};

/// How long an idle sender waits when nobody wakes it.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// The pause after the database failed.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);
/// How long a busy sender waits for more messages to end, so that it takes several new ones at once.
const GATHERING: Duration = Duration::from_millis(50);
/// How often expired leases are looked for.
const LEASE_INTERVAL: Duration = Duration::from_secs(1);
/// How long the record of a result is tried for.
const RECORD_LIMIT: Duration = Duration::from_secs(15);
/// Longer than a sender can be at a message, so that only one that died loses its lease.
const LEASE: Duration = SENDING_LIMIT.saturating_add(RECORD_LIMIT.saturating_mul(2));
/// The longest pause before a message is tried again.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long a server may put a message off before it counts as refused.
const GIVE_UP_AFTER: TimeDelta = TimeDelta::days(3);

/// What is to be recorded of a try.
enum Verdict {
    Settled(Settled, Option<String>),
    Again(String),
}

/// Sends what goes by one channel. Each has its own, so that a server that hangs delays nothing
/// but its own messages.
pub(crate) struct Sender {
    shared: Arc<Shared>,
    channels: Arc<Channels>,
    channel: Channel,
    recorder: Arc<Recorder>,
    places: Arc<Semaphore>,
    /// Half of the places, but for the one that is taken first.
    half: u32,
    tracker: TaskTracker,
}

impl Sender {
    /// With up to `concurrency` messages being sent at once.
    pub(crate) fn new(
        shared: Arc<Shared>,
        channels: Arc<Channels>,
        channel: Channel,
        concurrency: NonZeroU16,
    ) -> Self {
        let places = Arc::new(Semaphore::new(usize::from(concurrency.get())));
        Self {
            recorder: Arc::new(Recorder::new(Arc::clone(&shared))),
            shared,
            channels,
            channel,
            places,
            half: u32::from(concurrency.get() / 2),
            tracker: TaskTracker::new(),
        }
    }

    /// Runs until `stop`, then finishes what it has begun.
    ///
    /// # Errors
    /// None at present: whatever fails is tried again.
    pub(crate) async fn run(self, stop: CancellationToken) -> anyhow::Result<()> {
        while !stop.is_cancelled() {
            let pause = match self.begin_due().await {
                Ok(true) => continue,
                Ok(false) => POLL_INTERVAL,
                Err(error) => {
                    let error = &error as &dyn Error;
                    tracing::warn!(error, "notifications can't be read; trying again");
                    FAILURE_PAUSE
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(pause) => {}
                () = self.shared.written(self.channel).notified() => {}
            }
        }
        self.tracker.close();
        self.tracker.wait().await;
        Ok(())
    }

    /// Begins as many due messages as there are free places; `true` when there may be more.
    async fn begin_due(&self) -> Result<bool, sqlx::Error> {
        // Waits for a place, and a moment for half of all, so that statements are for several;
        // then takes what is free, so that nothing is leased to wait.
        let mut places = vec![self.place().await];
        drop(timeout(GATHERING, self.places.acquire_many(self.half)).await);
        while let Ok(more) = Arc::clone(&self.places).try_acquire_owned() {
            places.push(more);
        }
        let limit = i64::try_from(places.len()).expect("the places fit into memory");
        let Shared { db, .. } = &*self.shared;
        let now = self.shared.now();
        let due = notifications::claim_due(db, self.channel, limit, LEASE, now).await?;
        let is_full = due.len() == places.len();
        for (due, place) in due.into_iter().zip(places) {
            self.begin(due, place);
        }
        Ok(is_full)
    }

    async fn place(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.places)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed")
    }

    fn begin(&self, due: Due, place: OwnedSemaphorePermit) {
        let (shared, channels) = (Arc::clone(&self.shared), Arc::clone(&self.channels));
        let recorder = Arc::clone(&self.recorder);
        let span = tracing::info_span!(
            "notification",
            booking_id = %due.booking_id,
            kind = due.kind,
            channel = due.channel.as_str(),
            tries = due.tries,
        );
        let sending = async move {
            carry_out(&shared, &channels, &recorder, &due).await;
            drop(place);
        };
        self.tracker.spawn(sending.instrument(span));
    }
}

/// Finds messages whose sender died, until `stop`. Nobody knows whether they arrived, so they are
/// left to a person.
///
/// # Errors
/// None at present: whatever fails is tried again.
pub(crate) async fn watch_leases(
    shared: Arc<Shared>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    while !stop.is_cancelled() {
        match notifications::doubt_expired(&shared.db, shared.now()).await {
            Ok(0) => {}
            Ok(notices) => tracing::warn!(notices, "messages may or may not have been sent"),
            Err(error) => {
                let error = &error as &dyn Error;
                tracing::warn!(error, "leases can't be read; trying again");
            }
        }
        stop.run_until_cancelled(tokio::time::sleep(LEASE_INTERVAL))
            .await;
    }
    Ok(())
}

/// Sends one message and records the result. If this process dies in between, the lease runs out
/// and the message becomes uncertain.
async fn carry_out(shared: &Shared, channels: &Channels, recorder: &Recorder, due: &Due) {
    let (kind, verdict) = match Notice::read(&due.kind, due.facts.clone()) {
        Ok(notice) => (notice.kind(), decide(shared, channels, due, &notice).await),
        Err(error) => {
            let error = with_causes(&error);
            ("unreadable", Verdict::Settled(Settled::Failed, Some(error)))
        }
    };
    let outcome = match &verdict {
        Verdict::Settled(settled, _) => settled.as_str(),
        Verdict::Again(_) => "put_off",
    };
    metrics::try_ended(kind, due.channel, outcome);
    log(&verdict);
    record(shared, recorder, due, &verdict).await;
}

async fn decide(shared: &Shared, channels: &Channels, due: &Due, notice: &Notice) -> Verdict {
    if let Some(reason) = relevance::why_outdated(notice, due, shared.now()) {
        return Verdict::Settled(Settled::Skipped, Some(reason.to_owned()));
    }
    let started = Instant::now();
    let outcome = channels.send(due, notice, shared.now()).await;
    metrics::sending_took(due.channel, started.elapsed());
    match outcome {
        Outcome::Accepted => Verdict::Settled(Settled::Sent, None),
        Outcome::Unknown(error) => Verdict::Settled(Settled::Uncertain, Some(error)),
        Outcome::Refused(error) => Verdict::Settled(Settled::Failed, Some(error)),
        Outcome::Deferred(error) if shared.now() - due.created_at > GIVE_UP_AFTER => {
            Verdict::Settled(Settled::Failed, Some(error))
        }
        Outcome::Deferred(error) | Outcome::Unreachable(error) => Verdict::Again(error),
    }
}

fn log(verdict: &Verdict) {
    match verdict {
        Verdict::Settled(Settled::Sent, _) => tracing::debug!("sent"),
        Verdict::Settled(Settled::Skipped, reason) => tracing::info!(reason, "skipped"),
        Verdict::Settled(Settled::Failed, error) => tracing::warn!(error, "refused"),
        Verdict::Settled(Settled::Uncertain, error) => {
            tracing::warn!(error, "may or may not have been sent");
        }
        Verdict::Again(error) => tracing::info!(error, "not sent; trying again later"),
    }
}

/// Tries for a while: when the database is away for a moment, what we know is not to be lost.
async fn record(shared: &Shared, recorder: &Recorder, due: &Due, verdict: &Verdict) {
    let deadline = Instant::now() + RECORD_LIMIT;
    loop {
        let recorded = record_once(shared, recorder, due, verdict).await;
        match recorded {
            Ok(true) => return,
            Ok(false) => {
                return tracing::warn!("a later try has begun; this result is not recorded");
            }
            Err(error) if Instant::now() < deadline => {
                tracing::warn!(
                    error = &error as &dyn Error,
                    "result not recorded; trying again"
                );
                tokio::time::sleep(FAILURE_PAUSE).await;
            }
            Err(error) => {
                let error = &error as &dyn Error;
                return tracing::error!(error, "result not recorded; it becomes uncertain");
            }
        }
    }
}

async fn record_once(
    shared: &Shared,
    recorder: &Recorder,
    due: &Due,
    verdict: &Verdict,
) -> Result<bool, RecordError> {
    match verdict {
        Verdict::Settled(settled, error) => {
            let ended = Ended {
                id: due.id,
                tries: due.tries,
                settled: *settled,
                error: error.clone(),
            };
            recorder.settle(ended).await
        }
        Verdict::Again(error) => {
            let next_try_at = shared.now() + pause(due.tries);
            let put_off = notifications::put_off(&shared.db, due, error, next_try_at).await;
            put_off.map_err(|error| RecordError::Database(Arc::new(error)))
        }
    }
}

/// How long to wait after so many tries.
fn pause(tries: i32) -> Duration {
    amqp::backoff(u32::try_from(tries).unwrap_or(1)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_without_a_server_delays_a_message_by_a_minute_more() {
        assert_eq!(pause(1), Duration::from_millis(250));
        assert_eq!(pause(i32::MAX), LONGEST_PAUSE);
    }
}

//! Sends what is due: leases it, hands it to the server with no transaction and no connection to
//! the database held (I13), and records what became of it. A circuit breaker, bulkheads by urgency
//! and a token bucket decide how much is under way.

mod breaker;
mod pace;
pub(crate) mod places;
mod relevance;

use std::error::Error;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use platform::amqp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::causes::with_causes;
use crate::channels::{BEFORE_HANDOVER_LIMIT, Channels, HANDOVER_LIMIT, Outcome};
use crate::metrics;
use crate::notice::{Channel, Urgency};
use crate::recorder::{Handover, RecordError, Recorder};
use crate::shared::Shared;
use crate::store::queue::{self, Due, End, Ended, Settled, Unreadable};
use breaker::{Allowed, Breaker};
use pace::Pace;
use places::{Place, Places};

/// How long an idle sender waits when nobody wakes it.
const POLL_INTERVAL: Duration = Duration::from_millis(500);
/// The shortest time from one look for due messages to the next, so that a busy sender takes several
/// at once.
const LOOK_PACE: Duration = Duration::from_millis(30);
/// The pause after the database failed.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);
/// How often expired leases are looked for.
const LEASE_INTERVAL: Duration = Duration::from_secs(1);
/// How long the record of a result is tried for.
const RECORD_LIMIT: Duration = Duration::from_secs(15);
/// What a statement may take: a connection and its time limit.
const STATEMENT_LIMIT: Duration = Duration::from_secs(20);
/// Longer than a sender needs until it hands a message over.
const LEASE: Duration = BEFORE_HANDOVER_LIMIT.saturating_add(STATEMENT_LIMIT.saturating_mul(2));
/// Longer than a sender can be at handing a message over, so that only one that died loses it.
const HANDOVER_LEASE: Duration = HANDOVER_LIMIT
    .saturating_add(RECORD_LIMIT.saturating_mul(2))
    .saturating_add(STATEMENT_LIMIT);
/// The longest pause after the server was not reached.
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// How long a server may put a message off, or reject it for our sake, before it counts as refused.
const GIVE_UP_AFTER: TimeDelta = TimeDelta::days(3);
/// How often a message to an address that is not confirmed is looked at again, unless its account
/// is heard of.
const UNCONFIRMED_PAUSE: Duration = Duration::from_secs(3_600);
/// How long a message waits for its reader to confirm the address.
const UNCONFIRMED_AFTER: TimeDelta = TimeDelta::days(30);
/// How long a message of a later version is left to it.
const UNREADABLE_PAUSE: TimeDelta = TimeDelta::hours(1);

/// What is to be recorded of a try.
enum Disposition {
    Settled(Settled, Option<String>),
    Again(String, Duration),
}

/// Sends what goes by one channel. Each has its own, so that a server that hangs delays nothing
/// but its own messages.
pub(crate) struct Sender {
    work: Arc<Work>,
    places: Arc<Places>,
    pace: Pace,
    tracker: TaskTracker,
}

/// What the messages under way share.
struct Work {
    shared: Arc<Shared>,
    channels: Arc<Channels>,
    channel: Channel,
    recorder: Recorder,
    breaker: Breaker,
    stop: CancellationToken,
}

/// How much a channel may do.
pub(crate) struct Bounds {
    /// Messages under way at once.
    pub(crate) concurrency: NonZeroU16,
    /// Messages a second; `None` for no limit.
    pub(crate) per_second: Option<u32>,
}

impl Sender {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        channels: &Arc<Channels>,
        channel: Channel,
        bounds: &Bounds,
        stop: CancellationToken,
    ) -> Self {
        let work = Work {
            recorder: Recorder::new(shared, HANDOVER_LEASE),
            shared: Arc::clone(shared),
            channels: Arc::clone(channels),
            channel,
            breaker: Breaker::closed(channel),
            stop,
        };
        Self {
            work: Arc::new(work),
            places: Places::new(usize::from(bounds.concurrency.get())),
            pace: Pace::new(bounds.per_second, Instant::now()),
            tracker: TaskTracker::new(),
        }
    }

    /// Runs until it is stopped, then finishes what it has begun.
    ///
    /// # Errors
    /// None at present: whatever fails is tried again.
    pub(crate) async fn run(mut self) -> anyhow::Result<()> {
        let work = Arc::clone(&self.work);
        while !work.stop.is_cancelled() {
            let next_look = Instant::now() + LOOK_PACE;
            let idle_until = match self.begin_due().await {
                Ok(idle_until) => idle_until,
                Err(error) => {
                    let error = &error as &dyn Error;
                    tracing::warn!(error, "notifications can't be read; trying again");
                    Some(Instant::now() + FAILURE_PAUSE)
                }
            };
            if let Some(idle_until) = idle_until {
                tokio::select! {
                    () = work.stop.cancelled() => {}
                    () = tokio::time::sleep_until(idle_until) => {}
                    () = work.shared.written(work.channel).notified() => {}
                    () = self.places.freed() => {}
                }
            }
            let pausing = tokio::time::sleep_until(next_look);
            work.stop.run_until_cancelled(pausing).await;
        }
        self.tracker.close();
        self.tracker.wait().await;
        Ok(())
    }

    /// Begins as many due messages as may be. Returns until when nothing is to be done unless
    /// something happens; `None` when there may be more.
    async fn begin_due(&mut self) -> Result<Option<Instant>, sqlx::Error> {
        let now = Instant::now();
        let mut left = match self.work.breaker.allowed(now) {
            Allowed::NotBefore(probe_at) => return Ok(Some(probe_at)),
            Allowed::One if !self.places.are_empty() => return Ok(Some(now + POLL_INTERVAL)),
            Allowed::One => {
                self.work.breaker.put_off_probe(now);
                1
            }
            Allowed::All => self.pace.available(now),
        };
        if left == 0 {
            return Ok(Some(self.pace.next()));
        }
        let mut begun = 0;
        for urgency in Urgency::ALL {
            let limit = left.min(self.places.free_for(urgency));
            if limit == 0 {
                continue;
            }
            let claimed = self.claim(urgency, limit).await?;
            begun += claimed.len();
            left -= claimed.len();
            self.pace.spend(claimed.len(), now);
            for message in claimed {
                self.begin(message, self.places.take(urgency));
            }
        }
        Ok((begun == 0).then(|| now + POLL_INTERVAL))
    }

    async fn claim(
        &self,
        urgency: Urgency,
        limit: usize,
    ) -> Result<Vec<Result<Due, Unreadable>>, sqlx::Error> {
        let Work {
            shared, channel, ..
        } = &*self.work;
        let limit = i64::try_from(limit).expect("the places fit into memory");
        queue::claim_due(&shared.db, *channel, urgency, limit, LEASE, shared.now()).await
    }

    fn begin(&self, message: Result<Due, Unreadable>, place: Place) {
        let work = Arc::clone(&self.work);
        let channel = work.channel.as_str();
        let span = match &message {
            Ok(due) => tracing::info_span!(
                "notification",
                booking_id = %due.booking_id,
                kind = due.kind,
                channel,
                tries = due.attempt.number,
            ),
            Err(unreadable) => {
                tracing::info_span!("notification", kind = unreadable.kind, channel)
            }
        };
        let sending = async move {
            match message {
                Ok(due) => work.carry_out(&due).await,
                Err(unreadable) => work.put_aside(&unreadable).await,
            }
            drop(place);
        };
        self.tracker.spawn(sending.instrument(span));
    }
}

impl Work {
    /// Sends one message and records the result. If this process dies before the message is handed
    /// over, the lease runs out and it is due again; after that it becomes uncertain.
    async fn carry_out(&self, due: &Due) {
        let disposition = self.decide(due).await;
        let outcome = match &disposition {
            Disposition::Settled(settled, _) => settled.as_str(),
            Disposition::Again(..) => "put_off",
        };
        metrics::try_ended(due.notice.kind(), self.channel, outcome);
        log(&disposition);
        let (end, error) = match disposition {
            Disposition::Settled(settled, error) => (End::Settled(settled), error),
            Disposition::Again(error, after) => {
                (End::PutOff(self.shared.now() + after), Some(error))
            }
        };
        self.record(Ended {
            attempt: due.attempt,
            end,
            error,
        })
        .await;
    }

    /// Leaves a message that this version can't read to a later one.
    async fn put_aside(&self, unreadable: &Unreadable) {
        self.breaker.probe_again(Instant::now());
        metrics::try_ended("unreadable", self.channel, "put_off");
        let error = with_causes(&unreadable.error);
        tracing::error!(error, "message can't be read; left to a later version");
        self.record(Ended {
            attempt: unreadable.attempt,
            end: End::PutOff(self.shared.now() + UNREADABLE_PAUSE),
            error: Some(error),
        })
        .await;
    }

    async fn decide(&self, due: &Due) -> Disposition {
        let outdated = relevance::why_outdated(due, self.shared.now());
        if let Some(reason) = outdated.or_else(|| relevance::why_too_many(due)) {
            self.breaker.probe_again(Instant::now());
            return Disposition::Settled(Settled::Skipped, Some(reason.to_owned()));
        }
        if due.is_unconfirmed {
            self.breaker.probe_again(Instant::now());
            let reason = queue::UNCONFIRMED.to_owned();
            return if self.shared.now() - due.since > UNCONFIRMED_AFTER {
                Disposition::Settled(Settled::Skipped, Some(reason))
            } else {
                Disposition::Again(reason, UNCONFIRMED_PAUSE)
            };
        }
        let handover = Handover {
            recorder: &self.recorder,
            attempt: due.attempt,
            stop: &self.stop,
        };
        let started = Instant::now();
        let outcome = self.channels.send(due, &handover, self.shared.now()).await;
        metrics::sending_took(self.channel, started.elapsed());
        if let Some(reason) = outcome.reason() {
            metrics::failed(self.channel, reason);
        }
        self.tell_breaker(&outcome);
        let has_waited_long = self.shared.now() - due.since > GIVE_UP_AFTER;
        let tries = due.attempt.number;
        match outcome {
            Outcome::Accepted => Disposition::Settled(Settled::Sent, None),
            Outcome::Unknown(error) => Disposition::Settled(Settled::Uncertain, Some(error)),
            Outcome::Refused(error) => Disposition::Settled(Settled::Failed, Some(error)),
            Outcome::Deferred(error) | Outcome::Rejected(error) if has_waited_long => {
                Disposition::Settled(Settled::Failed, Some(error))
            }
            Outcome::Deferred(error) | Outcome::Rejected(error) => {
                Disposition::Again(error, pause(tries, Duration::MAX))
            }
            Outcome::Unreachable(error) => Disposition::Again(error, pause(tries, LONGEST_PAUSE)),
            Outcome::Withheld(error) => Disposition::Again(error, Duration::ZERO),
        }
    }

    /// A server that breaks off after the data leaves each message uncertain, so that counts, too.
    fn tell_breaker(&self, outcome: &Outcome) {
        let now = Instant::now();
        match outcome {
            Outcome::Accepted | Outcome::Deferred(_) | Outcome::Refused(_) => {
                self.breaker.succeeded(now);
            }
            Outcome::Unreachable(error) | Outcome::Rejected(error) | Outcome::Unknown(error) => {
                self.breaker.failed(error, now);
            }
            Outcome::Withheld(_) => self.breaker.probe_again(now),
        }
    }

    /// Tries for a while: when the database is away for a moment, what we know is not to be lost.
    async fn record(&self, ended: Ended) {
        let deadline = Instant::now() + RECORD_LIMIT;
        loop {
            let recorded: Result<bool, RecordError> = self.recorder.record(ended.clone()).await;
            match recorded {
                Ok(true) => return,
                Ok(false) => {
                    return tracing::info!("message was taken over or withdrawn; not recorded");
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
                    return tracing::error!(error, "result not recorded; its lease runs out");
                }
            }
        }
    }
}

/// Finds messages whose sender died while it handed them over, until `stop`. Nobody knows whether
/// they arrived, so they are left to a person.
///
/// # Errors
/// None at present: whatever fails is tried again.
pub(crate) async fn watch_leases(
    shared: Arc<Shared>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    while !stop.is_cancelled() {
        match queue::doubt_expired(&shared.db, shared.now()).await {
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

/// What the breaker says once for all is not said again for each message.
fn log(disposition: &Disposition) {
    match disposition {
        Disposition::Settled(Settled::Sent, _) => tracing::debug!("sent"),
        Disposition::Settled(Settled::Skipped, reason) => tracing::info!(reason, "skipped"),
        Disposition::Settled(Settled::Failed, error) => tracing::warn!(error, "refused"),
        Disposition::Settled(Settled::Uncertain, error) => {
            tracing::warn!(error, "may or may not have been sent");
        }
        Disposition::Again(error, _) => tracing::debug!(error, "not sent; trying again later"),
    }
}

/// How long to wait after so many tries: the backoff of messages, `longest` at most.
fn pause(tries: i32, longest: Duration) -> Duration {
    amqp::backoff(u32::try_from(tries).unwrap_or(1)).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_without_a_server_delays_a_message_by_a_minute_more() {
        assert_eq!(pause(1, LONGEST_PAUSE), Duration::from_millis(250));
        assert_eq!(pause(i32::MAX, LONGEST_PAUSE), LONGEST_PAUSE);
    }

    #[test]
    fn what_is_handed_over_at_shutdown_ends_within_the_usual_grace() {
        assert!(HANDOVER_LIMIT + RECORD_LIMIT < Duration::from_secs(60));
    }
}

//! Sends due notifications: leases them, hands them over without holding a transaction or database
//! connection (I13), and records the result. A circuit breaker, bulkheads per priority class and a
//! token bucket limit what is in flight.

mod breaker;
pub(crate) mod bulkheads;
pub(crate) mod gate;
mod relevance;
mod token_bucket;

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;
use platform::amqp;
use platform::causes::with_causes;
use platform::leased::{self, Claimed, Timing};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::Instrument;

use crate::channels::{BEFORE_HANDOVER_LIMIT, Channels, DeliveryOutcome, HANDOVER_LIMIT};
use crate::metrics;
use crate::notice::Urgency;
use crate::recorder::{Handover, RecordError, Recorder};
use crate::state::AppState;
use crate::store::queue::{self, AttemptEnd, Due, EndedAttempt, Settled, Unreadable};
use breaker::Allowed;
use bulkheads::Permit;
use gate::Gate;

const TIMING: Timing = Timing {
    pace: Duration::from_millis(30),
    idle: Duration::from_millis(500),
};
/// Pause after a database failure.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);
/// Interval of the sweep of expired leases.
const LEASE_INTERVAL: Duration = Duration::from_secs(1);
/// Time limit for recording a result, retries included.
const RECORD_LIMIT: Duration = Duration::from_secs(15);
/// Upper bound on a statement: acquiring a connection plus the statement timeout.
const STATEMENT_LIMIT: Duration = Duration::from_secs(20);
/// Lease of a claim; exceeds the time until a live sender begins the handover.
const LEASE: Duration = BEFORE_HANDOVER_LIMIT.saturating_add(STATEMENT_LIMIT.saturating_mul(2));
/// Lease of a handover; exceeds the time a live sender can take, so that only a dead one loses it.
const HANDOVER_LEASE: Duration = HANDOVER_LIMIT
    .saturating_add(RECORD_LIMIT.saturating_mul(2))
    .saturating_add(STATEMENT_LIMIT);
/// Longest backoff after an unreachable server.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// Age at which a deferred or rejected message is settled as failed.
const GIVE_UP_AFTER: TimeDelta = TimeDelta::days(3);
/// Retry interval of a message to an unconfirmed address; a change of the account retries earlier.
const UNCONFIRMED_PAUSE: Duration = Duration::from_secs(3_600);
/// Age at which a message to an unconfirmed address is skipped.
const UNCONFIRMED_AFTER: TimeDelta = TimeDelta::days(30);
/// Delay of a message that only a later version can read.
const UNREADABLE_PAUSE: TimeDelta = TimeDelta::hours(1);

/// Result of an attempt: a final state, or a retry after a delay.
enum Disposition {
    Settled(Settled, Option<String>),
    Again(String, Duration),
}

/// The send loop of one channel. Channels have separate loops, so that a hanging server delays only
/// its own messages.
pub(crate) struct Sender {
    context: Arc<DeliveryContext>,
    tracker: TaskTracker,
}

/// State shared by the messages in flight on one channel.
struct DeliveryContext {
    state: Arc<AppState>,
    channels: Arc<Channels>,
    gate: Arc<Gate>,
    recorder: Recorder,
    stop: CancellationToken,
}

impl leased::Work for Sender {
    fn name(&self) -> &'static str {
        self.context.gate.channel().as_str()
    }

    /// Claims and starts as many due messages as breaker, bucket and bulkheads allow.
    async fn begin_due(&mut self) -> Result<Claimed, sqlx::Error> {
        let (now, gate) = (Instant::now(), &self.context.gate);
        let allowed = gate.breaker.allowed(now);
        let mut left = match allowed {
            Allowed::NotBefore(probe_at) => return Ok(Claimed::NotBefore(probe_at)),
            Allowed::One if !gate.bulkheads.are_empty() => return Ok(Claimed::All),
            Allowed::One => {
                gate.breaker.put_off_probe(now);
                1
            }
            Allowed::All => gate.tokens().available(now),
        };
        if left == 0 {
            return Ok(Claimed::NotBefore(gate.tokens().next()));
        }
        let mut begun = 0;
        for urgency in Urgency::ALL {
            let reserved = gate.bulkheads.reserve(urgency, left);
            if reserved.left() == 0 {
                continue;
            }
            let claimed = self.claim(urgency, reserved.left()).await?;
            begun += claimed.len();
            left -= claimed.len();
            gate.tokens().spend(claimed.len(), now);
            for (message, permit) in claimed.into_iter().zip(reserved) {
                self.begin(message, permit);
            }
        }
        if begun == 0 && allowed == Allowed::One {
            // Left to the next message, which may be one without a row.
            gate.breaker.probe_again(now);
        }
        Ok(if begun == 0 {
            Claimed::All
        } else {
            Claimed::Some
        })
    }

    async fn woken(&mut self) {
        tokio::select! {
            () = self.context.state.queued(self.context.gate.channel()).notified() => {}
            () = self.context.gate.bulkheads.freed() => {}
        }
    }

    async fn drain(self) {
        self.tracker.close();
        self.tracker.wait().await;
    }
}

impl Sender {
    /// The sender of the channel of `gate`.
    pub(crate) fn new(
        state: &Arc<AppState>,
        channels: &Arc<Channels>,
        gate: &Arc<Gate>,
        stop: CancellationToken,
    ) -> Self {
        let context = DeliveryContext {
            recorder: Recorder::new(state, HANDOVER_LEASE),
            state: Arc::clone(state),
            channels: Arc::clone(channels),
            gate: Arc::clone(gate),
            stop,
        };
        Self {
            context: Arc::new(context),
            tracker: TaskTracker::new(),
        }
    }

    /// Runs until it is stopped, then drains the messages in flight.
    ///
    /// # Errors
    /// None at present: failures are retried.
    pub(crate) async fn run(self) -> anyhow::Result<()> {
        let stop = self.context.stop.clone();
        leased::run(self, TIMING, stop).await
    }

    async fn claim(
        &self,
        urgency: Urgency,
        limit: usize,
    ) -> Result<Vec<Result<Due, Unreadable>>, sqlx::Error> {
        let DeliveryContext { state, gate, .. } = &*self.context;
        let limit = i64::try_from(limit).expect("the permits fit into memory");
        let channel = gate.channel();
        queue::claim_due(&state.db, channel, urgency, limit, LEASE, state.now()).await
    }

    fn begin(&self, message: Result<Due, Unreadable>, permit: Permit) {
        let context = Arc::clone(&self.context);
        let channel = context.gate.channel().as_str();
        let span = match &message {
            Ok(due) => tracing::info_span!(
                "notification",
                booking_id = %due.booking_id,
                kind = due.notice.kind().as_str(),
                channel,
                tries = due.attempt.number,
            ),
            Err(unreadable) => {
                tracing::info_span!("notification", kind = unreadable.kind, channel)
            }
        };
        let sending = async move {
            match message {
                Ok(due) => context.carry_out(&due).await,
                Err(unreadable) => context.postpone(&unreadable).await,
            }
            drop(permit);
        };
        self.tracker.spawn(sending.instrument(span));
    }
}

impl DeliveryContext {
    /// Sends one message and records the result. If this process dies before the handover, the
    /// lease expires and the message is due again; if it dies later, the message becomes uncertain.
    async fn carry_out(&self, due: &Due) {
        let disposition = self.decide(due).await;
        let outcome = match &disposition {
            Disposition::Settled(settled, _) => settled.as_str(),
            Disposition::Again(..) => "put_off",
        };
        metrics::attempt_ended(due.notice.kind().as_str(), self.gate.channel(), outcome);
        log(&disposition);
        let (end, error) = match disposition {
            Disposition::Settled(settled, error) => (AttemptEnd::Settled(settled), error),
            Disposition::Again(error, after) => {
                (AttemptEnd::PutOff(self.state.now() + after), Some(error))
            }
        };
        self.record(EndedAttempt {
            attempt: due.attempt,
            end,
            error,
        })
        .await;
    }

    /// Postpones a message that only a later version can read.
    async fn postpone(&self, unreadable: &Unreadable) {
        self.gate.breaker.probe_again(Instant::now());
        metrics::attempt_ended("unreadable", self.gate.channel(), "put_off");
        let error = with_causes(&unreadable.error);
        tracing::error!(
            error,
            "failed to parse notification, left to a later version"
        );
        self.record(EndedAttempt {
            attempt: unreadable.attempt,
            end: AttemptEnd::PutOff(self.state.now() + UNREADABLE_PAUSE),
            error: Some(error),
        })
        .await;
    }

    async fn decide(&self, due: &Due) -> Disposition {
        let outdated = relevance::why_outdated(due, self.state.now());
        if let Some(reason) = outdated.or_else(|| relevance::why_too_many(due)) {
            self.gate.breaker.probe_again(Instant::now());
            return Disposition::Settled(Settled::Skipped, Some(reason.to_owned()));
        }
        if due.is_unconfirmed {
            self.gate.breaker.probe_again(Instant::now());
            let reason = queue::UNCONFIRMED.to_owned();
            return if self.state.now() - due.since > UNCONFIRMED_AFTER {
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
        let sending = self.channels.send(due, &handover, self.state.now());
        let outcome = self.gate.observe(sending).await;
        let has_waited_long = self.state.now() - due.since > GIVE_UP_AFTER;
        let tries = due.attempt.number;
        match outcome {
            DeliveryOutcome::Accepted => Disposition::Settled(Settled::Sent, None),
            DeliveryOutcome::Unknown(error) => {
                Disposition::Settled(Settled::Uncertain, Some(error))
            }
            DeliveryOutcome::Refused(error) => Disposition::Settled(Settled::Failed, Some(error)),
            DeliveryOutcome::Deferred(error) | DeliveryOutcome::Rejected(error)
                if has_waited_long =>
            {
                Disposition::Settled(Settled::Failed, Some(error))
            }
            DeliveryOutcome::Deferred(error) | DeliveryOutcome::Rejected(error) => {
                Disposition::Again(error, pause(tries, Duration::MAX))
            }
            DeliveryOutcome::Unreachable(error) => {
                Disposition::Again(error, pause(tries, MAX_PAUSE))
            }
            DeliveryOutcome::Withheld(error) => Disposition::Again(error, Duration::ZERO),
        }
    }

    /// Records a result, retrying for [`RECORD_LIMIT`] so that a short outage of the database does
    /// not lose it.
    async fn record(&self, ended: EndedAttempt) {
        let deadline = Instant::now() + RECORD_LIMIT;
        loop {
            let recorded: Result<bool, RecordError> = self.recorder.record(ended.clone()).await;
            match recorded {
                Ok(true) => return,
                Ok(false) => {
                    return tracing::info!("message taken over or withdrawn, result discarded");
                }
                Err(error) if Instant::now() < deadline => {
                    tracing::warn!(
                        error = &error as &dyn Error,
                        "failed to record result, retrying"
                    );
                    tokio::time::sleep(FAILURE_PAUSE).await;
                }
                Err(error) => {
                    let error = &error as &dyn Error;
                    return tracing::error!(error, "failed to record result, lease will expire");
                }
            }
        }
    }
}

/// Sweeps expired handover leases until `stop`. It is unknown whether these messages arrived, so
/// they become `uncertain`, for staff to decide.
///
/// # Errors
/// None at present: failures are retried.
pub(crate) async fn watch_leases(
    state: Arc<AppState>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    while !stop.is_cancelled() {
        match queue::mark_expired_uncertain(&state.db, state.now()).await {
            Ok(0) => {}
            Ok(notices) => tracing::warn!(notices, "handover leases expired, messages uncertain"),
            Err(error) => {
                let error = &error as &dyn Error;
                tracing::warn!(error, "failed to read leases, retrying");
            }
        }
        stop.run_until_cancelled(tokio::time::sleep(LEASE_INTERVAL))
            .await;
    }
    Ok(())
}

/// Logs a result. Retries are logged at debug level, since the breaker reports an outage once.
fn log(disposition: &Disposition) {
    match disposition {
        Disposition::Settled(Settled::Sent, _) => tracing::debug!("sent"),
        Disposition::Settled(Settled::Skipped, reason) => tracing::info!(reason, "skipped"),
        Disposition::Settled(Settled::Failed, error) => tracing::warn!(error, "refused"),
        Disposition::Settled(Settled::Uncertain, error) => {
            tracing::warn!(error, "outcome unknown, marked uncertain");
        }
        Disposition::Again(error, _) => tracing::debug!(error, "not sent, retrying later"),
    }
}

/// Exponential backoff after `tries` attempts, at most `longest`.
fn pause(tries: i32, longest: Duration) -> Duration {
    amqp::backoff(u32::try_from(tries).unwrap_or(1)).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_without_a_server_delays_a_message_by_a_minute_more() {
        assert_eq!(pause(1, MAX_PAUSE), Duration::from_millis(250));
        assert_eq!(pause(i32::MAX, MAX_PAUSE), MAX_PAUSE);
    }

    #[test]
    fn what_is_handed_over_at_shutdown_ends_within_the_usual_grace() {
        assert!(HANDOVER_LIMIT + RECORD_LIMIT < Duration::from_secs(60));
    }
}

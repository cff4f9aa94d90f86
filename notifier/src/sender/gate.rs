//! Admission to one channel: circuit breaker, bulkheads and token bucket. The send loop and
//! messages without a row share them, so that together they keep the operator's limits.

use std::num::NonZeroU16;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use platform::sync::MutexExt as _;
use tokio::time::{Instant, sleep_until, timeout};

use super::breaker::{Allowed, Breaker};
use super::bulkheads::{Bulkheads, Permit};
use super::token_bucket::TokenBucket;
use crate::channels::DeliveryOutcome;
use crate::metrics;
use crate::notice::{Channel, Urgency};

/// Longest wait of a message without a row. Then it goes back to its queue.
const ADMISSION_LIMIT: Duration = Duration::from_secs(5);

/// Limits of a channel.
pub(crate) struct Bounds {
    /// Messages in flight at once.
    pub(crate) concurrency: NonZeroU16,
    /// Messages a second; `None` for no limit.
    pub(crate) per_second: Option<u32>,
}

/// The limits of one channel, and what is in flight on it.
pub(crate) struct Gate {
    channel: Channel,
    pub(super) breaker: Breaker,
    pub(super) bulkheads: Arc<Bulkheads>,
    tokens: Mutex<TokenBucket>,
}

/// The gates of both channels.
#[derive(Clone)]
pub(crate) struct Gates {
    pub(crate) mail: Arc<Gate>,
    pub(crate) sms: Arc<Gate>,
}

impl Gates {
    /// The gate of `channel`.
    pub(crate) fn of(&self, channel: Channel) -> &Arc<Gate> {
        match channel {
            Channel::Email => &self.mail,
            Channel::Sms => &self.sms,
        }
    }
}

impl Gate {
    /// A gate with a closed circuit breaker and a full token bucket.
    pub(crate) fn new(channel: Channel, bounds: &Bounds) -> Arc<Self> {
        Arc::new(Self {
            channel,
            breaker: Breaker::closed(channel),
            bulkheads: Bulkheads::new(usize::from(bounds.concurrency.get())),
            tokens: Mutex::new(TokenBucket::new(bounds.per_second, Instant::now())),
        })
    }

    /// The channel that it is the gate of.
    pub(super) fn channel(&self) -> Channel {
        self.channel
    }

    pub(super) fn tokens(&self) -> MutexGuard<'_, TokenBucket> {
        self.tokens.lock_unpoisoned()
    }

    /// Sends a message without a row once it is admitted. It is withheld while the circuit breaker
    /// is open, unless it can be the probe, or if it is not admitted within five seconds.
    pub(crate) async fn send(
        &self,
        urgency: Urgency,
        sending: impl Future<Output = DeliveryOutcome>,
    ) -> DeliveryOutcome {
        if !self.may_begin() {
            return DeliveryOutcome::Withheld("the circuit breaker is open".into());
        }
        let Ok(permit) = timeout(ADMISSION_LIMIT, self.admit(urgency)).await else {
            return DeliveryOutcome::Withheld("too many messages are in flight".into());
        };
        let outcome = self.observe(sending).await;
        drop(permit);
        outcome
    }

    /// Returns true if the circuit breaker is closed or this message is to probe the server.
    fn may_begin(&self) -> bool {
        let now = Instant::now();
        match self.breaker.allowed(now) {
            Allowed::All => true,
            Allowed::One if self.bulkheads.are_empty() => {
                self.breaker.put_off_probe(now);
                true
            }
            Allowed::One | Allowed::NotBefore(_) => false,
        }
    }

    /// Waits for a slot and a token. The token may be borrowed, so that a backlog, which takes
    /// every token as it comes, does not starve single messages.
    async fn admit(&self, urgency: Urgency) -> Permit {
        let permit = self.bulkheads.acquire(urgency).await;
        loop {
            let borrowed = self.tokens().borrow(Instant::now());
            match borrowed {
                Ok(()) => return permit,
                Err(at) => sleep_until(at).await,
            }
        }
    }

    /// Awaits a delivery attempt, and reports its duration and outcome to the metrics and the
    /// circuit breaker.
    pub(super) async fn observe(
        &self,
        sending: impl Future<Output = DeliveryOutcome>,
    ) -> DeliveryOutcome {
        let started = Instant::now();
        let outcome = sending.await;
        metrics::attempt_took(self.channel, started.elapsed());
        if let Some(reason) = outcome.reason() {
            metrics::failed(self.channel, reason);
        }
        self.report_to_breaker(&outcome);
        outcome
    }

    /// `Unknown` counts as a failure: a server that breaks off after the data would leave every
    /// message uncertain.
    fn report_to_breaker(&self, outcome: &DeliveryOutcome) {
        let now = Instant::now();
        match outcome {
            DeliveryOutcome::Accepted
            | DeliveryOutcome::Deferred(_)
            | DeliveryOutcome::Refused(_) => {
                self.breaker.succeeded(now);
            }
            DeliveryOutcome::Unreachable(error)
            | DeliveryOutcome::Rejected(error)
            | DeliveryOutcome::Unknown(error) => {
                self.breaker.failed(error, now);
            }
            DeliveryOutcome::Withheld(_) => self.breaker.probe_again(now),
        }
    }
}

#[cfg(test)]
mod tests {
    use platform::amqp::Settings;
    use tokio::time::advance;

    use super::*;
    use crate::channels::{BEFORE_HANDOVER_LIMIT, HANDOVER_LIMIT};

    fn gate(concurrency: u16, per_second: Option<u32>) -> Arc<Gate> {
        let bounds = Bounds {
            concurrency: NonZeroU16::new(concurrency).unwrap(),
            per_second,
        };
        Gate::new(Channel::Email, &bounds)
    }

    async fn accepted() -> DeliveryOutcome {
        DeliveryOutcome::Accepted
    }

    async fn unreachable() -> DeliveryOutcome {
        DeliveryOutcome::Unreachable("refused".into())
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_without_a_row_opens_the_breaker_waits_while_it_is_open_and_probes() {
        let gate = gate(4, None);
        let mut tried = 0;
        loop {
            match gate.send(Urgency::Deadline, unreachable()).await {
                DeliveryOutcome::Unreachable(_) => tried += 1,
                withheld => break assert!(matches!(withheld, DeliveryOutcome::Withheld(_))),
            }
        }
        assert_eq!(tried, 5);
        advance(Duration::from_secs(5)).await;
        assert_eq!(
            gate.send(Urgency::Deadline, accepted()).await,
            DeliveryOutcome::Accepted
        );
        assert_eq!(gate.breaker.allowed(Instant::now()), Allowed::All);
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_without_a_row_waits_for_a_slot_and_not_for_ever() {
        let gate = gate(1, None);
        let taken = gate.bulkheads.acquire(Urgency::News).await;
        let begun = Instant::now();
        let withheld = gate.send(Urgency::Deadline, accepted()).await;
        assert!(
            matches!(withheld, DeliveryOutcome::Withheld(_)),
            "{withheld:?}"
        );
        assert_eq!(begun.elapsed(), ADMISSION_LIMIT);
        let sending = gate.send(Urgency::Deadline, accepted());
        let freeing = async {
            tokio::task::yield_now().await;
            drop(taken);
        };
        let (outcome, ()) = tokio::join!(sending, freeing);
        assert_eq!(outcome, DeliveryOutcome::Accepted);
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_without_a_row_borrows_a_token_and_the_send_loop_pays_it_back() {
        let gate = gate(4, Some(10));
        let begun = Instant::now();
        gate.tokens().spend(10, begun);
        assert_eq!(gate.tokens().available(begun), 0);
        for _ in 0..20 {
            let outcome = gate.send(Urgency::Deadline, accepted()).await;
            assert_eq!(outcome, DeliveryOutcome::Accepted);
        }
        // Ten are borrowed, and the others come at the rate.
        assert_eq!(begun.elapsed(), Duration::from_secs(1));
        advance(Duration::from_secs(1)).await;
        assert_eq!(gate.tokens().available(Instant::now()), 0);
        advance(Duration::from_millis(100)).await;
        assert_eq!(gate.tokens().available(Instant::now()), 1);
    }

    #[test]
    fn a_message_without_a_row_ends_within_the_time_of_its_handler() {
        let most = ADMISSION_LIMIT + BEFORE_HANDOVER_LIMIT + HANDOVER_LIMIT;
        assert!(most < Settings::DEFAULT.time_limit);
    }
}

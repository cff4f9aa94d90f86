use std::num::NonZeroU32;
use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

use platform::sync::MutexExt as _;

/// The kinds of calls; Stripe limits each.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    Create,
    Retrieve,
    Capture,
    Cancel,
    Refund,
    RetrieveRefund,
    /// Read a page of a list.
    List,
    CreateCustomer,
    /// Read the saved cards of a customer.
    ListCards,
    /// Detach a card from its customer.
    Detach,
    /// Attach a PaymentIntent to a customer.
    Assign,
}

const CALLS: usize = 11;
/// Longest idle time whose unused budget may be spent at once.
const CATCH_UP: Duration = Duration::from_millis(200);
/// Pause after a 429 without `Retry-After`.
const PAUSE: Duration = Duration::from_secs(1);
/// Longest pause that `Retry-After` may ask for.
const MAX_PAUSE: Duration = Duration::from_secs(60);
/// Smallest share of the limits that is left by repeated 429s.
const MIN_SHARE: f64 = 1.0 / 16.0;
/// Share of the limits that comes back each second.
const RECOVERY_PER_SECOND: f64 = 0.1;

impl Call {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Retrieve => "retrieve",
            Self::Capture => "capture",
            Self::Cancel => "cancel",
            Self::Refund => "refund",
            Self::RetrieveRefund => "retrieve_refund",
            Self::List => "list",
            Self::CreateCustomer => "create_customer",
            Self::ListCards => "list_cards",
            Self::Detach => "detach",
            Self::Assign => "assign",
        }
    }
}

/// Rate limiter with AIMD: calls are spread evenly over each second, with small bursts at most,
/// since Stripe's window is not known. After a 429 (others use the account too) all calls pause for
/// a second, or as long as Stripe asks, and go on at half the rate, which recovers linearly.
pub(super) struct Pacing {
    per_second: NonZeroU32,
    per_second_and_call: NonZeroU32,
    state: Mutex<State>,
}

struct State {
    /// When the next call of any kind may be sent.
    next: Instant,
    /// When the next call of each kind may be sent.
    next_of: [Instant; CALLS],
    /// The share of the limits after the last 429, and when that was.
    share: f64,
    since: Instant,
}

impl State {
    fn share(&self, now: Instant) -> f64 {
        let seconds = now.saturating_duration_since(self.since).as_secs_f64();
        (self.share + seconds * RECOVERY_PER_SECOND).min(1.0)
    }
}

impl Pacing {
    pub(super) fn new(per_second: NonZeroU32, per_second_and_call: NonZeroU32) -> Self {
        let now = Instant::now();
        Self {
            per_second,
            per_second_and_call,
            state: Mutex::new(State {
                next: now,
                next_of: [now; CALLS],
                share: 1.0,
                since: now,
            }),
        }
    }

    /// Waits until the call may be sent: first in the line of its kind, so that it blocks no other
    /// kind, then in the line of all.
    pub(super) async fn wait_for_turn(&self, call: Call) {
        let rate = self.per_second_and_call;
        self.take_turn(rate, |state| &mut state.next_of[call as usize])
            .await;
        self.take_turn(self.per_second, |state| &mut state.next)
            .await;
    }

    async fn take_turn(&self, rate: NonZeroU32, of: impl Fn(&mut State) -> &mut Instant) {
        let turn = {
            let mut state = self.state.lock_unpoisoned();
            let now = Instant::now();
            let pause = Duration::from_secs_f64(1.0 / (f64::from(rate.get()) * state.share(now)));
            let next: &mut Instant = of(&mut state);
            let turn = (*next).max(now.checked_sub(CATCH_UP).unwrap_or(now));
            *next = turn + pause;
            turn
        };
        tokio::time::sleep_until(turn).await;
    }

    /// Backs off after a 429. Several at once count as one.
    pub(super) fn slow_down(&self, retry_after: Option<Duration>) {
        let pause = retry_after.unwrap_or(PAUSE).clamp(PAUSE, MAX_PAUSE);
        let mut state = self.state.lock_unpoisoned();
        let now = Instant::now();
        if state.next > now + pause / 2 {
            return;
        }
        state.share = (state.share(now) / 2.0).max(MIN_SHARE);
        state.since = now;
        state.next = now + pause;
    }
}

#[cfg(test)]
mod tests {
    use futures_util::future::join_all;

    use super::*;

    fn pacing(per_second: u32, per_second_and_call: u32) -> Pacing {
        let rate = |rate| NonZeroU32::new(rate).unwrap();
        Pacing::new(rate(per_second), rate(per_second_and_call))
    }

    /// In milliseconds of the test's own time.
    async fn time_of(calls: impl Future) -> u128 {
        let begun = Instant::now();
        calls.await;
        begun.elapsed().as_millis()
    }

    #[tokio::test(start_paused = true)]
    async fn calls_of_a_kind_keep_to_its_limit_and_hold_up_no_other_kind() {
        let pacing = pacing(1_000, 100);
        let captures = join_all((0..41).map(|_| pacing.wait_for_turn(Call::Capture)));
        let creations = join_all((0..41).map(|_| pacing.wait_for_turn(Call::Create)));
        let took = time_of(async { tokio::join!(captures, creations) }).await;
        assert!((400..750).contains(&took), "{took} ms");
    }

    #[tokio::test(start_paused = true)]
    async fn all_kinds_together_keep_to_the_limit_of_all() {
        let pacing = pacing(100, 1_000);
        let kinds = [Call::Capture, Call::Create, Call::Cancel, Call::Refund];
        let calls = (0..41).map(|n| pacing.wait_for_turn(kinds[n % kinds.len()]));
        let took = time_of(join_all(calls)).await;
        assert!((400..750).contains(&took), "{took} ms");
    }

    #[tokio::test(start_paused = true)]
    async fn a_429_stops_everything_for_a_second_and_halves_the_speed_once() {
        let pacing = pacing(200, 1_000);
        for _ in 0..10 {
            pacing.slow_down(None);
        }
        let took = time_of(pacing.wait_for_turn(Call::List)).await;
        assert!(took >= 1_000, "{took} ms");
        // Six tenths of 200 a second, and recovering.
        let took = time_of(join_all((0..49).map(|_| pacing.wait_for_turn(Call::List)))).await;
        assert!(took >= 300, "{took} ms");
    }

    #[tokio::test(start_paused = true)]
    async fn a_429_that_asks_for_more_time_gets_it() {
        let pacing = pacing(200, 1_000);
        pacing.slow_down(Some(Duration::from_millis(1_300)));
        let took = time_of(pacing.wait_for_turn(Call::List)).await;
        assert!(took >= 1_300, "{took} ms");
    }
}

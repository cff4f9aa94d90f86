//! Random schedules of buyers, faults and crashes. `ONSALE_SCHEDULES` sets how many (3),
//! `ONSALE_SEED` the first: `ONSALE_SCHEDULES=1 ONSALE_SEED=17` runs the one of seed 17. Schedules
//! mostly wait, so `ONSALE_AT_ONCE` of them (4) run side by side, each in its own pipeline.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use domain::BookingId;
use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use stand_ins::stripe::{ApiFault, Operation, WebhookFault};
use tokio::time::sleep;

use crate::pipeline::Pipeline;
use crate::setting;

const BUYERS: usize = 8;
/// Fewer than buyers.
const SEATS: u32 = 6;
/// Timeout of the worker's calls to Stripe.
const STRIPE_TIMEOUT: Duration = Duration::from_millis(500);
/// Longest time until everything is at rest.
const LIMIT: Duration = Duration::from_secs(180);
/// Polls of a buyer for the payment form.
const BUYERS_PATIENCE: u32 = 30;

/// One move of a buyer.
#[derive(Debug, Clone, Copy)]
enum Plan {
    Buy,
    BuyWithASecondCard,
    BuyWithAuthentication,
    Leave,
    GiveUpUnpaid,
    GiveUpWhilePaying,
    GiveUpTickets,
}

const PLANS: [Plan; 7] = [
    Plan::Buy,
    Plan::BuyWithASecondCard,
    Plan::BuyWithAuthentication,
    Plan::Leave,
    Plan::GiveUpUnpaid,
    Plan::GiveUpWhilePaying,
    Plan::GiveUpTickets,
];

#[derive(Debug, Clone, Copy)]
enum Crash {
    Bookings,
    Payments,
}

/// Everything random, drawn from one seed.
#[derive(Debug)]
struct Schedule {
    buyers: Vec<(Duration, Plan, Duration)>,
    api: Vec<(f64, Option<Operation>, ApiFault)>,
    webhooks: Vec<(f64, WebhookFault)>,
    crashes: Vec<(Duration, Crash)>,
}

impl Schedule {
    fn draw(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let moment = |rng: &mut StdRng| Duration::from_millis(rng.random_range(0..400));
        let buyers = (0..BUYERS).map(|_| {
            let plan = *PLANS.choose(&mut rng).unwrap();
            (moment(&mut rng), plan, moment(&mut rng))
        });
        let buyers = buyers.collect();
        let api = (0..rng.random_range(0..4)).map(|_| api_fault(&mut rng));
        let api = api.collect();
        let webhooks = (0..rng.random_range(0..3)).map(|_| webhook_fault(&mut rng));
        let webhooks = webhooks.collect();
        let crashes = (0..rng.random_range(0..3)).map(|_| {
            let who = if rng.random() {
                Crash::Bookings
            } else {
                Crash::Payments
            };
            (moment(&mut rng), who)
        });
        let crashes = crashes.collect();
        Self {
            buyers,
            api,
            webhooks,
            crashes,
        }
    }
}

fn api_fault(rng: &mut StdRng) -> (f64, Option<Operation>, ApiFault) {
    const OPERATIONS: [Option<Operation>; 6] = [
        None,
        Some(Operation::CreatePaymentIntent),
        Some(Operation::CapturePaymentIntent),
        Some(Operation::CancelPaymentIntent),
        Some(Operation::CreateRefund),
        Some(Operation::RetrievePaymentIntent),
    ];
    let faults = [
        ApiFault::Delay {
            milliseconds: rng.random_range(1..400),
        },
        ApiFault::ServerError,
        ApiFault::SavedServerError,
        ApiFault::SavedServerErrorAfterEffect,
        ApiFault::RateLimit,
        ApiFault::Locked,
        ApiFault::KeyInUse,
        ApiFault::CutBeforeEffect,
        ApiFault::CutAfterEffect {
            bytes: rng.random_range(0..1_500),
        },
        ApiFault::Hang,
        ApiFault::HangAfterEffect,
    ];
    let operation = *OPERATIONS.choose(rng).unwrap();
    let fault = *faults.choose(rng).unwrap();
    (rng.random_range(0.1..0.9), operation, fault)
}

fn webhook_fault(rng: &mut StdRng) -> (f64, WebhookFault) {
    let faults = [
        WebhookFault::Lost,
        WebhookFault::Duplicated { copies: 5 },
        WebhookFault::Delayed { milliseconds: 500 },
        WebhookFault::Reordered {
            within_milliseconds: 700,
        },
    ];
    (rng.random_range(0.1..1.0), *faults.choose(rng).unwrap())
}

impl Pipeline {
    async fn run(&self, schedule: &Schedule, seed: u64) {
        let (calls, webhooks) = (self.stripe.faults(), self.stripe.webhooks().faults());
        calls.reseed(seed);
        webhooks.reseed(seed);
        for (probability, operation, fault) in &schedule.api {
            calls.sometimes(*probability, *operation, *fault);
        }
        for (probability, fault) in &schedule.webhooks {
            webhooks.sometimes(*probability, None::<String>, *fault);
        }
        let buyers = schedule.buyers.iter().zip(1..);
        let buying = join_all(buyers.map(|(buyer, account)| self.shop(buyer, account)));
        tokio::join!(buying, self.crash(&schedule.crashes));
        calls.clear();
        webhooks.clear();
        self.assert_kept().await;
    }

    async fn shop(&self, (begin, plan, pause): &(Duration, Plan, Duration), account: i64) {
        sleep(*begin).await;
        let id = self.request(account, 1).await;
        if !self.can_pay(id).await {
            return;
        }
        sleep(*pause).await;
        match plan {
            Plan::Leave => {}
            Plan::Buy => {
                self.pay(id, "pm_card_visa").await;
            }
            Plan::BuyWithASecondCard => {
                self.pay(id, "pm_card_visa_chargeDeclined").await;
                self.pay(id, "pm_card_pendingRefund").await;
            }
            Plan::BuyWithAuthentication => {
                self.pay(id, "pm_card_threeDSecure2Required").await;
                self.authenticate(id).await;
            }
            Plan::GiveUpUnpaid => self.cancel(id, account).await,
            Plan::GiveUpWhilePaying => {
                tokio::join!(self.pay(id, "pm_card_visa"), self.cancel(id, account));
            }
            Plan::GiveUpTickets => {
                self.pay(id, "pm_card_pendingRefund").await;
                sleep(*pause).await;
                self.cancel(id, account).await;
            }
        }
    }

    /// Waits for the payment form, for a limited time as a buyer does.
    async fn can_pay(&self, id: BookingId) -> bool {
        for _ in 0..BUYERS_PATIENCE {
            if self.intent(id).await.is_some() {
                return true;
            }
            if self.booking(id).await == "rejected" {
                return false;
            }
            sleep(Duration::from_millis(40)).await;
        }
        false
    }

    async fn crash(&self, crashes: &[(Duration, Crash)]) {
        for (after, who) in crashes {
            sleep(*after).await;
            match who {
                Crash::Bookings => {
                    self.crash_bookings().await;
                    self.start_bookings(None).await;
                }
                Crash::Payments => {
                    self.crash_payments().await;
                    self.start_payments(None).await;
                }
            }
        }
    }
}

/// Runs schedules one after another, until `count` were begun.
async fn run_until_enough(begun: &AtomicU64, first: u64, count: u64) {
    let mut pipeline = None;
    loop {
        let number = begun.fetch_add(1, Ordering::Relaxed);
        if number >= count {
            break;
        }
        let pipeline = match &pipeline {
            Some(pipeline) => pipeline,
            None => pipeline.insert(open().await),
        };
        run_one(pipeline, first + number).await;
    }
    if let Some(pipeline) = pipeline {
        pipeline.close().await;
    }
}

async fn open() -> Pipeline {
    Pipeline::open_with(SEATS, |config| config.stripe_timeout = STRIPE_TIMEOUT).await
}

async fn run_one(pipeline: &Pipeline, seed: u64) {
    let schedule = Schedule::draw(seed);
    let run = tokio::time::timeout(LIMIT, pipeline.run(&schedule, seed));
    let named = std::panic::AssertUnwindSafe(run);
    let outcome = futures_util::FutureExt::catch_unwind(named).await;
    assert!(
        matches!(outcome, Ok(Ok(()))),
        "ONSALE_SEED={seed} broke it: {schedule:#?}"
    );
    pipeline.free_all().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn money_and_tickets_agree_after_any_schedule() {
    let count: u64 = setting("ONSALE_SCHEDULES", 3);
    let first: u64 = setting("ONSALE_SEED", rand::random_range(0..1_000_000));
    let at_once: u64 = setting("ONSALE_AT_ONCE", 4);
    println!("{count} schedules from ONSALE_SEED={first}");
    let (begun, begin) = (AtomicU64::new(0), Instant::now());
    let lanes = (0..at_once.min(count)).map(|_| run_until_enough(&begun, first, count));
    join_all(lanes).await;
    println!("  took {:?}", begin.elapsed());
}

//! The simulated buyers of the demo.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::Context as _;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde::Serialize;
use surge::buyer::{
    Api, Buyer, Endpoints, Fate, FunnelCounts, Habits, Latencies, PASSWORD, PlanMix, Session,
};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::house::House;
use super::progress::Progress;
use super::seed;
use super::stage::Stage;

/// Everybody arrives within this time of the opening.
const ARRIVAL: Duration = Duration::from_secs(1);
/// Interval of the checks whether the sale is over.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// The sale is over after everything has been sold, with nobody on the way to a ticket, for so
/// long: the seats of a booking that was cancelled at the last moment are offered again by then.
const OVER_AFTER: Duration = Duration::from_secs(3);

/// Funnel, latencies and fates of the buyers.
#[derive(Debug, Serialize)]
pub(super) struct Crowd {
    pub(super) funnel: FunnelCounts,
    pub(super) latencies: Latencies,
    pub(super) fates: Fates,
    /// Seconds from the opening until every seat was sold and paid, or every buyer was done.
    pub(super) seconds: f64,
    /// Bookings that their buyers saw confirmed and did not cancel.
    #[serde(skip)]
    pub(super) confirmed: Vec<Uuid>,
}

/// Number of buyers by fate.
#[derive(Debug, Default, Serialize)]
pub(super) struct Fates {
    pub(super) confirmed: u32,
    pub(super) cancelled: u32,
    pub(super) unpaid: u32,
    /// Buyers whose page said that everything is sold.
    pub(super) sold_out: u32,
    /// Buyers in the queue at the end, whose page would have said so at its next poll.
    pub(super) waiting: u32,
    pub(super) rejected: u32,
    pub(super) missed: u32,
    pub(super) left: u32,
    /// Buyers for whom the API broke its contract; `errors` has the first five reasons.
    pub(super) failed: u32,
    pub(super) errors: Vec<String>,
}

/// Creates the accounts of `buyers`, and signs them in.
pub(super) async fn enrol(stage: &Stage, buyers: u32) -> anyhow::Result<Vec<Session>> {
    let emails: Vec<String> = (0..buyers).map(email_of).collect();
    let enrolled = box_office::enrol(stage.ctx(), &emails, &PASSWORD.into()).await?;
    Ok(enrolled.iter().map(Session::of).collect())
}

/// Opens the sale to the buyers of these sessions, and waits until it is over: until everybody is
/// done or nothing is left for those who wait. Those close their pages then: at a poll every half
/// minute, nothing else would happen until the last of them knows.
pub(super) async fn run(
    stage: &Stage,
    event_id: i64,
    sessions: Vec<Session>,
    seed: u64,
    house: &House,
    progress: &Progress,
) -> anyhow::Result<Crowd> {
    let mut rng = StdRng::seed_from_u64(seed);
    let buyers = u32::try_from(sessions.len())?;
    let end = CancellationToken::new();
    let crowd = gather(stage, event_id, buyers, &mut rng, progress, &end)?;
    seed::open(stage, event_id)
        .await
        .context("opening the sale")?;
    let opened = Instant::now();
    let mut shopping = JoinSet::new();
    for (buyer, session) in crowd.into_iter().zip(sessions) {
        let arrives_after = ARRIVAL.mul_f64(rng.random());
        shopping.spawn(async move {
            sleep(arrives_after).await;
            buyer.shop(&session).await
        });
    }
    let mut fates = Fates::default();
    let mut confirmed = Vec::new();
    let shown = house.shown();
    let mut looks = interval(LOOK_EVERY);
    let mut over_since = None;
    loop {
        tokio::select! {
            ended = shopping.join_next() => match ended {
                None => break,
                Some(ended) => match ended.context("a simulated buyer panicked")? {
                    Ok(fate) => fates.count(&fate, &mut confirmed),
                    Err(error) => fates.fail(&error),
                },
            },
            now = looks.tick(), if !end.is_cancelled() => {
                let all_wait = progress.funnel().counts().waiting == shopping.len() as u64;
                if !(all_wait && shown.borrow().is_sold_out()) {
                    over_since = None;
                } else if now - *over_since.get_or_insert(now) >= OVER_AFTER {
                    end.cancel();
                }
            }
        }
    }
    let over = over_since.unwrap_or_else(Instant::now);
    Ok(Crowd {
        funnel: progress.funnel().counts(),
        latencies: progress.funnel().latencies(),
        fates,
        seconds: over.saturating_duration_since(opened).as_secs_f64(),
        confirmed,
    })
}

fn gather(
    stage: &Stage,
    event_id: i64,
    buyers: u32,
    rng: &mut StdRng,
    progress: &Progress,
    end: &CancellationToken,
) -> anyhow::Result<Vec<Buyer>> {
    let client = reqwest::Client::builder()
        // Everything is on this machine.
        .no_proxy()
        .build()
        .context("making an HTTP client")?;
    let mix = PlanMix::default();
    let endpoints = Endpoints::at(&stage.public_url());
    let crowd = (0..buyers).map(|n| {
        let api = Api::new(client.clone(), endpoints.clone(), address_of(n));
        let tickets = rng.random_range(1..=3);
        Buyer::new(
            api,
            progress.funnel().clone(),
            event_id,
            email_of(n),
            tickets,
            mix.draw(rng),
        )
        .with_habits(Habits::draw(rng))
        .with_end(end.clone())
    });
    Ok(crowd.collect())
}

/// The address of buyer `n`, in 10.0.0.0/8.
fn address_of(n: u32) -> IpAddr {
    IpAddr::V4(Ipv4Addr::from_bits(0x0A00_0001 + n))
}

fn email_of(n: u32) -> String {
    format!("buyer{n}@demo.example")
}

impl Fates {
    fn count(&mut self, fate: &Fate, held: &mut Vec<Uuid>) {
        match fate {
            Fate::Confirmed { booking_id } => {
                held.push(*booking_id);
                self.confirmed += 1;
            }
            Fate::Cancelled { .. } => self.cancelled += 1,
            Fate::Unpaid { .. } => self.unpaid += 1,
            Fate::SoldOut => self.sold_out += 1,
            Fate::Waiting => self.waiting += 1,
            Fate::Rejected(_) => self.rejected += 1,
            Fate::Missed => self.missed += 1,
            Fate::Left => self.left += 1,
        }
    }

    fn fail(&mut self, error: &surge::buyer::ApiError) {
        self.failed += 1;
        if self.errors.len() < 5 {
            self.errors.push(error.to_string());
        }
    }
}

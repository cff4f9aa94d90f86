//! One sale during which a fault is injected.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use domain::EventId;
use sqlx::PgPool;
use surge::buyer::{Api, Buyer, Card, Fate, Funnel, Plan};
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep, timeout_at};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::fault::Fault;
use super::installation::Installation;
use super::row::Row;
use crate::commands::until::until_right;

/// Most buyers of a sale; each wants one ticket.
const MAX_BUYERS: u32 = 500;
/// Seats of a sale: enough for everybody to buy twice.
const SEATS: u32 = 2 * MAX_BUYERS;
/// Confirmed bookings before the fault.
const WARM: u64 = 5;
/// Time limit of those, and of the last buyers.
const PATIENCE: Duration = Duration::from_secs(180);
/// Time for which buyers arrive after the repair.
const AFTERWARDS: Duration = Duration::from_secs(6);

/// Sells to buyers who arrive one after another, retry as pages do, and pay at once.
pub(super) async fn sell(
    installation: &mut Installation,
    fault: Fault,
    arrivals: u32,
) -> anyhow::Result<Row> {
    fault.prepare(installation).await?;
    let event = installation.new_event(SEATS, fault.is_free()).await?;
    let calls_before = installation.calls().await?;
    let funnel = Arc::<Funnel>::default();
    let stop = CancellationToken::new();
    let buyers = buyers(installation, fault, event, &funnel)?;
    let arriving = tokio::spawn(arrive(buyers, arrivals, stop.clone()));
    // Ends the arrivals with this sale, however it ends.
    let stopping = stop.drop_guard();
    until_right(PATIENCE, async || {
        let is_warm = funnel.counts().confirmed >= WARM;
        Ok((!is_warm).then(|| "nobody gets tickets".to_owned()))
    })
    .await?;
    let leader = leader(calls_before, installation.calls().await?);

    fault.inject(installation, leader).await?;
    sleep(fault.lasts()).await;
    let ready = installation.ready().await;
    fault.repair(installation, leader).await?;
    let repaired = Instant::now();
    sleep(AFTERWARDS).await;
    drop(stopping);
    let (arrived, confirmed) = arriving.await?;
    let requests = funnel.requests();
    let sold = Sold::read(&installation.db, event, &confirmed).await?;
    Ok(Row {
        name: fault.name(),
        buyers: arrived,
        requests,
        unserved: arrived - confirmed.len() as u64,
        gone: sold.gone,
        is_lossy: fault.is_lossy(),
        twice: sold.twice,
        oversold: sold.oversold,
        violations: installation.audit().await?,
        ready,
        ready_expected: fault.ready(),
        pause: sold.pause,
        recovery: requests.last_failure.map_or(Duration::ZERO, |last| {
            last.saturating_duration_since(repaired)
        }),
    })
}

/// Buyers of an event, every second one at the second nodes.
fn buyers(
    installation: &Installation,
    fault: Fault,
    event: EventId,
    funnel: &Arc<Funnel>,
) -> anyhow::Result<Vec<Buyer>> {
    let endpoints = [false, true].map(|second| installation.endpoints(second));
    let client = reqwest::Client::builder().no_proxy().build()?;
    let name = fault.name();
    let buyer = |(number, endpoints): (u32, _)| {
        let address = Ipv4Addr::from_bits(0x0A00_0001 + number).into();
        let api = Api::new(client.clone(), Clone::clone(endpoints), address);
        let email = format!("{name}-{number}@faults.test");
        let plan = Plan::Buy(Card::Good);
        Buyer::new(api, Arc::clone(funnel), event.0, email, 1, plan)
    };
    let numbers = 0..MAX_BUYERS;
    Ok(numbers.zip(endpoints.iter().cycle()).map(buyer).collect())
}

/// Lets buyers arrive until stopped. Returns their number, and the bookings they were answered as
/// confirmed.
async fn arrive(buyers: Vec<Buyer>, per_second: u32, stop: CancellationToken) -> (u64, Vec<Uuid>) {
    let mut ticks = interval(Duration::from_secs(1) / per_second);
    let mut shopping = JoinSet::new();
    for buyer in buyers {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => break,
        }
        shopping.spawn(async move {
            let session = buyer.sign_up().await?;
            buyer.shop(&session).await
        });
    }
    stop.cancelled().await;
    let arrived = shopping.len() as u64;
    let deadline = Instant::now() + PATIENCE;
    let mut confirmed = Vec::new();
    while let Ok(Some(fate)) = timeout_at(deadline, shopping.join_next()).await {
        match fate {
            Ok(Ok(Fate::Confirmed { booking_id })) => confirmed.push(booking_id),
            other => crate::commands::say(format_args!("  a buyer got no tickets: {other:?}")),
        }
    }
    (arrived, confirmed)
}

/// Returns the admission node that called most places between two looks.
fn leader(before: [(usize, f64); 2], after: [(usize, f64); 2]) -> usize {
    let called = |node: usize| after[node].1 - before[node].1;
    let leading = usize::from(called(1) > called(0));
    after[leading].0
}

/// The sale as the database has it.
struct Sold {
    /// Bookings that were answered to buyers as confirmed and are not.
    gone: u64,
    twice: u64,
    oversold: u64,
    pause: Duration,
}

impl Sold {
    async fn read(db: &PgPool, event: EventId, confirmed: &[Uuid]) -> anyhow::Result<Self> {
        let (gone, twice, oversold, pause): (i64, i64, i64, f64) = sqlx::query_as(
            "select
                (select count(*) from unnest($2::uuid[]) as confirmed (id)
                 where not exists (select from booking.bookings b
                                   where b.id = confirmed.id and b.state = 'confirmed')),
                (select count(*) from (select from booking.bookings
                                       where event_id = $1 and state <> 'rejected'
                                       group by account_id having count(*) > 1) as accounts),
                (select count(*) - count(distinct seat_id) from booking.tickets
                 where event_id = $1 and state <> 'cancelled'),
                (select coalesce(max(extract(epoch from pause)), 0)::float8
                 from (select claimed_at - lag(claimed_at) over (order by claimed_at) as pause
                       from admission.claims where event_id = $1) as pauses)",
        )
        .bind(event.0)
        .bind(confirmed)
        .fetch_one(db)
        .await?;
        Ok(Self {
            gone: gone.try_into()?,
            twice: twice.try_into()?,
            oversold: oversold.try_into()?,
            pause: Duration::from_secs_f64(pause),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_node_that_called_leads() {
        let before = [(2, 70.0), (3, 10.0)];
        assert_eq!(leader(before, [(2, 70.0), (3, 15.0)]), 3);
        assert_eq!(leader(before, [(2, 75.0), (3, 10.0)]), 2);
        // A node that was started anew counts from 0.
        assert_eq!(leader(before, [(2, 5.0), (3, 12.0)]), 3);
    }
}

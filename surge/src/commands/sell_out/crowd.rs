//! Shared parts of the measurement: Onsale, the stand-in, accounts, and waits on the database.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use domain::EventId;
use domain::sale::Stock;
use secrecy::ExposeSecret as _;
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;
use stand_ins::stripe::StandIn;
use url::Url;

use super::super::machine;
use super::super::subject::Subject;

/// Accounts inserted directly. Signing them up would take an hour of password hashing.
const ACCOUNTS: i64 = 400_000;
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Onsale, the stand-in for Stripe, and unused accounts.
pub(super) struct Crowd<'a> {
    pub(super) subject: &'a Subject,
    pub(super) stripe: &'a StandIn,
    pub(super) db: PgPool,
    /// The stand-in's address.
    pub(super) stripe_address: SocketAddr,
    next_account: AtomicI64,
}

impl<'a> Crowd<'a> {
    pub(super) async fn gather(subject: &'a Subject, stripe: &'a StandIn) -> anyhow::Result<Self> {
        let db = PgPoolOptions::new()
            .max_connections(2)
            .connect(subject.database_url()?.expose_secret())
            .await?;
        sqlx::query(
            "insert into notifier.accounts (account_id, version, email, name)
             select id, 1, 'buyer' || id || '@example.org', 'Buyer'
             from generate_series(1, $1::bigint) as id on conflict do nothing",
        )
        .bind(ACCOUNTS)
        .execute(&db)
        .await?;
        let url = Url::parse(&stripe.url())?;
        let address = url.socket_addrs(|| None)?.into_iter().next();
        Ok(Self {
            subject,
            stripe,
            db,
            stripe_address: address.context("the stand-in has no address")?,
            next_account: AtomicI64::new(1),
        })
    }

    /// Returns an unused account.
    pub(super) fn next_account(&self) -> i64 {
        self.next_account.fetch_add(1, Ordering::Relaxed)
    }

    /// Returns the processor time used by Onsale.
    pub(super) fn cpu_time(&self) -> anyhow::Result<Duration> {
        machine::cpu_time(self.subject.pid().context("Onsale was not started here")?)
    }

    /// Reads the stock from the database, past every cache.
    pub(super) async fn stock(&self, event_id: EventId) -> anyhow::Result<Stock> {
        let (available, held, sold) = sqlx::query_as(
            "select sum(available)::bigint, sum(held)::bigint, sum(sold)::bigint
             from booking.public_stock where event_id = $1",
        )
        .bind(event_id.0)
        .fetch_one(&self.db)
        .await?;
        Ok(Stock {
            available,
            held,
            sold,
        })
    }

    /// Waits until every seat is sold.
    pub(super) async fn wait_until_sold(
        &self,
        event_id: EventId,
        seats: u32,
        patience: Duration,
    ) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let stock = self.stock(event_id).await?;
            if stock.sold == i64::from(seats) {
                return Ok(());
            }
            ensure!(begun.elapsed() < patience, "not all is sold: {stock:?}");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Returns the tickets issued a second, without the first and the last tenth.
    pub(super) async fn tickets_per_second(&self, event_id: EventId) -> anyhow::Result<f64> {
        let rate: Option<f64> = sqlx::query_scalar(
            "select (max(nth) - min(nth)) / nullif(extract(epoch from max(created_at) - min(created_at)), 0)::float8
             from (select created_at, row_number() over (order by created_at) as nth,
                          count(*) over () as tickets
                   from booking.tickets where event_id = $1) t
             where nth between tickets / 10 and tickets * 9 / 10",
        )
        .bind(event_id.0)
        .fetch_one(&self.db)
        .await?;
        Ok(rate.unwrap_or(f64::NAN))
    }

    /// Waits until outbox, payment operations and notifications are drained.
    pub(super) async fn wait_for_quiet(&self, patience: Duration) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let busy: bool = sqlx::query_scalar(
                "select exists (select from platform.outbox)
                     or exists (select from payment.operations where state = 'pending')
                     or exists (select from notifier.notifications where state in ('waiting', 'sending'))",
            )
            .fetch_one(&self.db)
            .await?;
            if !busy {
                return Ok(());
            }
            ensure!(begun.elapsed() < patience, "Onsale does not come to rest");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Expires every unpaid hold, and waits until the seats are free.
    pub(super) async fn end_holds(&self) -> anyhow::Result<()> {
        sqlx::query("update booking.bookings set hold_until = now() where state = 'held'")
            .execute(&self.db)
            .await?;
        let begun = Instant::now();
        loop {
            let held: i64 =
                sqlx::query_scalar("select coalesce(sum(held), 0)::bigint from booking.sections")
                    .fetch_one(&self.db)
                    .await?;
            if held == 0 {
                return Ok(());
            }
            ensure!(begun.elapsed() < super::PATIENCE, "{held} seats stay held");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Closes the pool.
    pub(super) async fn leave(self) {
        self.db.close().await;
    }
}

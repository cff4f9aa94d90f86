use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chrono::TimeDelta;
use domain::booking::Wish;
use domain::clock::{Clock as _, SystemClock};
use domain::event::{Event, EventState, Section, Tier};
use domain::message::{EventChanged, Message, PlaceHold, SaleChanged};
use domain::sale::SaleSettings;
use domain::{AccountId, BookingId, Currency, EventId, Money, SectionId, testing};
use platform::amqp::{Broker, Exchange};
use platform::topology;
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::PgPool;
use stand_ins::stripe::{RateLimits, StandIn};
use tokio::process::{Child, Command};
use tokio::time::Instant;
use uuid::Uuid;

use super::{Outcome, patience, required};
use crate::commands::subject::database::Database;

/// Name of the queues and the database. One measurement runs at a time.
const NAMESPACE: &str = "surgepayments";
const EVENT: EventId = EventId(1);
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Buyers that pay in one pass.
const PAY_AT_ONCE: i64 = 64;

#[derive(clap::Args)]
pub(crate) struct Servers {
    /// PostgreSQL; a database of its own is made on the server
    #[arg(long, env = "ONSALE_DATABASE_URL", hide_env_values = true)]
    database_url: Option<SecretString>,
    /// Redis
    #[arg(long, env = "ONSALE_REDIS_URL", hide_env_values = true)]
    redis_url: Option<SecretString>,
    /// RabbitMQ
    #[arg(long, env = "ONSALE_AMQP_URL", hide_env_values = true)]
    amqp_url: Option<SecretString>,
    /// The program to start; the default is the one beside this
    #[arg(long, value_name = "PATH")]
    onsale: Option<PathBuf>,
}

/// The two workers, with an event on sale.
pub(super) struct Shop {
    database: Database,
    db: PgPool,
    broker: Broker,
    http: reqwest::Client,
    workers: Vec<Child>,
}

impl Shop {
    pub(super) async fn open(
        servers: &Servers,
        stripe: &StandIn,
        limits: RateLimits,
        seats: u32,
    ) -> anyhow::Result<Self> {
        let amqp_url = required(servers.amqp_url.as_ref(), "ONSALE_AMQP_URL")?;
        let redis_url = required(servers.redis_url.as_ref(), "ONSALE_REDIS_URL")?;
        let database_url = required(servers.database_url.as_ref(), "ONSALE_DATABASE_URL")?;
        let database = Database::make(&database_url, NAMESPACE).await?;
        // Left by an earlier run.
        let before = Broker::connect(amqp_url.expose_secret(), NAMESPACE).await?;
        before.delete_all(&topology::all()).await?;
        before.close().await;
        let broker = Broker::connect(amqp_url.expose_secret(), NAMESPACE).await?;
        topology::declare_all(&broker).await?;
        let program = match &servers.onsale {
            Some(path) => path.clone(),
            None => std::env::current_exe()?.with_file_name("onsale"),
        };
        let public = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        let onsale = |arguments: &[&str]| {
            let mut command = Command::new(&program);
            command
                .args(arguments)
                .env("ONSALE_DATABASE_URL", database.url.expose_secret())
                .env("ONSALE_REDIS_URL", redis_url.expose_secret())
                .env("ONSALE_AMQP_URL", amqp_url.expose_secret())
                .env(
                    "ONSALE_SECRET",
                    "a secret that only measurements have: 01234567",
                )
                .env("ONSALE_NAMESPACE", NAMESPACE)
                .env("ONSALE_PUBLIC_ADDR", "127.0.0.1:0")
                .env("ONSALE_INTERNAL_ADDR", "127.0.0.1:0")
                .env("ONSALE_OPS_ADDR", "127.0.0.1:0")
                .env("ONSALE_LOG", "error")
                .env("STRIPE_SECRET_KEY", stripe.secret_key())
                .env("STRIPE_WEBHOOK_SECRET", stripe.webhook_secret())
                .env("ONSALE_STRIPE_URL", stripe.url())
                .env("ONSALE_STRIPE_RATE", limits.all.to_string())
                .env("ONSALE_STRIPE_ENDPOINT_RATE", limits.each.to_string())
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .kill_on_drop(true);
            command
        };
        let status = onsale(&["migrate"]).status().await;
        let status = status.with_context(|| format!("starting {}", program.display()))?;
        ensure!(status.success(), "onsale migrate failed");
        let mut payments = onsale(&["payment-worker"]);
        payments.env("ONSALE_PUBLIC_ADDR", public.to_string());
        let workers = vec![payments.spawn()?, onsale(&["booking-worker"]).spawn()?];
        stripe.set_webhook_url(format!("http://{public}/api/webhooks/stripe"));
        let shop = Self {
            db: PgPool::connect(database.url.expose_secret()).await?,
            database,
            broker,
            http: reqwest::Client::builder().no_proxy().build()?,
            workers,
        };
        shop.put_on_sale(seats).await?;
        Ok(shop)
    }

    async fn put_on_sale(&self, seats: u32) -> anyhow::Result<()> {
        let event = EventChanged {
            event: event(seats),
        };
        let name = EventChanged::NAME;
        self.publish(Exchange::for_name(name), name, &event).await?;
        let (name, sale) = (SaleChanged::NAME, SaleChanged { sale: sale(seats) });
        self.publish(Exchange::for_name(name), name, &sale).await?;
        let known = "select count(*) from booking.events join booking.sales using (event_id)";
        self.wait_for(known, 1, Duration::from_secs(60)).await?;
        Ok(())
    }

    async fn publish<M: Message>(
        &self,
        exchange: Exchange,
        key: &str,
        message: &M,
    ) -> anyhow::Result<()> {
        let id = Uuid::new_v4();
        Ok(self.broker.publish(exchange, key, message, id).await?)
    }

    /// Requests all bookings at once, and pays each as soon as its PaymentIntent exists.
    pub(super) async fn sell(&self, stripe: &StandIn, bookings: u32) -> anyhow::Result<Outcome> {
        let limit = patience(bookings);
        let begun = Instant::now();
        let queue = topology::booking_requests_of(EVENT);
        for account in 1..=bookings {
            let request = request(account);
            self.publish(Exchange::Commands, &queue, &request).await?;
        }
        let held = "select count(*) from booking.bookings";
        let holding = async {
            self.wait_for(held, bookings.into(), limit).await?;
            Ok::<_, anyhow::Error>(begun.elapsed())
        };
        let captured = "select count(*) from payment.payments where state = 'captured'";
        let capturing = async {
            self.wait_for(captured, bookings.into(), limit).await?;
            Ok::<_, anyhow::Error>(begun.elapsed())
        };
        let (holding, capturing, paying, backlog) = tokio::join!(
            holding,
            capturing,
            self.pay_all(stripe, bookings),
            self.longest_backlog(bookings)
        );
        paying?;
        let made: Vec<_> = stripe.ledger().payment_intents();
        let created = made.iter().map(|intent| intent.created);
        let span = created.clone().max().zip(created.min());
        let (last, first) = span.context("no PaymentIntent was made")?;
        Ok(Outcome {
            holds: per_second(bookings, holding?),
            created: per_second(bookings - 1, (last - first).to_std()?),
            captured: per_second(bookings, capturing?),
            backlog: backlog?,
            requests: stripe.requests(),
        })
    }

    /// Confirms the payments, as the buyers' browsers do.
    async fn pay_all(&self, stripe: &StandIn, bookings: u32) -> anyhow::Result<()> {
        let begun = Instant::now();
        let mut paid = std::collections::HashSet::new();
        while paid.len() < usize::try_from(bookings)? {
            ensure!(begun.elapsed() < patience(bookings), "not all could pay");
            let due: Vec<(String, String)> = sqlx::query_as(
                "select intent_id, client_secret from payment.payments
                 where state = 'pending' and intent_id is not null and not intent_id = any($1) limit $2",
            )
            .bind(paid.iter().cloned().collect::<Vec<_>>())
            .bind(PAY_AT_ONCE)
            .fetch_all(&self.db)
            .await?;
            if due.is_empty() {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            for (intent, secret) in &due {
                let url = format!("{}/v1/payment_intents/{intent}/confirm", stripe.url());
                let form = [
                    ("client_secret", secret.as_str()),
                    ("payment_method", "pm_card_visa"),
                ];
                let request = self.http.post(url).bearer_auth(stripe.publishable_key());
                let answer = request.form(&form).send().await?;
                ensure!(answer.status().is_success(), "the stand-in took no payment");
            }
            paid.extend(due.into_iter().map(|(intent, _)| intent));
        }
        Ok(())
    }

    /// Returns the payment worker's longest backlog until everything is captured.
    async fn longest_backlog(&self, bookings: u32) -> anyhow::Result<i64> {
        let mut longest = 0;
        let begun = Instant::now();
        while begun.elapsed() < patience(bookings) {
            let (pending, captured): (i64, i64) = sqlx::query_as(
                "select pending, (select count(*) from payment.payments where state = 'captured')
                 from payment.public_backlog",
            )
            .fetch_one(&self.db)
            .await?;
            longest = longest.max(pending);
            if captured >= bookings.into() {
                break;
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        Ok(longest)
    }

    async fn wait_for(
        &self,
        query: &'static str,
        wanted: i64,
        limit: Duration,
    ) -> anyhow::Result<()> {
        let begun = Instant::now();
        loop {
            let count: i64 = sqlx::query_scalar(query).fetch_one(&self.db).await?;
            if count >= wanted {
                return Ok(());
            }
            ensure!(begun.elapsed() < limit, "{count} of {wanted}: {query}");
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Ends the workers and removes their queues and database.
    pub(super) async fn close(mut self) -> anyhow::Result<()> {
        for worker in &mut self.workers {
            worker.kill().await?;
        }
        self.broker.delete_all(&topology::all()).await?;
        self.db.close().await;
        self.database.drop_it().await
    }
}

fn per_second(count: u32, took: Duration) -> f64 {
    f64::from(count) / took.as_secs_f64()
}

fn request(account: u32) -> PlaceHold {
    let now = SystemClock.now();
    PlaceHold {
        booking_id: BookingId::new(now),
        event_id: EVENT,
        account_id: AccountId(account.into()),
        wish: Wish::best(1),
        accepted_at: now,
        reply_to: NAMESPACE.to_owned(),
        asked_at: None,
        asked_by: None,
    }
}

fn event(seats: u32) -> Event {
    let tier = Tier {
        name: "Standing".to_owned(),
        price: Money::new(4_500, Currency::EUR),
    };
    let section = Section {
        id: SectionId(1),
        name: "Floor".to_owned(),
        numbered: false,
        capacity: seats,
        rows: None,
        seats_per_row: None,
        tier,
    };
    Event {
        id: EVENT,
        version: 1,
        name: "Surge".to_owned(),
        date: SystemClock.now() + TimeDelta::days(30),
        capacity: seats,
        description: String::new(),
        category: String::new(),
        venue: String::new(),
        city: String::new(),
        country: String::new(),
        time_zone: "UTC".to_owned(),
        state: EventState::Announced,
        max_tickets_per_account: 6,
        reminder_before_seconds: None,
        ticket_transfer: false,
        sections: vec![section],
    }
}

fn sale(seats: u32) -> SaleSettings {
    SaleSettings {
        rate_per_minute: 60,
        shopper_cap: seats,
        pass_seconds: 600,
        hold_seconds: 3_600,
        max_tickets_per_account: 6,
        ..testing::sale(EVENT, SystemClock.now())
    }
}

//! The surroundings of the demo's sale: a database of its own, the stand-ins, every service, and an
//! admin.

use std::net::SocketAddr;

use anyhow::Context as _;
use clap::Parser;
use domain::clock::{SharedClock, SystemClock};
use platform::config::{LogFormat, PlatformConfig};
use platform::pg;
use platform::service::{self, Context, Running};
use rand::Rng as _;
use rand::distr::Alphanumeric;
use reqwest::Method;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _, PgConnection, PgPool};
use tokio::sync::Mutex;
use url::Url;

use super::DemoArgs;
use crate::audit::Provider;
use crate::say;
use crate::services::{Services, start_all};
use crate::staff::Staff;
use crate::stand_ins::StandIns;

const ADMIN: &str = "admin@demo.example";
const DB_CONNECTIONS: u32 = 40;

/// The database, stand-ins, services and admin of a demo, until [`Stage::tear_down`].
pub(super) struct Stage {
    clock: SharedClock,
    /// The URL of the server's own database, used to drop the demo's.
    server_url: SecretString,
    database: String,
    db: PgPool,
    stand_ins: StandIns,
    running: Running,
    provider: Provider,
    http: reqwest::Client,
    admin_password: SecretString,
    staff: Mutex<Staff>,
}

/// The services' settings from the environment.
#[derive(Parser)]
struct ServiceFlags {
    #[command(flatten)]
    services: Services,
}

impl Stage {
    /// Creates the database and the admin, and starts the stand-ins and the services.
    pub(super) async fn set(args: &DemoArgs) -> anyhow::Result<Self> {
        let clock = SystemClock::shared();
        let run = clock.now().timestamp_millis();
        let database = format!("onsale_demo_{run}");
        let url = make_database(&args.database_url, &database).await?;
        let db = pg::connect(url.expose_secret(), DB_CONNECTIONS, "onsale-demo").await?;
        pg::migrate(&db).await.context("making the schema")?;
        let stand_ins = StandIns::start(None).await?;
        let config = platform_config(args, url, run);
        let running = Box::pin(launch(config, &stand_ins)).await?;
        let public = running.public_addr;
        stand_ins
            .stripe
            .set_webhook_url(format!("http://{public}/api/webhooks/stripe"));
        let provider = Provider::stripe(&stand_ins.stripe.url(), stand_ins.stripe.secret_key())?;
        let admin_password = SecretString::from(random_text(20));
        box_office::bootstrap_admin(&db, &clock, ADMIN, &admin_password).await?;
        let staff = Staff::unsaved(
            internal_url(&running),
            ADMIN.to_owned(),
            admin_password.clone(),
        )?;
        Ok(Self {
            clock,
            server_url: args.database_url.clone(),
            database,
            db,
            stand_ins,
            running,
            provider,
            http: reqwest::Client::builder().no_proxy().build()?,
            admin_password,
            staff: Mutex::new(staff),
        })
    }

    /// Calls the staff API as the admin.
    pub(super) async fn staff(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        Ok(self.staff.lock().await.call(method, path, body).await?)
    }

    /// The context of the services.
    pub(super) fn ctx(&self) -> &Context {
        &self.running.ctx
    }

    pub(super) fn http(&self) -> &reqwest::Client {
        &self.http
    }

    pub(super) fn clock(&self) -> &SharedClock {
        &self.clock
    }

    pub(super) fn db(&self) -> &PgPool {
        &self.db
    }

    pub(super) fn provider(&self) -> &Provider {
        &self.provider
    }

    pub(super) fn mail(&self) -> &stand_ins::mail::StandIn {
        &self.stand_ins.mail
    }

    pub(super) fn public_url(&self) -> Url {
        address_url(self.running.public_addr)
    }

    /// Prints where a visitor finds pages, mails and metrics, and how to steer the sale.
    pub(super) fn print_addresses(&self, event_id: i64) {
        let (public, internal) = (self.public_url(), internal_url(&self.running));
        let password = self.admin_password.expose_secret();
        let (mails, ops) = (self.stand_ins.mail.page_url(), self.running.ops_addr);
        say(format_args!(
            "  buyers     {public}events/{event_id}\n  \
               operators  {internal}\n  \
             {:9}  sign in as {ADMIN}, password {password}\n  \
               mails      {mails}\n  \
               metrics    http://{ops}/metrics\n  \
               steer it   onsale sale --url {internal} rate {event_id} 3000",
            ""
        ));
    }

    /// Prints the lines that a shell needs for calls by hand.
    pub(super) fn print_exports(&self) {
        let password = self.admin_password.expose_secret();
        let (public, internal) = (self.running.public_addr, self.running.internal_addr);
        say(format_args!(
            "  by hand    export ADMIN={ADMIN} PASSWORD={password}\n  \
             {:9}  export PUBLIC=http://{public} STAFF=http://{internal}",
            ""
        ));
    }

    /// Stops everything and drops queues and database.
    pub(super) async fn tear_down(self) {
        let Self {
            running,
            db,
            server_url,
            database,
            ..
        } = self;
        // The consumers leave first: without its queue, each would report its channel as lost.
        let shutdown = running.ctx.shutdown.clone();
        shutdown.soft().cancel();
        let grace = running.ctx.config.shutdown_grace;
        let _late = tokio::time::timeout(grace, shutdown.tasks_left()).await;
        let queues = running.ctx.broker.delete_all(&[]).await;
        if let Err(error) = running.stop().await {
            say(format_args!("the services did not stop cleanly: {error:#}"));
        }
        db.close().await;
        if let Err(error) = queues {
            say(format_args!("the demo's queues were left behind: {error}"));
        }
        if let Err(error) = drop_database(&server_url, &database).await {
            say(format_args!(
                "the database {database} was left behind: {error:#}"
            ));
        }
    }
}

fn platform_config(args: &DemoArgs, database_url: SecretString, run: i64) -> PlatformConfig {
    let mut config = PlatformConfig::embedded(
        database_url,
        args.redis_url.clone(),
        args.amqp_url.clone(),
        random_text(48),
    );
    config.namespace = format!("demo{run}");
    config.db_connections = DB_CONNECTIONS;
    // The simulated buyers send their addresses in X-Forwarded-For, as a load balancer would.
    config.trusted_proxies = vec!["127.0.0.0/8".parse().expect("a network")];
    config.public_addr = preferred(8080);
    config.internal_addr = preferred(8081);
    config.ops_addr = preferred(9090);
    config.public_url = address_url(config.public_addr);
    config.log_format = LogFormat::Text;
    // Above the picture of the sale only what somebody must act on.
    let mut asked = ["ONSALE_LOG", "RUST_LOG"]
        .into_iter()
        .filter_map(|key| std::env::var(key).ok())
        .filter(|filter| !filter.is_empty());
    config.log_filter = Some(asked.next().unwrap_or_else(|| "error".to_owned()));
    config
}

/// The well-known port if it is free, else any.
fn preferred(port: u16) -> SocketAddr {
    let address = SocketAddr::from(([127, 0, 0, 1], port));
    let probe = std::net::TcpListener::bind(address)
        .or_else(|_| std::net::TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))));
    probe
        .and_then(|listener| listener.local_addr())
        .unwrap_or(address)
}

async fn launch(config: PlatformConfig, stand_ins: &StandIns) -> anyhow::Result<Running> {
    let ServiceFlags { mut services } = ServiceFlags::try_parse_from(["demo"])
        .context("the settings of the services in the environment")?;
    services.point_at(stand_ins);
    service::launch("onsale", config, |ctx| start_all(ctx, services))
        .await
        .context("starting the services")
}

fn internal_url(running: &Running) -> Url {
    address_url(running.internal_addr)
}

fn address_url(address: SocketAddr) -> Url {
    Url::parse(&format!("http://{address}/")).expect("a socket address makes a URL")
}

fn random_text(length: usize) -> String {
    rand::rng()
        .sample_iter(Alphanumeric)
        .take(length)
        .map(char::from)
        .collect()
}

async fn make_database(server: &SecretString, name: &str) -> anyhow::Result<SecretString> {
    let mut url = Url::parse(server.expose_secret()).context("ONSALE_DATABASE_URL is not a URL")?;
    let mut connection = PgConnection::connect(server.expose_secret())
        .await
        .context("connecting to PostgreSQL")?;
    sqlx::query(AssertSqlSafe(format!("create database {name}")))
        .execute(&mut connection)
        .await
        .context("making a database for the demo")?;
    url.set_path(name);
    Ok(SecretString::from(url.to_string()))
}

async fn drop_database(server: &SecretString, name: &str) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect(server.expose_secret()).await?;
    sqlx::query(AssertSqlSafe(format!("drop database {name} with (force)")))
        .execute(&mut connection)
        .await?;
    Ok(())
}

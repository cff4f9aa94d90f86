//! The subject of a measurement: an Onsale started here, with an open sale, or one at a given
//! address.

pub(super) mod database;
pub(super) mod staff;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chrono::TimeDelta;
use domain::account::Role;
use domain::clock::{Clock as _, SystemClock};
use domain::token::{ACCESS_AUDIENCE, AccessClaims, ISSUER, QueueClaims, sale_audience};
use domain::{AccountId, EventId, Number};
use platform::redis::{Redis, cmd};
use platform::tokens::KeyRing;
use reqwest::Method;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};
use tokio::process::{Child, Command};
use url::Url;

use super::say;
use super::until::{until_answer, until_ready};
use database::Database;
use staff::Staff;

/// Name of the keys, queues and the database. One measurement runs at a time.
const NAMESPACE: &str = "surge";
const ADMIN: &str = "admin@surge.test";
/// Seats of the event; the maximum, since nobody is called without stock.
pub(super) const SEATS: i64 = 50_000;
/// Keys of an earlier run removed per command.
const KEYS_AT_ONCE: u32 = 1_000;

#[derive(clap::Args)]
#[group(skip)]
pub(crate) struct Args {
    /// PostgreSQL, such as postgres://user:password@host:5432/onsale; a separate database is
    /// created on the server
    #[arg(long, env = "ONSALE_DATABASE_URL", hide_env_values = true)]
    database_url: Option<SecretString>,
    /// Redis; best an unshared one, since its commands and memory are counted
    #[arg(long, env = "ONSALE_REDIS_URL", hide_env_values = true)]
    redis_url: Option<SecretString>,
    /// RabbitMQ
    #[arg(long, env = "ONSALE_AMQP_URL", hide_env_values = true)]
    amqp_url: Option<SecretString>,
    /// The program to start; the default is the one beside this
    #[arg(long, value_name = "PATH")]
    onsale: Option<PathBuf>,
    /// Measure the Onsale at this address instead, such as http://127.0.0.1:8080
    #[arg(long, requires_all = ["event", "secret"])]
    url: Option<Url>,
    /// Event whose open sale is used, with --url
    #[arg(long)]
    event: Option<i64>,
    /// ONSALE_SECRET of the Onsale at --url, which signs the tokens
    #[arg(long, env = "ONSALE_SECRET", hide_env_values = true)]
    secret: Option<SecretString>,
}

/// The Onsale that is measured.
pub(super) struct Subject {
    /// Public listener.
    pub(super) address: SocketAddr,
    pub(super) event_id: EventId,
    own: Option<Own>,
    keys: KeyRing,
}

/// The process started here, and its servers.
struct Own {
    child: Child,
    pid: u32,
    http: reqwest::Client,
    staff: Staff,
    redis: Redis,
    database: Database,
    program: PathBuf,
    settings: Vec<(&'static str, String)>,
}

impl Subject {
    /// Starts an Onsale with an open sale that calls one person a minute, or uses the one given.
    pub(super) async fn start(args: &Args) -> anyhow::Result<Self> {
        let Some(url) = &args.url else {
            return Self::start_own(args, Vec::new()).await;
        };
        let host = url.host_str().context("--url names no host")?;
        let port = url.port_or_known_default().context("--url names no port")?;
        let address = tokio::net::lookup_host((host, port)).await?.next();
        let secret = args.secret.clone().context("--secret is missing")?;
        Ok(Self {
            address: address.context("--url has no address")?,
            event_id: EventId(args.event.context("--event is missing")?),
            own: None,
            keys: KeyRing::new(&[secret])?,
        })
    }

    /// Starts an Onsale with additional settings.
    pub(super) async fn start_own(
        args: &Args,
        settings: Vec<(&'static str, String)>,
    ) -> anyhow::Result<Self> {
        ensure!(args.url.is_none(), "this measures an Onsale of its own");
        let server = |url: &Option<SecretString>, key: &str| {
            url.clone().with_context(|| format!("{key} is not set"))
        };
        let redis_url = server(&args.redis_url, "ONSALE_REDIS_URL")?;
        let amqp_url = server(&args.amqp_url, "ONSALE_AMQP_URL")?;
        let database_url = server(&args.database_url, "ONSALE_DATABASE_URL")?;
        let database = Database::make(&database_url, NAMESPACE).await?;
        let redis = platform::redis::connect(&redis_url)?;
        forget_keys(&redis).await?;

        let password = SecretString::from(random_hex());
        let secret = SecretString::from(random_hex());
        let [public, internal, ops] = free_ports()?;
        let program = match &args.onsale {
            Some(path) => path.clone(),
            None => std::env::current_exe()?.with_file_name("onsale"),
        };
        let onsale = || {
            let mut command = Command::new(&program);
            command
                .env("ONSALE_DATABASE_URL", database.url.expose_secret())
                .env("ONSALE_REDIS_URL", redis_url.expose_secret())
                .env("ONSALE_AMQP_URL", amqp_url.expose_secret())
                .env("ONSALE_SECRET", secret.expose_secret())
                .env("ONSALE_ADMIN_PASSWORD", password.expose_secret())
                .env("ONSALE_NAMESPACE", NAMESPACE)
                .env("ONSALE_PUBLIC_ADDR", public.to_string())
                .env("ONSALE_INTERNAL_ADDR", internal.to_string())
                .env("ONSALE_OPS_ADDR", ops.to_string())
                // All load comes from loopback, which is trusted to forward addresses.
                .env("ONSALE_LIMITS_SCALE", "1000000")
                .env("ONSALE_TRUSTED_PROXIES", "127.0.0.0/8")
                .envs(settings.iter().map(|(key, value)| (key, value)))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .kill_on_drop(true);
            command
        };
        for arguments in [&["migrate"][..], &["account", "create-admin", ADMIN]] {
            let status = onsale().args(arguments).status().await;
            let status = status.with_context(|| format!("starting {}", program.display()))?;
            ensure!(status.success(), "onsale {} failed", arguments.join(" "));
        }
        let log_path = std::env::temp_dir().join("surge-onsale.log");
        let log = std::fs::File::create(&log_path)?;
        let mut child = onsale().args(["all", "--stand-ins"]).stderr(log).spawn()?;
        say(format_args!(
            "onsale writes its log to {}",
            log_path.display()
        ));
        let http = reqwest::Client::builder().no_proxy().build()?;
        until_ready(&mut child, &http, ops).await?;
        let internal = Url::parse(&format!("http://{internal}"))?;
        let own = Own {
            pid: child.id().context("onsale ended at once")?,
            child,
            staff: Staff::sign_in(http.clone(), internal, ADMIN, &password).await?,
            http,
            redis,
            database,
            program,
            settings,
        };
        let event_id = own.open_sale(public).await?;
        Ok(Self {
            address: public,
            event_id,
            own: Some(own),
            keys: KeyRing::new(&[secret])?,
        })
    }

    /// Process id, if it was started here.
    pub(super) fn pid(&self) -> Option<u32> {
        self.own.as_ref().map(|own| own.pid)
    }

    /// Redis, if it was started here.
    pub(super) fn redis(&self) -> Option<Redis> {
        self.own.as_ref().map(|own| own.redis.clone())
    }

    /// Inserts numbers up to `count`; account n gets number n.
    pub(super) async fn set_joined(&self, count: i64) -> anyhow::Result<()> {
        let Some(own) = &self.own else { return Ok(()) };
        own.database.join(self.event_id, count).await?;
        let url = format!("http://{}/api/events/{}/queue", self.address, self.event_id);
        until_answer(&own.http, &url, |snapshot| snapshot["joined"] == count).await
    }

    /// Changes the sale's message, which publishes a new snapshot.
    pub(super) async fn set_message(&self, message: &str) -> anyhow::Result<()> {
        self.change_sale(&json!({ "message": message })).await
    }

    /// Requires proof of work for joining.
    pub(super) async fn ask_for_challenges(&self) -> anyhow::Result<()> {
        self.change_sale(&json!({ "challenge": true })).await?;
        let url = format!("http://{}/api/events/{}/queue", self.address, self.event_id);
        until_answer(&self.own()?.http, &url, |snapshot| {
            snapshot["challenge"] == true
        })
        .await
    }

    /// Changes settings of the sale.
    pub(super) async fn change_sale(&self, settings: &Value) -> anyhow::Result<()> {
        let path = format!("/api/sales/{}", self.event_id);
        self.own()?.staff.call(Method::PUT, &path, settings).await?;
        Ok(())
    }

    /// Waits until places up to `place` were called.
    pub(super) async fn wait_until_called(&self, place: i64) -> anyhow::Result<()> {
        let url = format!("http://{}/api/events/{}/queue", self.address, self.event_id);
        let is_called = |snapshot: &Value| snapshot["cursor"].as_i64() >= Some(place);
        until_answer(&self.own()?.http, &url, is_called).await
    }

    /// Returns the mean number of claims per transaction.
    pub(super) async fn mean_claim_batch(&self) -> anyhow::Result<u32> {
        self.own()?.database.mean_claim_batch(self.event_id).await
    }

    /// Returns a `GET …/queue/me` request of `number`.
    pub(super) fn poll(&self, number: i64) -> Vec<u8> {
        let token = self.queue_token(number);
        let access = self.access_token(number);
        format!(
            "GET /api/events/{}/queue/me HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {access}\r\n\
             onsale-queue-token: {token}\r\n\r\n",
            self.event_id, self.address
        )
        .into_bytes()
    }

    fn queue_token(&self, number: i64) -> String {
        let now = SystemClock.now();
        self.keys.sign_queue(
            &QueueClaims {
                iss: ISSUER.to_owned(),
                aud: sale_audience(self.event_id),
                sub: AccountId(number).to_string(),
                number: Number(number),
                iat: now.timestamp(),
                nbf: now.timestamp(),
                exp: (now + TimeDelta::hours(6)).timestamp(),
            },
            "",
        )
    }

    /// Signs an access token of `account`.
    pub(super) fn access_token(&self, account: i64) -> String {
        let now = SystemClock.now();
        self.keys.sign_access(&AccessClaims {
            iss: ISSUER.to_owned(),
            aud: ACCESS_AUDIENCE.to_owned(),
            sub: AccountId(account).to_string(),
            roles: vec![Role::Customer],
            iat: now.timestamp(),
            nbf: now.timestamp(),
            exp: (now + TimeDelta::hours(6)).timestamp(),
        })
    }

    /// Returns a `POST …/queue` request of `account`.
    pub(super) fn join(&self, account: i64) -> Vec<u8> {
        let token = self.access_token(account);
        format!(
            "POST /api/events/{}/queue HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {token}\r\n\
             content-length: 0\r\n\r\n",
            self.event_id, self.address
        )
        .into_bytes()
    }

    /// Returns a `POST …/pass` request with queue number `number`.
    pub(super) fn claim(&self, number: i64) -> Vec<u8> {
        let token = self.queue_token(number);
        let access = self.access_token(number);
        format!(
            "POST /api/events/{}/pass HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {access}\r\n\
             onsale-queue-token: {token}\r\ncontent-length: 0\r\n\r\n",
            self.event_id, self.address
        )
        .into_bytes()
    }

    /// Database of the Onsale started here.
    pub(super) fn database_url(&self) -> anyhow::Result<&SecretString> {
        Ok(&self.own()?.database.url)
    }

    /// Creates an event, and waits until all its seats are on sale.
    pub(super) async fn new_event(&self, event: &Value) -> anyhow::Result<EventId> {
        let own = self.own()?;
        let answer = own.staff.call(Method::POST, "/api/events", event).await?;
        let id = answer["event"]["id"]
            .as_i64()
            .context("the answer has no id")?;
        let capacity = answer["event"]["capacity"].clone();
        let at = |what: &str| format!("http://{}/api/events/{id}/{what}", self.address);
        // The queue's snapshot shows that admission knows the sale, and that the stock is known.
        until_answer(&own.http, &at("queue"), |snapshot| {
            snapshot["state"] == "open" && snapshot["available"] == capacity
        })
        .await?;
        Ok(EventId(id))
    }

    /// Runs `onsale audit`, waiting up to `patience` for rest; returns whether it passes.
    pub(super) async fn audit(&self, patience: Duration) -> anyhow::Result<bool> {
        let own = self.own()?;
        let audit = Command::new(&own.program)
            .args(["audit", "--wait", &patience.as_secs().to_string()])
            .envs(own.settings.iter().map(|(key, value)| (key, value)))
            .env("ONSALE_DATABASE_URL", own.database.url.expose_secret())
            .output()
            .await?;
        say(String::from_utf8_lossy(&audit.stdout).trim_end());
        if !audit.stderr.is_empty() {
            say(String::from_utf8_lossy(&audit.stderr).trim_end());
        }
        Ok(audit.status.success())
    }

    fn own(&self) -> anyhow::Result<&Own> {
        self.own.as_ref().context("this takes an Onsale of its own")
    }

    /// Returns a `POST /api/bookings` request of `account`, with a new idempotency key.
    pub(super) fn book(&self, event_id: EventId, account: i64, tickets: u32) -> Vec<u8> {
        let token = self.access_token(account);
        let body = format!(r#"{{"event_id":{event_id},"user_id":{account},"tickets":{tickets}}}"#);
        format!(
            "POST /api/bookings HTTP/1.1\r\nhost: {}\r\nauthorization: Bearer {token}\r\n\
             idempotency-key: {:032x}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             \r\n{body}",
            self.address,
            rand::random::<u128>(),
            body.len()
        )
        .into_bytes()
    }

    /// Kills the Onsale started here, and removes its database and keys.
    pub(super) async fn tear_down(self) -> anyhow::Result<()> {
        let Some(mut own) = self.own else {
            return Ok(());
        };
        own.child.kill().await?;
        forget_keys(&own.redis).await?;
        own.database.drop_it().await
    }
}

impl Own {
    /// Creates an event with an open sale whose rate is so low that nearly everyone waits.
    async fn open_sale(&self, public: SocketAddr) -> anyhow::Result<EventId> {
        let now = SystemClock.now();
        let event = json!({
            "name": "Surge",
            "date": now + TimeDelta::days(30),
            "capacity": SEATS,
            "sale": { "opens_at": now, "rate_per_minute": 1, "shopper_cap": 1_000 },
        });
        let answer = self.staff.call(Method::POST, "/api/events", &event).await?;
        let id = answer["event"]["id"]
            .as_i64()
            .context("the answer has no id")?;
        let url = format!("http://{public}/api/events/{id}/queue");
        until_answer(&self.http, &url, |snapshot| snapshot["state"] == "open").await?;
        Ok(EventId(id))
    }
}

/// Returns three ports that were free a moment ago.
pub(super) fn free_ports() -> anyhow::Result<[SocketAddr; 3]> {
    let bind = || std::net::TcpListener::bind("127.0.0.1:0");
    let (first, second, third) = (bind()?, bind()?, bind()?);
    Ok([
        first.local_addr()?,
        second.local_addr()?,
        third.local_addr()?,
    ])
}

pub(super) fn random_hex() -> String {
    format!(
        "{:032x}{:032x}",
        rand::random::<u128>(),
        rand::random::<u128>()
    )
}

/// Removes the Redis keys of this and earlier runs.
async fn forget_keys(redis: &Redis) -> anyhow::Result<()> {
    let mut cursor = 0_u64;
    loop {
        let (next, keys): (u64, Vec<String>) = cmd("SCAN")
            .arg(cursor)
            .arg("MATCH")
            .arg(format!("{NAMESPACE}:*"))
            .arg("COUNT")
            .arg(KEYS_AT_ONCE)
            .query_async(&mut redis.clone())
            .await?;
        if !keys.is_empty() {
            let _: () = cmd("UNLINK")
                .arg(keys)
                .query_async(&mut redis.clone())
                .await?;
        }
        cursor = next;
        if cursor == 0 {
            return Ok(());
        }
    }
}

//! A private installation: its servers, two nodes of each service, and the stand-ins.

use std::fs::{self, OpenOptions};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chrono::TimeDelta;
use domain::EventId;
use domain::clock::{Clock as _, SystemClock};
use domain::payment::STRIPE_EVENTS;
use futures_util::future::join_all;
use nix::sys::signal::Signal;
use platform::redis::cmd;
use platform::testing::Proxy;
use reqwest::Method;
use secrecy::SecretString;
use serde_json::{Value, json};
use servers::{Postgres, RabbitMq, Redis};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Connection as _, Executor as _, PgConnection, PgPool};
use stand_ins::{mail, stripe};
use surge::buyer::Endpoints;
use tokio::process::{Child, Command};
use tokio::task::block_in_place;
use tokio::time::timeout;
use url::Url;

use super::signals::signal;
use super::standby::{self, Standby};
use crate::commands::say;
use crate::commands::subject::staff::Staff;
use crate::commands::subject::{free_ports, random_hex};
use crate::commands::until::{until_answer, until_ready};

const SERVICES: [&str; NODES] = [
    "waiting-room",
    "waiting-room",
    "admission",
    "admission",
    "box-office",
    "box-office",
    "booking-worker",
    "booking-worker",
    "payment-worker",
    "payment-worker",
    "notifier",
];
pub(super) const NODES: usize = 11;
const WAITING_ROOM: usize = 0;
const ADMISSION: usize = 2;
const BOX_OFFICE: usize = 4;
const PAYMENT_WORKER: usize = 8;

const ADMIN: &str = "admin@faults.test";
/// Time limit of each wait for a process.
const PATIENCE: Duration = Duration::from_secs(60);
/// Timeout of a look at a process.
const LOOK: Duration = Duration::from_secs(3);
/// Time that the audit waits until nothing is in flight, and its time limit.
const SETTLING: Duration = Duration::from_secs(150);
const AUDITING: Duration = Duration::from_secs(240);

/// The private servers.
pub(super) struct Servers {
    dir: PathBuf,
    pub(super) postgres: Postgres,
    pub(super) redis: Redis,
    pub(super) rabbitmq: RabbitMq,
}

struct Node {
    child: Option<Child>,
    public: SocketAddr,
    internal: SocketAddr,
    ops: SocketAddr,
}

/// Onsale as eleven processes, with all they need. Dropping it ends everything, and removes its
/// files.
pub(super) struct Installation {
    // What is named first ends first.
    nodes: Vec<Node>,
    standby: Option<Standby>,
    pub(super) servers: Servers,
    /// Before PostgreSQL: one for the first node of each service, one for the second.
    pub(super) proxies: [Proxy; 2],
    /// Through the proxies, with the port of the standby as another host.
    database_urls: [String; 2],
    /// The primary, past the proxies.
    primary: String,
    standby_port: u16,
    /// Past the proxies.
    pub(super) db: PgPool,
    program: PathBuf,
    environment: Vec<(&'static str, String)>,
    log: PathBuf,
    http: reqwest::Client,
    password: SecretString,
    stripe: stripe::StandIn,
    _mail: mail::StandIn,
}

impl Servers {
    fn start() -> anyhow::Result<Self> {
        let dir = std::env::temp_dir().join(format!("surge-faults-{}", std::process::id()));
        fs::create_dir(&dir).with_context(|| format!("creating {}", dir.display()))?;
        let started = Self::start_in(&dir);
        if started.is_err() {
            erase(&dir);
        }
        started
    }

    fn start_in(dir: &Path) -> anyhow::Result<Self> {
        Ok(Self {
            postgres: Postgres::start(&dir.join("postgres"))?,
            redis: Redis::start(&dir.join("redis"))?,
            rabbitmq: RabbitMq::start(&dir.join("rabbitmq"))?,
            dir: dir.to_owned(),
        })
    }

    /// Starts Redis without its data.
    pub(super) fn empty_redis(&mut self) -> anyhow::Result<()> {
        self.redis.kill()?;
        fs::remove_dir_all(self.dir.join("redis/appendonlydir"))?;
        self.redis.restart()
    }

    /// Starts RabbitMQ without its data.
    pub(super) fn empty_rabbitmq(&mut self) -> anyhow::Result<()> {
        self.rabbitmq.kill()?;
        fs::remove_dir_all(self.dir.join("rabbitmq/mnesia"))?;
        self.rabbitmq.restart()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        // Errors can't be reported here. Suspended servers end by SIGKILL alone.
        let _ = self.rabbitmq.kill();
        let _ = self.redis.kill();
        let _ = self.postgres.kill();
        erase(&self.dir);
    }
}

fn erase(dir: &Path) {
    let _ = servers::erase(&dir.join("postgres"));
    let _ = fs::remove_dir_all(dir);
}

impl Installation {
    /// Starts everything; the processes append to `log`.
    pub(super) async fn start(program: Option<PathBuf>, log: PathBuf) -> anyhow::Result<Self> {
        let program = match program {
            Some(path) => path,
            None => std::env::current_exe()?.with_file_name("onsale"),
        };
        let servers = block_in_place(Servers::start)?;
        let primary = servers.postgres.url();
        let standby_port = free_ports()?[0].port();
        let first = Proxy::before(&primary).await.0;
        let second = Proxy::before(&primary).await.0;
        let credentials = primary.rsplit_once('@').context("a URL with a user")?.0;
        let database_url = |proxy: &Proxy| {
            let proxy = proxy.address();
            format!("{credentials}@{proxy},127.0.0.1:{standby_port}/onsale")
        };
        let stripe = stripe::StandIn::start(stripe::Config {
            webhook_events: STRIPE_EVENTS.map(str::to_owned).into(),
            ..stripe::Config::default()
        })
        .await?;
        let mail = mail::StandIn::start(mail::Config::default()).await?;
        let password = random_hex();
        let environment = vec![
            ("ONSALE_REDIS_URL", servers.redis.url()),
            ("ONSALE_AMQP_URL", servers.rabbitmq.url()),
            ("ONSALE_SECRET", random_hex()),
            ("ONSALE_ADMIN_PASSWORD", password.clone()),
            ("ONSALE_LIMITS_SCALE", "1000000".to_owned()),
            ("ONSALE_TRUSTED_PROXIES", "127.0.0.0/8".to_owned()),
            ("ONSALE_DRAIN_SECONDS", "0".to_owned()),
            ("ONSALE_LOG", "warn".to_owned()),
            ("ONSALE_SMTP_URL", mail.smtp_url()),
            ("ONSALE_STRIPE_URL", stripe.url()),
            ("ONSALE_STRIPE_PUBLIC_URL", stripe.url()),
            ("STRIPE_SECRET_KEY", stripe.secret_key().to_owned()),
            (
                "STRIPE_PUBLISHABLE_KEY",
                stripe.publishable_key().to_owned(),
            ),
            ("STRIPE_WEBHOOK_SECRET", stripe.webhook_secret().to_owned()),
        ];
        let mut installation = Self {
            db: connect(&primary)?,
            servers,
            database_urls: [database_url(&first), database_url(&second)],
            proxies: [first, second],
            primary,
            standby_port,
            standby: None,
            nodes: Vec::new(),
            program,
            environment,
            log,
            http: reqwest::Client::builder()
                .no_proxy()
                .timeout(LOOK)
                .build()?,
            password: password.into(),
            stripe,
            _mail: mail,
        };
        installation.onsale(&["migrate"], PATIENCE).await?;
        installation
            .onsale(&["account", "create-admin", ADMIN], PATIENCE)
            .await?;
        for index in 0..NODES {
            let [public, internal, ops] = free_ports()?;
            installation.nodes.push(Node {
                child: None,
                public,
                internal,
                ops,
            });
            installation.spawn(index)?;
        }
        installation.wait_until_ready().await?;
        let webhooks = installation.nodes[PAYMENT_WORKER].public;
        installation
            .stripe
            .set_webhook_url(format!("http://{webhooks}/api/webhooks/stripe"));
        Ok(installation)
    }

    fn command(&self, database_url: &str) -> Command {
        let mut command = Command::new(&self.program);
        command
            .env("ONSALE_DATABASE_URL", database_url)
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Runs a command of the binary to its end.
    async fn run(&self, arguments: &[&str], limit: Duration) -> anyhow::Result<Output> {
        let mut command = self.command(&self.primary);
        let running = command.args(arguments).output();
        let ended = timeout(limit, running).await;
        let ended = ended.with_context(|| format!("onsale {arguments:?} does not end"))?;
        ended.with_context(|| format!("starting {}", self.program.display()))
    }

    /// [`run`](Self::run) of a command that must succeed.
    async fn onsale(&self, arguments: &[&str], limit: Duration) -> anyhow::Result<()> {
        let ended = self.run(arguments, limit).await?;
        let complaint = String::from_utf8_lossy(&ended.stderr);
        ensure!(ended.status.success(), "onsale {arguments:?}: {complaint}");
        Ok(())
    }

    fn spawn(&mut self, index: usize) -> anyhow::Result<()> {
        let log = OpenOptions::new().append(true).open(&self.log)?;
        let mut command = self.command(&self.database_urls[index % 2]);
        let node = &mut self.nodes[index];
        command
            .arg(SERVICES[index])
            .env("ONSALE_PUBLIC_ADDR", node.public.to_string())
            .env("ONSALE_INTERNAL_ADDR", node.internal.to_string())
            .env("ONSALE_OPS_ADDR", node.ops.to_string())
            .stdout(Stdio::null())
            .stderr(log);
        node.child = Some(command.spawn().context(SERVICES[index])?);
        Ok(())
    }

    /// Starts the node again, and waits until it is ready.
    pub(super) async fn begin(&mut self, index: usize) -> anyhow::Result<()> {
        self.spawn(index)?;
        self.wait_for(index).await
    }

    /// Ends the node with a signal.
    pub(super) async fn end(&mut self, index: usize, with: Signal) -> anyhow::Result<()> {
        signal(self.pid(index), with)?;
        let mut child = self.nodes[index].child.take().context("it runs")?;
        let ended = timeout(PATIENCE, child.wait()).await;
        ended.with_context(|| format!("{} does not end", SERVICES[index]))??;
        Ok(())
    }

    pub(super) fn pid(&self, index: usize) -> Option<u32> {
        self.nodes[index].child.as_ref().and_then(Child::id)
    }

    async fn wait_for(&mut self, index: usize) -> anyhow::Result<()> {
        let Node { child, ops, .. } = &mut self.nodes[index];
        let child = child.as_mut().context("it runs")?;
        let ready = until_ready(child, &self.http, *ops).await;
        ready.context(SERVICES[index])
    }

    /// Waits until every node is ready.
    pub(super) async fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        for index in 0..NODES {
            self.wait_for(index).await?;
        }
        Ok(())
    }

    /// Returns the number of nodes that are ready.
    pub(super) async fn ready(&self) -> usize {
        let looks = self.nodes.iter().map(|node| async {
            let url = format!("http://{}/readyz", node.ops);
            let answer = self.http.get(url).send().await;
            answer.is_ok_and(|answer| answer.status().is_success())
        });
        let looks = join_all(looks).await;
        looks.into_iter().filter(|is_ready| *is_ready).count()
    }

    /// Returns how many places each admission node has called since its start, by its index.
    pub(super) async fn calls(&self) -> anyhow::Result<[(usize, f64); 2]> {
        let mut calls = [(ADMISSION, 0.0), (ADMISSION + 1, 0.0)];
        for (index, called) in &mut calls {
            let url = format!("http://{}/metrics", self.nodes[*index].ops);
            let metrics = self.http.get(url).send().await?.text().await?;
            let counts = metrics
                .lines()
                .filter(|line| line.starts_with("admission_calls_total"));
            *called = counts
                .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
                .sum();
        }
        Ok(calls)
    }

    /// Where the first or the second nodes of the services listen.
    pub(super) fn endpoints(&self, second: bool) -> Endpoints {
        let url = |service: usize| {
            let node = &self.nodes[service + usize::from(second)];
            let url = format!("http://{}/", node.public);
            Url::parse(&url).expect("a socket address makes a URL")
        };
        Endpoints {
            box_office: url(BOX_OFFICE),
            waiting_room: url(WAITING_ROOM),
            admission: url(ADMISSION),
        }
    }

    /// Creates an event on sale, and waits until every node knows it.
    pub(super) async fn new_event(&self, seats: u32, is_free: bool) -> anyhow::Result<EventId> {
        let now = SystemClock.now();
        let internal = Url::parse(&format!("http://{}", self.nodes[BOX_OFFICE].internal))?;
        let staff = Staff::sign_in(self.http.clone(), internal, ADMIN, &self.password).await?;
        let amount = if is_free { 0 } else { 4_500 };
        let event = json!({
            "name": "A sale with faults", "date": now + TimeDelta::days(30),
            "sections": [{
                "name": "Floor", "numbered": false, "capacity": seats,
                "tier": { "name": "Standing", "price": { "amount_minor": amount, "currency": "eur" } },
            }],
            "sale": {
                "opens_at": now, "lobby_seconds": 0, "rate_per_minute": 6_000,
                "shopper_cap": 1_000, "claim_window_seconds": 300, "hold_seconds": 120,
            },
        });
        let answer = staff.call(Method::POST, "/api/events", &event).await?;
        let id = answer["event"]["id"].as_i64().context("no event id")?;
        for second in [false, true] {
            let at = self.endpoints(second);
            let queue = at.waiting_room.join(&format!("api/events/{id}/queue"))?;
            until_answer(&self.http, queue.as_str(), |queue| {
                queue["state"] == "open" && queue["available"] == seats
            })
            .await?;
            let stock = at
                .box_office
                .join(&format!("api/events/{id}/availability"))?;
            until_answer(&self.http, stock.as_str(), |stock| {
                stock["available"] == seats
            })
            .await?;
        }
        Ok(EventId(id))
    }

    /// Changes a setting of PostgreSQL in every session.
    pub(super) async fn configure_postgres(&self, change: &'static str) -> anyhow::Result<()> {
        let mut connection = PgConnection::connect(&self.primary).await?;
        connection
            .execute("set default_transaction_read_only = off")
            .await?;
        connection.execute(change).await?;
        connection.execute("select pg_reload_conf()").await?;
        Ok(())
    }

    /// Adds a standby; the primary waits for it if it is synchronous.
    pub(super) async fn add_standby(&mut self, is_synchronous: bool) -> anyhow::Result<()> {
        let pid = self.servers.postgres.pid().context("PostgreSQL runs")?;
        let dir = self.servers.dir.join("standby");
        let standby = Standby::start(pid, &self.primary, dir, self.standby_port);
        self.standby = Some(Box::pin(standby).await?);
        if is_synchronous {
            let wait = "alter system set synchronous_standby_names = '*'";
            self.configure_postgres(wait).await?;
            standby::wait_for(&self.primary, "sync").await?;
        }
        Ok(())
    }

    /// The standby's connection to its primary.
    pub(super) fn replication(&self) -> anyhow::Result<&Proxy> {
        let standby = self.standby.as_ref().context("there is no standby")?;
        Ok(&standby.replication)
    }

    /// Promotes the standby.
    pub(super) async fn fail_over(&mut self) -> anyhow::Result<()> {
        let standby = self.standby.as_ref().context("there is no standby")?;
        standby.promote().await?;
        self.primary.clone_from(&standby.url);
        self.db = connect(&self.primary)?;
        Ok(())
    }

    /// Sends a command to Redis.
    pub(super) async fn ask_redis(&self, words: &[&str]) -> anyhow::Result<()> {
        let (name, arguments) = words.split_first().context("no command")?;
        let redis = platform::redis::connect(&self.servers.redis.url().into())?;
        let answer: String = cmd(name)
            .arg(arguments)
            .query_async(&mut redis.clone())
            .await?;
        ensure!(answer == "OK", "{name}: {answer}");
        Ok(())
    }

    /// Returns the number of violations that `onsale audit` finds at rest, dead letters included;
    /// `None` if it does not come to rest.
    pub(super) async fn audit(&self) -> anyhow::Result<Option<u64>> {
        self.onsale(&["dead-letters", "list"], PATIENCE).await?;
        let wait = SETTLING.as_secs().to_string();
        let arguments = ["audit", "--json", "--wait", &wait];
        let ended = self.run(&arguments, AUDITING).await?;
        let report: Value = serde_json::from_slice(&ended.stdout)
            .with_context(|| String::from_utf8_lossy(&ended.stderr).into_owned())?;
        let checks = report["checks"].as_array().context("no checks")?;
        let mut violations = 0;
        for check in checks {
            let count = check["violations"].as_u64().context("no violations")?;
            if count > 0 {
                say(format_args!("  {check}"));
            }
            violations += count;
        }
        let is_settled = violations > 0 || report["at_rest"] == true;
        Ok(is_settled.then_some(violations))
    }
}

fn connect(url: &str) -> anyhow::Result<PgPool> {
    Ok(PgPoolOptions::new().max_connections(2).connect_lazy(url)?)
}

//! The system under test: services as processes, with a database and a namespace of their own.

use std::net::{Ipv4Addr, SocketAddr};
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use domain::payment::STRIPE_EVENTS;
use platform::amqp::Broker;
use platform::testing::{eventually, free_port};
use platform::topology;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use surge::buyer::{Api, Buyer, Endpoints, Funnel, PlanMix};
use tokio::time::{MissedTickBehavior, interval};
use url::Url;

pub(crate) const ADMIN: &str = "admin@test.example";
pub(crate) const PASSWORD: &str = "a long enough password";
/// Longest time until a process is ready, on a busy machine.
const START: Duration = Duration::from_secs(60);

/// A process of the system.
pub(crate) struct Process {
    name: &'static str,
    child: Option<Child>,
    public: SocketAddr,
    internal: SocketAddr,
    ops: SocketAddr,
}

/// The running system. Dropping it kills every process.
pub(crate) struct System {
    processes: Vec<Process>,
    environment: Vec<(&'static str, String)>,
    stripe: stand_ins::stripe::StandIn,
    pub(crate) mail: stand_ins::mail::StandIn,
    http: reqwest::Client,
    access_token: String,
    server_url: String,
    database: String,
}

impl System {
    /// Starts a process for each name, such as `admission` or `all`.
    pub(crate) async fn start(names: &[&'static str]) -> anyhow::Result<Self> {
        Self::start_with(names, []).await
    }

    /// [`System::start`] with some settings replaced.
    pub(crate) async fn start_with(
        names: &[&'static str],
        settings: impl IntoIterator<Item = (&'static str, String)>,
    ) -> anyhow::Result<Self> {
        let server_url = server("ONSALE_DATABASE_URL")?;
        let run: u64 = rand::random();
        let database = format!("onsale_system_{run:016x}");
        execute(&server_url, format!("create database {database}")).await?;
        let stripe = stand_ins::stripe::StandIn::start(stand_ins::stripe::Config {
            webhook_events: STRIPE_EVENTS.map(str::to_owned).into(),
            ..stand_ins::stripe::Config::default()
        })
        .await?;
        let mail = stand_ins::mail::StandIn::start(stand_ins::mail::Config::default()).await?;
        let mut database_url = Url::parse(&server_url)?;
        database_url.set_path(&database);
        let state = std::env::temp_dir().join(&database);
        let mut environment = vec![
            // Where commands store their sessions.
            ("XDG_STATE_HOME", state.display().to_string()),
            ("ONSALE_DATABASE_URL", database_url.to_string()),
            ("ONSALE_REDIS_URL", server("ONSALE_REDIS_URL")?),
            ("ONSALE_AMQP_URL", server("ONSALE_AMQP_URL")?),
            ("ONSALE_NAMESPACE", format!("system{run:016x}")),
            ("ONSALE_SECRET", format!("{run:064x}")),
            ("ONSALE_TRUSTED_PROXIES", "127.0.0.0/8".to_owned()),
            ("ONSALE_DRAIN_SECONDS", "0".to_owned()),
            ("ONSALE_ADMIN_PASSWORD", PASSWORD.to_owned()),
            ("STRIPE_SECRET_KEY", stripe.secret_key().to_owned()),
            (
                "STRIPE_PUBLISHABLE_KEY",
                stripe.publishable_key().to_owned(),
            ),
            ("STRIPE_WEBHOOK_SECRET", stripe.webhook_secret().to_owned()),
            ("ONSALE_STRIPE_URL", stripe.url()),
            ("ONSALE_STRIPE_PUBLIC_URL", stripe.url()),
            ("ONSALE_SMTP_URL", mail.smtp_url()),
            // So that another worker takes over sooner from a killed one.
            ("ONSALE_STRIPE_TIMEOUT_SECONDS", "5".to_owned()),
        ];
        for (key, value) in settings {
            environment.retain(|(known, _)| *known != key);
            environment.push((key, value));
        }
        stand_ins::tls::install();
        let http = reqwest::Client::builder()
            .timeout(Duration::from_secs(20))
            .build()?;
        let mut system = Self {
            processes: Vec::new(),
            environment,
            stripe,
            mail,
            http,
            access_token: String::new(),
            server_url,
            database,
        };
        system.onsale(&["migrate"])?;
        system.onsale(&["account", "create-admin", ADMIN])?;
        for name in names {
            let process = Process {
                name,
                child: None,
                public: free_address(),
                internal: free_address(),
                ops: free_address(),
            };
            system.processes.push(process);
        }
        for index in 0..system.processes.len() {
            system.spawn(index)?;
        }
        for index in 0..system.processes.len() {
            system.ready(index).await;
        }
        let webhooks = format!("{}api/webhooks/stripe", system.public_url("payment-worker"));
        system.stripe.set_webhook_url(webhooks);
        system.sign_in().await?;
        Ok(system)
    }

    /// Runs a command of the binary, which must succeed.
    pub(crate) fn onsale(&self, arguments: &[&str]) -> anyhow::Result<Output> {
        let output = self.command().args(arguments).output()?;
        ensure!(
            output.status.success(),
            "onsale {arguments:?}: {}\n{}{}",
            output.status,
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(output)
    }

    /// Runs a command of the binary as staff, with some settings replaced; it may fail.
    pub(crate) fn try_onsale(
        &self,
        arguments: &[&str],
        settings: &[(&str, &str)],
    ) -> anyhow::Result<Output> {
        let mut command = self.staff_command();
        let command = command.args(arguments).envs(settings.iter().copied());
        Ok(command.output()?)
    }

    /// A command of the binary as staff.
    pub(crate) fn staff_command(&self) -> Command {
        let mut command = self.command();
        command
            .env("ONSALE_INTERNAL_URL", self.internal_url().as_str())
            .env("ONSALE_STAFF_EMAIL", ADMIN)
            .env("ONSALE_STAFF_PASSWORD", PASSWORD);
        command
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_onsale"));
        command
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null());
        command
    }

    /// The environment of the processes.
    pub(crate) fn environment(&self) -> impl Iterator<Item = (&'static str, String)> + '_ {
        self.environment.iter().cloned()
    }

    /// One setting of the processes.
    pub(crate) fn setting(&self, key: &str) -> String {
        let found = self.environment.iter().find(|(known, _)| *known == key);
        found.expect("it is set").1.clone()
    }

    /// Replaces a setting of processes that start later.
    pub(crate) fn set(&mut self, key: &'static str, value: String) {
        self.environment.retain(|(known, _)| *known != key);
        self.environment.push((key, value));
    }

    fn spawn(&mut self, index: usize) -> anyhow::Result<()> {
        let mut command = self.command();
        let process = &mut self.processes[index];
        command
            .arg(process.name)
            .env("ONSALE_PUBLIC_ADDR", process.public.to_string())
            .env("ONSALE_INTERNAL_ADDR", process.internal.to_string())
            .env("ONSALE_OPS_ADDR", process.ops.to_string())
            .env("ONSALE_LOG", "error")
            .stdout(Stdio::null());
        process.child = Some(command.spawn().context(process.name)?);
        Ok(())
    }

    async fn ready(&self, index: usize) {
        let process = &self.processes[index];
        let url = format!("http://{}/readyz", process.ops);
        eventually(START, async || {
            let answer = self.http.get(&url).send().await;
            answer.is_ok_and(|answer| answer.status().is_success())
        })
        .await;
    }

    /// Kills a process with SIGKILL.
    pub(crate) fn kill(&mut self, name: &str) -> anyhow::Result<()> {
        let index = self.index(name);
        let mut child = self.processes[index].child.take().context("it runs")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Restarts a killed process and waits until it is ready.
    pub(crate) async fn restart(&mut self, name: &str) -> anyhow::Result<()> {
        let index = self.index(name);
        self.spawn(index)?;
        self.ready(index).await;
        Ok(())
    }

    fn index(&self, name: &str) -> usize {
        let found = self
            .processes
            .iter()
            .position(|process| process.name == name);
        found
            .or_else(|| {
                self.processes
                    .iter()
                    .position(|process| process.name == "all")
            })
            .expect("the process was started")
    }

    /// The public listener of the process that has this service.
    pub(crate) fn public_url(&self, name: &str) -> Url {
        address_url(self.processes[self.index(name)].public)
    }

    /// The operations listener of a process.
    pub(crate) fn ops_url(&self, name: &str) -> Url {
        address_url(self.processes[self.index(name)].ops)
    }

    /// The internal listener of box-office.
    pub(crate) fn internal_url(&self) -> Url {
        address_url(self.processes[self.index("box-office")].internal)
    }

    async fn sign_in(&mut self) -> anyhow::Result<()> {
        let body = json!({ "email": ADMIN, "password": PASSWORD });
        let answer = self.staff(Method::POST, "/api/sessions", &body).await?;
        let token = answer["session"]["access_token"]
            .as_str()
            .context("no access token")?;
        self.access_token = token.to_owned();
        Ok(())
    }

    /// Calls the staff API.
    pub(crate) async fn staff(
        &self,
        method: Method,
        path: &str,
        body: &Value,
    ) -> anyhow::Result<Value> {
        let url = self.internal_url().join(path)?;
        let mut request = self.http.request(method, url).json(body);
        if !self.access_token.is_empty() {
            request = request.bearer_auth(&self.access_token);
        }
        let answer = request.send().await?;
        let status = answer.status();
        let text = answer.text().await?;
        ensure!(status.is_success(), "{path} answered {status}: {text}");
        Ok(serde_json::from_str(&text)?)
    }

    /// Creates an event on sale, and waits until queue and stock know it.
    pub(crate) async fn event(&self, seats: u32, rate: u32, sale: Value) -> anyhow::Result<i64> {
        let mut settings = json!({
            "lobby_seconds": 0, "rate_per_minute": rate, "shopper_cap": 1_000,
            "claim_window_seconds": 60, "hold_seconds": 15,
        });
        settings
            .as_object_mut()
            .context("settings")?
            .extend(sale.as_object().context("sale")?.clone());
        let event = json!({
            "name": "A small sale", "date": "2030-01-01T19:00:00Z", "sale": settings,
            "sections": [{
                "name": "Floor", "numbered": false, "capacity": seats,
                "tier": { "name": "Standing", "price": { "amount_minor": 4_500, "currency": "eur" } },
            }],
        });
        let answer = self.staff(Method::POST, "/api/events", &event).await?;
        let id = answer["event"]["id"].as_i64().context("no event id")?;
        let stock = self
            .public_url("box-office")
            .join(&format!("/api/events/{id}/availability"))?;
        self.until(&stock, |stock| stock["available"] == seats)
            .await;
        let queue = self
            .public_url("waiting-room")
            .join(&format!("/api/events/{id}/queue"))?;
        self.until(&queue, |queue| queue["state"] == "open").await;
        Ok(id)
    }

    /// Waits until the answer of `url` satisfies `holds`.
    async fn until(&self, url: &Url, holds: impl Fn(&Value) -> bool) {
        eventually(START, async || {
            let Ok(answer) = self.http.get(url.clone()).send().await else {
                return false;
            };
            holds(&answer.json().await.unwrap_or_default())
        })
        .await;
    }

    /// Buyers with plans drawn from `mix`.
    pub(crate) fn buyers(
        &self,
        event: i64,
        count: u32,
        mix: PlanMix,
        funnel: &Arc<Funnel>,
    ) -> Vec<Buyer> {
        let mut rng = StdRng::seed_from_u64(7);
        let endpoints = Endpoints {
            box_office: self.public_url("box-office"),
            waiting_room: self.public_url("waiting-room"),
            admission: self.public_url("admission"),
        };
        let client = reqwest::Client::new();
        let buyer = |n: u32| {
            let address = Ipv4Addr::from_bits(0x0A00_0001 + n).into();
            let api = Api::new(client.clone(), endpoints.clone(), address);
            let (tickets, plan) = (rng.random_range(1..=2), mix.draw(&mut rng));
            Buyer::new(
                api,
                funnel.clone(),
                event,
                format!("b{n}@test.example"),
                tickets,
                plan,
            )
        };
        (0..count).map(buyer).collect()
    }

    /// Runs the audit, waiting for rest, and returns its report.
    pub(crate) fn audit(&self) -> anyhow::Result<Value> {
        let output = self
            .command()
            .args(["audit", "--json", "--wait", "240"])
            .output()?;
        let report: Value = serde_json::from_slice(&output.stdout)
            .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
        if !output.status.success() {
            bail!("the audit failed: {report:#}");
        }
        Ok(report)
    }

    /// Stops everything, and removes the database and the queues.
    pub(crate) async fn finish(mut self) -> anyhow::Result<()> {
        self.end_processes();
        let namespace = self.setting("ONSALE_NAMESPACE");
        let broker = Broker::lazy(&server("ONSALE_AMQP_URL")?, &namespace)?;
        broker.delete_all(&topology::all()).await?;
        broker.close().await;
        execute(
            &self.server_url,
            format!("drop database {} with (force)", self.database),
        )
        .await
    }

    fn end_processes(&mut self) {
        for process in &mut self.processes {
            if let Some(mut child) = process.child.take() {
                let _gone = child.kill();
                let _gone = child.wait();
            }
        }
        let _none = std::fs::remove_dir_all(self.setting("XDG_STATE_HOME"));
    }
}

impl Drop for System {
    fn drop(&mut self) {
        self.end_processes();
    }
}

pub(crate) fn server(key: &str) -> anyhow::Result<String> {
    std::env::var(key)
        .with_context(|| format!("{key} is not set; run ./dev test, or eval \"$(./dev up)\" first"))
}

async fn execute(url: &str, sql: String) -> anyhow::Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::query(AssertSqlSafe(sql))
        .execute(&mut connection)
        .await?;
    Ok(())
}

/// An address without a listener.
pub(crate) fn free_address() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, free_port()).into()
}

/// Waits until a condition holds, for at most `limit` of the time in which this machine runs the
/// test: what it skips is not counted.
pub(crate) async fn in_running_time(limit: Duration, mut condition: impl AsyncFnMut() -> bool) {
    const TICK: Duration = Duration::from_millis(20);
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    for _ in 0..limit.as_millis() / TICK.as_millis() {
        ticks.tick().await;
        if condition().await {
            return;
        }
    }
    panic!("not within {limit:?}");
}

fn address_url(address: SocketAddr) -> Url {
    Url::parse(&format!("http://{address}/")).expect("a socket address makes a URL")
}

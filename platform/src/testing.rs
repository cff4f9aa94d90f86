//! The harness of tests against real servers: a database, a namespace and connections per test, and
//! waiting for conditions.

mod clock;
mod database;
mod declare;
mod described;
pub mod line;
mod port;
mod proxy;
mod reads;
mod redis;
mod wait;

use std::sync::Arc;
use std::time::Duration;

use domain::clock::{SharedClock, SystemClock};
use secrecy::ExposeSecret;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::OnceCell;

use crate::amqp::{Broker, QueueSpec};
use crate::config::PlatformConfig;
use crate::service::{Context, Routes, Running, serve};
use crate::topology;
use database::TestDatabase;

pub use clock::ShiftedClock;
pub use described::assert_described;
pub use port::free_port;
pub use proxy::Proxy;
pub use reads::{Reads, RowsRead};
pub use redis::OwnRedis;
pub use wait::eventually;

const SECRET: &str = "a secret that only tests have: 0123456789abcdef";
/// Few, since many tests share one server.
const DB_CONNECTIONS: u32 = 8;
/// The tests cut connections and make handlers fail; `RUST_LOG` shows what comes of it.
const LOG_FILTER: &str = "error,lapin=off,platform::amqp=off";
/// Timeout until a service consumes its queues.
const START_LIMIT: Duration = Duration::from_secs(60);
/// Timeout until the tasks of a test end.
const LEAVE_LIMIT: Duration = Duration::from_secs(60);

/// The surroundings of one test: a fresh database with the schema, an own namespace in Redis and
/// RabbitMQ, and a context that is connected to them. Everything goes when it is dropped.
#[derive(Debug)]
pub struct TestApp {
    /// The context of the code under test.
    pub ctx: Context,
    cleanup: Option<Cleanup>,
}

impl TestApp {
    /// With the machine's clock.
    ///
    /// # Panics
    /// When the environment names no servers, or they can't be reached.
    pub async fn start() -> Self {
        Self::start_with(SystemClock::shared(), |_| ()).await
    }

    /// With another clock and other settings.
    ///
    /// # Panics
    /// When the environment names no servers, or they can't be reached.
    pub async fn start_with(
        clock: SharedClock,
        configure: impl FnOnce(&mut PlatformConfig),
    ) -> Self {
        sweep_once().await;
        let database = TestDatabase::create(&server("ONSALE_DATABASE_URL")).await;
        let mut config = PlatformConfig::embedded(
            database.url.clone(),
            server("ONSALE_REDIS_URL"),
            server("ONSALE_AMQP_URL"),
            SECRET,
        );
        config.namespace = database.namespace();
        config.db_connections = DB_CONNECTIONS;
        config.log_filter = std::env::var("RUST_LOG")
            .is_err()
            .then(|| LOG_FILTER.to_owned());
        configure(&mut config);
        let cleanup = Cleanup {
            database,
            config: Arc::new(config.clone()),
            queues: Vec::new(),
        };
        // From here on a panic leaves nothing behind.
        let mut cleanup = DropGuard(Some(cleanup));
        let ctx = Context::connect("test", config, clock)
            .await
            .expect("the servers are up");
        Self {
            ctx,
            cleanup: cleanup.0.take(),
        }
    }

    /// Makes `ctx.db` wait a minute for a connection, where a service gives up after 5 s: for tests
    /// that only read and write by it themselves, since their code runs on
    /// [other nodes](Self::another_node). A busy machine then delays them and fails none.
    #[must_use]
    pub fn with_patient_pool(mut self) -> Self {
        let options = self.ctx.db.connect_options();
        let patient = self.ctx.db.options().clone();
        let patient = patient.acquire_timeout(Duration::from_secs(60));
        self.ctx.db = patient.connect_lazy_with(PgConnectOptions::clone(&options));
        self
    }

    /// Another node of the same installation: same servers, own connections and shutdown.
    ///
    /// # Panics
    /// When the servers can't be reached.
    pub async fn another_node(&self) -> Context {
        self.another_node_with(|_| ()).await
    }

    /// [`another_node`](Self::another_node) with settings of its own.
    ///
    /// # Panics
    /// When the servers can't be reached.
    pub async fn another_node_with(&self, configure: impl FnOnce(&mut PlatformConfig)) -> Context {
        let mut config = PlatformConfig::clone(&self.ctx.config);
        configure(&mut config);
        Context::connect("test", config, self.ctx.clock.clone())
            .await
            .expect("the servers are up")
    }

    /// [`another_node`](Self::another_node) with a clock of its own.
    ///
    /// # Panics
    /// When the servers can't be reached.
    pub async fn another_node_at(&self, clock: SharedClock) -> Context {
        let config = PlatformConfig::clone(&self.ctx.config);
        Context::connect("test", config, clock)
            .await
            .expect("the servers are up")
    }

    /// Serves routes on free ports of 127.0.0.1, and waits until the service consumes its queues;
    /// the addresses are in what it returns.
    ///
    /// # Panics
    /// When no port can be bound, or a queue is not consumed within a minute.
    pub async fn serve(&self, routes: Routes) -> Running {
        serve_consuming(&self.ctx, routes).await
    }

    /// Drains the tasks of the context, and removes database and queues.
    ///
    /// # Panics
    /// When a task failed, or does not leave within a minute.
    pub async fn finish(mut self) {
        let shutdown = self.ctx.shutdown.clone();
        shutdown.soft().cancel();
        let left = tokio::time::timeout(LEAVE_LIMIT, shutdown.tasks_left()).await;
        shutdown.hard().cancel();
        if let Some(cleanup) = self.cleanup.take() {
            cleanup.run(Some(&self.ctx)).await;
        }
        assert!(left.is_ok(), "tasks did not leave within {LEAVE_LIMIT:?}");
        assert_eq!(shutdown.crashed(), None, "a task failed");
    }
}

impl Drop for TestApp {
    fn drop(&mut self) {
        self.ctx.shutdown.soft().cancel();
        self.ctx.shutdown.hard().cancel();
        if let Some(cleanup) = &mut self.cleanup {
            cleanup.queues = self.ctx.broker.wanted();
        }
        drop(DropGuard(self.cleanup.take()));
    }
}

/// As [`TestApp::serve`], for a node with a context of its own. A test that goes on before the
/// queues are consumed may cut the connection in the midst of it, and wait for ever.
///
/// # Panics
/// When no port can be bound, or a queue is not consumed within a minute.
pub async fn serve_consuming(ctx: &Context, routes: Routes) -> Running {
    wait_until_consumed(ctx, &routes).await;
    serve(ctx, routes).await.expect("ports can be bound")
}

/// Waits until a service that was started consumes its queues.
///
/// # Panics
/// When a queue is not consumed within a minute.
pub async fn wait_until_consumed(ctx: &Context, routes: &Routes) {
    let queues = &routes.consumes;
    let consumed = ctx.broker.wait_until_consumed(queues);
    let in_time = tokio::time::timeout(START_LIMIT, consumed).await;
    assert!(
        in_time.is_ok(),
        "not consumed within {START_LIMIT:?}: {queues:?}"
    );
}

/// The resources of a test on the servers.
#[derive(Debug)]
struct Cleanup {
    database: TestDatabase,
    config: Arc<PlatformConfig>,
    /// Its queues besides those of the services.
    queues: Vec<QueueSpec>,
}

impl Cleanup {
    /// Removes what can be removed; a test is not to fail for what is left. With `ctx` its
    /// connections are used, and closed.
    async fn run(self, ctx: Option<&Context>) {
        let config = &self.config;
        let broker = match ctx {
            Some(ctx) => Some(ctx.broker.clone()),
            None => Broker::lazy(config.amqp_url.expose_secret(), &config.namespace).ok(),
        };
        if let Some(broker) = broker {
            let queues = [topology::all(), self.queues].concat();
            let _ = broker.delete_all(&queues).await;
            broker.close().await;
        }
        if let Some(ctx) = ctx {
            ctx.db.close().await;
        }
        self.database.drop().await;
    }
}

/// Removes what killed tests left on servers that stay up between runs: thousands of queues would
/// make RabbitMQ slow, and in the end break it. Once in a process.
async fn sweep_once() {
    static SWEPT: OnceCell<()> = OnceCell::const_new();
    SWEPT.get_or_init(sweep).await;
}

async fn sweep() {
    let amqp_url = server("ONSALE_AMQP_URL");
    for database in TestDatabase::abandoned(&server("ONSALE_DATABASE_URL")).await {
        let Ok(broker) = Broker::lazy(&amqp_url, &database.namespace()) else {
            return;
        };
        let deleted = broker.delete_all(&topology::all()).await;
        broker.close().await;
        // As long as it is there, the next process tries again.
        if deleted.is_ok() {
            database.drop().await;
        }
    }
}

/// Cleans up after a test that ended early. That takes a runtime of its own, since the test's may
/// be the one that is ending.
struct DropGuard(Option<Cleanup>);

impl Drop for DropGuard {
    fn drop(&mut self) {
        let Some(cleanup) = self.0.take() else { return };
        let cleaner = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            if let Ok(runtime) = runtime {
                runtime.block_on(cleanup.run(None));
            }
        });
        let _ = cleaner.join();
    }
}

fn server(key: &str) -> String {
    std::env::var(key).unwrap_or_else(|_| {
        panic!("{key} is not set: run `./dev test`, or `eval \"$(./dev up)\"` first")
    })
}

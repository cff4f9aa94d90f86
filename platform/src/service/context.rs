//! The context shared by all parts of a service.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use anyhow::Context as _;
use domain::EventId;
use domain::clock::SharedClock;
use domain::queue::SaleKeys;
use secrecy::ExposeSecret;

use crate::amqp::Broker;
use crate::config::{InvalidConfig, PlatformConfig};
use crate::health::Health;
use crate::limits::Limits;
use crate::line::Lines;
use crate::outbox;
use crate::pg;
use crate::redis::{self, Redis};
use crate::shutdown::Shutdown;
use crate::telemetry;
use crate::tls;
use crate::tokens::KeyRing;

/// The context shared by all parts of a service. Cheap to clone.
#[derive(Clone)]
pub struct Context {
    /// The configuration.
    pub config: Arc<PlatformConfig>,
    /// The time.
    pub clock: SharedClock,
    /// PostgreSQL.
    pub db: sqlx::PgPool,
    /// Redis.
    pub redis: Redis,
    /// RabbitMQ.
    pub broker: Broker,
    /// Publishes outbox messages right after their commit.
    pub outbox: outbox::Sender,
    /// Signs and verifies tokens.
    pub keys: Arc<KeyRing>,
    /// Factory of rate limits.
    pub limits: Limits,
    /// The lines of the sales.
    pub lines: Lines,
    /// Readiness of the process.
    pub health: Health,
    /// This process, among others of its kind: random, new with every start.
    pub node: String,
    /// The end of the process.
    pub shutdown: Shutdown,
}

impl Context {
    /// Checks the configuration, starts telemetry, and connects to PostgreSQL; to Redis and
    /// RabbitMQ when they are first used.
    ///
    /// # Errors
    /// [`InvalidConfig`], or when PostgreSQL can't be reached.
    pub async fn connect(
        service_name: &'static str,
        config: PlatformConfig,
        clock: SharedClock,
    ) -> anyhow::Result<Self> {
        tls::trust(config.ca_file.as_deref())?;
        let keys = config.validate()?;
        telemetry::init(config.log_format, config.log_filter.as_deref());
        // Fails when the embedding program has installed one already.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let node = format!("{:016x}", rand::random::<u64>());
        tracing::info!(service_name, node, ?config, "starting");
        let db = connect_pg(service_name, &config).await?;
        if config.db_connections > 1 {
            pg::check_sessions(&db).await.map_err(refusal)?;
        }
        // These two connect lazily: a process that can run without them can also start without
        // them.
        let redis = redis::connect(&config.redis_url)?;
        if redis.is_cluster().await {
            return Err(InvalidConfig::new(
                "ONSALE_REDIS_URL names a node of a Redis Cluster, which is not supported: use a \
                 single server, with replicas behind one address",
            )
            .into());
        }
        let broker = Broker::lazy(config.amqp_url.expose_secret(), &config.namespace)?;
        Ok(Self {
            clock,
            lines: Lines::new(db.clone()),
            outbox: outbox::Sender::new(db.clone(), broker.clone()),
            db,
            redis,
            broker,
            keys: Arc::new(keys),
            limits: Limits::new(config.limits_scale),
            health: Health::default(),
            node,
            shutdown: Shutdown::default(),
            config: Arc::new(config),
        })
    }

    /// Runs `task` until soft shutdown, which it must watch for
    /// (`ctx.shutdown.soft()`); an error or panic before then ends the process with a non-zero
    /// status.
    pub fn spawn(
        &self,
        name: &'static str,
        task: impl Future<Output = anyhow::Result<()>> + Send + 'static,
    ) {
        self.shutdown.spawn(name, task);
    }

    /// Publishes staged messages in the background; call after the commit.
    pub fn send_soon(&self, staged: outbox::Staged) {
        if staged.is_empty() {
            return;
        }
        let sender = self.outbox.clone();
        self.spawn("outbox messages", async move {
            staged.send(&sender).await;
            Ok(())
        });
    }

    /// The Redis keys of one sale.
    #[must_use]
    pub fn sale_keys(&self, event: EventId) -> SaleKeys {
        SaleKeys::new(&self.config.namespace, event)
    }
}

async fn connect_pg(name: &'static str, config: &PlatformConfig) -> anyhow::Result<sqlx::PgPool> {
    pg::connect(
        config.database_url.expose_secret(),
        config.db_connections,
        name,
    )
    .await
    .context("can't connect to PostgreSQL at ONSALE_DATABASE_URL")
}

/// Shared sessions are a configuration error: a restart does not help.
fn refusal(error: pg::PoolerError) -> anyhow::Error {
    match error {
        pg::PoolerError::SharedSessions => InvalidConfig::new(error.to_string()).into(),
        pg::PoolerError::Unasked(_) => error.into(),
    }
}

impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

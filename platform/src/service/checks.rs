//! Health checks of the dependencies, once a second; follows a PostgreSQL failover when the URL
//! names several hosts.

use std::time::Duration;

use secrecy::ExposeSecret as _;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};

use super::Context;
use crate::health::Dependency;
use crate::pg::{self, Hosts};
use crate::redis::{self, Redis};

const PERIOD: Duration = Duration::from_secs(1);
/// Timeout of one check.
const CHECK_LIMIT: Duration = Duration::from_secs(1);
/// The schema is checked once in so many checks.
const SCHEMA_EVERY: u32 = 30;
/// Time for which a report of a full disk counts.
const REFUSAL_LIFE: Duration = Duration::from_secs(5);

/// Checks the dependencies until dropped.
pub(super) struct Checks {
    ctx: Context,
    postgres: Postgres,
}

impl Checks {
    pub(super) fn new(ctx: Context) -> Self {
        let postgres = Postgres {
            conn: None,
            until_schema: 0,
        };
        Self { ctx, postgres }
    }

    pub(super) async fn run(mut self) {
        loop {
            tokio::time::sleep(PERIOD).await;
            self.check().await;
        }
    }

    /// Checks each server once.
    pub(super) async fn check(&mut self) {
        let (ctx, health) = (&self.ctx, &self.ctx.health);
        let (postgres, redis, rabbitmq) = tokio::join!(
            within(self.postgres.check(&ctx.db)),
            within(check_redis(&ctx.redis, &ctx.config.namespace)),
            within(check_rabbitmq(ctx)),
        );
        if postgres.is_err() {
            // The connection may be broken, or to the wrong host.
            self.postgres.conn = None;
            follow_primary(ctx).await;
        }
        health.record(Dependency::Postgres, postgres);
        health.record(Dependency::Redis, redis);
        health.record(Dependency::RabbitMq, rabbitmq);
    }
}

async fn within(check: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    tokio::time::timeout(CHECK_LIMIT, check)
        .await
        .unwrap_or_else(|_| Err("no answer in time".to_owned()))
}

/// A dedicated connection, so that an exhausted pool does not look like an unavailable server.
struct Postgres {
    conn: Option<PgConnection>,
    until_schema: u32,
}

impl Postgres {
    async fn check(&mut self, pool: &sqlx::PgPool) -> Result<(), String> {
        if let Some(refusal) = pg::recent_refusal(REFUSAL_LIFE) {
            return Err(refusal);
        }
        if self.conn.is_none() {
            let connecting = pool.connect_options();
            let conn = connecting
                .connect()
                .await
                .map_err(|error| error.to_string())?;
            self.conn = Some(conn);
            self.until_schema = 0;
        }
        let conn = self.conn.as_mut().expect("it was just made");
        let is_read_only = pg::is_read_only(conn).await;
        if is_read_only.map_err(|error| error.to_string())? {
            return Err("read-only".to_owned());
        }
        if self.until_schema == 0 {
            let checking = pg::check_schema_on(conn).await;
            checking.map_err(|error| error.to_string())?;
            self.until_schema = SCHEMA_EVERY;
        }
        self.until_schema -= 1;
        Ok(())
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        if let (Some(conn), Ok(runtime)) = (self.conn.take(), tokio::runtime::Handle::try_current())
        {
            // Otherwise the server logs a lost connection.
            runtime.spawn(async move { tokio::time::timeout(CHECK_LIMIT, conn.close()).await });
        }
    }
}

/// Points the pool to the host that accepts writes, if the URL names several.
async fn follow_primary(ctx: &Context) {
    let url = ctx.config.database_url.expose_secret();
    let current = ctx.db.connect_options();
    let name = current.get_application_name().unwrap_or_default();
    let Ok(hosts) = Hosts::parse(url, name) else {
        return;
    };
    if !hosts.are_several() {
        return;
    }
    let Ok(primary) = hosts.find_primary(CHECK_LIMIT).await else {
        return;
    };
    let address = |options: &sqlx::postgres::PgConnectOptions| {
        (options.get_host().to_owned(), options.get_port())
    };
    if address(&primary) != address(&current) {
        let host = primary.get_host();
        tracing::warn!(host, "PostgreSQL takes writes at another host");
        ctx.db.set_connect_options(primary);
        pg::renew_connections();
    }
}

/// Checks with a write, since a replica or a server out of memory answers pings.
async fn check_redis(redis: &Redis, namespace: &str) -> Result<(), String> {
    let key = format!("{namespace}:checked");
    redis::cmd("SET")
        .arg(&[key.as_str(), "1", "PX", "60000"])
        .query_async::<()>(&mut redis.clone())
        .await
        .map_err(|error| error.to_string())
}

async fn check_rabbitmq(ctx: &Context) -> Result<(), String> {
    let blocked = ctx.broker.blocked();
    metrics::gauge!("amqp_blocked").set(if blocked.is_some() { 1.0 } else { 0.0 });
    if let Some(reason) = blocked {
        return Err(format!("takes no messages, because of an alarm: {reason}"));
    }
    ctx.broker.ping().await.map_err(|error| error.to_string())
}

/// Declares the queues once RabbitMQ is reachable, and again after it lost them, until dropped.
pub(super) async fn declare_queues(ctx: &Context) {
    loop {
        // A failure shows in the check of RabbitMQ, and with each use.
        if ctx.broker.ensure_declared().await.is_ok() {
            let mismatched = ctx.broker.mismatched().into_iter().map(|queue| {
                format!("queue {queue} exists with other arguments than this version declares")
            });
            ctx.health.set_warnings("queues", mismatched);
        }
        tokio::time::sleep(PERIOD).await;
    }
}

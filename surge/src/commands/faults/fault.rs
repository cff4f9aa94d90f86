//! The faults: how each is injected and repaired, and what should be ready meanwhile.

use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::Context as _;
use clap::ValueEnum;
use nix::sys::signal::Signal;
use platform::testing::Proxy;
use tokio::task::block_in_place;

use super::installation::{Installation, NODES};
use super::signals::signal;

/// Time between the restarts of two nodes.
const BETWEEN_RESTARTS: Duration = Duration::from_secs(1);

/// Time for which an asynchronous standby receives nothing before its promotion.
const LAG: Duration = Duration::from_secs(4);

/// One fault during a sale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Fault {
    /// No fault, for comparison
    None,
    /// Each node is killed and started again, one after another
    NodesKilled,
    /// Each node is ended by SIGTERM and started again, one after another
    NodesRestarted,
    /// The admission node that leads the sale is killed
    LeaderKilled,
    /// The admission node that leads the sale is suspended, and wakes up
    LeaderSuspended,
    /// PostgreSQL is suspended
    PostgresSuspended,
    /// PostgreSQL is killed
    PostgresKilled,
    /// PostgreSQL becomes read-only
    PostgresReadOnly,
    /// One node's connections of each service to PostgreSQL fall silent; new ones work
    PostgresSilent,
    /// A proxy before PostgreSQL accepts connections and closes them
    PostgresHangsUp,
    /// Redis is suspended
    RedisSuspended,
    /// Redis is killed and returns empty
    RedisKilled,
    /// Redis loses its data
    RedisFlushed,
    /// Redis becomes read-only
    RedisReadOnly,
    /// RabbitMQ is suspended
    RabbitmqSuspended,
    /// RabbitMQ is suspended while free tickets are sold
    RabbitmqSuspendedFree,
    /// RabbitMQ is killed
    RabbitmqKilled,
    /// RabbitMQ loses its exchanges, queues and messages
    RabbitmqEmptied,
    /// An admission node is started while Redis and RabbitMQ are away
    StartWithoutBrokers,
    /// PostgreSQL is killed, and its synchronous standby is promoted
    FailoverSynchronous,
    /// PostgreSQL is killed four seconds after the replication to its standby ended: what was
    /// acknowledged meanwhile is lost, and the audit must find it
    FailoverAsynchronous,
}

impl Fault {
    pub(super) fn name(self) -> String {
        let value = self.to_possible_value().expect("no variant is skipped");
        value.get_name().to_owned()
    }

    /// Time from the injection to the repair.
    pub(super) fn lasts(self) -> Duration {
        Duration::from_secs(match self {
            Self::None
            | Self::NodesKilled
            | Self::NodesRestarted
            | Self::RedisFlushed
            | Self::RabbitmqEmptied => 0,
            Self::LeaderKilled | Self::FailoverSynchronous | Self::FailoverAsynchronous => 5,
            Self::PostgresKilled
            | Self::PostgresHangsUp
            | Self::RedisKilled
            | Self::StartWithoutBrokers => 10,
            Self::PostgresSuspended
            | Self::PostgresReadOnly
            | Self::RedisSuspended
            | Self::RedisReadOnly => 15,
            Self::LeaderSuspended => 17,
            Self::PostgresSilent
            | Self::RabbitmqSuspended
            | Self::RabbitmqSuspendedFree
            | Self::RabbitmqKilled => 20,
        })
    }

    /// Number of processes that should be ready at the end of the fault: those that can do their
    /// work, and no others.
    pub(super) fn ready(self) -> RangeInclusive<usize> {
        match self {
            // The booking workers have no work without RabbitMQ.
            Self::RabbitmqSuspended
            | Self::RabbitmqSuspendedFree
            | Self::RabbitmqKilled
            | Self::StartWithoutBrokers => NODES - 2..=NODES,
            Self::LeaderKilled | Self::LeaderSuspended => NODES - 1..=NODES - 1,
            // The waiting rooms still answer those who wait.
            Self::PostgresReadOnly => 0..=2,
            // Nothing is promised of the others.
            Self::PostgresSuspended
            | Self::PostgresKilled
            | Self::PostgresSilent
            | Self::PostgresHangsUp
            | Self::FailoverSynchronous
            | Self::FailoverAsynchronous
            | Self::RabbitmqEmptied => 0..=NODES,
            _ => NODES..=NODES,
        }
    }

    /// Returns whether the tickets cost nothing.
    pub(super) fn is_free(self) -> bool {
        self == Self::RabbitmqSuspendedFree
    }

    /// Returns whether the fault loses what was acknowledged: then the audit must say so.
    pub(super) fn is_lossy(self) -> bool {
        self == Self::FailoverAsynchronous
    }

    /// Returns whether the installation is another one afterwards, and unfit for the next fault.
    pub(super) fn is_final(self) -> bool {
        matches!(self, Self::FailoverSynchronous | Self::FailoverAsynchronous)
    }

    /// Sets up what the fault needs, before the sale.
    pub(super) async fn prepare(self, at: &mut Installation) -> anyhow::Result<()> {
        match self {
            Self::FailoverSynchronous => at.add_standby(true).await,
            Self::FailoverAsynchronous => at.add_standby(false).await,
            _ => Ok(()),
        }
    }

    /// Injects the fault; `leader` leads the sale.
    pub(super) async fn inject(self, at: &mut Installation, leader: usize) -> anyhow::Result<()> {
        let servers = &mut at.servers;
        match self {
            Self::None => {}
            Self::NodesKilled => restart_each(at, Signal::SIGKILL).await?,
            Self::NodesRestarted => restart_each(at, Signal::SIGTERM).await?,
            Self::LeaderKilled => at.end(leader, Signal::SIGKILL).await?,
            Self::LeaderSuspended => signal(at.pid(leader), Signal::SIGSTOP)?,
            Self::PostgresSuspended => signal(servers.postgres.pid(), Signal::SIGSTOP)?,
            Self::PostgresKilled => block_in_place(|| servers.postgres.kill())?,
            Self::PostgresReadOnly => {
                let read_only = "alter system set default_transaction_read_only = on";
                at.configure_postgres(read_only).await?;
            }
            Self::PostgresSilent => at.proxies[0].mute_open(),
            Self::PostgresHangsUp => at.proxies.iter().for_each(Proxy::hang_up),
            Self::FailoverSynchronous => block_in_place(|| servers.postgres.kill())?,
            Self::FailoverAsynchronous => {
                at.replication()?.hang_up();
                tokio::time::sleep(LAG).await;
                block_in_place(|| at.servers.postgres.kill())?;
            }
            Self::RedisSuspended => signal(servers.redis.pid(), Signal::SIGSTOP)?,
            Self::RedisKilled => block_in_place(|| servers.redis.kill())?,
            Self::RedisFlushed => at.ask_redis(&["FLUSHALL"]).await?,
            // Port 1 has no server: it waits for a primary, and takes no writes.
            Self::RedisReadOnly => at.ask_redis(&["REPLICAOF", "127.0.0.1", "1"]).await?,
            Self::RabbitmqSuspended | Self::RabbitmqSuspendedFree => {
                signal(servers.rabbitmq.pid(), Signal::SIGSTOP)?;
            }
            Self::RabbitmqKilled => block_in_place(|| servers.rabbitmq.kill())?,
            Self::RabbitmqEmptied => block_in_place(|| servers.empty_rabbitmq())?,
            Self::StartWithoutBrokers => {
                at.end(leader, Signal::SIGTERM).await?;
                let servers = &mut at.servers;
                block_in_place(|| servers.redis.kill().and_then(|()| servers.rabbitmq.kill()))?;
                at.begin(leader).await.context("during the outage")?;
            }
        }
        Ok(())
    }

    /// Ends the fault, and waits until what was away is back.
    pub(super) async fn repair(self, at: &mut Installation, leader: usize) -> anyhow::Result<()> {
        let servers = &mut at.servers;
        match self {
            Self::None
            | Self::NodesKilled
            | Self::NodesRestarted
            | Self::RedisFlushed
            | Self::RabbitmqEmptied => {}
            Self::LeaderKilled => at.begin(leader).await?,
            Self::LeaderSuspended => signal(at.pid(leader), Signal::SIGCONT)?,
            Self::PostgresSuspended => signal(servers.postgres.pid(), Signal::SIGCONT)?,
            Self::PostgresKilled => block_in_place(|| servers.postgres.restart())?,
            Self::PostgresReadOnly => {
                let writable = "alter system reset default_transaction_read_only";
                at.configure_postgres(writable).await?;
            }
            Self::PostgresSilent | Self::PostgresHangsUp => {
                at.proxies.iter().for_each(Proxy::cut);
            }
            Self::FailoverSynchronous | Self::FailoverAsynchronous => at.fail_over().await?,
            Self::RedisSuspended => signal(servers.redis.pid(), Signal::SIGCONT)?,
            Self::RedisKilled => block_in_place(|| servers.empty_redis())?,
            Self::RedisReadOnly => at.ask_redis(&["REPLICAOF", "NO", "ONE"]).await?,
            Self::RabbitmqSuspended | Self::RabbitmqSuspendedFree => {
                signal(servers.rabbitmq.pid(), Signal::SIGCONT)?;
            }
            Self::RabbitmqKilled => block_in_place(|| servers.rabbitmq.restart())?,
            Self::StartWithoutBrokers => {
                block_in_place(|| {
                    servers
                        .redis
                        .restart()
                        .and_then(|()| servers.rabbitmq.restart())
                })?;
            }
        }
        Ok(())
    }
}

async fn restart_each(at: &mut Installation, ending: Signal) -> anyhow::Result<()> {
    for index in 0..NODES {
        at.end(index, ending).await?;
        at.begin(index).await?;
        tokio::time::sleep(BETWEEN_RESTARTS).await;
    }
    Ok(())
}

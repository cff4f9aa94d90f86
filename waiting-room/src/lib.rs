//! The waiting room: joining a sale's queue, polling the place in it, and the shared snapshot.
//!
//! Numbers are rows in PostgreSQL, issued by group commit. A poll costs two signature checks and a
//! read of this node's in-memory copy of the line: no Redis and no PostgreSQL.

mod asked;
mod calibration;
pub mod challenge;
mod ended;
mod help;
mod joins;
mod leavings;
mod lookups;
mod queue;
mod quotas;
mod sales;
mod seen;
mod shown;
pub mod store;
mod streams;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use platform::service::{Context, Routes};

use challenge::Challenges;
use joins::JoinLimits;
use sales::Sales;
use streams::Streams;

/// Settings of the waiting room.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Waiting room")]
#[group(skip)]
pub struct Config {
    /// Limit of joins from one address in a minute
    #[arg(
        long,
        env = "ONSALE_JOINS_PER_ADDRESS",
        default_value_t = 600,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub joins_per_address: u32,
    /// Limit of joins to one sale from one network (IPv4 /24, IPv6 /48) in a minute, across all
    /// nodes
    #[arg(
        long,
        env = "ONSALE_JOINS_PER_NETWORK",
        default_value_t = 6_000,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub joins_per_network: u32,
    /// Limit of joins to one lobby, whose order is drawn, from one network; a fiftieth of the lobby
    /// if that is more
    #[arg(
        long,
        env = "ONSALE_LOBBY_JOINS_PER_NETWORK",
        default_value_t = 2_000,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub lobby_joins_per_network: u32,
    /// Limit of open streams of one address (IPv6: one /64)
    #[arg(
        long,
        env = "ONSALE_STREAMS_PER_ADDRESS",
        default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub streams_per_address: u32,
    /// Limit of open streams in all; by default half of the files that the process may open
    #[arg(long, env = "ONSALE_STREAMS", value_parser = clap::value_parser!(u32).range(1..))]
    pub streams: Option<u32>,
    /// Time after which joins go on without the shared limits; no setting of operators.
    #[arg(skip = SHARED_LIMITS_TIMEOUT)]
    pub shared_limits_timeout: Duration,
}

/// Timeout of one call to Redis, for which a batch of joins waits.
const SHARED_LIMITS_TIMEOUT: Duration = Duration::from_millis(50);

impl Default for Config {
    fn default() -> Self {
        Self {
            joins_per_address: 600,
            joins_per_network: 6_000,
            lobby_joins_per_network: 2_000,
            streams_per_address: 100,
            streams: None,
            shared_limits_timeout: SHARED_LIMITS_TIMEOUT,
        }
    }
}

/// State shared by the handlers.
struct Room {
    ctx: Context,
    sales: Arc<Sales>,
    challenges: Challenges,
    streams: Streams,
    /// Epoch of [`now_ms`](Self::now_ms).
    begun: DateTime<Utc>,
}

/// Fraction of `poll_after_ms` before which another poll is too early.
const EARLY_PART: f64 = 0.5;

impl Room {
    /// Milliseconds since the start; wraps around after 49 days.
    fn now_ms(&self, now: DateTime<Utc>) -> u32 {
        let elapsed = (now - self.begun).num_milliseconds();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it wraps around"
        )]
        let elapsed = elapsed as u32;
        elapsed
    }

    /// Time after a response with `poll_after_ms` for which another poll is too early.
    fn too_early_ms(&self, poll_after_ms: u32) -> u32 {
        let scale = self.ctx.config.limits_scale.max(1.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "less than `poll_after_ms`"
        )]
        let early = (f64::from(poll_after_ms) * EARLY_PART / scale) as u32;
        early
    }
}

/// Starts the sweep of ended sales, and returns the routes.
///
/// # Errors
/// Never; the signature is the one that every service has.
#[expect(
    clippy::unused_async,
    reason = "the signature is the one that every service has"
)]
pub async fn start(ctx: Context, config: Config) -> anyhow::Result<Routes> {
    help::METRICS.describe();
    // Polls are answered from the last view of the line without any server: nothing is required.
    let limits = JoinLimits::new(&ctx, &config);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "the cast saturates"
    )]
    let per_address =
        (f64::from(config.streams_per_address) * ctx.config.limits_scale).max(1.0) as u32;
    let room = Arc::new(Room {
        sales: Arc::new(Sales::new(ctx.clone(), limits)),
        challenges: Challenges::new(ctx.keys.derive("challenge")),
        streams: Streams::new(per_address, config.streams),
        begun: ctx.clock.now(),
        ctx: ctx.clone(),
    });
    ctx.spawn("waiting-room.ended", ended::run(Arc::clone(&room)));
    Ok(Routes {
        quick: queue::quick(Arc::clone(&room), &ctx, &config),
        public: queue::routes(room, &ctx, &config),
        ..Routes::default()
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Program {
        #[command(flatten)]
        config: Config,
    }

    #[test]
    fn a_limit_that_lets_nobody_through_is_refused_at_the_start() {
        let limits = [
            "--joins-per-address",
            "--joins-per-network",
            "--lobby-joins-per-network",
            "--streams-per-address",
            "--streams",
        ];
        for limit in limits {
            let parse = |value: &str| Program::try_parse_from(["onsale", limit, value]);
            assert!(parse("0").is_err(), "{limit}");
            assert!(parse("1").is_ok(), "{limit}");
        }
        let usual = Program::try_parse_from(["onsale"]).map(|program| program.config);
        assert_eq!(usual.map(|config| config.streams).ok(), Some(None));
    }
}

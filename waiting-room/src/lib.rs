//! The waiting room: joining a sale's queue, the place in it, and the shared snapshot that
//! everyone who waits may read.
//!
//! Numbers are rows in PostgreSQL, and joins that arrive together share a transaction. A poll costs
//! two signature checks and a look at this node's own copy of the line: no Redis and no
//! PostgreSQL.

mod asked;
mod calibration;
pub mod challenge;
mod ended;
mod joins;
mod leavings;
mod lookups;
mod queue;
mod sales;
mod seen;
mod shown;
pub mod store;
mod streams;

use std::sync::Arc;

use chrono::{DateTime, Utc};
use platform::service::{Context, Routes};

use challenge::Challenges;
use joins::JoinLimits;
use sales::Sales;
use streams::Streams;

/// What the waiting room is told when it starts.
#[derive(Debug, Clone, clap::Args)]
#[command(next_help_heading = "Waiting room")]
#[group(skip)]
pub struct Config {
    /// How many people may join from one address in a minute
    #[arg(
        long,
        env = "ONSALE_JOINS_PER_ADDRESS",
        default_value_t = 600,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub joins_per_address: u32,
    /// How many people may join one sale from one network (IPv4 /24, IPv6 /48) in a minute,
    /// whichever node they reach
    #[arg(
        long,
        env = "ONSALE_JOINS_PER_NETWORK",
        default_value_t = 6_000,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub joins_per_network: u32,
    /// How many people may join one lobby, whose order is drawn, from one network, if that is more
    /// than a fiftieth of all
    #[arg(
        long,
        env = "ONSALE_LOBBY_JOINS_PER_NETWORK",
        default_value_t = 2_000,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub lobby_joins_per_network: u32,
    /// How many streams one address may hold open (IPv6: one /64)
    #[arg(
        long,
        env = "ONSALE_STREAMS_PER_ADDRESS",
        default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(1..)
    )]
    pub streams_per_address: u32,
    /// How many streams all may hold open; without it, half of the files that the process may open
    #[arg(long, env = "ONSALE_STREAMS", value_parser = clap::value_parser!(u32).range(1..))]
    pub streams: Option<u32>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            joins_per_address: 600,
            joins_per_network: 6_000,
            lobby_joins_per_network: 2_000,
            streams_per_address: 100,
            streams: None,
        }
    }
}

/// What the handlers share.
struct Room {
    ctx: Context,
    sales: Arc<Sales>,
    challenges: Challenges,
    streams: Streams,
    /// When this node's count of milliseconds begins.
    begun: DateTime<Utc>,
}

/// Asking after less than this part of the time that was told is too early.
const EARLY_PART: f64 = 0.5;

impl Room {
    /// Milliseconds since the start, which go around after 49 days.
    fn now_ms(&self, now: DateTime<Utc>) -> u32 {
        let elapsed = (now - self.begun).num_milliseconds();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it goes around"
        )]
        let elapsed = elapsed as u32;
        elapsed
    }

    /// For how long after an answer that tells `poll_after_ms` asking again is too early.
    fn too_early_ms(&self, poll_after_ms: u32) -> u32 {
        let scale = self.ctx.config.limits_scale.max(1.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "less than what was told"
        )]
        let early = (f64::from(poll_after_ms) * EARLY_PART / scale) as u32;
        early
    }
}

/// Returns the routes.
///
/// # Errors
/// Never; the signature is the one that every service has.
#[expect(
    clippy::unused_async,
    reason = "the signature is the one that every service has"
)]
pub async fn start(ctx: Context, config: Config) -> anyhow::Result<Routes> {
    // Polls go on without any server, from the last view of the line: nothing is needed.
    let limits = JoinLimits::new(&ctx, &config);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it ends at the bounds"
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

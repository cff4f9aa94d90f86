//! Settings of the waiting room.

use std::time::Duration;

use platform::config::defaults;

/// Timeout of one call to Redis, for which a batch of joins waits.
const SHARED_LIMITS_TIMEOUT: Duration = Duration::from_millis(50);

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

impl Default for Config {
    fn default() -> Self {
        defaults(&[])
    }
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

//! Configuration of every process. Each key is a flag and an environment variable.

mod defaults;
mod durations;
mod invalid;

use std::convert::Infallible;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::pg::Hosts;
use crate::tokens::{KeyRing, SecretError};

pub use defaults::defaults;
pub use durations::{milliseconds, positive_seconds, seconds};
pub use invalid::InvalidConfig;

/// More would exceed what PostgreSQL serves well, pool for pool.
const MAX_DB_CONNECTIONS: u32 = 500;
const MAX_NAMESPACE_BYTES: usize = 60;

const LIMITS: &str = "Limits and timeouts";
const LOGS: &str = "Logs";

const fn local(port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

/// Format of the logs on standard error.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum LogFormat {
    /// One JSON object per event.
    #[default]
    Json,
    /// One line of readable text per event.
    Text,
}

/// Required arguments of [`PlatformConfig`], with empty values.
const REQUIRED: [&str; 3] = ["--database-url=", "--redis-url=", "--amqp-url="];

/// The configuration that every service shares.
#[derive(Args, Clone)]
#[command(next_help_heading = "Servers and listeners")]
pub struct PlatformConfig {
    /// PostgreSQL, such as postgres://user:password@host:5432/onsale
    #[arg(long, env = "ONSALE_DATABASE_URL", hide_env_values = true)]
    pub database_url: SecretString,

    /// Redis, such as redis://:password@host:6379/0
    #[arg(long, env = "ONSALE_REDIS_URL", hide_env_values = true)]
    pub redis_url: SecretString,

    /// RabbitMQ, such as amqp://user:password@host:5672/%2f
    #[arg(long, env = "ONSALE_AMQP_URL", hide_env_values = true)]
    pub amqp_url: SecretString,

    /// Certificate authorities (PEM) that are trusted besides the web's, for all servers
    #[arg(long, env = "ONSALE_CA_FILE")]
    pub ca_file: Option<PathBuf>,

    /// Secrets from which all keys are derived, at least 32 characters each, separated by commas.
    /// The first one signs, all verify; make one with `openssl rand -hex 32`
    #[arg(
        long = "secret",
        env = "ONSALE_SECRET",
        hide_env_values = true,
        value_delimiter = ',',
        value_parser = listed_secret,
        value_name = "NEW,OLD"
    )]
    pub secrets: Vec<SecretString>,

    /// Prefix of every Redis key, exchange and queue
    #[arg(long, env = "ONSALE_NAMESPACE", default_value = "onsale")]
    pub namespace: String,

    /// Address of the public listener, for buyers and apps
    #[arg(long, env = "ONSALE_PUBLIC_ADDR", default_value_t = local(8080))]
    pub public_addr: SocketAddr,

    /// Address of the internal listener, for staff; keep it on a private network
    #[arg(long, env = "ONSALE_INTERNAL_ADDR", default_value_t = local(8081))]
    pub internal_addr: SocketAddr,

    /// Address of the operations listener: /livez, /readyz and /metrics; keep it on a private
    /// network
    #[arg(long, env = "ONSALE_OPS_ADDR", default_value_t = local(9090))]
    pub ops_addr: SocketAddr,

    /// URL at which buyers reach the public listener; used in mails and links
    #[arg(
        long,
        env = "ONSALE_PUBLIC_URL",
        default_value = "http://127.0.0.1:8080"
    )]
    pub public_url: Url,

    /// Networks of the reverse proxies whose X-Forwarded-For is believed, separated by commas
    #[arg(
        long,
        env = "ONSALE_TRUSTED_PROXIES",
        value_delimiter = ',',
        value_parser = listed_network,
        value_name = "NETWORK,…"
    )]
    pub trusted_proxies: Vec<IpNet>,

    /// Most connections from one address (IPv6: one /64); trusted proxies are not counted
    // Many households share an address; a client beyond it would starve the others.
    #[arg(
        long,
        env = "ONSALE_CONNECTIONS_PER_ADDRESS",
        default_value_t = 2_000,
        help_heading = LIMITS
    )]
    pub connections_per_address: usize,

    /// Most connections to PostgreSQL
    #[arg(long, env = "ONSALE_DB_CONNECTIONS", default_value_t = 10, help_heading = LIMITS)]
    pub db_connections: u32,

    /// Multiplies every rate limit
    #[arg(long, env = "ONSALE_LIMITS_SCALE", default_value_t = 1.0, help_heading = LIMITS)]
    pub limits_scale: f64,

    /// Longest time a request may take until its answer begins
    #[arg(
        long = "request-timeout-seconds",
        env = "ONSALE_REQUEST_TIMEOUT_SECONDS",
        value_name = "SECONDS",
        default_value = "10",
        value_parser = seconds,
        help_heading = LIMITS
    )]
    pub request_timeout: Duration,

    /// Time during which connections are accepted after readiness was withdrawn, so that load
    /// balancers notice
    #[arg(
        long = "drain-seconds",
        env = "ONSALE_DRAIN_SECONDS",
        value_name = "SECONDS",
        default_value = "10",
        value_parser = seconds,
        help_heading = LIMITS
    )]
    pub drain: Duration,

    /// Time that running work may take to finish at shutdown
    #[arg(
        long = "shutdown-grace-seconds",
        env = "ONSALE_SHUTDOWN_GRACE_SECONDS",
        value_name = "SECONDS",
        default_value = "60",
        value_parser = seconds,
        help_heading = LIMITS
    )]
    pub shutdown_grace: Duration,

    /// Format of the logs
    #[arg(
        long,
        env = "ONSALE_LOG_FORMAT",
        value_enum,
        default_value_t = LogFormat::Json,
        help_heading = LOGS
    )]
    pub log_format: LogFormat,

    /// Filter of the logs, such as info,sqlx=warn,platform=debug; RUST_LOG applies when it is unset
    #[arg(long = "log", env = "ONSALE_LOG", value_name = "FILTER", help_heading = LOGS)]
    pub log_filter: Option<String>,
}

impl PlatformConfig {
    /// The defaults for the servers at these URLs, on free ports of 127.0.0.1: for tests and for
    /// programs that embed services.
    #[must_use]
    pub fn embedded(
        database_url: impl Into<SecretString>,
        redis_url: impl Into<SecretString>,
        amqp_url: impl Into<SecretString>,
        secret: impl Into<SecretString>,
    ) -> Self {
        Self {
            database_url: database_url.into(),
            redis_url: redis_url.into(),
            amqp_url: amqp_url.into(),
            secrets: vec![secret.into()],
            public_addr: local(0),
            internal_addr: local(0),
            ops_addr: local(0),
            connections_per_address: usize::MAX,
            drain: Duration::ZERO,
            ..defaults(&REQUIRED)
        }
    }

    /// Validates what can be validated without a server, and derives the keys.
    ///
    /// # Errors
    /// The first invalid key, with the reason.
    pub fn validate(&self) -> Result<KeyRing, InvalidConfig> {
        Hosts::parse(self.database_url.expose_secret(), "onsale").map_err(|_| {
            InvalidConfig::new(
                "ONSALE_DATABASE_URL must be a URL of postgres://…, of one host or several",
            )
        })?;
        url_of(
            "ONSALE_REDIS_URL",
            &self.redis_url,
            &["redis", "rediss", "redis+unix", "unix"],
        )?;
        url_of("ONSALE_AMQP_URL", &self.amqp_url, &["amqp", "amqps"])?;
        self.validate_names()?;
        self.validate_log_filter()?;
        self.validate_numbers()?;
        KeyRing::new(&self.secrets).map_err(|error| match error {
            SecretError::Missing => InvalidConfig::new(
                "ONSALE_SECRET is not set; make one with `openssl rand -hex 32` and give every \
                 process the same",
            ),
            SecretError::TooShort => InvalidConfig::new(
                "ONSALE_SECRET: each secret needs at least 32 characters; make one with `openssl \
                 rand -hex 32`",
            ),
        })
    }

    fn validate_names(&self) -> Result<(), InvalidConfig> {
        let plain = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_');
        let namespace = &self.namespace;
        if namespace.is_empty()
            || namespace.len() > MAX_NAMESPACE_BYTES
            || !namespace.bytes().all(plain)
        {
            return Err(InvalidConfig::new(format!(
                "ONSALE_NAMESPACE must be 1 to {MAX_NAMESPACE_BYTES} of a-z, 0-9, - and _, not \
                 {namespace:?}"
            )));
        }
        if !matches!(self.public_url.scheme(), "http" | "https") {
            return Err(InvalidConfig::new(
                "ONSALE_PUBLIC_URL must begin with http:// or https://",
            ));
        }
        Ok(())
    }

    fn validate_log_filter(&self) -> Result<(), InvalidConfig> {
        let filter = self.log_filter.as_deref().unwrap_or_default();
        let parsed: Result<tracing_subscriber::EnvFilter, _> = filter.parse();
        parsed
            .map(drop)
            .map_err(|error| InvalidConfig::new(format!("ONSALE_LOG: {error}")))
    }

    fn validate_numbers(&self) -> Result<(), InvalidConfig> {
        if !(1..=MAX_DB_CONNECTIONS).contains(&self.db_connections) {
            return Err(InvalidConfig::new(format!(
                "ONSALE_DB_CONNECTIONS must be 1 to {MAX_DB_CONNECTIONS}, not {}",
                self.db_connections
            )));
        }
        if !self.limits_scale.is_finite() || self.limits_scale <= 0.0 {
            return Err(InvalidConfig::new(format!(
                "ONSALE_LIMITS_SCALE must be above 0, not {}",
                self.limits_scale
            )));
        }
        if self.request_timeout < Duration::from_secs(1) {
            return Err(InvalidConfig::new(
                "ONSALE_REQUEST_TIMEOUT_SECONDS must be at least 1",
            ));
        }
        if self.shutdown_grace <= self.drain {
            return Err(InvalidConfig::new(
                "ONSALE_SHUTDOWN_GRACE_SECONDS must exceed ONSALE_DRAIN_SECONDS",
            ));
        }
        if self.connections_per_address == 0 {
            return Err(InvalidConfig::new(
                "ONSALE_CONNECTIONS_PER_ADDRESS must be at least 1",
            ));
        }
        let listeners = [self.public_addr, self.internal_addr, self.ops_addr];
        for (at, address) in listeners.iter().enumerate() {
            if address.port() != 0 && listeners[..at].contains(address) {
                return Err(InvalidConfig::new(format!(
                    "ONSALE_PUBLIC_ADDR, ONSALE_INTERNAL_ADDR and ONSALE_OPS_ADDR must differ, \
                     but two are {address}"
                )));
            }
        }
        Ok(())
    }
}

/// Parses one secret of a list. Blanks around it belong to the list: `NEW, OLD` would otherwise
/// derive keys from ` OLD` and refuse, without a word, all that `OLD` signed.
///
/// # Errors
/// None.
pub fn listed_secret(text: &str) -> Result<SecretString, Infallible> {
    Ok(text.trim().into())
}

fn listed_network(text: &str) -> Result<IpNet, ipnet::AddrParseError> {
    text.trim().parse()
}

/// The value of a URL key; the message never repeats it, for it may hold a password.
fn url_of(key: &str, value: &SecretString, schemes: &[&str]) -> Result<Url, InvalidConfig> {
    Url::parse(value.expose_secret())
        .ok()
        .filter(|url| schemes.contains(&url.scheme()))
        .ok_or_else(|| InvalidConfig::new(format!("{key} must be a URL of {}://…", schemes[0])))
}

impl fmt::Debug for PlatformConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PlatformConfig")
            .field("database_url", &WithoutPassword(&self.database_url))
            .field("redis_url", &WithoutPassword(&self.redis_url))
            .field("amqp_url", &WithoutPassword(&self.amqp_url))
            .field("ca_file", &self.ca_file)
            .field("secrets", &self.secrets.len())
            .field("namespace", &self.namespace)
            .field("public_addr", &self.public_addr)
            .field("internal_addr", &self.internal_addr)
            .field("ops_addr", &self.ops_addr)
            .field("public_url", &self.public_url.as_str())
            .field("trusted_proxies", &self.trusted_proxies)
            .field("connections_per_address", &self.connections_per_address)
            .field("db_connections", &self.db_connections)
            .field("limits_scale", &self.limits_scale)
            .field("request_timeout", &self.request_timeout)
            .field("drain", &self.drain)
            .field("shutdown_grace", &self.shutdown_grace)
            .field("log_format", &self.log_format)
            .field("log_filter", &self.log_filter)
            .finish()
    }
}

/// Returns whether `url` is one of Stripe's own; payments at any other go to a stand-in.
#[must_use]
pub fn is_stripe(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default();
    host == "stripe.com" || host.ends_with(".stripe.com")
}

/// The loggable part of a server's URL: scheme, host, port and path.
struct WithoutPassword<'a>(&'a SecretString);

impl fmt::Debug for WithoutPassword<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Ok(url) = Url::parse(self.0.expose_secret()) else {
            return f.write_str("(several hosts, or not a URL)");
        };
        write!(
            f,
            "{}://{}",
            url.scheme(),
            url.host_str().unwrap_or_default()
        )?;
        if let Some(port) = url.port() {
            write!(f, ":{port}")?;
        }
        f.write_str(url.path())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    const SECRET: &str = "0123456789abcdef0123456789abcdef";

    fn config() -> PlatformConfig {
        PlatformConfig::embedded(
            "postgres://onsale:hunter2@db/onsale",
            "redis://:hunter2@redis:6379/1",
            "amqp://onsale:hunter2@mq/%2f",
            SECRET,
        )
    }

    fn refusal(change: impl FnOnce(&mut PlatformConfig)) -> String {
        let mut config = config();
        change(&mut config);
        config.validate().unwrap_err().to_string()
    }

    #[derive(Parser)]
    struct Program {
        #[command(flatten)]
        config: PlatformConfig,
    }

    #[test]
    fn the_defaults_are_valid() {
        assert!(config().validate().is_ok());
    }

    #[test]
    fn blanks_after_the_commas_of_a_list_belong_to_no_secret_and_no_network() {
        let Program { config } = Program::try_parse_from([
            "onsale",
            "--database-url=postgres://db/onsale",
            "--redis-url=redis://redis",
            "--amqp-url=amqp://mq",
            &format!("--secret={SECRET}, old-{SECRET} "),
            "--trusted-proxies=10.0.0.0/8, fd00::/8",
        ])
        .unwrap();
        let secrets: Vec<_> = config
            .secrets
            .iter()
            .map(ExposeSecret::expose_secret)
            .collect();
        assert_eq!(secrets, [SECRET, &format!("old-{SECRET}")]);
        assert_eq!(config.trusted_proxies.len(), 2);
    }

    #[test]
    fn debug_shows_no_secret_and_no_password() {
        let shown = format!("{:?}", config());
        assert!(
            !shown.contains("hunter2") && !shown.contains(SECRET),
            "{shown}"
        );
        assert!(shown.contains("redis://redis:6379/1"), "{shown}");
    }

    #[test]
    fn help_names_every_key() {
        let help = <Program as clap::CommandFactory>::command()
            .render_long_help()
            .to_string();
        for key in [
            "ONSALE_DATABASE_URL",
            "ONSALE_SECRET",
            "ONSALE_TRUSTED_PROXIES",
        ] {
            assert!(help.contains(key), "{key} is missing");
        }
    }

    #[test]
    fn two_secrets_and_networks_are_read_from_one_value() {
        let program = Program::parse_from([
            "onsale",
            "--database-url=postgres://db/onsale",
            "--redis-url=redis://redis",
            "--amqp-url=amqp://mq",
            &format!("--secret={SECRET},{SECRET}-old"),
            "--trusted-proxies=10.0.0.0/8,fd00::/8",
        ]);
        assert_eq!(program.config.secrets.len(), 2);
        assert_eq!(program.config.trusted_proxies.len(), 2);
        assert!(program.config.validate().is_ok());
    }

    #[test]
    fn a_missing_secret_is_refused_with_the_way_to_make_one() {
        assert!(refusal(|config| config.secrets.clear()).contains("openssl rand -hex 32"));
        assert!(refusal(|config| config.secrets = vec!["short".into()]).contains("32 characters"));
    }

    #[test]
    fn a_wrong_value_is_refused_by_the_name_of_its_key() {
        let wrong_url = refusal(|config| config.amqp_url = "redis://:hunter2@mq".into());
        assert!(wrong_url.starts_with("ONSALE_AMQP_URL"), "{wrong_url}");
        assert!(!wrong_url.contains("hunter2"));
        assert!(refusal(|config| config.namespace = "a b".into()).contains("ONSALE_NAMESPACE"));
        assert!(refusal(|config| config.db_connections = 0).contains("ONSALE_DB_CONNECTIONS"));
        assert!(refusal(|config| config.log_filter = Some("a=b=c".into())).contains("ONSALE_LOG"));
        assert!(refusal(|config| config.limits_scale = 0.0).contains("ONSALE_LIMITS_SCALE"));
        assert!(
            refusal(|config| config.request_timeout = Duration::ZERO)
                .contains("ONSALE_REQUEST_TIMEOUT_SECONDS")
        );
        assert!(
            refusal(|config| {
                config.public_addr = local(1);
                config.ops_addr = local(1);
            })
            .contains("ONSALE_OPS_ADDR")
        );
    }
}

//! Where the three servers are.

use std::env;

use anyhow::{Result, bail};

/// The environment variables that name the servers to every part of Onsale.
const VARIABLES: [&str; 3] = ["ONSALE_DATABASE_URL", "ONSALE_REDIS_URL", "ONSALE_AMQP_URL"];

/// Addresses of the three servers, credentials included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Urls {
    /// PostgreSQL.
    pub database: String,
    /// Redis.
    pub redis: String,
    /// RabbitMQ.
    pub amqp: String,
}

impl Urls {
    /// The servers that the environment names; `None` if it names none.
    ///
    /// # Errors
    /// If it names some but not all.
    pub fn from_environment() -> Result<Option<Self>> {
        let values = VARIABLES.map(|name| env::var(name).ok().filter(|value| !value.is_empty()));
        if let [Some(database), Some(redis), Some(amqp)] = values {
            return Ok(Some(Self {
                database,
                redis,
                amqp,
            }));
        }
        let named = |is_set| {
            let pairs = VARIABLES.iter().zip(&values);
            let names = pairs
                .filter(|(_, value)| value.is_some() == is_set)
                .map(|(name, _)| *name);
            names.collect::<Vec<_>>().join(" and ")
        };
        if values.iter().any(Option::is_some) {
            bail!(
                "{} set, but not {}: set all three or none",
                named(true),
                named(false)
            );
        }
        Ok(None)
    }

    /// Each environment variable with its value.
    #[must_use]
    pub fn variables(&self) -> [(&'static str, &str); 3] {
        let [database, redis, amqp] = VARIABLES;
        [
            (database, &self.database),
            (redis, &self.redis),
            (amqp, &self.amqp),
        ]
    }

    /// One `export` line for each variable, to be evaluated by a shell.
    #[must_use]
    pub fn exports(&self) -> String {
        let line = |(name, value): (&str, &str)| {
            format!("export {name}='{}'\n", value.replace('\'', r"'\''"))
        };
        self.variables().map(line).concat()
    }
}

//! Several hosts in one URL, `postgres://user@one:5432,two:5432/onsale`: the one that takes writes
//! is used, as libpq does with `target_session_attrs=read-write`.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, PgConnection};

use super::deadline::within;
use crate::tls;

/// Connection options of each host of a URL, in its order.
#[derive(Debug, Clone)]
pub struct Hosts(Vec<PgConnectOptions>);

impl Hosts {
    /// Reads a URL.
    ///
    /// # Errors
    /// [`sqlx::Error::Configuration`] when it is not valid.
    pub fn parse(url: &str, app_name: &str) -> Result<Self, sqlx::Error> {
        let each = split(url).into_iter().map(|url| {
            let options = PgConnectOptions::from_str(&url)?
                .application_name(app_name)
                // A start-up parameter that poolers refuse, and that only matters to text.
                .extra_float_digits(None);
            Ok(match tls::authorities_file() {
                Some(file) if !url.contains("sslrootcert") => options.ssl_root_cert(file),
                _ => options,
            })
        });
        each.collect::<Result<_, _>>().map(Self)
    }

    /// Returns whether the URL names more than one host.
    #[must_use]
    pub fn are_several(&self) -> bool {
        self.0.len() > 1
    }

    /// Returns the first host that accepts writes; a single one is not probed.
    ///
    /// # Errors
    /// When none is reached and takes writes within `limit` each; what the last one said.
    pub async fn find_primary(&self, limit: Duration) -> Result<PgConnectOptions, sqlx::Error> {
        let mut failure = sqlx::Error::PoolClosed;
        for options in &self.0 {
            if !self.are_several() {
                return Ok(options.clone());
            }
            match within(limit, takes_writes(options)).await {
                Ok(true) => return Ok(options.clone()),
                Ok(false) => {
                    let host = options.get_host();
                    let message = format!("{host} is read-only, and no other host takes writes");
                    failure = std::io::Error::other(message).into();
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }
}

async fn takes_writes(options: &PgConnectOptions) -> Result<bool, sqlx::Error> {
    let mut conn: PgConnection = options.connect().await?;
    let is_read_only = is_read_only(&mut conn).await?;
    // The answer is here; the connection ends either way.
    let _ = conn.close().await;
    Ok(!is_read_only)
}

/// Returns whether the server refuses writes: a standby, or set to read-only.
pub(crate) async fn is_read_only(conn: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select current_setting('transaction_read_only')::bool")
        .persistent(false)
        .fetch_one(conn)
        .await
}

/// One URL for each host of a list.
fn split(url: &str) -> Vec<String> {
    let Some((scheme, rest)) = url.split_once("://") else {
        return vec![url.to_owned()];
    };
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((user, hosts)) => (format!("{user}@"), hosts),
        None => (String::new(), authority),
    };
    hosts
        .split(',')
        .map(|host| format!("{scheme}://{user}{host}{path}"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hosts(url: &str) -> Vec<(String, u16)> {
        let Hosts(each) = Hosts::parse(url, "test").unwrap();
        each.iter()
            .map(|options| (options.get_host().to_owned(), options.get_port()))
            .collect()
    }

    #[test]
    fn a_url_may_name_several_hosts() {
        assert_eq!(
            hosts("postgres://u:p@one,two:5433/onsale?sslmode=require"),
            [("one".to_owned(), 5432), ("two".to_owned(), 5433)]
        );
        assert_eq!(
            hosts("postgres://u:p@[::1]:5432,two/onsale").len(),
            2,
            "an IPv6 address may be one of them"
        );
        assert_eq!(hosts("postgres://u@one/onsale").len(), 1);
    }

    #[test]
    fn a_host_that_is_none_is_refused() {
        assert!(Hosts::parse("postgres://u@one:x,two/onsale", "test").is_err());
    }
}

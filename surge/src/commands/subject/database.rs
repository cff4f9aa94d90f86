//! A database for one measurement.

use anyhow::Context as _;
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use url::Url;

pub(in crate::commands) struct Database {
    pub(in crate::commands) url: SecretString,
    server: SecretString,
    name: &'static str,
}

impl Database {
    /// An empty one called `name`; that of an earlier run goes.
    pub(in crate::commands) async fn make(
        server: &SecretString,
        name: &'static str,
    ) -> anyhow::Result<Self> {
        let mut url = Url::parse(server.expose_secret()).context("ONSALE_DATABASE_URL")?;
        url.set_path(name);
        let database = Self {
            url: SecretString::from(url.to_string()),
            server: server.clone(),
            name,
        };
        database
            .execute("drop database if exists", "with (force)")
            .await?;
        database.execute("create database", "").await?;
        Ok(database)
    }

    pub(in crate::commands) async fn drop_it(&self) -> anyhow::Result<()> {
        self.execute("drop database", "with (force)").await
    }

    async fn execute(&self, verb: &str, how: &str) -> anyhow::Result<()> {
        let mut connection = PgConnection::connect(self.server.expose_secret())
            .await
            .context("connecting to PostgreSQL")?;
        sqlx::query(AssertSqlSafe(format!("{verb} {} {how}", self.name)))
            .execute(&mut connection)
            .await?;
        Ok(())
    }
}

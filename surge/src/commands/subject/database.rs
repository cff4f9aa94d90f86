//! A temporary database for one measurement.

use anyhow::Context as _;
use domain::EventId;
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use url::Url;

pub(in crate::commands) struct Database {
    pub(in crate::commands) url: SecretString,
    server: SecretString,
    name: &'static str,
}

impl Database {
    /// Creates an empty database called `name`, dropping that of an earlier run.
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

    /// Inserts numbers up to `count`, as joins of the accounts up to it would have.
    pub(super) async fn join(&self, event_id: EventId, count: i64) -> anyhow::Result<()> {
        let mut connection = PgConnection::connect(self.url.expose_secret())
            .await
            .context("connecting to the subject's database")?;
        let mut tx = connection.begin().await?;
        sqlx::query("insert into waiting_room.lines (event_id) values ($1) on conflict do nothing")
            .bind(event_id.0)
            .execute(&mut *tx)
            .await?;
        sqlx::query(
            "insert into waiting_room.numbers (event_id, account_id, number, joined_at)
             select $1, n, n, now() from waiting_room.lines l, generate_series(l.joined + 1, $2) n
             where l.event_id = $1",
        )
        .bind(event_id.0)
        .bind(count)
        .execute(&mut *tx)
        .await?;
        sqlx::query(
            "update waiting_room.lines
             set joined = greatest(joined, $2), updated_at = clock_timestamp()
             where event_id = $1",
        )
        .bind(event_id.0)
        .bind(count)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Returns the mean number of claims per transaction, rounded up.
    pub(super) async fn mean_claim_batch(&self, event_id: EventId) -> anyhow::Result<u32> {
        let mut connection = PgConnection::connect(self.url.expose_secret()).await?;
        let mean: i64 = sqlx::query_scalar(
            "select ceil(count(*)::numeric / count(distinct claimed_at))::bigint
             from admission.claims where event_id = $1",
        )
        .bind(event_id.0)
        .fetch_one(&mut connection)
        .await?;
        Ok(u32::try_from(mean)?)
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

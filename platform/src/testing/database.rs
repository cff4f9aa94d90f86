//! Databases for tests, copied from a template that is migrated once per version of the schema.

use std::str::FromStr;
use std::time::Duration;

use domain::clock::{Clock as _, SystemClock};
use sha2::{Digest, Sha256};
use sqlx::postgres::PgConnectOptions;
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, PgConnection};
use url::Url;
use uuid::Uuid;

use crate::pg::MIGRATOR;

/// Held while the template is made, by whichever process comes first.
const TEMPLATE_LOCK: i64 = 0x6f6e_7361_6c65;

/// The prefix of the databases' names; an id follows.
const PREFIX: &str = "test_";
/// A database without sessions that is older than this belongs to a test that was killed.
const ABANDONED_AFTER: Duration = Duration::from_secs(15 * 60);

/// A database that belongs to one test.
#[derive(Debug)]
pub(super) struct TestDatabase {
    pub(super) url: String,
    /// Version 7, so that the age is known.
    id: Uuid,
    server_url: String,
}

impl TestDatabase {
    pub(super) async fn create(server_url: &str) -> Self {
        let mut conn = connect(server_url).await;
        let template = template(&mut conn, server_url).await;
        let database = Self::of(Uuid::now_v7(), server_url);
        let name = database.name();
        run(
            &mut conn,
            format!("CREATE DATABASE {name} TEMPLATE {template}"),
        )
        .await;
        close(conn).await;
        database
    }

    fn of(id: Uuid, server_url: &str) -> Self {
        Self {
            url: url_of(server_url, &name_of(id)),
            id,
            server_url: server_url.to_owned(),
        }
    }

    fn name(&self) -> String {
        name_of(self.id)
    }

    /// The prefix of the test's names in Redis and RabbitMQ.
    pub(super) fn namespace(&self) -> String {
        format!("test-{}", self.id.simple())
    }

    /// The databases of tests that were killed.
    pub(super) async fn abandoned(server_url: &str) -> Vec<Self> {
        let mut conn = connect(server_url).await;
        let idle: Vec<String> = sqlx::query_scalar(
            "select datname from pg_database d where starts_with(datname, $1)
             and not exists (select from pg_stat_activity a where a.datname = d.datname)",
        )
        .bind(PREFIX)
        .fetch_all(&mut conn)
        .await
        .expect("the catalog can be read");
        close(conn).await;
        let ids = idle.iter().filter_map(|name| id_of(name));
        ids.filter(|id| is_abandoned(*id))
            .map(|id| Self::of(id, server_url))
            .collect()
    }

    pub(super) async fn drop(self) {
        let Ok(options) = PgConnectOptions::from_str(&self.server_url) else {
            return;
        };
        let Ok(mut conn) = options.connect().await else {
            return;
        };
        let statement = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name());
        let _ = sqlx::raw_sql(AssertSqlSafe(statement))
            .execute(&mut conn)
            .await;
        close(conn).await;
    }
}

fn name_of(id: Uuid) -> String {
    format!("{PREFIX}{}", id.simple())
}

fn id_of(name: &str) -> Option<Uuid> {
    name.strip_prefix(PREFIX)?.parse().ok()
}

/// Returns whether an id is so old that its test can't be running.
fn is_abandoned(id: Uuid) -> bool {
    let now = u64::try_from(SystemClock.now().timestamp()).unwrap_or(0);
    id.get_timestamp().is_some_and(|made| {
        let (seconds, _) = made.to_unix();
        now.saturating_sub(seconds) > ABANDONED_AFTER.as_secs()
    })
}

/// The name of the template for this schema, made if there is none.
async fn template(conn: &mut PgConnection, server_url: &str) -> String {
    let name = format!("onsale_template_{}", schema_version());
    if !exists(conn, &name).await {
        run(conn, format!("SELECT pg_advisory_lock({TEMPLATE_LOCK})")).await;
        if !exists(conn, &name).await {
            make_template(conn, server_url, &name).await;
        }
        run(conn, format!("SELECT pg_advisory_unlock({TEMPLATE_LOCK})")).await;
    }
    name
}

/// Under another name first, so that a crash leaves no template that is half done.
async fn make_template(conn: &mut PgConnection, server_url: &str, name: &str) {
    let unfinished = format!("{name}_unfinished");
    run(
        conn,
        format!("DROP DATABASE IF EXISTS {unfinished} WITH (FORCE)"),
    )
    .await;
    run(conn, format!("CREATE DATABASE {unfinished}")).await;
    let mut inside = connect(&url_of(server_url, &unfinished)).await;
    MIGRATOR.run(&mut inside).await.expect("the migrations run");
    close(inside).await;
    run(
        conn,
        format!("ALTER DATABASE {unfinished} RENAME TO {name}"),
    )
    .await;
}

fn schema_version() -> String {
    let mut hash = Sha256::new();
    for migration in MIGRATOR.iter() {
        hash.update(migration.version.to_be_bytes());
        hash.update(&*migration.checksum);
    }
    hash.finalize()
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

async fn exists(conn: &mut PgConnection, database: &str) -> bool {
    sqlx::query("SELECT FROM pg_database WHERE datname = $1")
        .bind(database)
        .fetch_optional(conn)
        .await
        .expect("the catalog can be read")
        .is_some()
}

async fn run(conn: &mut PgConnection, statement: String) {
    sqlx::raw_sql(AssertSqlSafe(statement))
        .execute(conn)
        .await
        .expect("the server does it");
}

async fn connect(url: &str) -> PgConnection {
    let options = PgConnectOptions::from_str(url).expect("ONSALE_DATABASE_URL is a URL");
    options
        .connect()
        .await
        .expect("PostgreSQL at ONSALE_DATABASE_URL is up")
}

async fn close(conn: PgConnection) {
    // The server drops what is not closed well, too.
    let _ = conn.close().await;
}

fn url_of(server_url: &str, database: &str) -> String {
    let mut url = Url::parse(server_url).expect("ONSALE_DATABASE_URL is a URL");
    url.set_path(database);
    url.into()
}

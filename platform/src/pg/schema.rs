//! The schema: migrating it, and refusing one that is older than this version.

use std::sync::LazyLock;

use sqlx::migrate::{MigrateError, Migrator};
use sqlx::{PgConnection, PgPool};

/// The schema. A migration works while the version before still runs: it adds, and what nothing
/// needs any more is dropped one version later. Migrations that only a newer version knows are
/// left alone, so that going back one version works.
pub static MIGRATOR: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrator = sqlx::migrate!("../migrations");
    migrator.set_ignore_missing(true);
    migrator
});

/// The failure of a schema check.
#[derive(Debug, thiserror::Error)]
pub enum SchemaError {
    /// Migrations are missing.
    #[error(
        "the database has the schema of migration {found}, and this version needs {needed}: run \
         `onsale migrate` first"
    )]
    Old {
        /// The newest that was applied; 0 for none.
        found: i64,
        /// The newest of this version.
        needed: i64,
    },
    /// It could not be read.
    #[error("the schema's version can't be read")]
    Unread(#[from] sqlx::Error),
}

/// The newest migration that this version needs.
#[must_use]
pub fn needed_migration() -> i64 {
    MIGRATOR
        .iter()
        .map(|migration| migration.version)
        .max()
        .unwrap_or(0)
}

/// The newest migration that was applied; 0 for none.
///
/// # Errors
/// When the database fails.
pub async fn newest_migration(conn: &mut PgConnection) -> Result<i64, sqlx::Error> {
    let has_any: bool = sqlx::query_scalar("select to_regclass('_sqlx_migrations') is not null")
        .persistent(false)
        .fetch_one(&mut *conn)
        .await?;
    if !has_any {
        return Ok(0);
    }
    sqlx::query_scalar("select coalesce(max(version), 0) from _sqlx_migrations where success")
        .persistent(false)
        .fetch_one(conn)
        .await
}

/// Refuses a schema that is older than this version.
///
/// # Errors
/// [`SchemaError`].
pub async fn check_schema(db: &PgPool) -> Result<(), SchemaError> {
    check_schema_on(&mut *db.acquire().await?).await
}

/// [`check_schema`] on one connection.
///
/// # Errors
/// [`SchemaError`].
pub async fn check_schema_on(conn: &mut PgConnection) -> Result<(), SchemaError> {
    let found = newest_migration(conn).await?;
    let needed = needed_migration();
    if found < needed {
        return Err(SchemaError::Old { found, needed });
    }
    Ok(())
}

/// Brings the schema to this version; does nothing on a newer one.
///
/// # Errors
/// When a migration fails or can't get its locks within 5 s; what was applied before it stays.
pub async fn migrate(db: &PgPool) -> Result<(), MigrateError> {
    MIGRATOR.run(db).await
}

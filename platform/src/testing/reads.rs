//! Counting of reads, exactly and at once: PostgreSQL's own statistics come seconds later, from
//! each connection by itself.

use sqlx::{AssertSqlSafe, PgPool};

/// The reads of a table since this was made. A view takes the table's name, so that until the end
/// of the test nothing can be written by it.
#[derive(Debug)]
pub struct Reads {
    db: PgPool,
    sequence: String,
}

impl Reads {
    /// Starts counting the reads of `schema.table`.
    ///
    /// # Panics
    /// When there is no such table.
    pub async fn of(db: &PgPool, schema: &str, table: &str) -> Self {
        let counting = format!(
            "alter table {schema}.{table} rename to counted_{table};
             create sequence {schema}.reads_of_{table};
             create function {schema}.read_{table}() returns setof {schema}.counted_{table}
             language plpgsql as $$ begin
                 perform nextval('{schema}.reads_of_{table}');
                 return query select * from {schema}.counted_{table};
             end $$;
             create view {schema}.{table} as select * from {schema}.read_{table}();"
        );
        let counting = sqlx::raw_sql(AssertSqlSafe(counting)).execute(db).await;
        counting.expect("the table exists");
        Self {
            db: db.clone(),
            sequence: format!("{schema}.reads_of_{table}"),
        }
    }

    /// The number of reads so far.
    ///
    /// # Panics
    /// When the database can't be read.
    pub async fn count(&self) -> i64 {
        let count = format!(
            "select case when is_called then last_value else 0 end from {}",
            self.sequence
        );
        let counting = sqlx::query_scalar(AssertSqlSafe(count)).fetch_one(&self.db);
        counting.await.expect("a sequence is read")
    }
}

/// The rows of a view that statements have read since this was made. Writes go on.
#[derive(Debug)]
pub struct RowsRead {
    db: PgPool,
}

impl RowsRead {
    /// Starts counting the rows of `view` (`schema.name`) that have the given SQL `condition`.
    ///
    /// # Panics
    /// When there is no such view.
    pub async fn of(db: &PgPool, view: &str, condition: &str) -> Self {
        let counting = format!(
            "create sequence public.rows_read;
             create function public.count_row() returns boolean language plpgsql volatile as
             $$ begin perform nextval('public.rows_read'); return true; end $$;
             do $$ begin execute format(
                 'create or replace view {view} as
                  select * from (%s) as counted where not ({condition}) or public.count_row()',
                 rtrim(pg_get_viewdef('{view}'::regclass), '; ')
             ); end $$;"
        );
        let counting = sqlx::raw_sql(AssertSqlSafe(counting)).execute(db).await;
        counting.expect("the view exists");
        Self { db: db.clone() }
    }

    /// The number of rows so far.
    ///
    /// # Panics
    /// When the database can't be read.
    pub async fn count(&self) -> i64 {
        let count = "select case when is_called then last_value else 0 end from public.rows_read";
        let counting = sqlx::query_scalar(count).fetch_one(&self.db);
        counting.await.expect("a sequence is read")
    }
}

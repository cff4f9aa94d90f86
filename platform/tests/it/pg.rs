use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use axum::response::IntoResponse;
use futures_util::future::join_all;
use platform::pg::{self, run_tx};
use platform::problem::Problem;
use platform::testing::{Proxy, TestApp, eventually};
use secrecy::ExposeSecret;
use sqlx::{AssertSqlSafe, Connection, Executor, PgPool};
use tokio::sync::Barrier;

const SOON: Duration = Duration::from_secs(30);

/// A pool that reaches the app's database through a proxy.
async fn behind_proxy(app: &TestApp) -> (Proxy, PgPool) {
    let url = app.ctx.config.database_url.expose_secret();
    let (proxy, url) = Proxy::before(url).await;
    (proxy, pg::connect(&url, 4, "test").await.unwrap())
}

async fn ask(pool: &PgPool) -> Result<i32, sqlx::Error> {
    sqlx::query_scalar("select 1").fetch_one(pool).await
}

/// Creates the table `single`, with `ids`.
async fn create_single(pool: &PgPool, ids: &[i32]) {
    pool.execute("CREATE TABLE single (id int PRIMARY KEY)")
        .await
        .unwrap();
    sqlx::query("INSERT INTO single SELECT unnest($1::int[])")
        .bind(ids)
        .execute(pool)
        .await
        .unwrap();
}

#[tokio::test]
async fn of_two_deadlocked_transactions_both_end_up_committed() {
    let app = TestApp::start().await;
    let pool = &app.ctx.db;
    pool.execute("CREATE TABLE pair (id int PRIMARY KEY, n int NOT NULL)")
        .await
        .unwrap();
    pool.execute("INSERT INTO pair VALUES (1, 0), (2, 0)")
        .await
        .unwrap();
    let both_hold_one = Barrier::new(2);
    let attempts = AtomicU32::new(0);
    let bump = async |first: i32, second: i32, tries: AtomicU32| {
        let (attempts, tries, barrier) = (&attempts, &tries, &both_hold_one);
        run_tx(pool, "test", move |tx| {
            Box::pin(async move {
                attempts.fetch_add(1, Ordering::SeqCst);
                let update = "UPDATE pair SET n = n + 1 WHERE id = $1";
                sqlx::query(update).bind(first).execute(&mut **tx).await?;
                if tries.fetch_add(1, Ordering::SeqCst) == 0 {
                    barrier.wait().await;
                }
                sqlx::query(update).bind(second).execute(&mut **tx).await?;
                Ok::<_, sqlx::Error>(())
            })
        })
        .await
    };
    let (one, two) = tokio::join!(bump(1, 2, AtomicU32::new(0)), bump(2, 1, AtomicU32::new(0)));
    one.unwrap();
    two.unwrap();
    assert!(
        attempts.load(Ordering::SeqCst) >= 3,
        "there was no deadlock"
    );
    let total: i64 = sqlx::query_scalar("SELECT sum(n) FROM pair")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(total, 4);
    app.finish().await;
}

/// Waits until no transaction of the database is idle.
async fn until_ended(pool: &PgPool) {
    let idle = "SELECT EXISTS (SELECT FROM pg_stat_activity
                WHERE datname = current_database() AND state LIKE 'idle in%')";
    while sqlx::query_scalar(idle).fetch_one(pool).await.unwrap() {}
}

#[tokio::test]
async fn a_transaction_that_was_ended_for_a_pause_is_run_again() {
    let app = TestApp::start().await;
    let pool = &app.ctx.db;
    create_single(pool, &[]).await;
    let attempts = AtomicU32::new(0);
    let counted = &attempts;
    run_tx(pool, "test", |tx| {
        Box::pin(async move {
            tx.execute("INSERT INTO single VALUES (1)").await?;
            if counted.fetch_add(1, Ordering::SeqCst) == 0 {
                // As if this process were suspended here.
                tx.execute("SET LOCAL idle_in_transaction_session_timeout = '10ms'")
                    .await?;
                tokio::time::timeout(SOON, until_ended(pool)).await.unwrap();
            }
            tx.execute("UPDATE single SET id = 2").await?;
            Ok::<_, sqlx::Error>(())
        })
    })
    .await
    .unwrap();
    assert_eq!(attempts.load(Ordering::SeqCst), 2);
    let ids: Vec<i32> = sqlx::query_scalar("SELECT id FROM single")
        .fetch_all(pool)
        .await
        .unwrap();
    assert_eq!(ids, [2]);
    app.finish().await;
}

/// Whoever waits for a lock of a process that is suspended gets it, and no error.
#[tokio::test]
async fn a_transaction_left_idle_holds_nobody_up_for_long() {
    let app = TestApp::start().await;
    let pool = &app.ctx.db;
    create_single(pool, &[1]).await;
    let mut silent = pool.begin().await.unwrap();
    silent.execute("UPDATE single SET id = 2").await.unwrap();
    pool.execute("UPDATE single SET id = 3").await.unwrap();
    assert!(silent.commit().await.is_err());
    app.finish().await;
}

#[tokio::test]
async fn an_error_rolls_everything_back() {
    let app = TestApp::start().await;
    let pool = &app.ctx.db;
    create_single(pool, &[]).await;
    let result = run_tx(pool, "test", |tx| {
        Box::pin(async move {
            tx.execute("INSERT INTO single VALUES (1)").await?;
            Err::<(), _>(sqlx::Error::RowNotFound)
        })
    })
    .await;
    assert!(result.is_err());
    let rows: i64 = sqlx::query_scalar("SELECT count(*) FROM single")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(rows, 0);
    app.finish().await;
}

#[tokio::test]
async fn a_transaction_that_failed_holds_no_lock_when_its_error_is_returned() {
    let app = TestApp::start().await;
    let pool = &app.ctx.db;
    // Several connections, so that the next transaction does not run on the one that rolls back.
    let opened = join_all((0..4).map(|_| pool.acquire())).await;
    drop(opened);
    for round in 0..50 {
        let result = run_tx(pool, "test", |tx| {
            Box::pin(async move {
                let lock = sqlx::query_scalar("select pg_try_advisory_xact_lock(7)");
                let is_free: bool = lock.fetch_one(&mut **tx).await?;
                assert!(is_free, "round {round}");
                Err::<(), _>(sqlx::Error::RowNotFound)
            })
        });
        assert!(matches!(result.await, Err(sqlx::Error::RowNotFound)));
    }
    app.finish().await;
}

#[tokio::test]
async fn a_transaction_runs_on_any_thread_and_may_borrow() {
    let app = TestApp::start().await;
    let pool = app.ctx.db.clone();
    let task = tokio::spawn(async move {
        let name = String::from("borrowed");
        let name = name.as_str();
        run_tx(&pool, "test", |tx| {
            Box::pin(async move {
                tx.ping().await?;
                Ok::<_, sqlx::Error>(name.len())
            })
        })
        .await
    });
    assert_eq!(task.await.unwrap().unwrap(), 8);
    app.finish().await;
}

#[tokio::test]
async fn silent_connections_are_replaced_within_seconds_and_give_their_places_back() {
    let app = TestApp::start().await;
    let (proxy, pool) = behind_proxy(&app).await;
    // As many connections as the pool may have, all just used.
    let held = join_all((0..4).map(|_| pool.acquire())).await;
    assert!(held.iter().all(Result::is_ok), "{held:?}");
    drop(held);
    eventually(SOON, async || pool.num_idle() == 4).await;
    proxy.mute_open();
    let begun = Instant::now();
    let answers = join_all((0..4).map(|_| pg::within(Duration::from_secs(1), ask(&pool)))).await;
    for answer in answers {
        assert!(answer.is_ok() || answer.is_err_and(|error| pg::is_away(&error)));
    }
    let answers = join_all((0..8).map(|_| ask(&pool))).await;
    assert!(answers.iter().all(Result::is_ok), "{answers:?}");
    // The kernel would wait for a quarter of an hour.
    assert!(begun.elapsed() < 2 * SOON, "took {:?}", begun.elapsed());
    proxy.cut();
    pool.close().await;
    app.finish().await;
}

#[tokio::test]
async fn a_proxy_without_a_server_behind_it_is_a_busy_moment() {
    let app = TestApp::start().await;
    let (proxy, pool) = behind_proxy(&app).await;
    proxy.hang_up();
    let error = ask(&pool).await.unwrap_err();
    assert!(pg::is_away(&error), "{error}");
    let error = ask(&pool).await.unwrap_err();
    assert!(pg::is_away(&error), "at connect: {error}");
    let answer = Problem::from(error).into_response();
    assert_eq!(answer.status(), 503);
    assert!(answer.headers().contains_key("retry-after"));
    proxy.cut();
    assert_eq!(ask(&pool).await.unwrap(), 1);
    pool.close().await;
    app.finish().await;
}

#[tokio::test]
async fn a_server_that_turned_read_only_is_a_busy_moment_and_its_connections_are_replaced() {
    let app = TestApp::start().await;
    let pool = &app.ctx.db;
    pool.execute("create table noted (id int)").await.unwrap();
    let database: String = sqlx::query_scalar("select current_database()")
        .fetch_one(pool)
        .await
        .unwrap();
    let alter = |to: &str| AssertSqlSafe(format!("alter database {database} {to}"));
    pool.execute(alter("set default_transaction_read_only = on"))
        .await
        .unwrap();
    let fresh = pg::connect(app.ctx.config.database_url.expose_secret(), 2, "test")
        .await
        .unwrap();
    let refused = sqlx::query("insert into noted values (1)")
        .execute(&fresh)
        .await
        .unwrap_err();
    assert!(pg::is_away(&refused), "{refused}");
    assert_eq!(Problem::from(refused).into_response().status(), 503);

    let mut conn = pool.acquire().await.unwrap();
    conn.execute("set default_transaction_read_only = off")
        .await
        .unwrap();
    conn.execute(alter("reset default_transaction_read_only"))
        .await
        .unwrap();
    drop(conn);
    // Its connections are read-only as long as they live.
    eventually(SOON, async || {
        run_tx(&fresh, "test", |tx| {
            Box::pin(async move {
                tx.execute("insert into noted values (1)").await?;
                Ok::<_, sqlx::Error>(())
            })
        })
        .await
        .is_ok()
    })
    .await;
    fresh.close().await;
    app.finish().await;
}

#[tokio::test]
async fn services_have_time_limits_and_commands_wait_only_for_locks() {
    let app = TestApp::start().await;
    let url = app.ctx.config.database_url.expose_secret();
    let limits = async |pool: &PgPool| {
        let mut limits = Vec::new();
        for limit in ["statement_timeout", "lock_timeout"] {
            let shown: String = sqlx::query_scalar("select current_setting($1)")
                .bind(limit)
                .fetch_one(pool)
                .await
                .unwrap();
            limits.push(shown);
        }
        limits
    };
    assert_eq!(limits(&app.ctx.db).await, ["15s", "5s"]);
    let command = pg::connect_unlimited(url, 1, "test").await.unwrap();
    assert_eq!(limits(&command).await, ["0", "5s"]);
    command.close().await;
    app.finish().await;
}

#[tokio::test]
async fn the_first_host_that_takes_writes_is_used() {
    let app = TestApp::start().await;
    let url = app.ctx.config.database_url.expose_secret();
    let (scheme, rest) = url.split_once('@').unwrap();
    let several = format!("{scheme}@127.0.0.1:1,{rest}");
    let pool = pg::connect(&several, 1, "test").await.unwrap();
    assert_eq!(ask(&pool).await.unwrap(), 1);
    pool.close().await;
    app.finish().await;
}

#[tokio::test]
async fn a_schema_older_than_the_program_is_refused_and_a_newer_one_is_left_alone() {
    let app = TestApp::start().await;
    let pool = &app.ctx.db;
    pg::check_schema(pool).await.unwrap();
    pool.execute(
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
         values (999999, 'of a newer version', true, '', 0)",
    )
    .await
    .unwrap();
    pg::migrate(pool).await.unwrap();
    pg::check_schema(pool).await.unwrap();

    pool.execute("delete from _sqlx_migrations where version > 1")
        .await
        .unwrap();
    let old = pg::check_schema(pool).await.unwrap_err().to_string();
    assert!(old.contains("`onsale migrate`"), "{old}");
    pool.execute("drop table _sqlx_migrations").await.unwrap();
    let none = pg::check_schema(pool).await.unwrap_err().to_string();
    assert!(none.contains("migration 0"), "{none}");
    app.finish().await;
}

//! Start, readiness and shutdown of a process.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use platform::amqp::dead_letters;
use platform::config::PlatformConfig;
use platform::health::Dependency;
use platform::service::{Context, Routes, launch, serve};
use platform::testing::{Proxy, TestApp, eventually};
use platform::topology;
use secrecy::ExposeSecret;
use serde_json::Value;
use tokio::sync::Notify;

const SOON: Duration = Duration::from_secs(30);

async fn readiness(ops: std::net::SocketAddr) -> (u16, Value) {
    let response = reqwest::get(format!("http://{ops}/readyz")).await.unwrap();
    (response.status().as_u16(), response.json().await.unwrap())
}

/// A route that waits to be let go, and says when it was entered.
fn slow(entered: &Arc<Notify>, go_on: &Arc<Notify>) -> Routes {
    let (entered, go_on) = (entered.clone(), go_on.clone());
    let handler = async move || {
        entered.notify_one();
        go_on.notified().await;
        "done"
    };
    Routes {
        public: Router::new().route("/slow", get(handler)),
        ..Routes::default()
    }
}

#[tokio::test]
async fn a_process_is_live_ready_and_measured() {
    let app = TestApp::start().await;
    let running = app.serve(Routes::default()).await;
    let ops = running.ops_addr;
    assert_eq!(
        reqwest::get(format!("http://{ops}/livez"))
            .await
            .unwrap()
            .status(),
        200
    );
    let (status, answer) = readiness(ops).await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!(answer["ready"], true);
    let metrics = reqwest::get(format!("http://{ops}/metrics")).await.unwrap();
    assert!(
        metrics
            .text()
            .await
            .unwrap()
            .contains("db_pool_connections")
    );
    running.stop().await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_needed_makes_the_process_unready_and_another_one_degraded() {
    let app = TestApp::start().await;
    let config = &app.ctx.config;
    let (postgres, database_url) = Proxy::before(config.database_url.expose_secret()).await;
    let (redis, redis_url) = Proxy::before(config.redis_url.expose_secret()).await;
    let (rabbitmq, amqp_url) = Proxy::before(config.amqp_url.expose_secret()).await;
    let ctx = app
        .another_node_with(|config| {
            config.database_url = database_url.into();
            config.redis_url = redis_url.into();
            config.amqp_url = amqp_url.into();
        })
        .await;
    ctx.health.needs(&[Dependency::Postgres]);
    let running = serve(&ctx, Routes::default()).await.unwrap();
    let ops = running.ops_addr;
    let shows = async |expected: u16, what: &str| {
        eventually(SOON, async || {
            let (status, answer) = readiness(ops).await;
            status == expected && answer.to_string().contains(what)
        })
        .await;
    };
    shows(200, "\"degraded\":[]").await;
    redis.hang_up();
    rabbitmq.hang_up();
    shows(200, "\"degraded\":[\"redis: ").await;
    shows(200, "\"rabbitmq: ").await;
    postgres.hang_up();
    shows(503, "\"ready\":false").await;
    let livez = format!("http://{ops}/livez");
    assert_eq!(reqwest::get(livez).await.unwrap().status(), 200);
    for proxy in [&postgres, &redis, &rabbitmq] {
        proxy.cut();
    }
    shows(200, "\"degraded\":[]").await;
    running.stop().await.unwrap();
    app.finish().await;
}

#[tokio::test]
async fn a_process_on_a_read_only_database_is_not_ready() {
    let app = TestApp::start().await;
    let database: String = sqlx::query_scalar("select current_database()")
        .fetch_one(&app.ctx.db)
        .await
        .unwrap();
    let read_only = format!("alter database {database} set default_transaction_read_only = on");
    sqlx::raw_sql(sqlx::AssertSqlSafe(read_only))
        .execute(&app.ctx.db)
        .await
        .unwrap();
    let ctx = app.another_node().await;
    ctx.health.needs(&[Dependency::Postgres]);
    let running = serve(&ctx, Routes::default()).await.unwrap();
    eventually(SOON, async || {
        let (status, answer) = readiness(running.ops_addr).await;
        (status, &answer["postgres"]) == (503, &Value::from("read-only"))
    })
    .await;
    running.stop().await.unwrap();
    app.finish().await;
}

#[tokio::test]
async fn a_process_starts_without_redis_and_rabbitmq_and_takes_them_when_they_come() {
    let app = TestApp::start().await;
    let (redis, redis_url) = Proxy::before(app.ctx.config.redis_url.expose_secret()).await;
    let (rabbitmq, amqp_url) = Proxy::before(app.ctx.config.amqp_url.expose_secret()).await;
    redis.hang_up();
    rabbitmq.hang_up();
    let mut config = PlatformConfig::clone(&app.ctx.config);
    config.redis_url = redis_url.into();
    config.amqp_url = amqp_url.into();
    let launched = launch("test", config, async |_| Ok(Routes::default()));
    let launched = tokio::time::timeout(2 * SOON, Box::pin(launched)).await;
    let running = launched.expect("it starts without them").unwrap();
    eventually(SOON, async || {
        let (status, answer) = readiness(running.ops_addr).await;
        assert_eq!(status, 200, "{answer}");
        answer["degraded"].as_array().unwrap().len() == 2
    })
    .await;
    redis.cut();
    rabbitmq.cut();
    eventually(SOON, async || {
        let (_, answer) = readiness(running.ops_addr).await;
        answer["degraded"].as_array().unwrap().is_empty()
    })
    .await;
    // The queues are declared without anybody's doing.
    let queue = topology::payment_bookings();
    eventually(SOON, async || {
        dead_letters::count(&app.ctx.broker, &queue.name)
            .await
            .is_ok()
    })
    .await;
    running.stop().await.unwrap();
    app.finish().await;
}

#[tokio::test]
async fn a_process_refuses_a_schema_that_is_older_than_it_needs() {
    let app = TestApp::start().await;
    sqlx::query("delete from _sqlx_migrations where version > 1")
        .execute(&app.ctx.db)
        .await
        .unwrap();
    let config = PlatformConfig::clone(&app.ctx.config);
    let launched = launch("test", config, async |_| Ok(Routes::default()));
    let error = Box::pin(launched).await.unwrap_err().to_string();
    assert!(error.contains("run `onsale migrate` first"), "{error}");
    app.finish().await;
}

#[tokio::test]
async fn soft_shutdown_withdraws_readiness_and_lets_requests_and_tasks_finish() {
    let app = TestApp::start().await;
    let (entered, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let running = app.serve(slow(&entered, &go_on)).await;
    let (public, ops) = (running.public_addr, running.ops_addr);
    let (soft, task_ended) = (app.ctx.shutdown.soft().clone(), Arc::new(Notify::new()));
    let ends = task_ended.clone();
    app.ctx.spawn("loop", async move {
        soft.cancelled().await;
        ends.notify_one();
        Ok(())
    });
    let request = tokio::spawn(reqwest::get(format!("http://{public}/slow")));
    entered.notified().await;

    let stopping = tokio::spawn(running.stop());
    task_ended.notified().await;
    let (status, answer) = readiness(ops).await;
    assert_eq!(
        (status, &answer["stopping"]),
        (503, &Value::from(true)),
        "{answer}"
    );
    eventually(SOON, async || {
        tokio::net::TcpStream::connect(public).await.is_err()
    })
    .await;
    assert!(!stopping.is_finished());

    go_on.notify_one();
    assert_eq!(
        request.await.unwrap().unwrap().text().await.unwrap(),
        "done"
    );
    tokio::time::timeout(SOON, stopping)
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert!(reqwest::get(format!("http://{ops}/livez")).await.is_err());
}

#[tokio::test]
async fn a_task_that_fails_ends_the_process_with_its_name() {
    let app = TestApp::start().await;
    let running = app.serve(Routes::default()).await;
    app.ctx.spawn("release loop", async { anyhow::bail!("no") });
    let ended = tokio::time::timeout(SOON, running.finish()).await.unwrap();
    assert_eq!(ended.unwrap_err().to_string(), "release loop failed");
}

#[tokio::test]
async fn work_that_outlasts_the_grace_time_is_dropped_and_reported() {
    let clock = domain::clock::SystemClock::shared();
    let app = TestApp::start_with(clock, |config| {
        config.shutdown_grace = Duration::from_secs(1);
    })
    .await;
    let (entered, go_on) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let running = app.serve(slow(&entered, &go_on)).await;
    let url = format!("http://{}/slow", running.public_addr);
    let request = tokio::spawn(reqwest::get(url));
    entered.notified().await;
    app.ctx.spawn("stays", std::future::pending());
    let ended = tokio::time::timeout(SOON, running.stop()).await.unwrap();
    assert!(ended.is_err());
    assert!(request.await.unwrap().is_err());
}

#[tokio::test]
async fn a_service_that_cannot_start_leaves_nothing_running() {
    let app = TestApp::start().await;
    let config = platform::config::PlatformConfig::clone(&app.ctx.config);
    let (sender, mut left) = tokio::sync::oneshot::channel::<()>();
    let started = platform::service::launch("test", config, async move |ctx: Context| {
        ctx.spawn("holds the sender", async move {
            let _sender = sender;
            std::future::pending().await
        });
        anyhow::bail!("the schema is too old")
    });
    let error = Box::pin(started).await.unwrap_err();
    assert_eq!(error.to_string(), "the schema is too old");
    assert!(
        left.try_recv()
            .is_err_and(|state| { state == tokio::sync::oneshot::error::TryRecvError::Closed })
    );
    app.finish().await;
}

#[tokio::test]
async fn redis_answers_or_fails_within_its_limit() {
    let app = TestApp::start().await;
    eventually(SOON, async || app.ctx.redis.ping().await.is_ok()).await;
    app.finish().await;

    // The runtime's clock moves on by itself as soon as everybody waits for it, and by no stall.
    tokio::time::pause();
    // Accepts connections and never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("redis://{}", silent.local_addr().unwrap());
    let redis = platform::redis::connect(&url.into()).unwrap();
    let limit = platform::redis::COMMAND_TIMEOUT * 2;
    let error = tokio::time::timeout(limit, redis.ping()).await.unwrap();
    let error = error.unwrap_err();
    assert!(platform::redis::is_unavailable(&error), "{error}");
}

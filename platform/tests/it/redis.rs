//! Servers of Redis that answer and can't serve.

use domain::clock::SystemClock;
use platform::config::{InvalidConfig, PlatformConfig};
use platform::problem::{Kind, Problem};
use platform::redis::{Redis, Script, cmd, pipe};
use platform::service::Context;
use platform::testing::{OwnRedis, TestApp};
use redis::RedisResult;

#[tokio::test]
async fn a_redis_cluster_is_refused_at_the_start_and_the_reason_is_said() {
    let cluster = OwnRedis::start(&["--cluster-enabled", "yes"]).await;
    let app = TestApp::start().await;
    let mut config = PlatformConfig::clone(&app.ctx.config);
    config.redis_url = cluster.url().into();
    let refused = Context::connect("test", config, SystemClock::shared()).await;
    let error = refused.expect_err("a cluster is not supported");
    assert!(error.is::<InvalidConfig>(), "its exit status is 64");
    let said = error.to_string();
    for part in ["ONSALE_REDIS_URL", "Redis Cluster", "not supported"] {
        assert!(said.contains(part), "{said}");
    }
    app.finish().await;
}

/// Writes as a command, in a transaction and in a script.
async fn writes(redis: &Redis) -> [RedisResult<()>; 3] {
    let mut redis = redis.clone();
    let set = cmd("SET").arg("key").arg(1).clone();
    let script = Script::new("return redis.call('SET', KEYS[1], 1)");
    [
        set.query_async(&mut redis).await,
        pipe()
            .atomic()
            .add_command(set.clone())
            .query_async(&mut redis)
            .await,
        script.key("key").invoke_async(&mut redis).await,
    ]
}

#[tokio::test]
async fn a_replica_and_a_full_redis_are_away_and_come_back() {
    let server = OwnRedis::start(&["--maxmemory-policy", "noeviction"]).await;
    let redis = server.connect();
    for [refuse, take] in OwnRedis::REFUSING_WRITES {
        server.command(refuse).await;
        for write in writes(&redis).await {
            let problem = Problem::from(write.expect_err("writes are refused"));
            assert_eq!(problem.kind(), Kind::Overloaded, "{refuse:?}");
        }
        server.command(take).await;
        for write in writes(&redis).await {
            write.expect("writes are taken again");
        }
    }
}

#[tokio::test]
async fn a_command_that_is_wrong_is_a_defect() {
    let server = OwnRedis::start(&[]).await;
    let wrong: RedisResult<()> = cmd("SET").query_async(&mut server.connect()).await;
    let problem = Problem::from(wrong.expect_err("it has no key"));
    assert_eq!(problem.kind(), Kind::Internal);
}

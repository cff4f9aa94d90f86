//! Durability: during a sale Redis is flushed and killed, and an admission node is killed; nothing
//! that was acknowledged is lost.

#![expect(clippy::unwrap_used, reason = "a test's own steps")]

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::Context as _;
use chrono::{DateTime, TimeDelta, Utc};
use platform::testing::eventually;
use secrecy::SecretString;
use serde_json::json;
use sqlx::PgPool;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::crowd::{Crowd, Person};
use crate::system::{System, in_running_time};

/// People called per minute.
const RATE: u32 = 600;
const PER_SECOND: u64 = 10;
/// Longest time a step may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// A private Redis; dropping it removes its files.
struct OwnRedis {
    server: Option<servers::Redis>,
    dir: PathBuf,
}

impl OwnRedis {
    async fn start() -> Self {
        let dir =
            std::env::temp_dir().join(format!("onsale-outage-{:016x}", rand::random::<u64>()));
        let at = dir.clone();
        let server = blocking(move || servers::Redis::start(&at)).await.unwrap();
        Self {
            server: Some(server),
            dir,
        }
    }

    fn url(&self) -> String {
        self.server.as_ref().unwrap().url()
    }

    async fn flush(&self) {
        let url = SecretString::from(self.url());
        let redis = platform::redis::connect(&url).unwrap();
        let flushed: String = platform::redis::cmd("FLUSHALL")
            .query_async(&mut redis.clone())
            .await
            .unwrap();
        assert_eq!(flushed, "OK");
    }

    async fn kill(&mut self) {
        self.change(servers::Redis::kill).await;
    }

    /// Restarts it empty.
    async fn return_empty(&mut self) {
        let files = self.dir.join("appendonlydir");
        self.change(move |server| {
            fs::remove_dir_all(files)?;
            server.restart()
        })
        .await;
    }

    async fn change(
        &mut self,
        change: impl FnOnce(&mut servers::Redis) -> anyhow::Result<()> + Send + 'static,
    ) {
        let mut server = self.server.take().unwrap();
        let changed = blocking(move || change(&mut server).map(|()| server)).await;
        self.server = Some(changed.unwrap());
    }
}

impl Drop for OwnRedis {
    fn drop(&mut self) {
        drop(self.server.take());
        let _ = fs::remove_dir_all(Path::new(&self.dir));
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    tokio::task::spawn_blocking(work).await?
}

/// Waits, at most `limit` of the time that the machine runs the test, until so many more are
/// counted.
async fn grows(counter: &AtomicU64, by: u64, limit: Duration) {
    let enough = counter.load(Ordering::Relaxed) + by;
    in_running_time(limit, async || counter.load(Ordering::Relaxed) >= enough).await;
}

async fn everybody(people: &mut JoinSet<anyhow::Result<Person>>) -> Vec<Person> {
    let mut all = Vec::new();
    while let Some(person) = people.join_next().await {
        all.push(person.unwrap().unwrap());
    }
    all
}

async fn database(system: &System) -> anyhow::Result<PgPool> {
    let mut environment = system.environment();
    let url = environment.find(|(key, _)| *key == "ONSALE_DATABASE_URL");
    Ok(PgPool::connect(&url.context("a database")?.1).await?)
}

/// Asserts I7: places were called in order, of those who were present all the time.
async fn assert_called_in_order(db: &PgPool, people: &[Person]) {
    let runs: Vec<Vec<i64>> = sqlx::query_scalar("select called from admission.moves order by seq")
        .fetch_all(db)
        .await
        .unwrap();
    let late = people.iter().filter(|person| person.was_late);
    let late: HashSet<i64> = late.map(|person| person.place).collect();
    let runs = runs.concat();
    let places = runs.chunks(2).flat_map(|run| run[0]..=run[1]);
    let called: Vec<i64> = places.filter(|place| !late.contains(place)).collect();
    assert!(!called.is_empty() && called.is_sorted(), "{called:?}");
}

/// Asserts I9: no 60 s have more claims than the rate.
async fn assert_rate_held(db: &PgPool) {
    let claims: Vec<DateTime<Utc>> =
        sqlx::query_scalar("select claimed_at from admission.claims order by claimed_at")
            .fetch_all(db)
            .await
            .unwrap();
    for (first, at) in claims.iter().enumerate() {
        let end = *at + TimeDelta::seconds(60);
        let minute = claims[first..].iter().take_while(|claim| **claim < end);
        let minute = minute.count();
        assert!(minute <= RATE as usize, "{minute} claims from {at}");
    }
}

/// Asserts I12: each place and each account claimed once, and has the pass that was returned.
async fn assert_one_pass_each(db: &PgPool, crowd: &Crowd, people: &[Person]) {
    let doubles: i64 =
        sqlx::query_scalar("select count(*) - count(distinct account_id) from admission.claims")
            .fetch_one(db)
            .await
            .unwrap();
    assert_eq!(doubles, 0);
    for person in people {
        if let Some(pass) = &person.pass {
            assert_eq!(&crowd.claim(person).await.unwrap(), pass);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sale_goes_on_while_redis_forgets_dies_and_returns_empty() {
    let mut redis = OwnRedis::start().await;
    let settings = [
        ("ONSALE_REDIS_URL", redis.url()),
        ("ONSALE_LIMITS_SCALE", "1000".to_owned()),
    ];
    let system = System::start_with(&["all"], settings).await.unwrap();
    let event = system.event(400, RATE, json!({})).await.unwrap();
    let db = database(&system).await.unwrap();
    let nodes = vec![system.public_url("admission")];
    let crowd = Arc::new(Crowd::new(&system, event, nodes).unwrap());
    let tally = &crowd.tally;
    let stop = CancellationToken::new();
    let early = everybody(&mut crowd.come(1_001..1_002, &stop)).await;
    crowd.give_back(&early[0]).await.unwrap();
    let mut people = crowd.come(1..261, &stop);
    grows(&tally.claimed, 2 * PER_SECOND, PATIENCE).await;

    redis.flush().await;
    let mut late = crowd.come(261..281, &stop);
    grows(&tally.claimed, 2 * PER_SECOND, PATIENCE).await;

    redis.kill().await;
    let polled = tally.polled.load(Ordering::Relaxed);
    let mut later = crowd.come(281..301, &stop);
    // Twelve seconds of claims at 95 % of the rate.
    let limit = Duration::from_millis(12_632);
    grows(&tally.claimed, 12 * PER_SECOND, limit).await;
    assert!(
        tally.polled.load(Ordering::Relaxed) > polled + 50,
        "{tally:?}"
    );

    redis.return_empty().await;
    let mut last = crowd.come(301..321, &stop);
    grows(&tally.claimed, 2 * PER_SECOND, PATIENCE).await;
    eventually(PATIENCE, async || {
        tally.joined.load(Ordering::Relaxed) == 321
    })
    .await;
    stop.cancel();
    assert_eq!(tally.polls_failed.load(Ordering::Relaxed), 0);
    let mut all = everybody(&mut people).await;
    for more in [&mut late, &mut later, &mut last] {
        all.extend(everybody(more).await);
    }

    let (status, answer) = crowd.book(&early[0]).await.unwrap();
    assert_eq!(
        status, 403,
        "a pass that was given back is good again: {answer}"
    );

    // I8: no two have one place, and joining again returns the same.
    let places: HashSet<i64> = all.iter().map(|person| person.place).collect();
    assert_eq!(places.len(), all.len());
    for person in &all {
        assert_eq!(crowd.place_again(person).await.unwrap(), person.place);
    }
    assert_called_in_order(&db, &all).await;
    assert_rate_held(&db).await;
    assert_one_pass_each(&db, &crowd, &all).await;
    db.close().await;
    system.finish().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_killed_in_mid_claim_gives_nobody_a_second_pass() {
    let settings = [("ONSALE_LIMITS_SCALE", "1000".to_owned())];
    let mut system = System::start_with(&["all", "admission"], settings)
        .await
        .unwrap();
    let event = system.event(400, 2_400, json!({})).await.unwrap();
    let db = database(&system).await.unwrap();
    let nodes = vec![system.public_url("all"), system.public_url("admission")];
    assert_ne!(nodes[0], nodes[1]);
    let crowd = Arc::new(Crowd::new(&system, event, nodes).unwrap());
    let mut people = crowd.come(1..201, &CancellationToken::new());
    grows(&crowd.tally.claimed, 20, PATIENCE).await;
    system.kill("admission").unwrap();
    let people = everybody(&mut people).await;
    assert!(people.iter().all(|person| person.pass.is_some()));
    assert_one_pass_each(&db, &crowd, &people).await;
    db.close().await;
    system.finish().await.unwrap();
}

//! Several nodes lead many sales in real time, at the size of a large installation.
//!
//! `ONSALE_FULL_SIZE=1` runs the sizes of the design's bars; without it they are small enough for
//! every run.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use admission::release::load::{Undecided, measure};
use chrono::{DateTime, TimeDelta, Utc};
use domain::clock::SystemClock;
use domain::line::Move;
use domain::lottery::{Draw, commitment};
use domain::queue::{Drawn, Snapshot};
use domain::release::{Brake, Load};
use domain::sale::{SaleSettings, SaleState};
use domain::{EventId, Place, hex};
use platform::service::Context;
use platform::testing::line::{publish, snapshot};
use platform::testing::{RowsRead, TestApp, eventually};
use platform::topology;
use sqlx::PgPool;
use sqlx::types::Json;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::line::sale;
use crate::machine::Machine;

/// Bound on the time until a killed leader's sales are called again.
const TAKE_OVER: Duration = Duration::from_secs(3);
/// Duration of a lease.
const LEASE: Duration = Duration::from_secs(2);
/// Bound on the delay of a call caused by another sale.
const MAX_GAP: Duration = Duration::from_secs(1);

pub(crate) fn now() -> DateTime<Utc> {
    SystemClock::shared().now()
}

fn sized(full: i64, reduced: i64) -> i64 {
    match std::env::var("ONSALE_FULL_SIZE") {
        Ok(_) => full,
        Err(_) => reduced,
    }
}

/// An installation of several admission nodes.
pub(crate) struct Nodes {
    pub(crate) app: TestApp,
    pub(crate) machine: Machine,
    pub(crate) nodes: Vec<Context>,
    shoppers: Vec<JoinHandle<()>>,
}

impl Nodes {
    pub(crate) async fn new() -> Self {
        let app = TestApp::start().await;
        for queue in [
            topology::admission_sales(),
            topology::admission_revocations(),
        ] {
            app.ctx.broker.declare_patiently(&queue).await;
        }
        Self {
            machine: Machine::watch(&app.ctx.db),
            app,
            nodes: Vec::new(),
            shoppers: Vec::new(),
        }
    }

    pub(crate) fn db(&self) -> &PgPool {
        &self.app.ctx.db
    }

    /// Starts another node.
    pub(crate) async fn start(&mut self) {
        let ctx = self.app.another_node().await;
        self.start_on(ctx).await;
    }

    /// Starts another node on a context of its own.
    pub(crate) async fn start_on(&mut self, ctx: Context) {
        let routes = admission::start(ctx.clone(), admission::Config::default());
        drop(routes.await.unwrap());
        self.nodes.push(ctx);
    }

    /// Spawns a task that claims for every called place of the sales `events`.
    pub(crate) fn shop(&mut self, events: Vec<i64>) {
        let db = self.db().clone();
        let mut ticks = tokio::time::interval(Duration::from_millis(300));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.shoppers.push(tokio::spawn(async move {
            loop {
                ticks.tick().await;
                let claims = sqlx::query(CLAIM_ALL).bind(&events).execute(&db).await;
                if claims.is_err() {
                    return;
                }
            }
        }));
    }

    pub(crate) async fn add(&self, sale: &SaleSettings, joined: i64) {
        add(self.db(), std::slice::from_ref(sale), joined).await;
    }

    /// Returns the owner and the epoch of each shard.
    pub(crate) async fn shards(&self) -> HashMap<i16, (Option<String>, i64)> {
        let rows: Vec<(i16, Option<String>, i64)> =
            sqlx::query_as("select shard, owner, epoch from admission.shards")
                .fetch_all(self.db())
                .await
                .unwrap();
        rows.into_iter().map(|(s, o, e)| (s, (o, e))).collect()
    }

    /// Asserts that no shard has changed hands since `before`, unless the machine was so late that
    /// leases expired by right.
    pub(crate) async fn assert_kept(&self, before: &HashMap<i16, (Option<String>, i64)>) {
        let now = self.shards().await;
        if self.machine.is_in_time_for(LEASE) {
            assert_eq!(&now, before, "the leases were kept");
        }
    }

    /// Waits until every node owns its share.
    pub(crate) async fn shared_out(&self) {
        let nodes: HashSet<String> = self.nodes.iter().map(|ctx| ctx.node.clone()).collect();
        let most = 32_usize.div_ceil(nodes.len());
        eventually(Duration::from_secs(60), async || {
            let shards = self.shards().await;
            let owned = |node: &String| {
                let is_its = |(owner, _): &&(Option<String>, i64)| owner.as_ref() == Some(node);
                shards.values().filter(is_its).count()
            };
            let counts: Vec<usize> = nodes.iter().map(owned).collect();
            counts.iter().sum::<usize>() == 32 && counts.iter().all(|count| *count <= most)
        })
        .await;
    }

    pub(crate) async fn finish(self) {
        for task in &self.shoppers {
            task.abort();
        }
        for ctx in &self.nodes {
            ctx.shutdown.soft().cancel();
        }
        for ctx in &self.nodes {
            ctx.shutdown.tasks_left().await;
            ctx.db.close().await;
        }
        self.machine.stop();
        self.app.finish().await;
    }
}

/// Inserts a claim for every recently called place without one.
const CLAIM_ALL: &str = "
    with new as (
        select m.event_id, p.place
        from admission.moves m
        cross join lateral generate_series(1, cardinality(m.called), 2) as i
        cross join lateral generate_series(m.called[i], m.called[i + 1]) as p (place)
        where m.event_id = any($1) and m.at > clock_timestamp() - interval '10 seconds'
          and not exists (select from admission.claims c
                          where c.event_id = m.event_id and c.place = p.place)
    ), gates as (
        insert into admission.gates as g (event_id, changes, shopping)
        select event_id, count(*), count(*) from new group by event_id
        on conflict (event_id) do update set changes = g.changes + excluded.changes,
            shopping = g.shopping + excluded.shopping
        returning event_id, changes
    )
    insert into admission.claims
        (event_id, place, account_id, jti, claimed_at, issued_at, ends_at, change)
    select event_id, place, 1000 + place, gen_random_uuid(), now(), 0, 4000000000,
           changes + 1 - row_number() over (partition by event_id order by place)
    from new join gates using (event_id)";

pub(crate) async fn add(db: &PgPool, sales: &[SaleSettings], joined: i64) {
    let ids: Vec<i64> = sales.iter().map(|sale| sale.event_id.0).collect();
    let settings: Vec<Json<&SaleSettings>> = sales.iter().map(Json).collect();
    sqlx::query(
        "insert into admission.sales (event_id, version, settings)
         select id, 1, settings from unnest($1::bigint[], $2::jsonb[]) as u (id, settings)",
    )
    .bind(&ids)
    .bind(settings)
    .execute(db)
    .await
    .unwrap();
    sqlx::query(
        "insert into waiting_room.lines (event_id, joined)
         select id, $2 from unnest($1::bigint[]) as u (id) where $2 > 0",
    )
    .bind(&ids)
    .bind(joined)
    .execute(db)
    .await
    .unwrap();
}

/// Settings of a sale that opened an hour ago.
pub(crate) fn open(event: i64) -> SaleSettings {
    SaleSettings {
        event_id: EventId(event),
        opens_at: now() - TimeDelta::hours(1),
        ..sale()
    }
}

/// Returns the times of a sale's calls after `since`.
pub(crate) async fn call_times(
    db: &PgPool,
    event: i64,
    since: DateTime<Utc>,
) -> Vec<DateTime<Utc>> {
    sqlx::query_scalar(
        "select at from admission.moves
         where event_id = $1 and at > $2 and cardinality(called) > 0 order by at",
    )
    .bind(event)
    .bind(since)
    .fetch_all(db)
    .await
    .unwrap()
}

/// Returns the longest interval between consecutive calls.
fn longest_gap(times: &[DateTime<Utc>]) -> Duration {
    let gaps = times.windows(2).map(|pair| pair[1] - pair[0]);
    gaps.max()
        .map_or(Duration::MAX, |gap| gap.to_std().unwrap())
}

/// Inserts ended sales whose end was published, each with `moves` moves.
pub(crate) async fn seed_ended(db: &PgPool, sales: i64, moves: i64) {
    let first = 1_000;
    let ended: Vec<SaleSettings> = (first..first + sales)
        .map(|event| SaleSettings {
            closed: true,
            ..open(event)
        })
        .collect();
    add(db, &ended, moves).await;
    let snapshot = Snapshot {
        seq: moves,
        state: SaleState::Closed,
        ..snapshot(EventId(0), now())
    };
    sqlx::query(
        "insert into admission.lines (event_id, seq, cursor, snapshot)
         select id, $3, $3, jsonb_set($4, '{event_id}', to_jsonb(id))
         from generate_series($1, $1 + $2 - 1) as id",
    )
    .bind(first)
    .bind(sales)
    .bind(moves)
    .bind(Json(snapshot))
    .execute(db)
    .await
    .unwrap();
    sqlx::query(
        "insert into admission.moves (event_id, seq, at, called, claimed)
         select id, seq, now() - interval '1 day', array[seq, seq], array[greatest(seq - 9, 1)]
         from generate_series($1, $1 + $2 - 1) as id, generate_series(1, $3) as seq",
    )
    .bind(first)
    .bind(sales)
    .bind(moves)
    .execute(db)
    .await
    .unwrap();
}

/// Inserts a sale whose lobby was drawn and in which nobody was called yet.
async fn seed_drawn(db: &PgPool, event: i64, lobby: i64) {
    let sale = SaleSettings {
        lobby_seconds: 600,
        paused: true,
        ..open(event)
    };
    add(db, &[sale], lobby).await;
    let draw = Draw {
        lobby,
        seed: [u8::try_from(event % 100).unwrap(); 32],
        entropy: String::new(),
    };
    sqlx::query(
        "insert into admission.draws (event_id, seed, commitment, committed_at, lobby, entropy,
                                      entries_digest, drawn_at, entropy_source, entries, fixed_at)
         values ($1, $2, $3, now(), $4, '', $3, now(), '', $4, now())",
    )
    .bind(event)
    .bind(&draw.seed[..])
    .bind(&commitment(&draw.seed)[..])
    .bind(lobby)
    .execute(db)
    .await
    .unwrap();
    let mut snapshot = Snapshot {
        state: SaleState::Paused,
        joined: Place(lobby),
        waiting: lobby,
        ..snapshot(EventId(event), now())
    };
    snapshot.lottery.commitment = hex::encode(&commitment(&draw.seed));
    snapshot.lottery.drawn = Some(Drawn {
        lobby,
        seed: hex::encode(&draw.seed),
        entropy: String::new(),
        entries_digest: hex::encode(&commitment(&draw.seed)),
    });
    publish(db, &snapshot, &Move::empty(1, snapshot.at)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_leaders_sales_go_on_within_seconds_whatever_the_history() {
    let (ended, moves, lobby) = (sized(3_000, 300), sized(500, 50), sized(1_000_000, 10_000));
    let mut nodes = Nodes::new().await;
    let live: Vec<i64> = (1..=12).collect();
    seed_ended(nodes.db(), ended, moves).await;
    for event in 40..45 {
        seed_drawn(nodes.db(), event, lobby).await;
    }
    for event in &live {
        nodes.add(&open(*event), 5_000).await;
    }
    for _ in 0..3 {
        nodes.start().await;
    }
    nodes.shop(live.clone());
    nodes.shared_out().await;
    let db = nodes.db().clone();
    let is_called = async |event: i64, since| !call_times(&db, event, since).await.is_empty();
    for event in &live {
        let since = now();
        eventually(Duration::from_secs(60), async || {
            is_called(*event, since).await
        })
        .await;
    }

    let before = nodes.shards().await;
    let killed = nodes.nodes.remove(0);
    let (killed_at, started) = (now(), Instant::now());
    killed.shutdown.hard().cancel();
    killed.shutdown.soft().cancel();
    killed.shutdown.tasks_left().await;
    let shard = |event: i64| i16::try_from(event % 32).unwrap();
    let orphans = live
        .iter()
        .filter(|event| before[&shard(**event)].0.as_ref() == Some(&killed.node));
    let orphans: Vec<i64> = orphans.copied().collect();
    assert!(!orphans.is_empty(), "it led some of the sales");
    let mut slowest = Duration::ZERO;
    for event in &orphans {
        eventually(Duration::from_secs(60), async || {
            is_called(*event, killed_at).await
        })
        .await;
        let first = call_times(nodes.db(), *event, killed_at).await[0];
        slowest = slowest.max((first - killed_at).to_std().unwrap());
    }
    println!(
        "{} sales went on {slowest:?} after the kill, seen after {:?}",
        orphans.len(),
        started.elapsed()
    );
    let bound = nodes.machine.extend(TAKE_OVER);
    assert!(
        slowest < bound,
        "first call after {slowest:?}, more than {bound:?}"
    );

    // Only the killed node's shards change hands, and only once, though all sales stay busy.
    nodes.shared_out().await;
    let taken_over = nodes.shards().await;
    for (shard, (owner, epoch)) in &before {
        let is_orphan = owner.as_ref() == Some(&killed.node);
        let (_, now) = &taken_over[shard];
        let may_change = is_orphan || !nodes.machine.is_in_time_for(LEASE);
        assert!(now > epoch || !is_orphan, "shard {shard} is an orphan");
        assert!(
            now == epoch || may_change,
            "shard {shard}: {epoch} to {now}"
        );
    }
    let (since, wanted) = (now(), usize::try_from(sized(80, 20)).unwrap());
    for event in &live {
        eventually(Duration::from_secs(60), async || {
            call_times(&db, *event, since).await.len() >= wanted
        })
        .await;
    }
    // Nothing changes hands again.
    nodes.assert_kept(&taken_over).await;
    let bound = nodes.machine.extend(MAX_GAP);
    for event in live.iter().filter(|event| !orphans.contains(event)) {
        let gap = longest_gap(&call_times(nodes.db(), *event, killed_at).await);
        assert!(
            gap < bound,
            "sale {event} was held up for {gap:?}, more than {bound:?}"
        );
    }
    nodes.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_ticks_fail_leaves_its_sales_to_another() {
    let mut nodes = Nodes::new().await;
    for event in 1..=32 {
        nodes.add(&open(event), 5_000).await;
    }
    for _ in 0..2 {
        nodes.start().await;
    }
    nodes.shared_out().await;
    let failing = nodes.nodes[0].node.clone();
    let db = nodes.db().clone();
    let name = format!("admission-release {failing}");
    nodes.shoppers.push(tokio::spawn(async move {
        let end = "select pg_terminate_backend(pid) from pg_stat_activity
                   where application_name = $1 and datname = current_database()";
        while sqlx::query(end).bind(&name).execute(&db).await.is_ok() {}
    }));
    eventually(Duration::from_secs(60), async || {
        let shards = nodes.shards().await;
        shards
            .values()
            .all(|(owner, _)| owner.as_ref() == Some(&nodes.nodes[1].node))
    })
    .await;
    let since = now();
    eventually(Duration::from_secs(60), async || {
        let called: i64 = sqlx::query_scalar(
            "select count(distinct event_id) from admission.moves
             where at > $1 and cardinality(called) > 0",
        )
        .bind(since)
        .fetch_one(nodes.db())
        .await
        .unwrap();
        called == 32
    })
    .await;
    nodes.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lobbies_that_open_together_hold_no_other_sale_up() {
    let lobbies = sized(200, 40);
    let mut nodes = Nodes::new().await;
    let opens_at = now() + TimeDelta::seconds(6);
    let sales: Vec<SaleSettings> = (100..100 + lobbies)
        .map(|event| SaleSettings {
            opens_at,
            lobby_seconds: 600,
            ..open(event)
        })
        .collect();
    add(nodes.db(), &sales, 8).await;
    sqlx::query(
        "insert into waiting_room.numbers (event_id, account_id, number, joined_at)
         select id, 100 + n, n, now()
         from generate_series(100, 99 + $1) as id, generate_series(1, 8) as n",
    )
    .bind(lobbies)
    .execute(nodes.db())
    .await
    .unwrap();
    nodes.add(&open(1), 100_000).await;
    nodes.start().await;
    nodes.shop((100..100 + lobbies).chain([1]).collect());
    let began = now() + TimeDelta::seconds(2);
    let limit = Duration::from_secs(60);
    eventually(limit, async || now() > opens_at).await;
    eventually(limit, async || {
        let called: i64 = sqlx::query_scalar(
            "select count(distinct event_id) from admission.moves
             where event_id >= 100 and cardinality(called) > 0",
        )
        .fetch_one(nodes.db())
        .await
        .unwrap();
        called == lobbies
    })
    .await;
    let took = now() - opens_at;
    eventually(limit, async || {
        call_times(nodes.db(), 1, began).await.len() >= 8
    })
    .await;
    let gap = longest_gap(&call_times(nodes.db(), 1, began).await);
    println!(
        "{lobbies} lobbies called {took} after the opening, longest gap of the other sale {gap:?}"
    );
    let bound = nodes.machine.extend(MAX_GAP);
    assert!(
        gap < bound,
        "no call of the other sale for {gap:?}, more than {bound:?}"
    );
    nodes.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draw_holds_no_other_sale_up() {
    let lobby = sized(1_000_000, 40_000);
    let mut nodes = Nodes::new().await;
    sqlx::query(
        "insert into waiting_room.numbers (event_id, account_id, number, joined_at)
         select 2, 100 + n, n, now() from generate_series(1, $1) as n",
    )
    .bind(lobby)
    .execute(nodes.db())
    .await
    .unwrap();
    let opens_at = now() + TimeDelta::seconds(5);
    let drawn = SaleSettings {
        opens_at,
        lobby_seconds: 600,
        ..open(2)
    };
    nodes.add(&drawn, lobby).await;
    nodes.add(&open(1), 100_000).await;
    nodes.start().await;
    nodes.shop(vec![1, 2]);
    let began = now() + TimeDelta::seconds(2);
    eventually(Duration::from_secs(120), async || {
        !call_times(nodes.db(), 2, began).await.is_empty()
    })
    .await;
    let first = call_times(nodes.db(), 2, began).await[0];
    eventually(Duration::from_secs(60), async || {
        call_times(nodes.db(), 1, began).await.len() >= 8
    })
    .await;
    let gap = longest_gap(&call_times(nodes.db(), 1, began).await);
    println!(
        "{lobby} were drawn, the first was called {} after the opening, longest gap of the other sale {gap:?}",
        first - opens_at
    );
    let bound = nodes.machine.extend(MAX_GAP);
    assert!(
        gap < bound,
        "no call of the other sale for {gap:?}, more than {bound:?}"
    );
    nodes.finish().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_busy_sales_are_each_called_at_their_rate() {
    const SECONDS: i64 = 30;
    const PER_MINUTE: i64 = 120;
    let count = sized(500, 60);
    let mut nodes = Nodes::new().await;
    let sales: Vec<SaleSettings> = (1..=count)
        .map(|event| SaleSettings {
            rate_per_minute: u32::try_from(PER_MINUTE).unwrap(),
            ..open(event)
        })
        .collect();
    add(nodes.db(), &sales, 200).await;
    nodes.shop((1..=count).collect());
    nodes.start().await;
    let called = async || -> i64 {
        sqlx::query_scalar("select coalesce(sum(cursor), 0)::bigint from admission.lines")
            .fetch_one(nodes.db())
            .await
            .unwrap()
    };
    let limit = Duration::from_secs(120);
    eventually(limit, async || called().await >= count * 10).await;
    let (before, began) = (called().await, Instant::now());
    let calls = count * PER_MINUTE * SECONDS / 60;
    eventually(limit, async || called().await >= before + calls).await;
    let took = began.elapsed();
    println!("{count} sales: {calls} calls in {took:?}, due in {SECONDS} s");
    // 95 % of the rate.
    let due = Duration::from_secs(SECONDS.unsigned_abs());
    let bound = nodes.machine.extend(due.mul_f64(1.0 / 0.95));
    assert!(
        took < bound,
        "{calls} calls took {took:?}, more than {bound:?}"
    );
    nodes.finish().await;
}

#[tokio::test]
async fn requests_decided_long_ago_do_not_brake() {
    let requests = sized(300_000, 60_000);
    let app = TestApp::start().await;
    let db = &app.ctx.db;
    let mut conn = db.acquire().await.unwrap();
    let seeds = sqlx::AssertSqlSafe(format!(
        "create temporary table seeds as
             select gen_random_uuid() as id,
                    clock_timestamp() - make_interval(secs => n * 600.0 / {requests}) as at
             from generate_series(1, {requests}) as n;
         insert into admission.requests
             (booking_id, event_id, account_id, wish, tickets, published, accepted_at)
         select id, 1, 1, '{{}}', 1, true, at from seeds;
         insert into booking.bookings
             (id, event_id, account_id, tickets, state, reason, created_at, updated_at)
         select id, 1, 1, 1, 'rejected', 'sold_out', at, at from seeds"
    ));
    sqlx::raw_sql(seeds).execute(&mut *conn).await.unwrap();
    let (mut brake, mut undecided) = (Brake::default(), Undecided::default());
    for _ in 0..5 {
        let measured = measure(db, &mut undecided).await.unwrap();
        // A busy machine brakes by itself.
        let load = Load {
            database_seconds: 0.0,
            ..measured
        };
        brake.observe(now(), &load);
        assert_eq!(brake.state().percent, 100, "{load:?}");
    }
    // It reads those of the last seconds again, and none of the others.
    let began = Instant::now();
    let decided = RowsRead::of(db, "booking.public_bookings", "true").await;
    measure(db, &mut undecided).await.unwrap();
    let read = decided.count().await;
    println!(
        "{requests} requests: measured in {:?}, {read} read",
        began.elapsed()
    );
    assert!(read < requests / 10, "{read} of {requests} were read");

    // An undecided one shows at once.
    let waits = "insert into admission.requests
             (booking_id, event_id, account_id, wish, tickets, published, accepted_at)
         values (gen_random_uuid(), 1, 1, '{}', 1, true, clock_timestamp() - interval '8 seconds')";
    sqlx::query(waits).execute(db).await.unwrap();
    let load = measure(db, &mut undecided).await.unwrap();
    assert!(load.oldest_booking_seconds >= 8.0, "{load:?}");
    let load = measure(db, &mut undecided).await.unwrap();
    assert!(
        load.oldest_booking_seconds >= 8.0,
        "and seen again: {load:?}"
    );
    drop(conn);
    app.finish().await;
}

//! The release loop against real servers. Its decisions are tested in `domain::release` and in the
//! simulation.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use admission::release::{Leader, Leases, TICK};
use chrono::TimeDelta;
use domain::line::Standing;
use domain::queue::Bottleneck;
use domain::release::Load;
use domain::sale::{SaleSettings, SaleState, Stock};
use domain::{EventId, Place};
use platform::health::Health;
use platform::line::Lines;
use platform::testing::{Proxy, TestApp, eventually};
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::line::{EVENT, Line, sale, start, tick};

/// Sales whose ids differ by a multiple of this read presence in the same tick.
const PRESENCE_TICKS: i64 = 4;

#[tokio::test]
async fn people_are_called_in_order_at_the_rate_and_a_new_rate_acts_at_once() {
    let mut line = Line::new(sale()).await;
    line.join(10_000).await;
    let first = line.tick().await.cursor;
    assert!(
        (1..=3).contains(&first.0),
        "the first does not wait: {first}"
    );
    line.set(|sale| sale.rate_per_minute = 60_000);
    let before = line.tick().await.cursor.0;
    let cursor = line.ticks(4).await.cursor.0 - before;
    assert!(
        (900..=1_500).contains(&cursor),
        "a thousand a second: {cursor}"
    );
    let called = line.called().await;
    assert_eq!(
        called,
        (1..=line.snapshot().await.cursor.0).collect::<Vec<_>>()
    );
    line.app.finish().await;
}

#[tokio::test]
async fn a_pause_calls_nobody_and_banks_nothing() {
    let mut line = Line::new(sale()).await;
    line.join(10_000).await;
    line.ticks(4).await;
    line.set(|sale| sale.paused = true);
    let before = line.tick().await.cursor;
    assert_eq!(line.ticks(100).await.cursor, before);
    line.set(|sale| sale.paused = false);
    let after = line.tick().await.cursor;
    assert!(after.0 - before.0 <= 4, "{before} to {after}");
    line.app.finish().await;
}

#[tokio::test]
async fn claims_and_ends_reach_everyone_and_slots_are_used_again_one_for_one() {
    let mut line = Line::new(SaleSettings {
        shopper_cap: 2,
        rate_per_minute: 6_000,
        ..sale()
    })
    .await;
    line.join(100).await;
    let mut served = 0;
    for round in 0..4 {
        line.ticks(4).await;
        let cursor = line.snapshot().await.cursor.0;
        assert_eq!(cursor, served + 2, "two in round {round}");
        assert_eq!(line.claim(served + 1..=cursor).await, 2);
        let published = line.ticks(8).await;
        assert_eq!(
            (published.shopping, published.cursor.0),
            (2, cursor),
            "the cap holds"
        );
        line.finish(served + 1..=cursor).await;
        served = cursor;
    }
    line.tick().await;
    let moves = line.moves().await;
    let claimed: Vec<i64> = moves.iter().flat_map(|m| &m.claimed).map(|p| p.0).collect();
    let over: Vec<i64> = moves.iter().flat_map(|m| &m.over).map(|p| p.0).collect();
    let mut once = claimed;
    once.sort_unstable();
    once.dedup();
    assert_eq!((once, over), ((1..=8).collect(), (1..=8).collect()));
    line.app.finish().await;
}

#[tokio::test]
async fn absent_and_left_places_are_skipped_and_who_comes_back_is_called_first() {
    let mut line = Line::new(SaleSettings {
        paused: true,
        ..sale()
    })
    .await;
    line.join(1_000).await;
    for _ in 0..12 {
        line.see(1..4).await;
        line.ticks(20).await;
    }
    line.leave(5).await;
    line.set(|sale| sale.paused = false);
    line.ticks(8).await;
    let called = line.called().await;
    assert_eq!(called[..3], [4, 6, 7], "1 to 3 are away, 5 has left");
    line.see(1..3).await;
    line.ticks(6).await;
    let next = line.called().await.split_off(called.len());
    let third = next.iter().position(|place| *place == 3).unwrap();
    assert!(next[..third].is_sorted() && third <= 12, "{next:?}");
    assert!(!next.contains(&5) && !next.contains(&1));
    line.app.finish().await;
}

#[tokio::test]
async fn without_redis_or_after_a_flush_nobody_becomes_absent() {
    let mut line = Line::new(SaleSettings {
        paused: true,
        ..sale()
    })
    .await;
    line.join(100).await;
    line.see(0..0).await;
    line.ticks(4).await;
    // The sale's keys vanish, as in a flush, and time passes without any presence.
    let key = line
        .app
        .ctx
        .sale_keys(EVENT)
        .seen(domain::queue::seen_slot(line.now), 0);
    let mut delete = platform::redis::cmd("DEL");
    let _: i64 = delete
        .arg(key)
        .query_async(&mut line.app.ctx.redis.clone())
        .await
        .unwrap();
    line.now += TimeDelta::minutes(5);
    line.set(|sale| sale.paused = false);
    assert_eq!(
        line.ticks(4).await.waiting + line.called().await.len() as i64,
        100
    );
    assert_eq!(line.called().await[0], 1);
    line.app.finish().await;
}

#[tokio::test]
async fn a_called_place_that_does_not_come_is_missed_after_its_window() {
    let mut line = Line::new(sale()).await;
    line.join(1).await;
    line.ticks(2).await;
    line.now += TimeDelta::seconds(59);
    line.ticks(2).await;
    assert!(
        line.moves()
            .await
            .iter()
            .all(|moved| moved.missed.is_empty())
    );
    line.now += TimeDelta::seconds(1);
    line.ticks(2).await;
    let missed: Vec<_> = line
        .moves()
        .await
        .iter()
        .flat_map(|m| m.missed.clone())
        .collect();
    assert_eq!(missed, [Place(1)]);
    line.app.finish().await;
}

#[tokio::test]
async fn a_new_leader_goes_on_where_the_old_one_stopped() {
    let mut line = Line::new(sale()).await;
    line.join(1_000).await;
    line.ticks(20).await;
    let before = line.called().await;
    line.claim([1, 2]).await;
    line.leases.resign().await.unwrap();
    line.leases = Leases::new(&line.app.ctx, "second");
    line.leader = Leader::new(&line.app.ctx);
    let published = line.ticks(20).await;
    let called = line.called().await;
    assert_eq!(called, (1..=published.cursor.0).collect::<Vec<_>>());
    assert!(called.len() > before.len());
    let claimed: Vec<_> = line
        .moves()
        .await
        .iter()
        .flat_map(|m| m.claimed.clone())
        .collect();
    assert_eq!(
        claimed,
        [1, 2].map(Place),
        "claims in between are reported once"
    );
    line.app.finish().await;
}

#[tokio::test]
async fn of_two_leaders_only_the_later_one_is_obeyed() {
    let mut line = Line::new(sale()).await;
    line.join(1_000).await;
    line.ticks(4).await;
    // The first node's lease expires unnoticed, and another node takes over.
    let stale = line.leases.turn().await.unwrap();
    let end = "update admission.nodes set until = clock_timestamp()";
    sqlx::query(end).execute(&line.app.ctx.db).await.unwrap();
    let mut leases = Leases::new(&line.app.ctx, "second");
    let held = leases.turn().await.unwrap();
    assert!(held.epoch_of(EVENT) > stale.epoch_of(EVENT));
    let mut second = Leader::new(&line.app.ctx);
    let sales = [Arc::new(line.sale.clone())];
    for _ in 0..8 {
        line.now += TimeDelta::milliseconds(250);
        tick(&mut second, &mut leases, line.now, &sales, &line.stock).await;
        // The stale node believes it leads until its lease would have expired.
        let outcome = line.leader.tick(&stale, line.now, &sales, &line.stock);
        outcome.await.unwrap();
    }
    // The second's lease stays valid, however slow the machine is.
    let forever = "update admission.nodes set until = 'infinity' where node = 'second'";
    sqlx::query(forever)
        .execute(&line.app.ctx.db)
        .await
        .unwrap();
    let first = line.leases.turn().await.unwrap();
    assert!(first.is_empty(), "the first loses its shards");
    let called = line.called().await;
    let cursor = line.snapshot().await.cursor.0;
    assert_eq!(called, (1..=cursor).collect::<Vec<_>>());
    line.app.finish().await;
}

#[tokio::test]
async fn a_node_that_knows_no_shards_never_leads_beside_those_that_do() {
    let app = TestApp::start().await;
    let db = &app.ctx.db;
    let mut leases = Leases::new(&app.ctx, "new");
    let old = "insert into admission.leader values (true, 'old', 7, clock_timestamp() + '1 hour')";
    sqlx::query(old).execute(db).await.unwrap();
    assert!(leases.turn().await.unwrap().is_empty(), "the old one leads");
    // How the version before shards gives up and takes the lead.
    let leave = "update admission.leader set leads_until = clock_timestamp() where node = 'old'";
    let take = "insert into admission.leader as l (node, epoch, leads_until)
                values ('old', 1, clock_timestamp() + make_interval(secs => 2))
                on conflict (only_row) do update
                set node = excluded.node, leads_until = excluded.leads_until, epoch = l.epoch + 1
                where l.node = excluded.node or l.leads_until <= clock_timestamp()
                returning epoch";
    sqlx::query(leave).execute(db).await.unwrap();
    let held = leases.turn().await.unwrap();
    assert!(
        held.epoch_of(EVENT) > Some(7),
        "its fences hold against the old one's"
    );
    // It stays valid, however slow the machine is.
    let forever = "update admission.leader set leads_until = 'infinity' where node <> 'old'";
    let kept = sqlx::query(forever).execute(db).await.unwrap();
    assert_eq!(kept.rows_affected(), 1, "the new ones hold the leader row");
    let taken: Option<i64> = sqlx::query_scalar(take).fetch_optional(db).await.unwrap();
    assert_eq!(taken, None);
    // And back, once the last sharded node is gone.
    leases.resign().await.unwrap();
    let end = "update admission.leader set leads_until = clock_timestamp()";
    sqlx::query(end).execute(db).await.unwrap();
    let taken: Option<i64> = sqlx::query_scalar(take).fetch_optional(db).await.unwrap();
    assert!(taken > held.epoch_of(EVENT));
    app.finish().await;
}

#[tokio::test]
async fn a_line_that_somebody_else_moved_is_read_again_and_not_overwritten() {
    let mut line = Line::new(sale()).await;
    line.join(1_000).await;
    line.ticks(4).await;
    let fence = "update admission.lines set fence = fence + 1";
    sqlx::query(fence).execute(&line.app.ctx.db).await.unwrap();
    let before = line.called().await;
    line.ticks(8).await;
    assert_eq!(line.called().await, before, "a later leader has it");
    let fence = "update admission.lines set fence = fence - 1";
    sqlx::query(fence).execute(&line.app.ctx.db).await.unwrap();
    line.ticks(8).await;
    let called = line.called().await;
    assert!(called.len() > before.len());
    assert_eq!(
        called,
        (1..=i64::try_from(called.len()).unwrap()).collect::<Vec<_>>()
    );
    line.app.finish().await;
}

#[tokio::test]
async fn the_lobby_is_drawn_at_the_opening() {
    let mut line = Line::new(SaleSettings {
        opens_at: start() + TimeDelta::seconds(10),
        lobby_seconds: 60,
        rate_per_minute: 60_000,
        ..sale()
    })
    .await;
    sqlx::query(
        "insert into waiting_room.numbers
         select $1, 1000 + n, n, now() from generate_series(1, 50) n",
    )
    .bind(EVENT.0)
    .execute(&line.app.ctx.db)
    .await
    .unwrap();
    line.join(50).await;
    let published = line.ticks(8).await;
    assert_eq!(
        (published.state, published.cursor, published.lottery.drawn),
        (SaleState::Lobby, Place(0), None)
    );
    assert_eq!(published.lottery.commitment.len(), 64);
    line.leave(7).await;
    let opened = line.ticks(40).await;
    let drawn = opened.lottery.drawn.unwrap();
    assert_eq!((opened.state, drawn.lobby), (SaleState::Open, 50));
    assert_eq!(opened.lottery.commitment, published.lottery.commitment);
    let draw = domain::lottery::Draw {
        lobby: 50,
        seed: domain::hex::decode(&drawn.seed).unwrap(),
        entropy: drawn.entropy,
    };
    let gone = draw.permutation().place_of(domain::Number(7)).0;
    line.ticks(8).await;
    let expected: Vec<i64> = (1..=50).filter(|place| *place != gone).collect();
    assert_eq!(line.called().await, expected);
    line.app.finish().await;
}

#[tokio::test]
async fn a_sale_that_opened_before_anybody_came_draws_the_lobby_of_its_next_opening() {
    let mut line = Line::new(SaleSettings {
        lobby_seconds: 900,
        rate_per_minute: 60_000,
        ..sale()
    })
    .await;
    let opened = line.ticks(4).await;
    assert_eq!(opened.state, SaleState::Open);
    assert_eq!(opened.lottery.drawn.map(|drawn| drawn.lobby), Some(0));
    line.set(|sale| sale.opens_at = start() + TimeDelta::seconds(60));
    let put_off = line.ticks(4).await;
    assert_eq!(put_off.state, SaleState::Lobby);
    assert_eq!((put_off.lottery.drawn, put_off.lottery.fixed), (None, None));
    assert_ne!(put_off.lottery.commitment, opened.lottery.commitment);

    line.join(200).await;
    assert!(line.ticks(8).await.lottery.is_awaited());
    line.now = start() + TimeDelta::seconds(60);
    let drawn = line.ticks(8).await.lottery.drawn.unwrap();
    assert_eq!(drawn.lobby, 200);
    let draw = domain::lottery::Draw {
        lobby: 200,
        seed: domain::hex::decode(&drawn.seed).unwrap(),
        entropy: String::new(),
    };
    let order = draw.permutation();
    let stayed = (1..=200).filter(|n| order.place_of(domain::Number(*n)).0 == *n);
    assert!(stayed.count() < 20, "places are not numbers");
    let called = line.ticks(8).await.cursor.0;
    assert_eq!(line.called().await, (1..=called).collect::<Vec<_>>());
    line.app.finish().await;
}

#[tokio::test]
async fn a_lottery_that_was_drawn_outlives_a_lobby_that_is_abolished_and_a_new_leader() {
    let mut line = Line::new(SaleSettings {
        lobby_seconds: 900,
        opens_at: start() + TimeDelta::seconds(10),
        ..sale()
    })
    .await;
    line.join(50).await;
    line.ticks(4).await;
    line.now = start() + TimeDelta::seconds(10);
    let drawn = line.ticks(4).await.lottery.drawn;
    assert_eq!(drawn.as_ref().map(|drawn| drawn.lobby), Some(50));
    line.set(|sale| {
        sale.lobby_seconds = 0;
        sale.opens_at = start() + TimeDelta::seconds(60);
    });
    line.leases.resign().await.unwrap();
    line.leases = Leases::new(&line.app.ctx, "second");
    line.leader = Leader::new(&line.app.ctx);
    assert_eq!(line.ticks(4).await.lottery.drawn, drawn);
    line.app.finish().await;
}

#[tokio::test]
async fn nobody_is_called_while_every_seat_is_held() {
    let mut line = Line::new(sale()).await;
    line.join(1_000).await;
    line.ticks(4).await;
    let stock = |available| Stock {
        available,
        held: 5 - available,
        sold: 5,
    };
    line.stock.insert(EVENT, stock(0));
    let before = line.tick().await.cursor;
    let published = line.ticks(20).await;
    assert_eq!(published.cursor, before);
    assert_eq!(
        published.likely_until,
        Some(before),
        "the bound is published"
    );
    line.stock.insert(
        EVENT,
        Stock {
            available: 5_000,
            ..stock(0)
        },
    );
    assert!(line.ticks(8).await.cursor > before);
    line.app.finish().await;
}

#[tokio::test]
async fn the_brake_slows_the_calls_and_says_so() {
    let mut line = Line::new(SaleSettings {
        rate_per_minute: 6_000,
        ..sale()
    })
    .await;
    line.join(50_000).await;
    let load = Load {
        oldest_booking_seconds: 30.0,
        ..Load::default()
    };
    for _ in 0..4 {
        line.leader.observe(line.now, &load);
        line.now += TimeDelta::seconds(6);
    }
    let before = line.tick().await;
    assert_eq!(
        (before.brake.percent, before.brake.by),
        (6, Some(Bottleneck::Bookings))
    );
    let after = line.ticks(20).await;
    let called = after.cursor.0 - before.cursor.0;
    assert!((20..=50).contains(&called), "about 6 a second: {called}");
    line.app.finish().await;
}

#[tokio::test]
async fn quiet_sales_are_left_alone() {
    let mut line = Line::new(sale()).await;
    line.tick().await;
    let sales: Vec<_> = (1..=2_000)
        .map(|id| {
            Arc::new(SaleSettings {
                event_id: domain::EventId(id),
                ..line.sale.clone()
            })
        })
        .collect();
    line.tick_all(&sales).await;
    let mut looked_at = 0;
    for _ in 0..32 {
        line.now += TimeDelta::milliseconds(250);
        looked_at += line.tick_all(&sales).await.len();
    }
    assert!(
        (1_900..=2_100).contains(&looked_at),
        "each once in 32 ticks: {looked_at}"
    );
    line.join(1).await;
    let seen = line.tick_all(&sales).await;
    assert!(seen.contains(&EVENT), "whoever joins is noticed at once");
    line.app.finish().await;
}

#[tokio::test]
async fn a_redis_that_hangs_holds_a_tick_up_once_whatever_the_number_of_sales() {
    const SALES: i64 = 60;
    let app = TestApp::start().await;
    let mut url: Url = app.ctx.config.redis_url.expose_secret().parse().unwrap();
    let target = format!("{}:{}", url.host_str().unwrap(), url.port().unwrap_or(6379));
    let proxy = Proxy::to(target).await;
    url.set_host(Some("127.0.0.1")).unwrap();
    url.set_port(Some(proxy.address().port())).unwrap();
    let mut ctx = app.ctx.clone();
    let through = SecretString::from(String::from(url));
    ctx.redis = platform::redis::connect(&through).unwrap();
    let event = |nth| EventId(PRESENCE_TICKS * nth);
    for nth in 1..=SALES {
        sqlx::query("insert into waiting_room.lines (event_id, joined) values ($1, 10000)")
            .bind(event(nth).0)
            .execute(&app.ctx.db)
            .await
            .unwrap();
    }
    // All of them read presence in the same ticks.
    let sales: Vec<_> = (1..=SALES)
        .map(|nth| {
            Arc::new(SaleSettings {
                event_id: event(nth),
                ..sale()
            })
        })
        .collect();
    let mut leases = Leases::new(&ctx, "first");
    let mut leader = Leader::new(&ctx);
    let mut now = start();
    tick(&mut leader, &mut leases, now, &sales, &HashMap::new()).await;
    proxy.mute();
    let mut longest = Duration::ZERO;
    for _ in 0..3 * PRESENCE_TICKS {
        now += TimeDelta::from_std(TICK).unwrap();
        let held = leases.turn().await.unwrap();
        let begun = Instant::now();
        let moved = leader.tick(&held, now, &sales, &HashMap::new()).await;
        longest = longest.max(begun.elapsed());
        assert!(!moved.unwrap().is_empty());
    }
    let one_by_one = Duration::from_millis(500) * u32::try_from(SALES).unwrap();
    assert!(longest < one_by_one / 2, "a tick took {longest:?}");
    app.finish().await;
}

#[tokio::test]
async fn a_join_that_commits_late_is_seen() {
    let mut line = Line::new(sale()).await;
    line.tick().await;
    // Another sale changes meanwhile, so that the read position advances.
    let mut late = line.app.ctx.db.begin().await.unwrap();
    sqlx::query("set local idle_in_transaction_session_timeout = 0")
        .execute(&mut *late)
        .await
        .unwrap();
    sqlx::query(
        "insert into waiting_room.lines (event_id, joined, updated_at)
         values ($1, 1, clock_timestamp() - interval '10 seconds')",
    )
    .bind(EVENT.0)
    .execute(&mut *late)
    .await
    .unwrap();
    for other in 2..5_i64 {
        let joined = "insert into waiting_room.lines (event_id, joined) values ($1, 1)";
        let joined = sqlx::query(joined).bind(other);
        joined.execute(&line.app.ctx.db).await.unwrap();
        line.tick().await;
    }
    late.commit().await.unwrap();
    line.tick().await;
    assert_eq!(line.called().await, [1]);
    line.app.finish().await;
}

/// Returns the standing of every place, as seen by a node that reads the whole line.
async fn standings(db: &sqlx::PgPool, places: i64) -> Vec<Standing> {
    let lines = Lines::new(db.clone());
    let reader = lines.clone();
    let reading = tokio::spawn(async move { reader.refresh(&Health::default()).await });
    // Where the machine is busy the first reading may take longer than a request waits.
    eventually(Duration::from_secs(60), async || {
        lines.view(EVENT).await.is_ok()
    })
    .await;
    let view = lines.view(EVENT).await.unwrap();
    reading.abort();
    (1..=places)
        .map(|place| view.line.standing(Place(place)))
        .collect()
}

#[tokio::test]
async fn checkpoints_keep_histories_short_and_nobody_notices() {
    const TICKS: usize = 700;
    let mut line = Line::new(SaleSettings {
        claim_window_seconds: 20,
        ..sale()
    })
    .await;
    line.join(10_000).await;
    let mut whole = domain::line::Line::default();
    let mut claimed = 0;
    for nth in 1..=TICKS {
        let cursor = line.tick().await.cursor.0;
        // A node that follows all along reads new moves only.
        for moved in line.moves_after(whole.seq()).await {
            whole.apply(&moved);
        }
        if nth % 7 == 0 && claimed < cursor - 20 {
            line.claim(claimed + 1..claimed + 6).await;
            claimed += 8;
        }
        if nth % 50 == 0 {
            line.leave(i64::try_from(nth).unwrap() * 8).await;
        }
    }
    let rows = line.moves().await.len();
    assert!(rows < TICKS - 300, "{rows} rows of {TICKS} ticks");
    let followed: Vec<_> = (1..=10_000).map(|n| whole.standing(Place(n))).collect();
    assert_eq!(standings(&line.app.ctx.db, 10_000).await, followed);

    // Nor does the next leader: it continues behind the last call, and calls nobody twice.
    let cursor = line.snapshot().await.cursor.0;
    line.leases.resign().await.unwrap();
    line.leases = Leases::new(&line.app.ctx, "second");
    line.leader = Leader::new(&line.app.ctx);
    let after = line.ticks(20).await;
    assert!(after.cursor.0 > cursor);
    let known = line.moves().await.len();
    let called: Vec<i64> = line.called().await;
    let mut once = called.clone();
    once.sort_unstable();
    once.dedup();
    assert_eq!(called.len(), once.len(), "nobody is called twice");
    assert!(known <= rows + 21);
    let now = standings(&line.app.ctx.db, 10_000).await;
    let is_waiting = |standing: &Standing| *standing == Standing::Waiting;
    for (place, (before, now)) in (1..).zip(followed.iter().zip(&now)) {
        assert!(
            is_waiting(before) || !is_waiting(now),
            "place {place} waits again"
        );
    }
    line.app.finish().await;
}

#[tokio::test]
async fn a_failover_that_lost_commits_is_noticed_and_everything_is_read_again() {
    let mut line = Line::new(sale()).await;
    let db = line.app.ctx.db.clone();
    line.join(10_000).await;
    line.ticks(20).await;
    let before = line.snapshot().await;
    let lost = before.seq - 10;
    // State of the new primary: the line as it was ten steps ago.
    let rewind = [
        "update admission.lines set seq = $1, snapshot = jsonb_set(snapshot, '{seq}', to_jsonb($1))",
        "delete from admission.moves where seq > $1",
    ];
    let cursor: Vec<i64> = {
        for statement in rewind {
            sqlx::query(statement)
                .bind(lost)
                .execute(&db)
                .await
                .unwrap();
        }
        line.called().await
    };
    sqlx::query(
        "update admission.lines set snapshot = jsonb_set(snapshot, '{cursor}', to_jsonb($1))",
    )
    .bind(i64::try_from(cursor.len()).unwrap())
    .execute(&db)
    .await
    .unwrap();
    let timeline = "update admission.generation set timeline = 'of the old primary'";
    sqlx::query(timeline).execute(&db).await.unwrap();
    line.ticks(8).await;
    let called = line.called().await;
    let expected: Vec<i64> = (1..=i64::try_from(called.len()).unwrap()).collect();
    assert_eq!(called, expected, "it goes on from what the database has");
    assert!(called.len() > cursor.len());
    line.app.finish().await;
}

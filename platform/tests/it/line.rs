//! Following a line whose release leader is the test.

use std::sync::Arc;
use std::time::Duration;

use domain::line::{Move, Run, Standing};
use domain::lottery::Draw;
use domain::queue::{Drawn, PlaceState, Snapshot};
use domain::sale::SaleState;
use domain::{EventId, Number, Place};
use platform::health::Health;
use platform::line::{Follower, LineError, Lines, View};
use platform::testing::line::{publish, snapshot};
use platform::testing::{Proxy, Reads, RowsRead, TestApp, eventually};
use sqlx::PgPool;
use tokio::task::JoinHandle;

const SALE: EventId = EventId(1);
const SOON: Duration = Duration::from_secs(30);

/// Lines that are read until the handle is dropped.
struct Reading {
    lines: Lines,
    task: JoinHandle<()>,
}

impl Reading {
    fn of(lines: Lines) -> Self {
        let reader = lines.clone();
        let task = tokio::spawn(async move { reader.refresh(&Health::default()).await });
        Self { lines, task }
    }

    /// The view of a sale that exists, however long its first reading takes.
    async fn view(&self, event_id: EventId) -> Arc<View> {
        self.follow(event_id).await.view()
    }

    /// As [`view`](Self::view), and what follows.
    async fn follow(&self, event_id: EventId) -> Follower {
        loop {
            match self.lines.follow(event_id).await {
                Err(LineError::Unread) => {}
                read => return read.unwrap(),
            }
        }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn calls(first: i64, last: i64) -> Vec<Run> {
    vec![Run {
        first: Place(first),
        last: Place(last),
    }]
}

/// The leader's published state of a sale.
struct Told {
    db: PgPool,
    snapshot: Snapshot,
}

impl Told {
    async fn first(app: &TestApp) -> Self {
        let told = Self {
            db: app.ctx.db.clone(),
            snapshot: snapshot(SALE, app.ctx.clock.now()),
        };
        told.write(&Move::empty(1, told.snapshot.at)).await;
        told
    }

    async fn next(&mut self, change: impl FnOnce(&mut Snapshot, &mut Move)) {
        self.snapshot.seq += 1;
        let mut moved = Move::empty(self.snapshot.seq, self.snapshot.at);
        change(&mut self.snapshot, &mut moved);
        self.write(&moved).await;
    }

    async fn write(&self, moved: &Move) {
        publish(&self.db, &self.snapshot, moved).await;
    }
}

#[tokio::test]
async fn who_asks_late_gets_all_that_happened_in_its_order() {
    let app = TestApp::start().await;
    let mut told = Told::first(&app).await;
    told.next(|_, moved| moved.called = calls(1, 4)).await;
    told.next(|_, moved| {
        moved.claimed = vec![Place(1), Place(2)];
        moved.left = vec![Number(9)];
    })
    .await;
    told.next(|_, moved| {
        moved.over = vec![Place(1)];
        moved.missed = vec![Place(3)];
    })
    .await;
    let reading = Reading::of(Lines::new(app.ctx.db.clone()));
    let view = reading.view(SALE).await;
    let standings = [1, 2, 3, 5].map(|place| view.line.standing(Place(place)));
    use Standing::{Claimed, Missed, Over, Waiting};
    assert_eq!(standings, [Over, Claimed, Missed, Waiting]);
    assert_eq!(view.state_of(Number(4)), PlaceState::Ready);
    assert_eq!(view.state_of(Number(9)), PlaceState::Left);
    assert!(view.is_used_up(Number(1)) && view.is_used_up(Number(3)));
    assert!(!view.is_used_up(Number(2)) && !view.is_used_up(Number(4)));
    let until = view.claim_until(Place(4)).unwrap();
    assert_eq!(until.timestamp() - told.snapshot.at.timestamp(), 120);
    app.finish().await;
}

#[tokio::test]
async fn every_change_reaches_those_who_follow() {
    let app = TestApp::start().await;
    let mut told = Told::first(&app).await;
    let reading = Reading::of(Lines::new(app.ctx.db.clone()));
    let mut follower = reading.follow(SALE).await;
    assert_eq!(follower.view().snapshot.seq, 1);
    for place in 1..=5 {
        told.next(|_, moved| moved.called = calls(place, place))
            .await;
        let view = tokio::time::timeout(SOON, follower.next())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(view.snapshot.seq, place + 1);
        let called = (1..=9).filter(|n| view.line.standing(Place(*n)) != Standing::Waiting);
        assert_eq!(called.collect::<Vec<_>>(), (1..=place).collect::<Vec<_>>());
    }
    app.finish().await;
}

#[tokio::test]
async fn a_sale_that_does_not_exist_is_none_until_it_does() {
    let app = TestApp::start().await;
    let reading = Reading::of(Lines::new(app.ctx.db.clone()));
    let none = reading.lines.view(SALE).await.unwrap_err();
    assert_eq!(none, LineError::NoSale);
    eventually(SOON, async || reading.lines.count() == 0).await;
    let _told = Told::first(&app).await;
    eventually(SOON, async || reading.lines.view(SALE).await.is_ok()).await;
    app.finish().await;
}

#[tokio::test]
async fn thousands_of_made_up_ids_cost_a_few_statements() {
    let app = TestApp::start().await;
    let _told = Told::first(&app).await;
    let reads = Reads::of(&app.ctx.db, "admission", "public_lines").await;
    let reading = Reading::of(Lines::new(app.ctx.db.clone()));
    let asked = (10..5_010).map(|id| {
        let lines = reading.lines.clone();
        async move { lines.view(EventId(id)).await.unwrap_err() }
    });
    let answers = futures_util::future::join_all(asked).await;
    assert!(answers.iter().all(|answer| *answer == LineError::NoSale));
    assert_eq!(reading.lines.count(), 0, "and no memory");
    let statements = reads.count().await;
    assert!((1..40).contains(&statements), "{statements} statements");
    app.finish().await;
}

#[tokio::test]
async fn a_sale_that_was_told_of_just_now_is_there_although_it_was_not_a_moment_ago() {
    let app = TestApp::start().await;
    let reading = Reading::of(Lines::new(app.ctx.db.clone()));
    let before = reading.lines.view(SALE).await;
    assert_eq!(before.unwrap_err(), LineError::NoSale);
    let _told = Told::first(&app).await;
    assert_eq!(reading.view(SALE).await.snapshot.seq, 1);
    app.finish().await;
}

/// Makes the reading of each thousand moves of sale 2 take half a second.
async fn slow_down(db: &PgPool) {
    let slow =
        "create function public.slow(seq bigint) returns boolean language plpgsql volatile as
         $$ begin
             if seq % 20 = 0 then perform pg_sleep(0.01); end if;
             return true;
         end $$;
         create or replace view admission.public_moves as
         select event_id, seq, at, called, missed, claimed, over, left_numbers
         from admission.moves where event_id <> 2 or public.slow(seq)";
    sqlx::raw_sql(slow).execute(db).await.unwrap();
}

#[tokio::test]
async fn the_long_history_of_one_sale_holds_no_other_up() {
    let is_full = std::env::var_os("ONSALE_FULL_SIZE").is_some();
    let moves = if is_full { 6_000_000_i64 } else { 16_000 };
    let app = TestApp::start().await;
    let at = app.ctx.clock.now();
    let long = Snapshot {
        seq: moves,
        ..snapshot(EventId(2), at)
    };
    sqlx::query(
        "insert into admission.moves (event_id, seq, at, called)
         select 2, seq, $2, array[seq, seq] from generate_series(1, $1 - 1) as seq",
    )
    .bind(moves)
    .bind(at)
    .execute(&app.ctx.db)
    .await
    .unwrap();
    publish(&app.ctx.db, &long, &Move::empty(moves, at)).await;
    let _told = Told::first(&app).await;
    if !is_full {
        slow_down(&app.ctx.db).await;
    }
    let read = RowsRead::of(&app.ctx.db, "admission.public_moves", "event_id = 2").await;
    let reading = Reading::of(Lines::new(app.ctx.db.clone()));
    let lines = reading.lines.clone();
    let asked = tokio::spawn(async move { lines.view(EventId(2)).await });
    eventually(SOON, async || reading.lines.count() == 1).await;
    let begun = std::time::Instant::now();
    reading.view(SALE).await;
    let (took, read) = (begun.elapsed(), read.count().await);
    println!("a first view after {took:?} and {read} of {moves} moves of another sale");
    assert!(read < moves - 1, "it waited for the other sale");
    assert!(!is_full || took < Duration::from_secs(1), "{took:?}");
    if !is_full {
        let quick = "create or replace function public.slow(seq bigint) returns boolean
                     language sql as 'select true'";
        sqlx::raw_sql(quick).execute(&app.ctx.db).await.unwrap();
    }
    let limit = Duration::from_secs(300);
    eventually(limit, async || reading.lines.view(EventId(2)).await.is_ok()).await;
    let view = reading.view(EventId(2)).await;
    let called = (1..moves).filter(|n| view.line.standing(Place(*n)) != Standing::Waiting);
    assert_eq!(called.count(), usize::try_from(moves - 1).unwrap());
    drop(asked.await);
    app.finish().await;
}

/// As with millions of moves on a busy database, where the reading of them may even fail each time.
#[tokio::test]
async fn a_history_whose_reading_does_not_end_leaves_the_lines_that_are_followed_alone() {
    let app = TestApp::start().await;
    let (db, at, moves) = (&app.ctx.db, app.ctx.clock.now(), 12_000_i64);
    sqlx::query(
        "insert into admission.moves (event_id, seq, at, called)
         select 2, seq, $2, array[seq, seq] from generate_series(1, $1 - 1) as seq",
    )
    .bind(moves)
    .bind(at)
    .execute(db)
    .await
    .unwrap();
    let long = Snapshot {
        seq: moves,
        ..snapshot(EventId(2), at)
    };
    publish(db, &long, &Move::empty(moves, at)).await;
    // Later moves of it are read once the test lets go of a lock.
    let mut holding = db.begin().await.unwrap();
    sqlx::raw_sql(
        "set local idle_in_transaction_session_timeout = 0; select pg_advisory_xact_lock(42)",
    )
    .execute(&mut *holding)
    .await
    .unwrap();
    sqlx::raw_sql(
        "create function public.let_go() returns boolean language plpgsql volatile as
         $$ begin perform pg_advisory_xact_lock_shared(42); return true; end $$;
         create or replace view admission.public_moves as
         select event_id, seq, at, called, missed, claimed, over, left_numbers
         from admission.moves where event_id <> 2 or seq < 6000 or public.let_go()",
    )
    .execute(db)
    .await
    .unwrap();
    let mut told = Told::first(&app).await;
    let reading = Reading::of(Lines::new(db.clone()));
    let mut follower = reading.follow(SALE).await;
    let lines = reading.lines.clone();
    let asked = tokio::spawn(async move { lines.view(EventId(2)).await.map(drop) });
    let waits = async || -> bool {
        sqlx::query_scalar(
            "select exists (select from pg_locks l join pg_database d on d.oid = l.database
                            where l.locktype = 'advisory' and not l.granted
                              and d.datname = current_database())",
        )
        .fetch_one(db)
        .await
        .unwrap()
    };
    eventually(SOON, waits).await;
    for place in 1..=8 {
        told.next(|_, moved| moved.called = calls(place, place))
            .await;
        let view = tokio::time::timeout(SOON, follower.next()).await;
        assert_eq!(view.unwrap().unwrap().snapshot.seq, place + 1);
    }
    holding.rollback().await.unwrap();
    let limit = Duration::from_secs(60);
    eventually(limit, async || reading.lines.view(EventId(2)).await.is_ok()).await;
    let view = reading.view(EventId(2)).await;
    assert!(matches!(
        view.line.standing(Place(moves - 1)),
        Standing::Called(_)
    ));
    drop(asked.await);
    app.finish().await;
}

#[tokio::test]
async fn an_unreadable_snapshot_leaves_the_other_lines_alone() {
    let app = TestApp::start().await;
    let mut told = Told::first(&app).await;
    let broken = "insert into admission.lines (event_id, seq, snapshot) values (2, 1, '{}')";
    sqlx::query(broken).execute(&app.ctx.db).await.unwrap();
    let reading = Reading::of(Lines::new(app.ctx.db.clone()));
    let lines = reading.lines.clone();
    let asked = tokio::spawn(async move { lines.view(EventId(2)).await });
    assert_eq!(reading.view(SALE).await.snapshot.seq, 1);
    told.next(|_, moved| moved.called = calls(1, 1)).await;
    let seq = async || reading.lines.view(SALE).await.unwrap().snapshot.seq;
    eventually(SOON, async || seq().await == 2).await;
    assert_eq!(asked.await.unwrap().unwrap_err(), LineError::Unread);
    let mended = Snapshot {
        seq: 2,
        ..snapshot(EventId(2), app.ctx.clock.now())
    };
    publish(&app.ctx.db, &mended, &Move::empty(2, mended.at)).await;
    eventually(SOON, async || reading.lines.view(EventId(2)).await.is_ok()).await;
    app.finish().await;
}

#[tokio::test]
async fn after_a_failover_that_lost_commits_every_line_is_folded_anew() {
    let app = TestApp::start().await;
    let db = &app.ctx.db;
    let generation = async || {
        sqlx::query(
            "insert into admission.generation (id, timeline) values (gen_random_uuid(), '1')
             on conflict (only_row) do update set id = excluded.id",
        )
        .execute(db)
        .await
        .unwrap();
    };
    generation().await;
    let mut told = Told::first(&app).await;
    for place in 1..=9 {
        told.next(|_, moved| moved.called = calls(place, place))
            .await;
    }
    let reading = Reading::of(Lines::new(db.clone()));
    let view = async || reading.view(SALE).await;
    eventually(SOON, async || view().await.snapshot.seq == 10).await;
    // A refresh has seen the generation.
    told.next(|_, moved| moved.called = calls(10, 10)).await;
    eventually(SOON, async || view().await.snapshot.seq == 11).await;

    // The new primary never had the last five steps, and went another way meanwhile.
    sqlx::query("delete from admission.moves where seq > 6")
        .execute(db)
        .await
        .unwrap();
    told.snapshot.seq = 6;
    for _ in 7..=12 {
        told.next(|_, moved| moved.missed = vec![Place(1)]).await;
    }
    generation().await;
    let standing = async |place| view().await.line.standing(Place(place));
    eventually(SOON, async || standing(9).await == Standing::Waiting).await;
    assert_eq!(standing(1).await, Standing::Missed);
    assert!(matches!(standing(5).await, Standing::Called(_)));
    assert_eq!(view().await.snapshot.seq, 12);
    app.finish().await;
}

#[tokio::test]
async fn a_line_that_nobody_asks_for_is_forgotten() {
    let app = TestApp::start().await;
    let _told = Told::first(&app).await;
    let kept = Duration::from_millis(500);
    let reading = Reading::of(Lines::with_retention(app.ctx.db.clone(), kept));
    let mut follower = reading.follow(SALE).await;
    // Longer than the eviction time, but it is followed.
    let waited = tokio::time::timeout(kept * 3, follower.next()).await;
    assert!(waited.is_err(), "nothing has changed");
    assert_eq!(reading.lines.count(), 1);
    drop(follower);
    eventually(SOON, async || reading.lines.count() == 0).await;
    assert_eq!(reading.view(SALE).await.snapshot.seq, 1, "it is read again");
    app.finish().await;
}

#[tokio::test]
async fn the_last_view_stays_while_postgresql_is_away() {
    let app = TestApp::start().await;
    let mut told = Told::first(&app).await;
    let options = app.ctx.db.connect_options();
    let proxy = Proxy::to(format!("{}:{}", options.get_host(), options.get_port())).await;
    let through = (*options)
        .clone()
        .host("127.0.0.1")
        .port(proxy.address().port());
    let pool = sqlx::postgres::PgPoolOptions::new()
        .acquire_timeout(Duration::from_millis(500))
        .connect_lazy_with(through);
    let reading = Reading::of(Lines::new(pool));
    assert_eq!(reading.view(SALE).await.snapshot.seq, 1);

    proxy.cut();
    told.next(|_, moved| moved.called = calls(1, 1)).await;
    let seq = async || reading.lines.view(SALE).await.unwrap().snapshot.seq;
    eventually(SOON, async || seq().await == 2).await;

    proxy.hang_up();
    told.next(|_, moved| moved.called = calls(2, 2)).await;
    // Longer than a refresh takes: the answer stays.
    let mut answers = 0;
    eventually(SOON, async || {
        assert_eq!(seq().await, 2);
        answers += 1;
        answers > 50
    })
    .await;
    let other = reading.lines.view(EventId(2)).await.unwrap_err();
    assert_eq!(other, LineError::Unread);
    app.finish().await;
}

#[tokio::test]
async fn places_of_a_lobby_are_known_when_the_lottery_is_drawn() {
    let app = TestApp::start().await;
    let mut told = Told::first(&app).await;
    told.next(|snapshot, _| snapshot.state = SaleState::Lobby)
        .await;
    let reading = Reading::of(Lines::new(app.ctx.db.clone()));
    let view = reading.view(SALE).await;
    assert_eq!(view.place_of(Number(1)), None);
    assert_eq!(view.state_of(Number(1)), PlaceState::Waiting);

    let draw = Draw {
        lobby: 50,
        seed: [7; 32],
        entropy: "heads".to_owned(),
    };
    told.next(|snapshot, moved| {
        snapshot.state = SaleState::Open;
        snapshot.lottery.drawn = Some(Drawn {
            lobby: 50,
            seed: "07".repeat(32),
            entropy: "heads".to_owned(),
            entries_digest: String::new(),
        });
        moved.called = calls(1, 3);
    })
    .await;
    let view = async || reading.lines.view(SALE).await.unwrap();
    eventually(SOON, async || view().await.place_of(Number(1)).is_some()).await;
    let (view, order) = (view().await, Arc::new(draw.permutation()));
    for number in (1..=60).map(Number) {
        let place = order.place_of(number);
        assert_eq!(view.place_of(number), Some(place));
        assert_eq!(view.number_of(place), Some(number));
        let is_called = view.state_of(number) == PlaceState::Ready;
        assert_eq!(is_called, place.0 <= 3);
    }
    app.finish().await;
}

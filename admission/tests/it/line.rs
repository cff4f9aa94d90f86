//! Harness: one sale's line, advanced tick by tick in simulated time.

use std::collections::HashMap;
use std::sync::Arc;

use admission::pass::{Claim, Claimant, PassTerms, Passes};
use admission::release::{HeldShards, Leader, Leases, TICK};
use chrono::{DateTime, TimeDelta, Utc};
use domain::line::Move;
use domain::queue::{Snapshot, seen_slot};
use domain::sale::{SaleSettings, Stock};
use domain::{AccountId, EventId, Place, testing};
use platform::line::moves::MoveRow;
use platform::redis::cmd;
use platform::testing::TestApp;
use sqlx::types::Json;

pub(crate) const EVENT: EventId = EventId(1);

/// Settings of a sale that opened a minute before [`start`].
pub(crate) fn sale() -> SaleSettings {
    SaleSettings {
        shopper_cap: 100_000,
        pass_seconds: 600,
        hold_seconds: 600,
        max_tickets_per_account: 6,
        ..testing::sale(EVENT, start() - TimeDelta::seconds(60))
    }
}

pub(crate) fn start() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap()
}

pub(crate) struct Line {
    pub(crate) app: TestApp,
    pub(crate) sale: SaleSettings,
    pub(crate) now: DateTime<Utc>,
    /// Stock of each event; empty, and thus unknown, at first.
    pub(crate) stock: HashMap<EventId, Stock>,
    pub(crate) leases: Leases,
    pub(crate) leader: Leader,
    passes: Passes,
    joined: i64,
    leavings: i64,
}

impl Line {
    pub(crate) async fn new(sale: SaleSettings) -> Self {
        let app = TestApp::start().await;
        Self {
            stock: HashMap::new(),
            leases: Leases::new(&app.ctx, "first"),
            leader: Leader::new(&app.ctx),
            passes: Passes::new(app.ctx.db.clone()),
            now: start(),
            joined: 0,
            leavings: 0,
            sale,
            app,
        }
    }

    /// Lets `people` more join.
    pub(crate) async fn join(&mut self, people: i64) {
        self.joined += people;
        self.write_numbers().await;
    }

    /// Lets the holder of `number` leave.
    pub(crate) async fn leave(&mut self, number: i64) {
        self.leavings += 1;
        sqlx::query("insert into waiting_room.leavings values ($1, $2, $3, now())")
            .bind(EVENT.0)
            .bind(number)
            .bind(self.leavings)
            .execute(&self.app.ctx.db)
            .await
            .unwrap();
        self.write_numbers().await;
    }

    async fn write_numbers(&self) {
        sqlx::query(
            "insert into waiting_room.lines (event_id, joined, leavings) values ($1, $2, $3)
             on conflict (event_id) do update set joined = excluded.joined,
                 leavings = excluded.leavings, updated_at = clock_timestamp()",
        )
        .bind(EVENT.0)
        .bind(self.joined)
        .bind(self.leavings)
        .execute(&self.app.ctx.db)
        .await
        .unwrap();
    }

    /// Marks every number as present now, except those in `away`.
    pub(crate) async fn see(&self, away: std::ops::Range<i64>) {
        let mut bitmap = vec![0_u8; usize::try_from(self.joined / 8 + 1).unwrap()];
        for number in (1..=self.joined).filter(|number| !away.contains(number)) {
            bitmap[usize::try_from(number / 8).unwrap()] |= 0x80 >> (number % 8);
        }
        let key = self.app.ctx.sale_keys(EVENT).seen(seen_slot(self.now), 0);
        let mut set = cmd("SET");
        set.arg(key).arg(bitmap);
        let _: () = set
            .query_async(&mut self.app.ctx.redis.clone())
            .await
            .unwrap();
    }

    pub(crate) async fn tick(&mut self) -> Snapshot {
        self.now += TimeDelta::from_std(TICK).unwrap();
        self.tick_all(&[Arc::new(self.sale.clone())]).await;
        self.snapshot().await
    }

    /// Runs a tick over `sales`; returns those that were due.
    pub(crate) async fn tick_all(&mut self, sales: &[Arc<SaleSettings>]) -> Vec<EventId> {
        let (leader, leases) = (&mut self.leader, &mut self.leases);
        tick(leader, leases, self.now, sales, &self.stock).await
    }

    pub(crate) async fn ticks(&mut self, count: usize) -> Snapshot {
        for _ in 1..count {
            self.tick().await;
        }
        self.tick().await
    }

    /// Returns the published snapshot.
    pub(crate) async fn snapshot(&self) -> Snapshot {
        let row: Json<Snapshot> =
            sqlx::query_scalar("select snapshot from admission.public_lines where event_id = $1")
                .bind(EVENT.0)
                .fetch_one(&self.app.ctx.db)
                .await
                .unwrap();
        row.0
    }

    /// Returns all moves, in order.
    pub(crate) async fn moves(&self) -> Vec<Move> {
        self.moves_after(0).await
    }

    /// Returns the moves after a seq, in order.
    pub(crate) async fn moves_after(&self, seq: i64) -> Vec<Move> {
        let rows: Vec<MoveRow> = sqlx::query_as(
            "select seq, at, called, missed, claimed, over, left_numbers
             from admission.public_moves where event_id = $1 and seq > $2 order by seq",
        )
        .bind(EVENT.0)
        .bind(seq)
        .fetch_all(&self.app.ctx.db)
        .await
        .unwrap();
        rows.into_iter().map(Move::from).collect()
    }

    /// Returns the called places, in the order of their calls.
    pub(crate) async fn called(&self) -> Vec<i64> {
        let moves = self.moves().await;
        let runs = moves.iter().flat_map(|moved| &moved.called);
        runs.flat_map(|run| run.first.0..=run.last.0).collect()
    }

    /// Changes the sale's settings, as an operator does.
    pub(crate) fn set(&mut self, change: impl FnOnce(&mut SaleSettings)) {
        change(&mut self.sale);
        self.sale.version += 1;
    }

    /// Claims for `places`; returns the number of passes issued.
    pub(crate) async fn claim(&self, places: impl IntoIterator<Item = i64>) -> usize {
        let claimants: Vec<Claimant> = places
            .into_iter()
            .map(|place| Claimant {
                place: Place(place),
                account_id: AccountId(1_000 + place),
            })
            .collect();
        let terms = PassTerms::from(&self.sale);
        let claims = self.passes.claim(EVENT, &claimants, terms, Some(self.now));
        let claims = claims.await.unwrap();
        let granted = |claim: &&Claim| matches!(claim, Claim::Granted(_));
        claims.iter().filter(granted).count()
    }

    /// Releases the passes of `places`.
    pub(crate) async fn finish(&self, places: impl IntoIterator<Item = i64>) {
        for place in places {
            let jti = sqlx::query_scalar(
                "select jti from admission.claims where event_id = $1 and place = $2",
            )
            .bind(EVENT.0)
            .bind(place)
            .fetch_one(&self.app.ctx.db)
            .await
            .unwrap();
            let given = self.passes.give_back(EVENT, jti, Some(self.now)).await;
            assert!(given.unwrap().is_some());
        }
    }
}

/// Runs a tick under the lease, repeated at the same time until no background task is left.
/// Returns the sales that were due.
pub(crate) async fn tick(
    leader: &mut Leader,
    leases: &mut Leases,
    now: DateTime<Utc>,
    sales: &[Arc<SaleSettings>],
    stock: &HashMap<EventId, Stock>,
) -> Vec<EventId> {
    let mut seen = Vec::new();
    loop {
        let held = lead(leases).await;
        seen.extend(leader.tick(&held, now, sales, stock).await.unwrap());
        // On a stalled machine the lease may expire before the tick has begun.
        if !leader.settle().await && !held.is_empty() {
            return seen;
        }
    }
}

/// Renews the lease, again where the machine is too slow for its timeouts.
async fn lead(leases: &mut Leases) -> HeldShards {
    for _ in 0..30 {
        match leases.turn().await {
            Ok(held) if !held.is_empty() => return held,
            Ok(_) => {}
            Err(error) => assert!(platform::pg::is_away(&error), "{error}"),
        }
    }
    panic!("the test's leader has no lease");
}

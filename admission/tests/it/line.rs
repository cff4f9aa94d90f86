//! One sale's line, moved by hand: the time is what the test says.

use std::collections::HashMap;
use std::sync::Arc;

use admission::pass::{Claim, Claimant, Passes, Terms};
use admission::release::{Leader, TICK};
use chrono::{DateTime, TimeDelta, Utc};
use domain::queue::{SaleKeys, Snapshot};
use domain::sale::{SaleSettings, Stock};
use domain::{AccountId, EventId, Place};
use platform::redis::AsyncCommands;
use platform::testing::TestApp;

pub(crate) const EVENT: EventId = EventId(1);

/// A sale that opened a minute before [`start`].
pub(crate) fn sale() -> SaleSettings {
    SaleSettings {
        event_id: EVENT,
        version: 1,
        opens_at: start() - TimeDelta::seconds(60),
        closes_at: None,
        lobby_seconds: 0,
        rate_per_minute: 600,
        shopper_cap: 100_000,
        claim_window_seconds: 60,
        pass_seconds: 600,
        hold_seconds: 600,
        paused: false,
        closed: false,
        queue: true,
        challenge: false,
        anonymous: false,
        entropy_source: String::new(),
        entropy: String::new(),
        message: String::new(),
        max_tickets_per_account: 6,
    }
}

pub(crate) fn start() -> DateTime<Utc> {
    DateTime::from_timestamp(1_800_000_000, 0).unwrap()
}

pub(crate) struct Line {
    pub(crate) app: TestApp,
    pub(crate) sale: SaleSettings,
    pub(crate) now: DateTime<Utc>,
    /// What is left of the event; unknown at first.
    pub(crate) stock: HashMap<EventId, Stock>,
    pub(crate) leader: Leader,
    pub(crate) passes: Passes,
    pub(crate) waiting_room: waiting_room::Line,
    keys: SaleKeys,
    next_account: i64,
}

impl Line {
    pub(crate) async fn new(sale: SaleSettings) -> Self {
        let app = TestApp::start().await;
        let namespace = app.ctx.config.namespace.clone();
        let redis = app.ctx.redis.clone();
        Self {
            stock: HashMap::new(),
            leader: Leader::new(redis.clone(), &namespace, "first"),
            passes: Passes::new(app.ctx.db.clone()),
            waiting_room: waiting_room::Line::new(redis, &namespace),
            keys: app.ctx.sale_keys(EVENT),
            now: start(),
            next_account: 1,
            sale,
            app,
        }
    }

    /// So many new people join.
    pub(crate) async fn join(&mut self, people: i64) {
        for _ in 0..people {
            let account = AccountId(self.next_account);
            self.next_account += 1;
            self.waiting_room
                .join(EVENT, account, self.now)
                .await
                .unwrap();
        }
    }

    /// A crowd, without joining one by one.
    pub(crate) async fn crowd(&mut self, people: i64) {
        let mut redis = self.app.ctx.redis.clone();
        let _: i64 = redis.incr(self.keys.joined(), people).await.unwrap();
        self.next_account += people;
    }

    pub(crate) async fn tick(&mut self) -> Snapshot {
        self.now += TimeDelta::from_std(TICK).unwrap();
        let sales = [Arc::new(self.sale.clone())];
        let seen = self
            .leader
            .tick(self.now, &sales, &self.stock)
            .await
            .unwrap();
        assert!(seen.is_some(), "the test's leader has the lease");
        self.snapshot().await
    }

    pub(crate) async fn ticks(&mut self, count: usize) -> Snapshot {
        for _ in 1..count {
            self.tick().await;
        }
        self.tick().await
    }

    pub(crate) async fn snapshot(&self) -> Snapshot {
        let json: Vec<u8> = self
            .app
            .ctx
            .redis
            .clone()
            .get(self.keys.snapshot())
            .await
            .unwrap();
        serde_json::from_slice(&json).unwrap()
    }

    /// The operator changes the sale.
    pub(crate) fn set(&mut self, change: impl FnOnce(&mut SaleSettings)) {
        change(&mut self.sale);
        self.sale.version += 1;
    }

    pub(crate) async fn claim(&self, place: i64) -> Claim {
        let claimant = Claimant {
            place: Place(place),
            account_id: AccountId(place),
        };
        let terms = Terms::from(&self.sale);
        let at = Some(self.now);
        self.passes
            .claim(EVENT, &[claimant], terms, at)
            .await
            .unwrap()[0]
    }
}

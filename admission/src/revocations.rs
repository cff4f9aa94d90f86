//! Revocation list: passes that were given back or revoked before they expired. Each node holds it
//! in memory and polls for changes four times a second, so that checking a pass needs no I/O.

use std::collections::HashMap;
use std::sync::RwLock;
use std::time::Duration;

use domain::clock::SharedClock;
use domain::token::LEEWAY_SECONDS;
use platform::health::Heartbeat;
use platform::pg::Patience;
use platform::sync::RwLockExt as _;
use sqlx::PgPool;
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use crate::pass::RevokedPass;
use crate::store::revocations::{self, ReadPositions};

const READ_PERIOD: Duration = Duration::from_millis(250);
/// First deadline of a read. A longer one may hang on a silent connection, during which a revoked
/// pass would stay valid.
const MIN_DEADLINE: Duration = Duration::from_millis(600);
const MAX_DEADLINE: Duration = Duration::from_secs(15);

/// The revoked passes that have not expired.
pub(crate) struct Revocations {
    db: PgPool,
    clock: SharedClock,
    /// Pass id → expiry, in Unix seconds.
    ends: RwLock<HashMap<Uuid, i64>>,
    /// Position of the read at start-up.
    loaded: ReadPositions,
}

impl Revocations {
    /// Loads the passes that are revoked now.
    pub(crate) async fn load(db: PgPool, clock: SharedClock) -> Result<Self, sqlx::Error> {
        let (loaded, refused) = revocations::all(&db, clock.now().timestamp()).await?;
        let revoked = Self {
            db,
            clock,
            ends: RwLock::default(),
            loaded,
        };
        revoked.add(refused);
        Ok(revoked)
    }

    /// Returns whether the pass with this id is revoked.
    pub(crate) fn contains(&self, jti: &str) -> bool {
        Uuid::parse_str(jti).is_ok_and(|jti| self.ends.read_unpoisoned().contains_key(&jti))
    }

    /// Adds passes on this node at once; other nodes poll them.
    pub(crate) fn add(&self, refused: impl IntoIterator<Item = RevokedPass>) {
        let mut ends = self.ends.write_unpoisoned();
        ends.extend(refused.into_iter().map(|pass| (pass.jti, pass.ends_at)));
    }

    /// Polls for newly revoked passes, until dropped.
    pub(crate) async fn follow(&self, heartbeat: Heartbeat) {
        let mut ticks = tokio::time::interval(READ_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut known = self.loaded.clone();
        let mut patience = Patience::between(MIN_DEADLINE, MAX_DEADLINE);
        loop {
            ticks.tick().await;
            let now = self.clock.now().timestamp();
            let reading = revocations::since(&self.db, &mut known, now);
            match patience.bound(reading).await {
                Ok(refused) => self.add(refused),
                Err(error) => tracing::warn!(%error, "failed to read revoked passes"),
            }
            self.evict_expired(now);
            heartbeat.beat();
        }
    }

    fn evict_expired(&self, now: i64) {
        let now = now - LEEWAY_SECONDS.cast_signed();
        let mut ends = self.ends.write_unpoisoned();
        ends.retain(|_, end| *end > now);
    }
}

//! In-memory cache of the sales' settings. Changes are polled four times a second, so that they
//! take effect on every node at once. A cache miss is looked up in paced batches, so that made-up
//! ids cost PostgreSQL next to nothing.

use std::collections::HashMap;
use std::sync::{Arc, RwLock};
use std::time::Duration;

use domain::EventId;
use domain::sale::SaleSettings;
use platform::batcher::{BatchLimits, BatchWork, Batcher, Job};
use platform::health::Heartbeat;
use platform::pg::Patience;
use platform::problem::{Kind, Problem};
use platform::sync::RwLockExt as _;
use sqlx::PgPool;
use tokio::time::MissedTickBehavior;

use crate::store;
use crate::store::position::ReadPosition;

/// Polling period of changed sales.
const READ_PERIOD: Duration = Duration::from_millis(250);
/// First deadline of a read. A longer one may hang on a silent connection, and a pause must not
/// wait for that.
const MIN_DEADLINE: Duration = Duration::from_millis(600);
const MAX_DEADLINE: Duration = Duration::from_secs(15);
/// Bounds on the lookups of unknown sales.
const LOOKUPS: BatchLimits = BatchLimits {
    batch: 4_096,
    waiting: 100_000,
    pace: Duration::from_millis(50),
    time: Duration::from_secs(5),
};

/// Cache of every sale.
pub(crate) struct Sales {
    known: Arc<Known>,
    unknown: Batcher<Lookup>,
    loaded: ReadPosition,
}

struct Known {
    db: PgPool,
    sales: RwLock<HashMap<EventId, Arc<SaleSettings>>>,
}

impl Sales {
    /// Loads every sale.
    pub(crate) async fn load(db: PgPool) -> Result<Self, sqlx::Error> {
        let (loaded, sales) = store::sales::changed(&db, None).await?;
        let known = Arc::new(Known {
            db,
            sales: RwLock::default(),
        });
        sales.into_iter().for_each(|sale| known.put(sale));
        Ok(Self {
            unknown: Batcher::new(Lookup(Arc::clone(&known)), LOOKUPS),
            known,
            loaded,
        })
    }

    /// Returns a sale, from the cache or, on a miss, the database.
    ///
    /// # Errors
    /// `not-found` when there is none; the database's failure.
    pub(crate) async fn get(&self, event_id: EventId) -> Result<Arc<SaleSettings>, Problem> {
        let sale = match self.known.get(event_id) {
            Some(sale) => Some(sale),
            None => self.unknown.ask(event_id).await??,
        };
        sale.ok_or_else(|| {
            Problem::new(
                Kind::NotFound,
                format!("There is no sale of event {event_id}."),
            )
        })
    }

    /// Returns a sale that is in the cache.
    pub(crate) fn known(&self, event_id: EventId) -> Option<Arc<SaleSettings>> {
        self.known.get(event_id)
    }

    /// Returns every sale in the cache.
    pub(crate) fn all(&self) -> Vec<Arc<SaleSettings>> {
        let known = self.known.sales.read_unpoisoned();
        known.values().map(Arc::clone).collect()
    }

    /// Polls for changed sales, until dropped.
    pub(crate) async fn follow(&self, heartbeat: Heartbeat) {
        let mut ticks = tokio::time::interval(READ_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut read = self.loaded.clone();
        let mut patience = Patience::between(MIN_DEADLINE, MAX_DEADLINE);
        loop {
            ticks.tick().await;
            let reading = store::sales::changed(&self.known.db, Some(&read));
            match patience.bound(reading).await {
                Ok((reading, sales)) => {
                    if !read.shares_history_with(&reading) {
                        // A failover may have lost the last versions and reuse their numbers.
                        self.known.clear();
                    }
                    sales.into_iter().for_each(|sale| self.put(sale));
                    read = reading;
                }
                Err(error) => tracing::warn!(%error, "failed to read changed sales"),
            }
            heartbeat.beat();
        }
    }

    pub(crate) fn put(&self, sale: SaleSettings) {
        self.known.put(sale);
    }
}

impl Known {
    fn get(&self, event_id: EventId) -> Option<Arc<SaleSettings>> {
        let sales = self.sales.read_unpoisoned();
        sales.get(&event_id).map(Arc::clone)
    }

    fn clear(&self) {
        let mut sales = self.sales.write_unpoisoned();
        sales.clear();
    }

    fn put(&self, sale: SaleSettings) {
        let mut sales = self.sales.write_unpoisoned();
        if sales
            .get(&sale.event_id)
            .is_none_or(|held| held.version < sale.version)
        {
            sales.insert(sale.event_id, Arc::new(sale));
        }
    }
}

struct Lookup(Arc<Known>);

impl BatchWork for Lookup {
    type Item = EventId;
    type Output = Result<Option<Arc<SaleSettings>>, Problem>;

    async fn work(&self, jobs: Vec<Job<Self>>) {
        let ids: Vec<EventId> = jobs.iter().map(|job| job.item).collect();
        let read = store::sales::of(&self.0.db, &ids).await;
        let read = read.map(|sales| sales.into_iter().for_each(|sale| self.0.put(sale)));
        let read = read.map_err(Problem::from);
        for Job { item, asker } in jobs {
            let known = read.as_ref().map(|()| self.0.get(item));
            asker.answer(known.map_err(Clone::clone));
        }
    }
}

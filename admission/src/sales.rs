//! The sales as operators set them, in memory: read again four times a second, so that a change
//! acts everywhere at once.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::EventId;
use domain::message::SaleChanged;
use domain::sale::SaleSettings;
use platform::amqp::{self, Delivery, Handler, Settings, Verdict};
use platform::health::Heartbeat;
use platform::pg::Patience;
use platform::problem::{Kind, Problem};
use platform::topology;
use sqlx::PgPool;
use tokio::time::MissedTickBehavior;

use crate::Desk;
use crate::store;

/// How often changes are read.
const READ_PERIOD: Duration = Duration::from_millis(250);
/// A read that takes longer may hang on a silent connection: a pause must not wait for that.
const SHORTEST_DEADLINE: Duration = Duration::from_millis(600);
const LONGEST_DEADLINE: Duration = Duration::from_secs(15);
/// A row is seen only when its transaction commits, so each read begins this long before the last.
const OVERLAP: TimeDelta = TimeDelta::seconds(5);

/// Every sale.
pub(crate) struct Sales {
    db: PgPool,
    known: RwLock<HashMap<EventId, Arc<SaleSettings>>>,
    loaded_at: DateTime<Utc>,
}

impl Sales {
    /// Reads every sale.
    pub(crate) async fn load(db: PgPool) -> Result<Self, sqlx::Error> {
        let loaded_at = store::sales::now(&db).await?;
        let sales = Self {
            known: RwLock::default(),
            loaded_at,
            db,
        };
        for sale in store::sales::all(&sales.db).await? {
            sales.put(sale);
        }
        Ok(sales)
    }

    /// One sale.
    pub(crate) fn get(&self, event_id: EventId) -> Result<Arc<SaleSettings>, Problem> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.get(&event_id).map(Arc::clone).ok_or_else(|| {
            Problem::new(
                Kind::NotFound,
                format!("There is no sale of event {event_id}."),
            )
        })
    }

    /// Every sale.
    pub(crate) fn all(&self) -> Vec<Arc<SaleSettings>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.values().map(Arc::clone).collect()
    }

    /// Reads what changed, again and again, until dropped.
    pub(crate) async fn follow(&self, heartbeat: Heartbeat) {
        let mut ticks = tokio::time::interval(READ_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut since = self.loaded_at - OVERLAP;
        let mut patience = Patience::between(SHORTEST_DEADLINE, LONGEST_DEADLINE);
        loop {
            ticks.tick().await;
            match patience.bound(self.read_since(since)).await {
                Ok(read_at) => since = read_at - OVERLAP,
                Err(error) => tracing::warn!(%error, "changed sales were not read"),
            }
            heartbeat.turn();
        }
    }

    async fn read_since(&self, since: DateTime<Utc>) -> Result<DateTime<Utc>, sqlx::Error> {
        let read_at = store::sales::now(&self.db).await?;
        for sale in store::sales::changed_since(&self.db, since).await? {
            self.put(sale);
        }
        Ok(read_at)
    }

    fn put(&self, sale: SaleSettings) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if known
            .get(&sale.event_id)
            .is_none_or(|held| held.version < sale.version)
        {
            known.insert(sale.event_id, Arc::new(sale));
        }
    }
}

/// Stores changes of sales until soft shutdown.
pub(crate) async fn consume(desk: Arc<Desk>) -> anyhow::Result<()> {
    let broker = desk.ctx.broker.clone();
    let stop = desk.ctx.shutdown.soft().clone();
    let queue = topology::admission_sales();
    amqp::consume(&broker, &stop, &queue, Settings::default(), Changes(desk)).await
}

struct Changes(Arc<Desk>);

impl Handler for Changes {
    async fn handle(&self, delivery: Delivery) -> Verdict {
        let sale = match delivery.parse::<SaleChanged>() {
            Ok(message) => message.sale,
            Err(error) => return error.into(),
        };
        match store::sales::put(&self.0.ctx.db, &sale).await {
            Ok(()) => {
                self.0.sales.put(sale);
                Verdict::Ack
            }
            Err(error) => {
                tracing::warn!(event_id = %sale.event_id, %error, "a sale was not stored");
                Verdict::retry(&delivery)
            }
        }
    }
}

//! What the loops, the consumer and the routes share.

use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::EventId;
use domain::clock::SharedClock;
use domain::payment::RefundPolicy;
use platform::config::InvalidConfig;
use platform::http::SecondCache;
use platform::outbox;
use sqlx::PgPool;
use tokio::sync::{Notify, OnceCell};
use uuid::Uuid;

use crate::OWNER;
use crate::config::Config;
use crate::operation::Kind;
use crate::store::events;
use crate::stripe::Stripe;

pub(crate) struct AppState {
    pub(crate) db: PgPool,
    pub(crate) clock: SharedClock,
    pub(crate) stripe: Stripe,
    /// Notified, per kind, when operations may be due.
    pub(crate) operations_due: [Notify; Kind::ALL.len()],
    /// Notified when a webhook was stored.
    pub(crate) webhook_stored: Notify,
    pub(crate) stripe_timeout: Duration,
    /// Most operations of a kind in flight.
    pub(crate) concurrency: usize,
    /// `true` if the key moves real money; `None` when its prefix is no known one.
    pub(crate) is_live: Option<bool>,
    /// `GET /api/events/{id}/refund-policy` of buyers; `None` for an unknown event.
    pub(crate) policies: SecondCache<EventId, Option<RefundPolicy>>,
    installation: OnceCell<Uuid>,
}

impl AppState {
    pub(crate) fn new(
        db: PgPool,
        clock: SharedClock,
        config: &Config,
    ) -> Result<Self, InvalidConfig> {
        Ok(Self {
            db,
            policies: SecondCache::new(SharedClock::clone(&clock)),
            clock,
            stripe: Stripe::new(config)?,
            operations_due: Default::default(),
            webhook_stored: Notify::new(),
            stripe_timeout: config.stripe_timeout,
            concurrency: usize::try_from(config.stripe_concurrency.get())
                .expect("a usize has 32 bits or more"),
            is_live: config.is_live(),
            installation: OnceCell::new(),
        })
    }

    /// Token of this installation, for Stripe accounts that serve several.
    pub(crate) async fn installation(&self) -> Result<Uuid, sqlx::Error> {
        let asking = || events::installation(&self.db);
        self.installation.get_or_try_init(asking).await.copied()
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// Wakes the driver of this kind, after a commit that may have stored operations.
    pub(crate) fn wake(&self, kind: Kind) {
        self.operations_due[kind as usize].notify_one();
    }

    /// Wakes the drivers and the outbox relay, after a commit that may have stored operations or
    /// messages.
    pub(crate) fn wake_after_commit(&self) {
        Kind::ALL.into_iter().for_each(|kind| self.wake(kind));
        outbox::wake(OWNER);
    }
}

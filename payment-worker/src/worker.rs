//! What the parts of the worker share.

use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::clock::SharedClock;
use platform::config::InvalidConfig;
use platform::outbox;
use sqlx::PgPool;
use tokio::sync::{Notify, OnceCell};
use uuid::Uuid;

use crate::OWNER;
use crate::config::Config;
use crate::operations::Kind;
use crate::store::events;
use crate::stripe::Stripe;

/// What the parts of the worker share.
pub(crate) struct Worker {
    pub(crate) db: PgPool,
    pub(crate) clock: SharedClock,
    pub(crate) stripe: Stripe,
    /// Told, for each kind, when operations may have become due.
    pub(crate) operations_due: [Notify; Kind::ALL.len()],
    /// Told when a webhook was stored.
    pub(crate) webhook_stored: Notify,
    pub(crate) stripe_timeout: Duration,
    /// Most operations of a kind at once.
    pub(crate) concurrency: usize,
    /// Whether the key moves real money; none when it does not tell.
    pub(crate) is_live: Option<bool>,
    installation: OnceCell<Uuid>,
}

impl Worker {
    pub(crate) fn new(
        db: PgPool,
        clock: SharedClock,
        config: &Config,
    ) -> Result<Self, InvalidConfig> {
        Ok(Self {
            db,
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

    /// The token of this installation: one Stripe account may serve several.
    pub(crate) async fn installation(&self) -> Result<Uuid, sqlx::Error> {
        let asking = || events::installation(&self.db);
        self.installation.get_or_try_init(asking).await.copied()
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// After a commit that may have stored operations of this kind: they begin at once.
    pub(crate) fn wake(&self, kind: Kind) {
        self.operations_due[kind as usize].notify_one();
    }

    /// After a commit that may have stored operations or messages: they go out at once.
    pub(crate) fn wake_after_commit(&self) {
        Kind::ALL.into_iter().for_each(|kind| self.wake(kind));
        outbox::wake(OWNER);
    }
}

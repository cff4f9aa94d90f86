//! What the parts of the worker share.

use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::clock::SharedClock;
use platform::config::InvalidConfig;
use platform::outbox;
use sqlx::PgPool;
use tokio::sync::Notify;

use crate::OWNER;
use crate::config::Config;
use crate::operations::Kind;
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
        })
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

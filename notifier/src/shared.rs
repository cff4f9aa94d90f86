//! What the parts of the notifier share.

use chrono::{DateTime, Utc};
use domain::clock::SharedClock;
use platform::service::Context;
use sqlx::PgPool;
use tokio::sync::Notify;

/// What the parts of the notifier share.
pub(crate) struct Shared {
    pub(crate) db: PgPool,
    pub(crate) clock: SharedClock,
    /// Whether SMS can be sent.
    pub(crate) has_sms: bool,
    /// Told when notifications were written.
    pub(crate) written: Notify,
}

impl Shared {
    pub(crate) fn new(ctx: &Context, has_sms: bool) -> Self {
        let (db, clock) = (ctx.db.clone(), ctx.clock.clone());
        Self {
            db,
            clock,
            has_sms,
            written: Notify::new(),
        }
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }
}

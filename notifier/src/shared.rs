//! What the parts of the notifier share.

use chrono::{DateTime, Utc};
use domain::clock::SharedClock;
use platform::service::Context;
use sqlx::PgPool;
use tokio::sync::Notify;

use crate::notice::Channel;

/// What the parts of the notifier share.
pub(crate) struct Shared {
    pub(crate) db: PgPool,
    pub(crate) clock: SharedClock,
    /// Whether SMS can be sent.
    pub(crate) has_sms: bool,
    mail_written: Notify,
    sms_written: Notify,
}

impl Shared {
    pub(crate) fn new(ctx: &Context, has_sms: bool) -> Self {
        Self {
            db: ctx.db.clone(),
            clock: ctx.clock.clone(),
            has_sms,
            mail_written: Notify::new(),
            sms_written: Notify::new(),
        }
    }

    pub(crate) fn now(&self) -> DateTime<Utc> {
        self.clock.now()
    }

    /// After a commit that may have written notifications: they go out at once.
    pub(crate) fn wake_senders(&self) {
        self.mail_written.notify_one();
        self.sms_written.notify_one();
    }

    /// Told when notifications for this channel may have been written.
    pub(crate) fn written(&self, channel: Channel) -> &Notify {
        match channel {
            Channel::Email => &self.mail_written,
            Channel::Sms => &self.sms_written,
        }
    }
}

//! Is anything still in flight?

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use sqlx::PgPool;
use tokio::time::Instant;

/// How often to look again.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// What has not come to rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct InFlight {
    /// Booking requests that no worker has decided.
    pub(crate) requests: i64,
    /// Holds that run.
    pub(crate) holds: i64,
    /// Payments that wait to be captured or voided, or calls to Stripe that are due.
    pub(crate) payments: i64,
    /// Confirmed bookings whose payment is not captured.
    pub(crate) captures: i64,
    /// Webhooks not acted on.
    pub(crate) webhooks: i64,
    /// Messages not yet published.
    pub(crate) outbox: i64,
    /// Mails and SMS to be sent.
    pub(crate) notices: i64,
}

impl InFlight {
    /// Whether everything is at rest.
    pub(crate) fn is_empty(&self) -> bool {
        self.total() == 0
    }

    /// How many things there are in all.
    pub(crate) fn total(&self) -> u64 {
        let Self {
            requests,
            holds,
            payments,
            captures,
            webhooks,
            outbox,
            notices,
        } = self;
        let total = requests + holds + payments + captures + webhooks + outbox + notices;
        u64::try_from(total).unwrap_or(0)
    }
}

impl fmt::Display for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            requests,
            holds,
            payments,
            captures,
            webhooks,
            outbox,
            notices,
        } = self;
        write!(
            f,
            "in flight: {requests} requests, {holds} holds, {payments} payments, {captures} captures, \
             {webhooks} webhooks, {outbox} messages, {notices} notices"
        )
    }
}

/// Waits until nothing is in flight, at most `patience`, and returns what is left then. Without
/// patience it looks once.
pub(super) async fn wait(db: &PgPool, patience: Duration) -> Result<InFlight, sqlx::Error> {
    let deadline = Instant::now() + patience;
    if patience.is_zero() {
        return look(db).await;
    }
    // Twice in a row: a message on its way between two services is in nobody's table.
    let mut quiet_before = false;
    loop {
        let in_flight = look(db).await?;
        if (in_flight.is_empty() && quiet_before) || Instant::now() >= deadline {
            return Ok(in_flight);
        }
        quiet_before = in_flight.is_empty();
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

async fn look(db: &PgPool) -> Result<InFlight, sqlx::Error> {
    sqlx::query_as!(
        InFlight,
        r#"
        select
            (select count(*) from admission.requests r where r.published
                and not exists (select from booking.bookings b where b.id = r.booking_id)) as "requests!",
            (select count(*) from booking.bookings where state = 'held') as "holds!",
            (select count(*) from payment.payments where state in ('pending', 'requires_action', 'authorised'))
                + (select count(*) from payment.operations where state = 'pending') as "payments!",
            (select count(*) from booking.bookings where state = 'confirmed' and captured_at is null) as "captures!",
            (select count(*) from payment.webhook_inbox where processed_at is null) as "webhooks!",
            (select count(*) from platform.outbox) as "outbox!",
            (select count(*) from notifier.notifications
                where state in ('waiting', 'sending') and kind not in ('reminder', 'held')) as "notices!"
        "#
    )
    .fetch_one(db)
    .await
}

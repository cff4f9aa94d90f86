//! Counts what is in flight, and waits until nothing is.

use std::fmt;
use std::time::Duration;

use serde::Serialize;
use sqlx::PgPool;
use tokio::time::Instant;

/// Pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// Counts of unfinished work by kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct InFlight {
    /// Published booking requests without a booking.
    pub(crate) requests: i64,
    /// Bookings in state `held`.
    pub(crate) holds: i64,
    /// Payments not yet captured or voided, and pending calls to Stripe.
    pub(crate) payments: i64,
    /// Confirmed bookings whose payment is not captured.
    pub(crate) captures: i64,
    /// Webhooks not processed.
    pub(crate) webhooks: i64,
    /// Messages not published.
    pub(crate) outbox: i64,
    /// Mails and SMS not sent; reminders, mails about holds, and what waits for an address to be
    /// confirmed don't count.
    pub(crate) notices: i64,
}

impl InFlight {
    pub(crate) fn is_empty(&self) -> bool {
        self.total() == 0
    }

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

/// Waits until nothing is in flight, at most `patience`, and returns what is left then. With zero
/// `patience` it looks once.
pub(super) async fn wait(db: &PgPool, patience: Duration) -> Result<InFlight, sqlx::Error> {
    let deadline = Instant::now() + patience;
    if patience.is_zero() {
        return look(db).await;
    }
    // Two looks in a row: a message between two services is in no table.
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
                where state in ('waiting', 'sending') and kind not in ('reminder', 'held')
                  and last_error is distinct from 'the address is not confirmed') as "notices!"
        "#
    )
    .fetch_one(db)
    .await
}

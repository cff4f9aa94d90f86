//! What the worker hears of bookings. Only the database changes here; Stripe is called by the
//! [driver](crate::driver).

mod cancelled;
mod confirmed;
mod hold_placed;
mod void;

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::message::{BookingCancelled, BookingConfirmed, HoldPlaced, Message, VoidPayment};
use platform::amqp::{Delivery, Handler, Verdict};
use platform::pg::run_tx;
use sqlx::PgConnection;

use crate::worker::Worker;

/// How long a message waits for another that must come first.
const WAIT_FOR_OTHERS: Duration = Duration::from_secs(1);

/// Consumer of `payment.bookings`.
pub(crate) struct Bookings(pub Arc<Worker>);

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    /// All of it, now or before.
    Yes,
    /// Something it builds on has not happened yet.
    TooEarly,
}

/// What a message does to the worker's tables.
trait Effect: Message {
    /// Does it, in the caller's transaction. Doing it again changes nothing.
    fn apply(
        &self,
        conn: &mut PgConnection,
        now: DateTime<Utc>,
    ) -> impl Future<Output = Result<Done, sqlx::Error>> + Send;
}

impl Handler for Bookings {
    async fn handle(&self, delivery: Delivery) -> Verdict {
        match delivery.name.as_str() {
            HoldPlaced::NAME => self.apply::<HoldPlaced>(&delivery).await,
            BookingConfirmed::NAME => self.apply::<BookingConfirmed>(&delivery).await,
            BookingCancelled::NAME => self.apply::<BookingCancelled>(&delivery).await,
            VoidPayment::NAME => self.apply::<VoidPayment>(&delivery).await,
            other => Verdict::DeadLetter(format!("the payment worker knows no message {other:?}")),
        }
    }
}

impl Bookings {
    async fn apply<M: Effect>(&self, delivery: &Delivery) -> Verdict {
        let message: M = match delivery.parse() {
            Ok(message) => message,
            Err(error) => return error.into(),
        };
        let now = self.0.now();
        let applying = run_tx(&self.0.db, M::NAME, |tx| Box::pin(message.apply(tx, now)));
        match applying.await {
            Ok(Done::Yes) => {
                self.0.wake_after_commit();
                Verdict::Ack
            }
            Ok(Done::TooEarly) => Verdict::RetryAfter(WAIT_FOR_OTHERS),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(
                    message = M::NAME,
                    error,
                    "message not applied; trying again"
                );
                Verdict::retry(delivery)
            }
        }
    }
}

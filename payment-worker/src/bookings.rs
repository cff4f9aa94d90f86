//! Consumer of messages about bookings. Only the database changes here; the [driver](crate::driver)
//! calls Stripe.

mod cancelled;
pub(crate) mod confirmed;
mod hold_placed;
pub(crate) mod release;
mod void;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::message::{BookingCancelled, BookingConfirmed, HoldPlaced, Message, VoidPayment};
use futures_util::{StreamExt, stream};
use platform::amqp::{BatchHandler, Delivery, Verdict};
use platform::pg::run_tx;
use sqlx::PgConnection;

use crate::batch::{self, Batch};
use crate::operation::Kind;
use crate::state::AppState;

/// Delay of a message whose predecessor has not been applied.
const WAIT_FOR_OTHERS: Duration = Duration::from_secs(1);

/// Most messages that are applied one by one at a time.
const CONCURRENCY: usize = 16;

/// Consumer of `payment.bookings`. The kinds that a sale brings by the thousand are applied in one
/// transaction for a batch; other kinds, and what failed in the batch, message by message.
pub(crate) struct Bookings(pub Arc<AppState>);

/// Effect of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Done {
    Yes,
    /// It changes nothing: applied before, or overtaken by another message.
    Before,
    /// Its predecessor has not been applied yet.
    TooEarly,
}

/// A message with an effect on the payment tables.
trait Effect: Message {
    /// Applies it in the caller's transaction. Idempotent.
    fn apply(
        &self,
        conn: &mut PgConnection,
        now: DateTime<Utc>,
    ) -> impl Future<Output = Result<Done, sqlx::Error>> + Send;
}

/// The messages of a batch that are applied in one transaction, with their indices.
#[derive(Default)]
struct Together {
    held: Vec<(usize, HoldPlaced)>,
    confirmed: Vec<(usize, BookingConfirmed)>,
    voids: Vec<(usize, VoidPayment)>,
}

impl Together {
    /// Parses the batch; what can't be parsed is left to be reported alone.
    fn of(batch: &[Delivery]) -> Self {
        let mut together = Self::default();
        for (index, delivery) in batch.iter().enumerate() {
            match delivery.name.as_str() {
                HoldPlaced::NAME => {
                    together
                        .held
                        .extend(delivery.parse().ok().map(|held| (index, held)));
                }
                BookingConfirmed::NAME => {
                    let confirmed = delivery.parse().ok();
                    together
                        .confirmed
                        .extend(confirmed.map(|confirmed| (index, confirmed)));
                }
                VoidPayment::NAME => {
                    let void = delivery.parse().ok();
                    together.voids.extend(void.map(|void| (index, void)));
                }
                _ => {}
            }
        }
        together
    }

    fn is_empty(&self) -> bool {
        self.held.is_empty() && self.confirmed.is_empty() && self.voids.is_empty()
    }

    /// Applies them in the caller's transaction; returns the indices of those that are done.
    async fn apply(
        &self,
        conn: &mut PgConnection,
        now: DateTime<Utc>,
    ) -> Result<HashSet<usize>, sqlx::Error> {
        let held: Vec<_> = self.held.iter().map(|(_, held)| &held.booking).collect();
        hold_placed::make_due(conn, &held, now).await?;
        let confirmed: Vec<_> = self
            .confirmed
            .iter()
            .map(|(_, confirmed)| confirmed.booking.booking_id)
            .collect();
        let asked = confirmed::capture_authorised(conn, &confirmed, now).await?;
        let voids: Vec<_> = self
            .voids
            .iter()
            .map(|(_, void)| (void.booking_id, void.reason))
            .collect();
        let released = void::release_unpaid(conn, &voids, now).await?;
        let mut counted = HashSet::new();
        let voids = self.voids.iter().filter_map(|(index, void)| {
            // A second void of a booking may have another reason, and is applied alone.
            let is_done = released.contains(&void.booking_id) && counted.insert(void.booking_id);
            is_done.then_some(*index)
        });
        let captures = self.confirmed.iter().filter_map(|(index, confirmed)| {
            asked
                .contains(&confirmed.booking.booking_id)
                .then_some(*index)
        });
        Ok(self
            .held
            .iter()
            .map(|(index, _)| *index)
            .chain(captures)
            .chain(voids)
            .collect())
    }
}

impl BatchHandler for Bookings {
    async fn handle_batch(&self, deliveries: Vec<Delivery>) -> Vec<Verdict> {
        let verdicts = batch::execute(self, &deliveries).await;
        stream::iter(verdicts).buffered(CONCURRENCY).collect().await
    }
}

impl Batch for Bookings {
    type Item = Delivery;
    type Output = Verdict;

    const ITEMS: &'static str = "messages";

    async fn together(&self, deliveries: &[Delivery]) -> Result<Vec<Option<Verdict>>, sqlx::Error> {
        let (together, now) = (Together::of(deliveries), self.0.now());
        if together.is_empty() {
            return Ok(vec![None; deliveries.len()]);
        }
        let applying = run_tx(&self.0.db, "payment take bookings", |tx| {
            Box::pin(together.apply(tx, now))
        });
        let done = applying.await?;
        self.0.wake(Kind::Create);
        self.0.wake(Kind::Capture);
        self.0.wake(Kind::Cancel);
        let indices = 0..deliveries.len();
        let verdicts = indices.map(|index| done.contains(&index).then_some(Verdict::Ack));
        Ok(verdicts.collect())
    }

    async fn alone(&self, delivery: &Delivery) -> Verdict {
        match delivery.name.as_str() {
            HoldPlaced::NAME => self.apply::<HoldPlaced>(delivery).await,
            BookingConfirmed::NAME => self.apply::<BookingConfirmed>(delivery).await,
            BookingCancelled::NAME => self.apply::<BookingCancelled>(delivery).await,
            VoidPayment::NAME => self.apply::<VoidPayment>(delivery).await,
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
            Ok(Done::Before) => Verdict::Ack,
            Ok(Done::TooEarly) => Verdict::RetryAfter(WAIT_FOR_OTHERS),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(
                    message = M::NAME,
                    error,
                    "applying a message failed; retrying"
                );
                Verdict::retry(delivery)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use domain::booking::BookingFacts;
    use platform::testing::TestApp;
    use serde::Serialize;
    use uuid::Uuid;

    use super::*;
    use crate::testing::{self, operations_of, payment, set_intent};

    fn delivery<M: Message + Serialize>(message: &M) -> Delivery {
        Delivery {
            name: M::NAME.to_owned(),
            body: serde_json::to_vec(message).unwrap().into(),
            message_id: Uuid::new_v4(),
            attempt: 1,
            trace: None,
        }
    }

    fn held(booking: &BookingFacts) -> Delivery {
        delivery(&HoldPlaced {
            booking: booking.clone(),
        })
    }

    /// Neither in a batch nor alone: else the buyer is charged and refunded instead of released.
    #[tokio::test]
    async fn no_capture_is_asked_for_what_is_being_given_up() {
        let app = TestApp::start().await;
        let state = testing::state(&app);
        let [given_up] = testing::hold(&state).await;
        set_intent(&state, &given_up, "pi_1").await;
        sqlx::query("update payment.payments set state = 'authorised', void_reason = 'cancelled'")
            .execute(&state.db)
            .await
            .unwrap();
        let (id, now) = (given_up.booking_id, state.now());
        let confirmed = BookingConfirmed {
            booking: given_up.clone(),
            tickets: Vec::new(),
        };
        let mut conn = state.db.acquire().await.unwrap();
        let together = confirmed::capture_authorised(&mut conn, &[id], now).await;
        assert!(together.unwrap().is_empty());
        let alone = confirmed.apply(&mut conn, now).await.unwrap();
        assert_eq!(alone, Done::Before);
        drop(conn);
        let asked = operations_of(&state, &given_up).await;
        assert!(asked.iter().all(|(kind, _)| kind != "capture"), "{asked:?}");
        app.finish().await;
    }

    #[tokio::test]
    async fn one_message_that_can_not_be_applied_holds_up_no_other_of_its_batch() {
        let app = TestApp::start().await;
        let state = testing::state(&app);
        let [paid] = testing::hold(&state).await;
        set_intent(&state, &paid, "pi_1").await;
        sqlx::query("update payment.payments set state = 'authorised'")
            .execute(&state.db)
            .await
            .unwrap();
        let (first, mut poisoned, last) = (
            testing::booking(&state),
            testing::booking(&state),
            testing::booking(&state),
        );
        poisoned.total.amount_minor = -1;
        let confirmed = delivery(&BookingConfirmed {
            booking: paid.clone(),
            tickets: Vec::new(),
        });
        let bookings = Bookings(Arc::clone(&state));
        let batch = vec![held(&first), held(&poisoned), confirmed, held(&last)];
        let verdicts = bookings.handle_batch(batch).await;

        assert!(
            matches!(verdicts[1], Verdict::RetryAfter(_)),
            "{verdicts:?}"
        );
        for place in [0, 2, 3] {
            assert_eq!(verdicts[place], Verdict::Ack, "{verdicts:?}");
        }
        for booking in [&first, &last] {
            let made = operations_of(&state, booking).await;
            assert_eq!(made, [("create".to_owned(), "pending".to_owned())]);
        }
        assert_eq!(payment(&state, &poisoned).await, None);
        let asked = operations_of(&state, &paid).await;
        assert!(asked.iter().any(|(kind, _)| kind == "capture"), "{asked:?}");
        app.finish().await;
    }
}

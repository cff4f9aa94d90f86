//! A payment worker in memory: it consumes the payment worker's queue and answers as that does,
//! sometimes late or twice.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use domain::message::{
    BookingCancelled, BookingConfirmed, HoldPlaced, Message, PaymentAuthorised, PaymentCaptured,
    PaymentFailed, PaymentVoided, VoidPayment,
};
use domain::payment::VoidReason;
use domain::{BookingId, Money};
use platform::amqp::{Broker, Delivery, Exchange, Handler, ParseError, Settings, Verdict, consume};
use platform::sync::MutexExt as _;
use platform::testing::TestApp;
use platform::topology;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use sqlx::PgPool;
use uuid::Uuid;

const RETRY: Duration = Duration::from_millis(250);
/// Longest delay of an answer, in milliseconds.
const LATEST_MS: u64 = 200;

/// State of the money of a booking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Payment {
    Due(Money),
    Authorised(Money),
    Captured(Money),
    /// Captured and refunded.
    Refunded(Money),
    Voided,
}

/// A message to the booking worker.
#[derive(Debug, Clone, Copy)]
enum News {
    Authorised(Money),
    Captured(Money),
    Voided,
    Failed,
}

#[derive(Clone)]
pub(super) struct Cashier(Arc<Inner>);

struct Inner {
    broker: Broker,
    state: Mutex<State>,
}

struct State {
    payments: HashMap<BookingId, Payment>,
    rng: StdRng,
    on_their_way: usize,
}

impl Cashier {
    pub(super) async fn hire(app: &TestApp, seed: u64) -> Self {
        let cashier = Self(Arc::new(Inner {
            broker: app.ctx.broker.clone(),
            state: Mutex::new(State {
                payments: HashMap::new(),
                rng: StdRng::seed_from_u64(seed ^ 0xca5e),
                on_their_way: 0,
            }),
        }));
        let (broker, stop) = (app.ctx.broker.clone(), app.ctx.shutdown.soft().clone());
        let handler = cashier.clone();
        app.ctx.spawn("cashier", async move {
            let queue = topology::payment_bookings();
            consume(&broker, &stop, &queue, Settings::default(), handler).await
        });
        cashier
    }

    /// Authorises a payment, if one is due.
    pub(super) async fn authorise(&self, id: BookingId) {
        let due = {
            let mut state = self.state();
            match state.payments.get_mut(&id) {
                Some(payment @ Payment::Due(_)) => {
                    let Payment::Due(amount) = *payment else {
                        unreachable!("it matched")
                    };
                    *payment = Payment::Authorised(amount);
                    Some(amount)
                }
                _ => None,
            }
        };
        if let Some(amount) = due {
            self.tell(id, News::Authorised(amount));
        }
    }

    /// Returns `true` if nothing more will be published or captured.
    pub(super) fn is_at_rest(&self) -> bool {
        let state = self.state();
        let is_final =
            |payment: &Payment| !matches!(payment, Payment::Due(_) | Payment::Authorised(_));
        state.on_their_way == 0 && state.payments.values().all(is_final)
    }

    /// I2 and I3: bookings and payments that disagree.
    pub(super) async fn disagreements(&self, db: &PgPool) -> Vec<String> {
        let rows: Vec<(Uuid, String, i64)> =
            sqlx::query_as("select id, state, total_minor from booking.bookings")
                .fetch_all(db)
                .await
                .unwrap();
        let state = self.state();
        let mut wrong = Vec::new();
        for (id, booking, total) in &rows {
            let payment = state.payments.get(&BookingId(*id));
            let is_right = match (booking.as_str(), payment) {
                ("confirmed", Some(Payment::Captured(amount))) => amount.amount_minor == *total,
                ("confirmed", None) => *total == 0,
                ("confirmed", _) | (_, Some(Payment::Captured(_))) => false,
                _ => true,
            };
            if !is_right {
                wrong.push(format!("{id} is {booking}, its payment {payment:?}"));
            }
        }
        let known: std::collections::HashSet<_> =
            rows.iter().map(|(id, ..)| BookingId(*id)).collect();
        let lost = state.payments.keys().filter(|id| !known.contains(id));
        wrong.extend(lost.map(|id| format!("the booking of payment {id} is gone")));
        wrong
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock_unpoisoned()
    }

    /// Publishes a message once or twice, now or later.
    fn tell(&self, id: BookingId, news: News) {
        let delays: Vec<_> = {
            let mut state = self.state();
            let copies = if state.rng.random_bool(0.2) { 2 } else { 1 };
            let delays: Vec<_> = (0..copies)
                .map(|_| {
                    if state.rng.random_bool(0.5) {
                        0
                    } else {
                        state.rng.random_range(1..=LATEST_MS)
                    }
                })
                .collect();
            state.on_their_way += delays.len();
            delays
        };
        for delay in delays {
            let cashier = self.clone();
            tokio::spawn(async move {
                tokio::time::sleep(Duration::from_millis(delay)).await;
                cashier.say(id, news).await;
                cashier.state().on_their_way -= 1;
            });
        }
    }

    async fn say(&self, booking_id: BookingId, news: News) {
        match news {
            News::Authorised(amount) => self.send(&PaymentAuthorised { booking_id, amount }).await,
            News::Captured(amount) => self.send(&PaymentCaptured { booking_id, amount }).await,
            News::Voided => self.send(&PaymentVoided { booking_id }).await,
            News::Failed => {
                let reason = "voided".to_owned();
                let is_refused = false;
                self.send(&PaymentFailed {
                    booking_id,
                    reason,
                    is_refused,
                })
                .await;
            }
        }
    }

    async fn send<M: Message>(&self, message: &M) {
        let (broker, id) = (&self.0.broker, Uuid::new_v4());
        // A busy machine may confirm too late; the worker knows repeats.
        let mut attempts = tokio::time::interval(RETRY);
        loop {
            attempts.tick().await;
            let published = broker.publish(Exchange::Events, M::NAME, message, id).await;
            if published.is_ok() {
                return;
            }
        }
    }

    /// The answer to a message; `None` when its predecessor has not been handled.
    fn hear(&self, delivery: &Delivery) -> Result<Option<Vec<(BookingId, News)>>, ParseError> {
        let payments = &mut self.state().payments;
        Ok(match delivery.name.as_str() {
            HoldPlaced::NAME => {
                let booking = delivery.parse::<HoldPlaced>()?.booking;
                payments
                    .entry(booking.booking_id)
                    .or_insert(Payment::Due(booking.total));
                Some(Vec::new())
            }
            BookingConfirmed::NAME => {
                let booking = delivery.parse::<BookingConfirmed>()?.booking;
                if booking.total.is_zero() {
                    return Ok(Some(Vec::new()));
                }
                let id = booking.booking_id;
                capture(payments, id).map(|news| vec![(id, news)])
            }
            BookingCancelled::NAME => {
                let BookingCancelled {
                    booking,
                    was_confirmed,
                    ..
                } = delivery.parse()?;
                if !was_confirmed || booking.total.is_zero() {
                    return Ok(Some(Vec::new()));
                }
                let id = booking.booking_id;
                give_back(payments, id)
                    .map(|news| news.into_iter().map(|news| (id, news)).collect())
            }
            _ => {
                let VoidPayment { booking_id, reason } = delivery.parse()?;
                Some(vec![(booking_id, void(payments, booking_id, reason))])
            }
        })
    }
}

impl Handler for Cashier {
    async fn handle(&self, delivery: Delivery) -> Verdict {
        match self.hear(&delivery) {
            Ok(Some(news)) => {
                for (id, news) in news {
                    self.tell(id, news);
                }
                Verdict::Ack
            }
            Ok(None) => Verdict::RetryAfter(RETRY),
            Err(error) => error.into(),
        }
    }
}

fn capture(payments: &mut HashMap<BookingId, Payment>, id: BookingId) -> Option<News> {
    match payments.get_mut(&id)? {
        Payment::Due(_) => None,
        payment @ Payment::Authorised(_) => {
            let Payment::Authorised(amount) = *payment else {
                unreachable!("it matched")
            };
            *payment = Payment::Captured(amount);
            Some(News::Captured(amount))
        }
        Payment::Captured(amount) | Payment::Refunded(amount) => Some(News::Captured(*amount)),
        Payment::Voided => Some(News::Failed),
    }
}

fn give_back(payments: &mut HashMap<BookingId, Payment>, id: BookingId) -> Option<Option<News>> {
    let payment = payments.get_mut(&id)?;
    Some(match *payment {
        Payment::Captured(amount) => {
            *payment = Payment::Refunded(amount);
            None
        }
        Payment::Due(_) | Payment::Authorised(_) => {
            *payment = Payment::Voided;
            Some(News::Voided)
        }
        Payment::Refunded(_) | Payment::Voided => None,
    })
}

fn void(payments: &mut HashMap<BookingId, Payment>, id: BookingId, reason: VoidReason) -> News {
    let payment = payments.entry(id).or_insert(Payment::Voided);
    match (*payment, reason) {
        (
            Payment::Authorised(amount) | Payment::Captured(amount) | Payment::Refunded(amount),
            VoidReason::HoldExpired,
        ) => News::Authorised(amount),
        (Payment::Captured(amount) | Payment::Refunded(amount), VoidReason::Cancelled) => {
            *payment = Payment::Refunded(amount);
            News::Voided
        }
        (Payment::Due(_) | Payment::Voided, _)
        | (Payment::Authorised(_), VoidReason::Cancelled) => {
            *payment = Payment::Voided;
            News::Voided
        }
    }
}

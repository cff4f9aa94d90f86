//! Fixtures for the unit tests of this crate.

use std::sync::Arc;

use domain::booking::BookingFacts;
use domain::{AccountId, BookingId, Currency, EventId, Money};
use platform::config::defaults;
use platform::pg::run_tx;
use platform::testing::TestApp;

use crate::config::Config;
use crate::operation::Request;
use crate::state::AppState;
use crate::store::{operations, payments};
use crate::stripe::{Intent, IntentStatus, NewIntent};

/// The state of a worker without loops; its Stripe does not answer.
pub(crate) fn state(app: &TestApp) -> Arc<AppState> {
    let config: Config = defaults(&[
        "--stripe-secret-key",
        "sk_test_1",
        "--stripe-url",
        "http://127.0.0.1:9",
    ]);
    let state = AppState::new(app.ctx.db.clone(), app.ctx.clock.clone(), &config);
    Arc::new(state.unwrap())
}

/// A booking that no table has yet.
pub(crate) fn booking(state: &AppState) -> BookingFacts {
    let now = state.now();
    BookingFacts {
        booking_id: BookingId::new(now),
        event_id: EventId(1),
        account_id: AccountId(7),
        seats: Vec::new(),
        total: Money::new(4_500, Currency::EUR),
        hold_until: now,
        created_at: now,
    }
}

/// Inserts payments that are due, with their pending creations.
pub(crate) async fn hold<const COUNT: usize>(state: &AppState) -> [BookingFacts; COUNT] {
    let now = state.now();
    let bookings = std::array::from_fn(|_| booking(state));
    let holding = run_tx(&state.db, "test", |tx| {
        let facts: Vec<_> = bookings.iter().collect();
        Box::pin(async move {
            payments::insert_due(tx, &facts, now).await?;
            for booking in facts {
                let request = Request::Create(NewIntent {
                    amount: booking.total,
                    event_id: booking.event_id,
                    account_id: booking.account_id,
                    description: None,
                    statement_suffix: None,
                    installation: None,
                });
                operations::insert(tx, booking.booking_id, &request, now, now).await?;
            }
            Ok::<_, sqlx::Error>(())
        })
    });
    holding.await.unwrap();
    bookings
}

/// Inserts a booking's payment of 10.00, captured by the PaymentIntent `pi_1`.
pub(crate) async fn captured(app: &TestApp) -> BookingId {
    let now = app.ctx.clock.now();
    let booking_id = BookingId::new(now);
    let inserting = sqlx::query(
        "insert into payment.payments (booking_id, amount_minor, captured_minor, state,
                                       intent_id, created_at, updated_at, checked_at)
         values ($1, 1000, 1000, 'captured', 'pi_1', $2, $2, $2)",
    );
    let inserting = inserting.bind(booking_id.0).bind(now);
    inserting.execute(&app.ctx.db).await.unwrap();
    booking_id
}

pub(crate) fn intent(id: &str, status: IntentStatus) -> Intent {
    Intent {
        id: id.to_owned(),
        status,
        amount_minor: None,
        received_minor: 0,
        currency: Some(Currency::EUR),
        client_secret: None,
        booking_id: None,
        installation: None,
        last_error: None,
    }
}

/// Assigns a PaymentIntent to the payment of a booking.
pub(crate) async fn set_intent(state: &AppState, booking: &BookingFacts, id: &str) {
    let mut conn = state.db.acquire().await.unwrap();
    let intent = intent(id, IntentStatus::AwaitsBuyer);
    let (booking_id, now) = (booking.booking_id, state.now());
    let set = payments::set_intent(&mut conn, booking_id, &intent, now);
    assert!(set.await.unwrap());
}

/// State and PaymentIntent of a booking's payment.
pub(crate) async fn payment(
    state: &AppState,
    booking: &BookingFacts,
) -> Option<(String, Option<String>)> {
    let query = "select state, intent_id from payment.payments where booking_id = $1";
    let reading = sqlx::query_as(query).bind(booking.booking_id.0);
    reading.fetch_optional(&state.db).await.unwrap()
}

/// Kinds and states of a booking's operations.
pub(crate) async fn operations_of(
    state: &AppState,
    booking: &BookingFacts,
) -> Vec<(String, String)> {
    let query = "select kind, state from payment.operations where booking_id = $1 order by id";
    let reading = sqlx::query_as(query).bind(booking.booking_id.0);
    reading.fetch_all(&state.db).await.unwrap()
}

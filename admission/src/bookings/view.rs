//! JSON of a booking, for its owner and for staff.

use chrono::{DateTime, Utc};
use domain::booking::{BookedSeat, BookingFacts, BookingState};
use domain::payment::PaymentState;
use domain::{AccountId, BookingId, EventId, Money, SeatId};
use platform::auth::Caller;
use serde::Serialize;

use crate::Config;
use crate::store::bookings::{StoredBooking, StoredPayment};
use crate::store::requests::AcceptedRequest;

/// `{"booking": …}`.
#[derive(Serialize)]
pub(super) struct BookingResponse {
    pub(super) booking: BookingView,
}

/// `{"bookings": […]}`.
#[derive(Serialize)]
pub(super) struct BookingsResponse {
    pub(super) bookings: Vec<BookingView>,
}

#[derive(Serialize)]
pub(super) struct BookingView {
    id: BookingId,
    pub(super) event_id: EventId,
    user_id: AccountId,
    tickets: i64,
    state: BookingState,
    reason: Option<&'static str>,
    /// `None` until seats are held.
    total: Option<Money>,
    hold_until: Option<DateTime<Utc>>,
    pub(super) created_at: DateTime<Utc>,
    seats: Vec<BookedSeat>,
    payment: Option<PaymentView>,
    ticket_codes: Vec<String>,
    /// Seats whose tickets were transferred to other accounts.
    transferred_seats: Vec<SeatId>,
}

#[derive(Serialize)]
struct PaymentView {
    state: PaymentState,
    intent_id: Option<String>,
    client_secret: Option<String>,
    publishable_key: Option<String>,
    api_url: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    refund: Option<String>,
}

impl BookingView {
    /// View of a request that no worker has decided.
    pub(super) fn requested(accepted: &AcceptedRequest) -> Self {
        Self {
            id: accepted.booking_id,
            event_id: accepted.request.event_id,
            user_id: accepted.request.account_id,
            tickets: i64::from(accepted.request.wish.tickets()),
            state: BookingState::Requested,
            reason: None,
            total: None,
            hold_until: None,
            created_at: accepted.accepted_at,
            seats: Vec::new(),
            payment: None,
            ticket_codes: Vec::new(),
            transferred_seats: Vec::new(),
        }
    }

    /// View of a booking that the worker has just decided.
    pub(super) fn decided(facts: BookingFacts, state: BookingState) -> Self {
        Self {
            id: facts.booking_id,
            event_id: facts.event_id,
            user_id: facts.account_id,
            tickets: i64::try_from(facts.seats.len()).unwrap_or(i64::MAX),
            state,
            reason: None,
            total: Some(facts.total),
            hold_until: Some(facts.hold_until),
            created_at: facts.created_at,
            seats: facts.seats,
            payment: None,
            ticket_codes: Vec::new(),
            transferred_seats: Vec::new(),
        }
    }

    /// View of a stored booking. Only its owner sees the payment's secrets, while a payment is
    /// due, and the ticket codes, which admit any bearer.
    pub(super) fn stored(booking: StoredBooking, caller: &Caller, config: &Config) -> Self {
        let is_owner = caller.account_id == booking.account_id;
        let may_pay = is_owner && booking.state == BookingState::Held;
        let payment = booking
            .payment
            .map(|payment| PaymentView::new(payment, may_pay, config));
        Self {
            id: booking.id,
            event_id: booking.event_id,
            user_id: booking.account_id,
            tickets: i64::from(booking.tickets),
            state: booking.state,
            reason: booking.reason,
            total: Some(booking.total),
            hold_until: booking.hold_until,
            created_at: booking.created_at,
            seats: booking.seats,
            payment,
            ticket_codes: booking
                .ticket_codes
                .into_iter()
                .filter(|_| is_owner)
                .collect(),
            transferred_seats: booking.transferred_seats,
        }
    }
}

impl PaymentView {
    fn new(payment: StoredPayment, may_pay: bool, config: &Config) -> Self {
        let is_shown = may_pay && payment.state.is_due();
        Self {
            client_secret: payment.client_secret.filter(|_| is_shown),
            state: payment.state,
            intent_id: payment.intent_id,
            publishable_key: config.stripe_publishable_key.clone(),
            api_url: config
                .stripe_public_url
                .as_str()
                .trim_end_matches('/')
                .to_owned(),
            refund: payment.refund_state,
        }
    }
}

//! Invariants at rest, by the stand-in's ledger and by the tables, each asked by itself.

use std::collections::HashMap;

use sqlx::PgPool;
use sqlx::types::Uuid;
use stand_ins::stripe::{Ledger, PaymentIntent, RefundStatus, Status};

#[derive(sqlx::FromRow)]
struct Booking {
    id: Uuid,
    state: String,
    total_minor: i64,
    tickets: i32,
    live_tickets: i64,
    seats: i64,
    captured_minor: i64,
    refunded_minor: i64,
    kept_minor: i64,
}

const BOOKINGS: &str = "
    select b.id, b.state, b.total_minor, b.tickets,
           (select count(*) from booking.tickets t where t.booking_id = b.id and t.state <> 'cancelled')
               as live_tickets,
           (select count(*) from booking.seats s where s.booking_id = b.id) as seats,
           coalesce(p.captured_minor, 0) as captured_minor, coalesce(p.refunded_minor, 0) as refunded_minor,
           coalesce(p.kept_minor, 0) as kept_minor
    from booking.bookings b left join payment.payments p on p.booking_id = b.id";

/// Every broken promise about money and tickets.
pub(crate) async fn broken(db: &PgPool, ledger: &Ledger, requested: &[Uuid]) -> Vec<String> {
    let mut broken = oversold(db).await;
    let bookings: Vec<Booking> = sqlx::query_as(BOOKINGS).fetch_all(db).await.unwrap();
    let bookings: HashMap<_, _> = bookings.into_iter().map(|b| (b.id, b)).collect();
    for id in requested {
        if !bookings.contains_key(id) {
            broken.push(format!("I5: request {id} is lost"));
        }
    }
    let mut intents: HashMap<Uuid, Vec<PaymentIntent>> = HashMap::new();
    for intent in ledger.payment_intents() {
        let id = intent.metadata["booking_id"].parse().unwrap();
        intents.entry(id).or_default().push(intent);
    }
    for (id, intents) in &intents {
        broken.extend(wrong_money(*id, intents, bookings.get(id), ledger));
    }
    for booking in bookings.values() {
        let none = Vec::new();
        let intents = intents.get(&booking.id).unwrap_or(&none);
        broken.extend(wrong_booking(booking, intents, ledger));
    }
    broken
}

/// I1: a seat has one ticket at most, and each booking has its seats.
async fn oversold(db: &PgPool) -> Vec<String> {
    sqlx::query_scalar(
        "select 'I1: seat ' || seat_id || ' has ' || count(*) || ' tickets'
         from booking.tickets where state <> 'cancelled' group by seat_id having count(*) > 1
         union all
         select 'I1: seat ' || s.id || ' is ' || s.state || ' for a booking that is ' || b.state
         from booking.seats s join booking.bookings b on b.id = s.booking_id
         where (s.state = 'held') <> (b.state = 'held') or (s.state = 'sold') <> (b.state = 'confirmed')",
    )
    .fetch_all(db)
    .await
    .unwrap()
}

/// I2, I4 and I11, from Stripe's side.
fn wrong_money(
    id: Uuid,
    intents: &[PaymentIntent],
    booking: Option<&Booking>,
    ledger: &Ledger,
) -> Vec<String> {
    let mut broken = Vec::new();
    let charged: Vec<_> = intents.iter().filter(|i| i.amount_received > 0).collect();
    if charged.len() > 1 {
        broken.push(format!(
            "I4: booking {id} is charged {} times",
            charged.len()
        ));
    }
    for intent in charged {
        let refunded = ledger.refunded_total(&intent.id);
        let has_ticket = booking.is_some_and(|b| b.state == "confirmed");
        let kept = booking.map_or(0, |b| b.kept_minor);
        if !has_ticket && refunded + kept < intent.amount_received {
            broken.push(format!("I2: {} is charged for booking {id}", intent.id));
        }
        if refunded > intent.amount_received {
            broken.push(format!("I11: {} is refunded too much", intent.id));
        }
    }
    for intent in intents {
        if intent.status == Status::RequiresCapture {
            broken.push(format!("{} of booking {id} stays authorised", intent.id));
        }
    }
    broken
}

/// I1 and I3, and that the tables agree with Stripe.
fn wrong_booking(booking: &Booking, intents: &[PaymentIntent], ledger: &Ledger) -> Vec<String> {
    let Booking { id, state, .. } = booking;
    let mut broken = Vec::new();
    let captured: i64 = intents.iter().map(|i| i.amount_received).sum();
    let refunded: i64 = intents.iter().map(|i| ledger.refunded_total(&i.id)).sum();
    let (due, seats) = match state.as_str() {
        "confirmed" => (booking.tickets.into(), booking.tickets.into()),
        "held" => (0, booking.tickets.into()),
        _ => (0, 0),
    };
    if (booking.live_tickets, booking.seats) != (due, seats) {
        broken.push(format!(
            "I1: booking {id} is {state} with {} tickets and {} seats",
            booking.live_tickets, booking.seats
        ));
    }
    if state == "confirmed" && captured != booking.total_minor {
        broken.push(format!("I3: booking {id} is confirmed for {captured}"));
    }
    if (booking.captured_minor, booking.refunded_minor) != (captured, refunded) {
        broken.push(format!(
            "booking {id}: {} taken and {} refunded here, {captured} and {refunded} at Stripe",
            booking.captured_minor, booking.refunded_minor
        ));
    }
    broken
}

/// Returns `true` if a refund is pending at Stripe.
pub(crate) fn has_pending_refund(ledger: &Ledger) -> bool {
    let refunds = ledger.refunds();
    refunds.iter().any(|r| r.status == RefundStatus::Pending)
}

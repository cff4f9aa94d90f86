//! I2, I3, I4 and I11: compares the provider's records with ours.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use domain::{Currency, Money as Amount};
use sqlx::PgPool;
use uuid::Uuid;

use super::Check;
use super::provider::Money;

struct Booking {
    id: Uuid,
    state: String,
    total_minor: i64,
    kept_minor: i64,
    is_settled: bool,
    currency: String,
}

pub(super) struct Payment {
    booking_id: Uuid,
    captured_minor: i64,
    refunded_minor: i64,
    currency: String,
}

/// An amount for people; of a currency that nobody knows, in minor units.
fn shown(minor: i64, currency: &str) -> String {
    match Currency::try_from(currency) {
        Ok(currency) => Amount::new(minor, currency).to_string(),
        Err(_) => format!("{minor} {currency}"),
    }
}

/// Checks I2, I3 and I4.
pub(super) async fn checks(
    db: &PgPool,
    money: &Money,
    payments: &[Payment],
    settled_before: DateTime<Utc>,
) -> Result<[Check; 3], sqlx::Error> {
    let bookings = sqlx::query_as!(
        Booking,
        r#"
        select b.id, b.state, b.total_minor,
               coalesce((select p.kept_minor from payment.payments p where p.booking_id = b.id), 0) as "kept_minor!",
               (b.updated_at <= $1
                and not exists (select from payment.operations o
                    where o.booking_id = b.id and (o.state = 'pending' or o.updated_at > $1))) as "is_settled!",
               b.currency
        from booking.bookings b
        "#,
        settled_before
    )
    .fetch_all(db)
    .await?;
    let bookings: HashMap<Uuid, Booking> = bookings.into_iter().map(|b| (b.id, b)).collect();
    Ok([
        charge_has_ticket(&bookings, money),
        ticket_has_charge(&bookings, money),
        charged_once(money, payments),
    ])
}

fn charge_has_ticket(bookings: &HashMap<Uuid, Booking>, money: &Money) -> Check {
    let mut checked = 0;
    let mut broken = Vec::new();
    for (id, intents) in &money.by_booking {
        for intent in intents.iter().filter(|intent| intent.captured > 0) {
            checked += 1;
            let booking = bookings.get(id);
            let has_ticket = booking.is_some_and(|b| b.state == "confirmed");
            let in_flight = booking.is_some_and(|b| !b.is_settled);
            // The cancellation fee of the event's refund policy.
            let kept = booking.map_or(0, |b| b.kept_minor);
            if !has_ticket && !in_flight && intent.refunded + kept < intent.captured {
                let state = booking.map_or("unknown", |b| b.state.as_str());
                let amount = |minor| shown(minor, &intent.currency);
                broken.push(format!(
                    "{}: {} captured and {} refunded for booking {id}, which is {state}",
                    intent.id,
                    amount(intent.captured),
                    amount(intent.refunded)
                ));
            }
        }
    }
    Check::new(
        "I2",
        "no charge without a ticket or a refund",
        checked,
        broken,
    )
}

fn ticket_has_charge(bookings: &HashMap<Uuid, Booking>, money: &Money) -> Check {
    let due = |b: &&Booking| b.state == "confirmed" && b.total_minor > 0 && b.is_settled;
    let mut checked = 0;
    let mut broken = Vec::new();
    for booking in bookings.values().filter(due) {
        checked += 1;
        let captured = money.captured(booking.id);
        if captured != booking.total_minor {
            let amount = |minor| shown(minor, &booking.currency);
            broken.push(format!(
                "booking {}: {} captured of {} due",
                booking.id,
                amount(captured),
                amount(booking.total_minor)
            ));
        }
    }
    Check::new("I3", "no ticket without its charge", checked, broken)
}

fn charged_once(money: &Money, payments: &[Payment]) -> Check {
    let mut broken = Vec::new();
    for (id, intents) in &money.by_booking {
        let charged = intents.iter().filter(|intent| intent.captured > 0).count();
        if charged > 1 {
            broken.push(format!("booking {id} was charged {charged} times"));
        }
    }
    for payment in payments {
        let captured = money.captured(payment.booking_id);
        if payment.captured_minor > captured {
            let amount = |minor| shown(minor, &payment.currency);
            broken.push(format!(
                "booking {}: our records say {} captured, the provider's {}",
                payment.booking_id,
                amount(payment.captured_minor),
                amount(captured)
            ));
        }
    }
    Check::new(
        "I4",
        "no booking is charged twice",
        money.by_booking.len() as u64,
        broken,
    )
}

/// Checks I11.
pub(super) fn refunds_within_captured(money: &Money, payments: &[Payment]) -> Check {
    let mut broken = Vec::new();
    for intent in money.by_booking.values().flatten() {
        if intent.refunded > intent.captured {
            let amount = |minor| shown(minor, &intent.currency);
            broken.push(format!(
                "{}: {} refunded of {} captured",
                intent.id,
                amount(intent.refunded),
                amount(intent.captured)
            ));
        }
    }
    for payment in payments {
        if payment.refunded_minor > payment.captured_minor {
            broken.push(format!(
                "booking {}: more refunded than captured",
                payment.booking_id
            ));
        }
    }
    let checked = money
        .by_booking
        .values()
        .flatten()
        .filter(|one| one.refunded > 0)
        .count();
    Check::new(
        "I11",
        "no refund exceeds what was taken",
        checked as u64,
        broken,
    )
}

/// Our payments with a captured amount.
pub(super) async fn ours(db: &PgPool) -> Result<Vec<Payment>, sqlx::Error> {
    sqlx::query_as!(
        Payment,
        "select booking_id, captured_minor, refunded_minor, currency from payment.payments
         where captured_minor > 0"
    )
    .fetch_all(db)
    .await
}

//! I2, I3, I4 and I11: compares the provider's records with ours. Ours are streamed: there are as
//! many as bookings.

use chrono::{DateTime, Utc};
use domain::{Currency, Money as Amount};
use futures_util::TryStreamExt as _;
use sqlx::PgPool;
use uuid::Uuid;

use super::Check;
use super::provider::{Intent, Money};

/// A booking with its payment, if it has one.
struct Booking {
    id: Uuid,
    state: String,
    total_minor: i64,
    currency: String,
    /// Nothing has happened to it for a while, and no call to the provider is pending.
    is_settled: bool,
    kept_minor: i64,
    captured_minor: i64,
    refunded_minor: i64,
    /// Refunded here, or elsewhere with staff having seen to it.
    accounted_minor: i64,
    /// The payment has not changed since the provider's records were read.
    is_known: bool,
}

/// The violations of one promise.
#[derive(Default)]
struct Findings {
    checked: u64,
    broken: Vec<String>,
}

impl Findings {
    fn into_check(self, id: &'static str, promise: &'static str) -> Check {
        Check::new(id, promise, self.checked, self.broken)
    }
}

/// The results for I2, I3, I4 and I11.
#[derive(Default)]
struct Results {
    /// I2.
    charge_has_ticket: Findings,
    /// I3.
    ticket_has_charge: Findings,
    /// I4.
    charged_once: Findings,
    /// I11.
    refunds_within_captured: Findings,
}

/// An amount for people; of a currency that nobody knows, in minor units.
fn shown(minor: i64, currency: &str) -> String {
    match Currency::try_from(currency) {
        Ok(currency) => Amount::new(minor, currency).to_string(),
        Err(_) => format!("{minor} {currency}"),
    }
}

/// Checks I2, I3, I4 and I11. `begun` is when the provider's records began to be read: a payment
/// that changed later may be newer than they are.
pub(super) async fn checks(
    db: &PgPool,
    mut money: Money,
    settled_before: DateTime<Utc>,
    begun: DateTime<Utc>,
) -> Result<[Check; 4], sqlx::Error> {
    let mut results = Results::default();
    for (id, intents) in &money.by_booking {
        results.compare_intents(*id, intents);
    }
    let rows = sqlx::query_as!(
        Booking,
        r#"
        select coalesce(b.id, p.booking_id) as "id!", coalesce(b.state, 'unknown') as "state!",
               coalesce(b.total_minor, 0) as "total_minor!",
               coalesce(p.currency, b.currency) as "currency!",
               (b.id is null or b.updated_at <= $1
                and not exists (select from payment.operations o
                    where o.booking_id = b.id and (o.state = 'pending' or o.updated_at > $1))) as "is_settled!",
               coalesce(p.kept_minor, 0) as "kept_minor!",
               coalesce(p.captured_minor, 0) as "captured_minor!",
               coalesce(p.refunded_minor, 0) as "refunded_minor!",
               (select coalesce(sum(r.amount_minor), 0)::bigint from payment.refunds r
                where r.booking_id = p.booking_id and r.state in ('pending', 'succeeded')
                  and (r.occasion is distinct from r.stripe_refund_id
                       or exists (select from payment.findings f
                                  where f.kind = 'refund_elsewhere' and f.subject = r.stripe_refund_id
                                    and f.settled_at is not null))) as "accounted_minor!",
               coalesce(p.updated_at <= $2, true) as "is_known!"
        from booking.bookings b full join payment.payments p on p.booking_id = b.id
        "#,
        settled_before,
        begun
    );
    let mut rows = rows.fetch(db);
    while let Some(booking) = rows.try_next().await? {
        let intents = money.by_booking.remove(&booking.id).unwrap_or_default();
        results.compare(&booking, &intents);
    }
    for (id, intents) in &money.by_booking {
        for intent in intents {
            results.charge_has_ticket(*id, None, intent);
        }
    }
    Ok([
        results
            .charge_has_ticket
            .into_check("I2", "no charge without a ticket or a refund"),
        results
            .ticket_has_charge
            .into_check("I3", "no ticket without its charge"),
        results
            .charged_once
            .into_check("I4", "no booking is charged twice"),
        results
            .refunds_within_captured
            .into_check("I11", "no refund exceeds what was taken"),
    ])
}

impl Results {
    /// Compares the PaymentIntents of a booking with each other.
    fn compare_intents(&mut self, id: Uuid, intents: &[Intent]) {
        self.charged_once.checked += 1;
        let charged = intents.iter().filter(|intent| intent.captured > 0).count();
        if charged > 1 {
            let broken = format!("booking {id} was charged {charged} times");
            self.charged_once.broken.push(broken);
        }
        for intent in intents.iter().filter(|intent| intent.refunded > 0) {
            self.refunds_within_captured.checked += 1;
            if intent.refunded > intent.captured {
                let amount = |minor| shown(minor, &intent.currency);
                self.refunds_within_captured.broken.push(format!(
                    "{}: {} refunded of {} captured",
                    intent.id,
                    amount(intent.refunded),
                    amount(intent.captured)
                ));
            }
        }
    }

    /// Compares a booking of ours with its PaymentIntents.
    fn compare(&mut self, booking: &Booking, intents: &[Intent]) {
        let captured: i64 = intents.iter().map(|intent| intent.captured).sum();
        for intent in intents {
            self.charge_has_ticket(booking.id, Some(booking), intent);
        }
        self.ticket_has_charge(booking, intents, captured);
        let amount = |minor| shown(minor, &booking.currency);
        if booking.is_known && booking.captured_minor > captured {
            self.charged_once.broken.push(format!(
                "booking {}: our records say {} captured, the provider's {}",
                booking.id,
                amount(booking.captured_minor),
                amount(captured)
            ));
        }
        if booking.refunded_minor > booking.captured_minor {
            let broken = format!("booking {}: more refunded than captured", booking.id);
            self.refunds_within_captured.broken.push(broken);
        }
    }

    fn charge_has_ticket(&mut self, id: Uuid, booking: Option<&Booking>, intent: &Intent) {
        if intent.captured == 0 {
            return;
        }
        self.charge_has_ticket.checked += 1;
        let has_ticket = booking.is_some_and(|b| b.state == "confirmed");
        let in_flight = booking.is_some_and(|b| !b.is_settled);
        // The cancellation fee of the event's refund policy.
        let fee = booking.map_or(0, |b| b.kept_minor);
        if !has_ticket && !in_flight && intent.refunded + fee < intent.captured {
            let state = booking.map_or("unknown", |b| b.state.as_str());
            let amount = |minor| shown(minor, &intent.currency);
            self.charge_has_ticket.broken.push(format!(
                "{}: {} captured and {} refunded for booking {id}, which is {state}",
                intent.id,
                amount(intent.captured),
                amount(intent.refunded)
            ));
        }
    }

    /// A ticket whose money was refunded elsewhere, such as in the provider's dashboard, has no
    /// charge either, until staff have settled the finding.
    fn ticket_has_charge(&mut self, booking: &Booking, intents: &[Intent], captured: i64) {
        if booking.state != "confirmed" || booking.total_minor == 0 || !booking.is_settled {
            return;
        }
        self.ticket_has_charge.checked += 1;
        let amount = |minor| shown(minor, &booking.currency);
        let is_same = |intent: &Intent| intent.captured == 0 || intent.currency == booking.currency;
        if captured != booking.total_minor || !intents.iter().all(is_same) {
            self.ticket_has_charge.broken.push(format!(
                "booking {}: {} captured of {} due",
                booking.id,
                match intents {
                    [intent] => shown(captured, &intent.currency),
                    _ => amount(captured),
                },
                amount(booking.total_minor)
            ));
        }
        let refunded: i64 = intents.iter().map(|intent| intent.refunded).sum();
        if booking.is_known && refunded > booking.accounted_minor {
            self.ticket_has_charge.broken.push(format!(
                "booking {}: {} refunded elsewhere, and its tickets are valid",
                booking.id,
                amount(refunded - booking.accounted_minor)
            ));
        }
    }
}

//! Every queue there is. Each process declares them all, so that a message waits for a service
//! that is down instead of being unroutable.

use domain::EventId;
use domain::message::{
    AccountChanged, AuditNoted, BookingCancelled, BookingConfirmed, BookingExpired, BookingPaid,
    ConfirmationAsked, EventChanged, HoldPlaced, Message, PassRevoked, PaymentAuthorised,
    PaymentCaptured, PaymentFailed, PaymentVoided, RefundFailed, RefundSucceeded, SaleChanged,
    TicketTransferred, VoidPayment,
};

use crate::amqp::{Broker, BrokerError, Exchange, QueueSpec};

/// Into how many queues booking requests are divided. One worker at a time reads each, in order;
/// all requests of an event are in the same.
pub const BOOKING_PARTITIONS: u16 = 4;

/// How many booking requests a partition holds before admission answers 503.
const MAX_WAITING_REQUESTS: u32 = 20_000;

/// The name, and routing key, of the queue for booking requests of `event_id`.
#[must_use]
pub fn booking_requests_of(event_id: EventId) -> String {
    booking_requests_name(event_id.0.rem_euclid(i64::from(BOOKING_PARTITIONS)))
}

/// Booking requests of partition `partition`, from 0 below [`BOOKING_PARTITIONS`]: `PlaceHold` and
/// `CancelBooking`.
#[must_use]
pub fn booking_requests(partition: u16) -> QueueSpec {
    let name = booking_requests_name(i64::from(partition));
    QueueSpec::durable(&name)
        .bind(Exchange::Commands, &name)
        .max_length(MAX_WAITING_REQUESTS)
        .single_active_consumer()
}

fn booking_requests_name(partition: i64) -> String {
    format!("booking.requests.{partition}")
}

/// What the booking worker hears of payments.
#[must_use]
pub fn booking_payments() -> QueueSpec {
    let names = [
        PaymentAuthorised::NAME,
        PaymentCaptured::NAME,
        PaymentVoided::NAME,
        PaymentFailed::NAME,
    ];
    listens("booking.payments", &names)
}

/// What the booking worker hears of events and sales.
#[must_use]
pub fn booking_events() -> QueueSpec {
    listens("booking.events", &[EventChanged::NAME, SaleChanged::NAME])
}

/// What the payment worker hears of bookings.
#[must_use]
pub fn payment_bookings() -> QueueSpec {
    let names = [
        HoldPlaced::NAME,
        BookingConfirmed::NAME,
        BookingCancelled::NAME,
        VoidPayment::NAME,
    ];
    listens("payment.bookings", &names)
}

/// What the notifier tells buyers.
#[must_use]
pub fn notifier_notices() -> QueueSpec {
    let names = [
        HoldPlaced::NAME,
        BookingPaid::NAME,
        BookingExpired::NAME,
        BookingCancelled::NAME,
        RefundSucceeded::NAME,
        RefundFailed::NAME,
        TicketTransferred::NAME,
    ];
    listens("notifier.notices", &names)
}

/// What the notifier needs to know of accounts and events.
#[must_use]
pub fn notifier_directory() -> QueueSpec {
    listens(
        "notifier.directory",
        &[AccountChanged::NAME, EventChanged::NAME],
    )
}

/// Codes that the notifier sends. Each is of no use after ten minutes.
#[must_use]
pub fn notifier_confirmations() -> QueueSpec {
    listens("notifier.confirmations", &[ConfirmationAsked::NAME])
}

/// What other services tell the audit log.
#[must_use]
pub fn box_office_audit() -> QueueSpec {
    listens("box-office.audit", &[AuditNoted::NAME])
}

/// What admission hears of sales.
#[must_use]
pub fn admission_sales() -> QueueSpec {
    listens("admission.sales", &[SaleChanged::NAME])
}

/// What admission hears of passes that staff took back.
#[must_use]
pub fn admission_revocations() -> QueueSpec {
    listens("admission.revocations", &[PassRevoked::NAME])
}

/// What admission hears of bookings, to end the passes of those who are done.
#[must_use]
pub fn admission_bookings() -> QueueSpec {
    listens(
        "admission.bookings",
        &[HoldPlaced::NAME, BookingConfirmed::NAME],
    )
}

fn listens(queue: &str, names: &[&'static str]) -> QueueSpec {
    names.iter().fold(QueueSpec::durable(queue), |spec, name| {
        spec.bind(Exchange::for_name(name), *name)
    })
}

/// Every durable queue.
#[must_use]
pub fn all() -> Vec<QueueSpec> {
    let mut queues: Vec<_> = (0..BOOKING_PARTITIONS).map(booking_requests).collect();
    queues.extend([
        booking_payments(),
        booking_events(),
        payment_bookings(),
        notifier_notices(),
        notifier_directory(),
        notifier_confirmations(),
        box_office_audit(),
        admission_sales(),
        admission_revocations(),
        admission_bookings(),
    ]);
    queues
}

/// Declares every durable queue.
///
/// # Errors
/// When RabbitMQ can't be reached, or has a queue with other arguments.
pub async fn declare_all(broker: &Broker) -> Result<(), BrokerError> {
    broker.want(&all());
    broker.ensure_declared().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_an_event_go_to_a_queue_that_exists() {
        let names: Vec<_> = all().into_iter().map(|queue| queue.name).collect();
        for event in 0..10 {
            assert!(names.contains(&booking_requests_of(EventId(event))));
        }
    }

    #[test]
    fn queues_have_distinct_names() {
        let mut names: Vec<_> = all().into_iter().map(|queue| queue.name).collect();
        let count = names.len();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), count);
    }
}

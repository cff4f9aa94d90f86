//! The RabbitMQ topology: every durable queue with its bindings. Each process declares them all, so
//! that messages for a service that is down are queued instead of unroutable. Booking requests are
//! partitioned by event, and each partition has a single active consumer.

use domain::EventId;
use domain::message::{
    AccountChanged, AuditNoted, BookingCancelled, BookingConfirmed, BookingExpired, BookingPaid,
    ConfirmationAsked, EventChanged, HoldPlaced, Message, PassRevoked, PaymentAuthorised,
    PaymentCaptured, PaymentFailed, PaymentVoided, RefundFailed, RefundSucceeded, SaleChanged,
    TicketTransferred, VoidPayment,
};

use crate::amqp::{Broker, BrokerError, Exchange, QueueSpec};

/// Number of queues that booking requests are partitioned into, by event. A single active consumer
/// reads each, in order.
pub const BOOKING_PARTITIONS: u16 = 4;

/// Capacity of a partition, in booking requests; beyond it admission answers 503.
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

/// Payment events for the booking worker.
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

/// Event and sale changes for the booking worker.
#[must_use]
pub fn booking_events() -> QueueSpec {
    listens("booking.events", &[EventChanged::NAME, SaleChanged::NAME])
}

/// Booking events and void commands for the payment worker.
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

/// Events that the notifier sends notices for.
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

/// Account and event changes for the notifier's directory.
#[must_use]
pub fn notifier_directory() -> QueueSpec {
    listens(
        "notifier.directory",
        &[AccountChanged::NAME, EventChanged::NAME],
    )
}

/// Confirmation codes for the notifier to send. Each expires after ten minutes.
#[must_use]
pub fn notifier_confirmations() -> QueueSpec {
    listens("notifier.confirmations", &[ConfirmationAsked::NAME])
}

/// Notes of other services for the audit log.
#[must_use]
pub fn box_office_audit() -> QueueSpec {
    listens("box-office.audit", &[AuditNoted::NAME])
}

/// Sale changes for admission.
#[must_use]
pub fn admission_sales() -> QueueSpec {
    listens("admission.sales", &[SaleChanged::NAME])
}

/// Revoked passes for admission.
#[must_use]
pub fn admission_revocations() -> QueueSpec {
    listens("admission.revocations", &[PassRevoked::NAME])
}

/// Booking events for admission, which end the passes of completed purchases.
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

//! Finds stuck work by its age. At rest nothing is in flight; in a running sale something always
//! is, so only an age limit for each kind of work tells what is stuck from what moves.

use chrono::{DateTime, TimeDelta, Utc};
use sqlx::PgPool;

use super::Check;
use super::rest::InFlight;

/// A request is decided within seconds; PostgreSQL may be away for a while.
const REQUEST: TimeDelta = TimeDelta::minutes(2);
/// An expired hold waits until Stripe has voided its payment.
const HOLD: TimeDelta = TimeDelta::minutes(15);
/// An operation at Stripe is retried with backoff through an outage.
const OPERATION: TimeDelta = TimeDelta::minutes(15);
/// Tickets are captured, captured payments mailed, and those of cancelled bookings given back,
/// within seconds and a sweep.
const CAPTURE: TimeDelta = TimeDelta::minutes(15);
/// Webhooks and messages are taken over by another worker when one dies.
const MESSAGE: TimeDelta = TimeDelta::minutes(5);
/// Tickets must be mailed within minutes, whatever else waits for the mail server.
const NOTICE: TimeDelta = TimeDelta::minutes(15);

/// Checks that nothing has been in flight for longer than its kind may be, that no ticket mail
/// failed without staff having it sent again, and that there is no dead letter. (Dead letters that
/// nobody has listed yet are in RabbitMQ alone, which the audit does not read.)
pub(super) async fn nothing_is_stuck(
    db: &PgPool,
    now: DateTime<Utc>,
    in_flight: InFlight,
) -> Result<Check, sqlx::Error> {
    let mut stuck = in_booking(db, now).await?;
    stuck.extend(in_payment(db, now).await?);
    stuck.extend(in_messages(db, now).await?);
    Ok(Check::new(
        "–",
        "nothing in flight is stuck",
        in_flight.total(),
        stuck,
    ))
}

async fn in_booking(db: &PgPool, now: DateTime<Utc>) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"
        select 'request ' || r.booking_id || ' has been undecided since ' || r.accepted_at as "what!"
        from admission.requests r
        where r.published and r.accepted_at < $1
          and not exists (select from booking.bookings b where b.id = r.booking_id)
        union all
        select 'booking ' || id || ' is held, though its hold ended at ' || hold_until
        from booking.bookings where state = 'held' and hold_until < $2
        union all
        select 'booking ' || id || ' has tickets, but its payment is not captured since ' || updated_at
        from booking.bookings
        where state = 'confirmed' and total_minor > 0 and captured_at is null and updated_at < $3
        "#,
        now - REQUEST,
        now - HOLD,
        now - CAPTURE
    )
    .fetch_all(db)
    .await
}

async fn in_payment(db: &PgPool, now: DateTime<Utc>) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"
        select kind || ' of booking ' || booking_id || ' is pending since ' || created_at
               || coalesce(': ' || last_error, '') as "what!"
        from payment.operations where state = 'pending' and created_at < $1
        union all
        select 'payment of booking ' || p.booking_id || ' is ' || p.state || ' for a booking that is '
               || b.state || ' since ' || b.updated_at
        from payment.payments p join booking.bookings b on b.id = p.booking_id
        where p.state in ('pending', 'requires_action', 'authorised')
          and b.state in ('rejected', 'expired', 'cancelled') and b.updated_at < $1
        union all
        select 'booking ' || c.booking_id || ' was cancelled at ' || c.cancelled_at
               || ', but its money was not given back'
        from booking.cancellations c join payment.payments p using (booking_id)
        where p.state = 'captured' and p.kept_on_cancel_minor is null
          and p.refunded_minor + p.kept_minor < p.captured_minor and c.cancelled_at < $3
          and not exists (select from payment.refunds r
                          where r.booking_id = c.booking_id and r.occasion = 'cancelled')
        union all
        select 'webhook ' || event_id || ' (' || type || ') waits since ' || received_at
        from payment.webhook_inbox where processed_at is null and received_at < $2
        "#,
        now - OPERATION,
        now - MESSAGE,
        now - CAPTURE
    )
    .fetch_all(db)
    .await
}

async fn in_messages(db: &PgPool, now: DateTime<Utc>) -> Result<Vec<String>, sqlx::Error> {
    sqlx::query_scalar!(
        r#"
        select 'message ' || message_name || ' of ' || owner || ' is unpublished since ' || created_at
               || ', tried ' || attempts || ' times' as "what!"
        from platform.outbox where created_at < $1
        union all
        select 'dead letter ' || message_name || ' of ' || queue || ' since '
               || coalesce(died_at, stored_at) || ': ' || reason
        from platform.dead_letters
        union all
        select n.channel || ' ' || n.kind || ' of booking ' || n.booking_id || ' is ' || n.state
               || ' since ' || coalesce(n.again_at, n.created_at) || coalesce(': ' || n.last_error, '')
        from notifier.notifications n left join box_office.accounts a on a.id = n.account_id
        cross join lateral (select case n.channel when 'sms' then a.phone_confirmed_at
                                                  else a.email_confirmed_at end as confirmed_at) address
        where n.kind = 'confirmed'
          -- What staff had sent again is theirs to see to, whatever becomes of it.
          and (n.state = 'failed' and n.again_at is null
               or n.state = 'uncertain' and n.again_at is null and n.created_at < $2
               -- Nothing is mailed to an address before its owner has confirmed it.
               or n.state in ('waiting', 'sending')
                  and greatest(coalesce(n.again_at, n.created_at), address.confirmed_at) < $2
                  and (a.id is null or address.confirmed_at is not null))
        "#,
        now - MESSAGE,
        now - NOTICE
    )
    .fetch_all(db)
    .await
}

//! Handles `hold.placed`: a payment is due.

use chrono::{DateTime, Utc};
use domain::booking::BookingFacts;
use domain::message::HoldPlaced;
use sqlx::PgConnection;
use uuid::Uuid;

use super::{Done, Effect};
use crate::operation::Request;
use crate::store::{events, operations, payments};
use crate::stripe::NewIntent;

impl Effect for HoldPlaced {
    async fn apply(
        &self,
        conn: &mut PgConnection,
        now: DateTime<Utc>,
    ) -> Result<Done, sqlx::Error> {
        let booking = &self.booking;
        make_due(conn, &[booking], now).await?;
        Ok(Done::Yes)
    }
}

/// Records the payments due for bookings with a price, and requests their PaymentIntents.
pub(super) async fn make_due(
    conn: &mut PgConnection,
    bookings: &[&BookingFacts],
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let priced: Vec<_> = bookings
        .iter()
        .copied()
        .filter(|booking| !booking.total.is_zero())
        .collect();
    if priced.is_empty() {
        return Ok(());
    }
    let due = payments::insert_due(conn, &priced, now).await?;
    if due.is_empty() {
        return Ok(());
    }
    let installation = events::installation(&mut *conn).await?;
    let events: Vec<_> = priced.iter().map(|booking| booking.event_id.0).collect();
    let names = events::names(conn, &events).await?;
    let requests: Vec<_> = priced
        .iter()
        .filter(|booking| due.contains(&booking.booking_id))
        .map(|booking| {
            let name = names.get(&booking.event_id.0).map(String::as_str);
            let new = new_intent(booking, name, installation);
            (booking.booking_id, Request::Create(new))
        })
        .collect();
    let requests: Vec<_> = requests
        .iter()
        .map(|(id, request)| (*id, request))
        .collect();
    operations::insert_all(conn, &requests, now, now).await?;
    Ok(())
}

fn new_intent(booking: &BookingFacts, event: Option<&str>, installation: Uuid) -> NewIntent {
    NewIntent {
        description: event.map(|name| description(name, booking.seats.len())),
        statement_suffix: event.and_then(statement_suffix),
        installation: Some(installation),
        amount: booking.total,
        event_id: booking.event_id,
        account_id: booking.account_id,
    }
}

/// The description shown in Stripe's dashboard and on receipts.
fn description(event: &str, tickets: usize) -> String {
    let tickets_in_words = if tickets == 1 { "ticket" } else { "tickets" };
    format!("{tickets} {tickets_in_words}: {event}")
}

/// Most characters of a suffix that fit behind any prefix: a statement descriptor has 22, the
/// prefix up to 10, the separator 2.
const MAX_SUFFIX: usize = 10;

/// The statement descriptor suffix of an event: ASCII letters and digits of its name, cut after a
/// word if one fits; `None` when no letter is left.
fn statement_suffix(event: &str) -> Option<String> {
    let allowed: String = event
        .chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() {
                c.to_ascii_uppercase()
            } else {
                ' '
            }
        })
        .collect();
    let mut suffix = String::new();
    for word in allowed.split_whitespace() {
        let gap = usize::from(!suffix.is_empty());
        if suffix.len() + gap + word.len() > MAX_SUFFIX {
            break;
        }
        suffix.extend((gap == 1).then_some(' '));
        suffix.push_str(word);
    }
    if suffix.is_empty() {
        let word = allowed.split_whitespace().next()?;
        suffix = word.chars().take(MAX_SUFFIX).collect();
    }
    suffix
        .contains(|c: char| c.is_ascii_alphabetic())
        .then_some(suffix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_names_the_event_as_far_as_banks_can_write() {
        for (event, suffix) in [
            ("A night at the opera", Some("A NIGHT AT")),
            ("Götterdämmerung", Some("G TTERD")),
            ("Hyperactivity", Some("HYPERACTIV")),
            ("O'Neil <live>*", Some("O NEIL")),
            ("東京公演", None),
            ("1984", None),
            ("1984 live", Some("1984 LIVE")),
        ] {
            assert_eq!(statement_suffix(event).as_deref(), suffix, "{event}");
        }
        assert_eq!(description("Opera", 2), "2 tickets: Opera");
    }
}

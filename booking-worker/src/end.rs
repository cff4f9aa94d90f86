//! Transitions held → expired or cancelled, and confirmed → cancelled: the seats are on sale again.

use chrono::{DateTime, Utc};
use domain::booking::{BookingState, EndReason};
use domain::message::{BookingCancelled, BookingExpired, CancelAsked};
use domain::{AccountId, BookingId};
use platform::outbox::{Entry, Staged};
use sqlx::PgConnection;

use crate::confirm::TransitionOutcome;
use crate::store::accounts::Tally;
use crate::store::bookings::{BookingEnd, EndedBooking};
use crate::store::{accounts, bookings, seats, tickets};

/// Ends bookings that no payment can come for: a held one expires, or is cancelled if its buyer
/// gave it up; a confirmed one is cancelled. `reason` says why a hold ends early.
pub(crate) async fn end_unpayable(
    conn: &mut PgConnection,
    ids: &[BookingId],
    reason: Option<EndReason>,
    now: DateTime<Utc>,
    staged: &mut Staged,
) -> Result<Vec<TransitionOutcome>, sqlx::Error> {
    let ending = Ending {
        from: &[BookingState::Held, BookingState::Confirmed],
        asked: None,
        reason,
    };
    end(conn, ids, &ending, now, staged).await?;
    let known = bookings::read(conn, ids).await?;
    let outcome = |id| {
        if known.contains_key(id) {
            TransitionOutcome::Applied
        } else {
            TransitionOutcome::TooEarly
        }
    };
    Ok(ids.iter().map(outcome).collect())
}

/// Cancels a confirmed booking, for the account that asked or for its event, and returns its buyer.
/// `None` when it is not confirmed.
pub(crate) async fn cancel_confirmed(
    conn: &mut PgConnection,
    id: BookingId,
    asked_by: Option<AccountId>,
    now: DateTime<Utc>,
    staged: &mut Staged,
) -> Result<Option<AccountId>, sqlx::Error> {
    let asked = asked_by.map(|by| CancelAsked { by, at: now });
    let ending = Ending {
        from: &[BookingState::Confirmed],
        asked,
        reason: None,
    };
    let ended = end(conn, &[id], &ending, now, staged).await?;
    Ok(ended.first().map(|ended| ended.facts.account_id))
}

/// A transition to an end state.
struct Ending<'a> {
    /// Only bookings in these states end.
    from: &'a [BookingState],
    /// The canceller; `None` when its payment is impossible or its event is cancelled.
    asked: Option<CancelAsked>,
    /// The reason of holds that end early.
    reason: Option<EndReason>,
}

async fn end(
    conn: &mut PgConnection,
    ids: &[BookingId],
    ending: &Ending<'_>,
    now: DateTime<Utc>,
    staged: &mut Staged,
) -> Result<Vec<EndedBooking>, sqlx::Error> {
    let ended = bookings::end(conn, ids, ending.from, ending.reason, now).await?;
    if ended.is_empty() {
        return Ok(ended);
    }
    let ids: Vec<_> = ended.iter().map(|ended| ended.facts.booking_id).collect();
    let mut tally = Tally::new();
    let mut given_away = Tally::new();
    for ticket in tickets::cancel(conn, &ids).await? {
        *tally.entry((ticket.event_id, ticket.holder)).or_default() += 1;
        if ticket.holder != ticket.buyer {
            *given_away
                .entry((ticket.event_id, ticket.buyer))
                .or_default() += 1;
        }
    }
    for EndedBooking { facts, .. } in ended.iter().filter(|ended| ended.was == BookingState::Held) {
        *tally.entry((facts.event_id, facts.account_id)).or_default() +=
            crate::count(facts.seats.len());
    }
    accounts::subtract(conn, &tally, &given_away).await?;
    let cancelled: Vec<_> = ended
        .iter()
        .filter(|ended| ended.was == BookingState::Confirmed)
        .map(|ended| ended.facts.booking_id)
        .collect();
    bookings::insert_cancellations(conn, &cancelled, ending.asked, now).await?;
    let entries = ended
        .iter()
        .map(|ended| message_of(end_of(ended, ending)))
        .collect::<Result<_, _>>()?;
    staged.put_all(conn, entries).await?;
    seats::free(conn, &ids).await?;
    Ok(ended)
}

fn end_of(ended: &EndedBooking, ending: &Ending<'_>) -> BookingEnd {
    BookingEnd {
        facts: ended.facts.clone(),
        was_confirmed: ended.was == BookingState::Confirmed,
        is_expired: ended.is == BookingState::Expired,
        asked: ending.asked,
        reason: ending.reason,
    }
}

/// The message about a booking that ended.
pub(crate) fn message_of(end: BookingEnd) -> Result<Entry, sqlx::Error> {
    let BookingEnd { facts: booking, .. } = end;
    if end.is_expired {
        let reason = end.reason;
        return Entry::new(&BookingExpired { booking, reason });
    }
    Entry::new(&BookingCancelled {
        booking,
        was_confirmed: end.was_confirmed,
        asked: end.asked,
    })
}

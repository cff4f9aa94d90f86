//! Consumer of `notifier.notices`: turns booking, refund and transfer events into notifications, in
//! batches.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use domain::booking::BookingFacts;
use domain::message::{
    BookingCancelled, BookingExpired, BookingPaid, HoldPlaced, Message, RefundFailed,
    RefundSucceeded, TicketTransferred,
};
use domain::{AccountId, EventId};
use platform::amqp::{BatchHandler, Delivery, ParseError, Verdict};
use platform::batcher::{GroupCommit, commit_each};
use platform::pg::run_tx;
use sqlx::PgConnection;

use crate::notice::Notice;
use crate::state::AppState;
use crate::store::notifications::{self, Addressed};
use crate::store::{bookings, directory, holders};
use crate::unparsed::retry_unparsed;

/// Consumer of `notifier.notices`. A batch is one group commit. Bisection isolates a notice that
/// the database refuses; while the database is busy or away, the batch is retried.
pub(crate) struct Notices(pub(crate) Arc<AppState>);

/// Outcome of storing a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoticeOutcome {
    /// The notification exists, new or from before.
    Written,
    /// The account, the event or the booking is not known yet; to be retried.
    TooEarly,
}

impl BatchHandler for Notices {
    async fn handle_batch(&self, batch: Vec<Delivery>) -> Vec<Verdict> {
        let mut verdicts = vec![Verdict::Ack; batch.len()];
        let (mut indices, mut notices) = (Vec::new(), Vec::new());
        for (index, delivery) in batch.iter().enumerate() {
            match read(delivery) {
                Ok(read) if read.is_empty() => {
                    let why = "unknown message";
                    verdicts[index] = retry_unparsed(delivery, &why);
                }
                Ok(read) => {
                    for notice in read.into_iter().filter(|notice| !is_free_hold(notice)) {
                        indices.push(index);
                        notices.push(notice);
                    }
                }
                Err(error) => verdicts[index] = retry_unparsed(delivery, &error),
            }
        }
        let written: Vec<Result<_, Arc<sqlx::Error>>> = commit_each(self, &notices).await;
        for (index, written) in indices.into_iter().zip(written) {
            if !matches!(written, Ok(NoticeOutcome::Written)) {
                verdicts[index] = Verdict::retry(&batch[index]);
            }
        }
        verdicts
    }
}

impl GroupCommit for Notices {
    type Item = Notice;
    type Output = NoticeOutcome;

    async fn commit(&self, notices: &[Notice]) -> Result<Vec<NoticeOutcome>, sqlx::Error> {
        let state = &*self.0;
        let writing = run_tx(&state.db, "notifier write notices", |tx| {
            Box::pin(write(tx, notices, state))
        });
        let written = writing.await.inspect_err(|error| {
            let error = error as &dyn std::error::Error;
            tracing::warn!(
                notices = notices.len(),
                error,
                "failed to write notices, retrying"
            );
        })?;
        state.wake_senders();
        Ok(written)
    }
}

/// Parses a message into its notices: one or two, or none for an unknown message.
fn read(delivery: &Delivery) -> Result<Vec<Notice>, ParseError> {
    Ok(vec![match delivery.name.as_str() {
        HoldPlaced::NAME => Notice::Held(delivery.parse()?),
        BookingPaid::NAME => Notice::Confirmed(delivery.parse()?),
        BookingExpired::NAME => Notice::Expired(delivery.parse()?),
        BookingCancelled::NAME => Notice::Cancelled(delivery.parse()?),
        RefundSucceeded::NAME => Notice::Refunded(delivery.parse()?),
        RefundFailed::NAME => Notice::RefundFailed(delivery.parse()?),
        TicketTransferred::NAME => {
            let facts: TicketTransferred = delivery.parse()?;
            // A holder who only requested a new code gets `received`, but not `transferred`.
            let is_given_away = facts.from != facts.to;
            let mut notices = vec![Notice::Received(facts.clone())];
            notices.extend(is_given_away.then_some(Notice::Transferred(facts)));
            return Ok(notices);
        }
        _ => return Ok(Vec::new()),
    }])
}

/// Returns true for a hold without a price: it has no payment deadline to announce.
fn is_free_hold(notice: &Notice) -> bool {
    matches!(notice, Notice::Held(facts) if facts.booking.total.is_zero())
}

async fn write(
    conn: &mut PgConnection,
    notices: &[Notice],
    state: &AppState,
) -> Result<Vec<NoticeOutcome>, sqlx::Error> {
    let now = state.now();
    let addressees: Vec<_> = notices.iter().map(addressee).collect();
    let mut phones = directory::find_phones(conn, &addressees).await?;
    let unknown = addressees
        .iter()
        .filter(|reader| !phones.contains_key(reader));
    let unknown: Vec<_> = unknown.map(|(account, _)| *account).collect();
    if !unknown.is_empty() && directory::look_up_accounts(conn, &unknown).await? {
        phones = directory::find_phones(conn, &addressees).await?;
    }
    let known = || notices.iter().zip(&addressees);
    // First, since other notices of the same batch may refer to these bookings.
    let paid = known().filter_map(|(notice, addressee)| match notice {
        Notice::Confirmed(facts) if phones.contains_key(addressee) => Some(facts),
        _ => None,
    });
    bookings::put_paid(conn, &paid.collect::<Vec<_>>()).await?;
    let (mut addressed, mut withdrawn, mut written) = (Vec::new(), Vec::new(), Vec::new());
    for (notice, addressee) in known() {
        let Some(has_phone) = phones.get(addressee) else {
            written.push(NoticeOutcome::TooEarly);
            continue;
        };
        match notice {
            Notice::Cancelled(cancelled) if cancelled.was_confirmed => {
                bookings::end(conn, &cancelled.booking).await?;
                withdrawn.extend(withdrawn_from(conn, &cancelled.booking).await?);
            }
            Notice::Received(transferred) if !holders::put(conn, transferred).await? => {
                written.push(NoticeOutcome::TooEarly);
                continue;
            }
            _ => {}
        }
        written.push(NoticeOutcome::Written);
        let (can_sms, due_at) = (state.has_sms && *has_phone, due_at(notice, state, now));
        addressed.push(Addressed::of(notice, *addressee, can_sms, due_at));
    }
    for notice in &withdrawn {
        let due_at = due_at(notice, state, now);
        addressed.push(Addressed::of(notice, addressee(notice), false, due_at));
    }
    notifications::put(conn, &addressed, now).await?;
    Ok(written)
}

/// Returns the earliest time to send a notice. Notices that are likely to be superseded are
/// delayed: `held` by the payment, `cancelled` and `withdrawn` by news that the event is cancelled.
fn due_at(notice: &Notice, state: &AppState, now: DateTime<Utc>) -> DateTime<Utc> {
    match notice {
        Notice::Held(facts) => {
            let left = (facts.booking.hold_until - now)
                .to_std()
                .unwrap_or_default();
            now + state.held_mail_delay.min(left / 4)
        }
        Notice::Cancelled(facts) if facts.was_confirmed && facts.asked.is_none() => {
            now + state.news_delay
        }
        Notice::Withdrawn(_) => now + state.news_delay,
        _ => now,
    }
}

/// Returns notices for holders of transferred tickets of a cancelled booking, except the buyer, who
/// gets `cancelled`.
async fn withdrawn_from(
    conn: &mut PgConnection,
    booking: &BookingFacts,
) -> Result<Vec<Notice>, sqlx::Error> {
    let holders = holders::of(conn, booking.booking_id).await?;
    let others = holders
        .into_iter()
        .filter(|facts| facts.to != booking.account_id);
    Ok(others.map(Notice::Withdrawn).collect())
}

fn addressee(notice: &Notice) -> (AccountId, EventId) {
    match notice {
        Notice::Refunded(refund) => (refund.account_id, refund.event_id),
        Notice::RefundFailed(refund) => (refund.account_id, refund.event_id),
        Notice::Transferred(facts) => (facts.from, facts.booking.event_id),
        Notice::Received(facts) | Notice::Withdrawn(facts) => (facts.to, facts.booking.event_id),
        _ => {
            let booking = notice
                .booking()
                .expect("every other message carries the booking");
            (booking.account_id, booking.event_id)
        }
    }
}

//! Consumer of `notifier.notices`: one notification for each thing a buyer should hear.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use domain::booking::BookingFacts;
use domain::message::{
    BookingCancelled, BookingExpired, BookingPaid, HoldPlaced, Message, RefundSucceeded,
    TicketTransferred,
};
use domain::{AccountId, EventId};
use platform::amqp::{Delivery, Handler, ParseError, Verdict};
use platform::pg::run_tx;
use sqlx::PgConnection;

use crate::notice::{Channel, Notice};
use crate::shared::Shared;
use crate::store::{bookings, directory, holders, notifications};

/// Consumer of `notifier.notices`.
pub(crate) struct Notices(pub(crate) Arc<Shared>);

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    /// Its notification is there, now or from before.
    Yes,
    /// The account or the event is not known yet.
    TooEarly,
}

impl Handler for Notices {
    async fn handle(&self, delivery: Delivery) -> Verdict {
        let notices = match read(&delivery) {
            Ok(notices) if !notices.is_empty() => notices,
            Ok(_) => {
                let name = &delivery.name;
                return Verdict::DeadLetter(format!("the notifier knows no message {name:?}"));
            }
            Err(error) => return error.into(),
        };
        if notices.iter().any(is_free_hold) {
            return Verdict::Ack;
        }
        match self.write(&notices).await {
            Ok(Written::Yes) => Verdict::Ack,
            Ok(Written::TooEarly) => Verdict::retry(&delivery),
            Err(error) => {
                let error = &error as &dyn std::error::Error;
                tracing::warn!(
                    message = delivery.name,
                    error,
                    "notice not written; trying again"
                );
                Verdict::retry(&delivery)
            }
        }
    }
}

impl Notices {
    async fn write(&self, notices: &[Notice]) -> Result<Written, sqlx::Error> {
        let (has_sms, now) = (self.0.has_sms, self.0.now());
        let writing = run_tx(&self.0.db, "notifier write notice", |tx| {
            Box::pin(write_all(tx, notices, has_sms, now))
        });
        let written = writing.await?;
        self.0.wake_senders();
        Ok(written)
    }
}

/// What a message makes known, to one or to two; nothing when it is none of these.
fn read(delivery: &Delivery) -> Result<Vec<Notice>, ParseError> {
    Ok(vec![match delivery.name.as_str() {
        HoldPlaced::NAME => Notice::Held(delivery.parse()?),
        BookingPaid::NAME => Notice::Confirmed(delivery.parse()?),
        BookingExpired::NAME => Notice::Expired(delivery.parse()?),
        BookingCancelled::NAME => Notice::Cancelled(delivery.parse()?),
        RefundSucceeded::NAME => Notice::Refunded(delivery.parse()?),
        TicketTransferred::NAME => {
            let facts: TicketTransferred = delivery.parse()?;
            return Ok(vec![
                Notice::Received(facts.clone()),
                Notice::Transferred(facts),
            ]);
        }
        _ => return Ok(Vec::new()),
    }])
}

/// There is nothing to pay by any time.
fn is_free_hold(notice: &Notice) -> bool {
    matches!(notice, Notice::Held(facts) if facts.booking.total.is_zero())
}

async fn write_all(
    conn: &mut PgConnection,
    notices: &[Notice],
    has_sms: bool,
    now: DateTime<Utc>,
) -> Result<Written, sqlx::Error> {
    for notice in notices {
        if write(conn, notice, has_sms, now).await? == Written::TooEarly {
            return Ok(Written::TooEarly);
        }
    }
    Ok(Written::Yes)
}

async fn write(
    conn: &mut PgConnection,
    notice: &Notice,
    has_sms: bool,
    now: DateTime<Utc>,
) -> Result<Written, sqlx::Error> {
    let (account_id, event_id) = addressee(notice);
    let Some(has_phone) = directory::find_phone(conn, account_id, event_id).await? else {
        return Ok(Written::TooEarly);
    };
    match notice {
        Notice::Confirmed(paid) => bookings::put_paid(conn, paid).await?,
        Notice::Cancelled(cancelled) if cancelled.was_confirmed => {
            bookings::end(conn, &cancelled.booking).await?;
            tell_holders(conn, &cancelled.booking, now).await?;
        }
        Notice::Received(transferred) if !holders::put(conn, transferred).await? => {
            return Ok(Written::TooEarly);
        }
        _ => {}
    }
    let by_sms = has_sms && has_phone && notice.is_worth_an_sms();
    let channels: &[Channel] = if by_sms {
        &[Channel::Email, Channel::Sms]
    } else {
        &[Channel::Email]
    };
    notifications::put(conn, notice, (account_id, event_id), channels, now).await?;
    Ok(Written::Yes)
}

/// Tells those to whom tickets of a cancelled booking were transferred; the buyer is told anyway.
async fn tell_holders(
    conn: &mut PgConnection,
    booking: &BookingFacts,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    for facts in holders::of(conn, booking.booking_id).await? {
        if facts.to == booking.account_id {
            continue;
        }
        let to = (facts.to, booking.event_id);
        notifications::put(conn, &Notice::Withdrawn(facts), to, &[Channel::Email], now).await?;
    }
    Ok(())
}

fn addressee(notice: &Notice) -> (AccountId, EventId) {
    match notice {
        Notice::Refunded(refund) => (refund.account_id, refund.event_id),
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

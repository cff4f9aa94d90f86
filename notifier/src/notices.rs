//! Consumer of `notifier.notices`: one notification for each thing a buyer should hear.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use domain::message::{
    BookingCancelled, BookingExpired, BookingPaid, HoldPlaced, Message, RefundSucceeded,
};
use domain::{AccountId, EventId};
use platform::amqp::{BatchHandler, Delivery, ParseError, Verdict};
use platform::pg::run_tx;
use sqlx::PgConnection;

use crate::notice::{Channel, Notice};
use crate::shared::Shared;
use crate::store::notifications::{self, Addressed};
use crate::store::{bookings, directory};

/// Consumer of `notifier.notices`. All notices of a batch are written in one transaction; if that
/// fails, each is written in its own.
pub(crate) struct Notices(pub(crate) Arc<Shared>);

/// What became of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Written {
    /// Its notification is there, now or from before.
    Yes,
    /// The account or the event is not known yet.
    TooEarly,
}

impl BatchHandler for Notices {
    async fn handle_batch(&self, batch: Vec<Delivery>) -> Vec<Verdict> {
        let mut verdicts = vec![Verdict::Ack; batch.len()];
        let (mut places, mut notices) = (Vec::new(), Vec::new());
        for (index, delivery) in batch.iter().enumerate() {
            match read(delivery) {
                Ok(Some(notice)) if is_free_hold(&notice) => {}
                Ok(Some(notice)) => {
                    places.push(index);
                    notices.push(notice);
                }
                Ok(None) => {
                    let name = &delivery.name;
                    let reason = format!("the notifier knows no message {name:?}");
                    verdicts[index] = Verdict::DeadLetter(reason);
                }
                Err(error) => verdicts[index] = error.into(),
            }
        }
        for (index, written) in places.into_iter().zip(self.write_all(&notices).await) {
            if written != Some(Written::Yes) {
                verdicts[index] = Verdict::retry(&batch[index]);
            }
        }
        verdicts
    }
}

impl Notices {
    /// Writes notices together, or each alone when that fails. `None` for one that failed.
    async fn write_all(&self, notices: &[Notice]) -> Vec<Option<Written>> {
        if notices.is_empty() {
            return Vec::new();
        }
        match self.write(notices).await {
            Ok(written) => return written.into_iter().map(Some).collect(),
            Err(error) => log(&error, notices.len()),
        }
        if notices.len() == 1 {
            return vec![None];
        }
        let mut written = Vec::with_capacity(notices.len());
        for notice in notices {
            let alone = self.write(std::slice::from_ref(notice)).await;
            let alone = alone.inspect_err(|error| log(error, 1)).ok();
            written.push(alone.and_then(|mut written| written.pop()));
        }
        written
    }

    async fn write(&self, notices: &[Notice]) -> Result<Vec<Written>, sqlx::Error> {
        let (has_sms, now) = (self.0.has_sms, self.0.now());
        let writing = run_tx(&self.0.db, "notifier write notices", |tx| {
            Box::pin(write(tx, notices, has_sms, now))
        });
        let written = writing.await?;
        self.0.wake_senders();
        Ok(written)
    }
}

fn log(error: &sqlx::Error, notices: usize) {
    let error = error as &dyn std::error::Error;
    tracing::warn!(notices, error, "notices not written; trying again");
}

fn read(delivery: &Delivery) -> Result<Option<Notice>, ParseError> {
    Ok(Some(match delivery.name.as_str() {
        HoldPlaced::NAME => Notice::Held(delivery.parse()?),
        BookingPaid::NAME => Notice::Confirmed(delivery.parse()?),
        BookingExpired::NAME => Notice::Expired(delivery.parse()?),
        BookingCancelled::NAME => Notice::Cancelled(delivery.parse()?),
        RefundSucceeded::NAME => Notice::Refunded(delivery.parse()?),
        _ => return Ok(None),
    }))
}

/// There is nothing to pay by any time.
fn is_free_hold(notice: &Notice) -> bool {
    matches!(notice, Notice::Held(facts) if facts.booking.total.is_zero())
}

async fn write(
    conn: &mut PgConnection,
    notices: &[Notice],
    has_sms: bool,
    now: DateTime<Utc>,
) -> Result<Vec<Written>, sqlx::Error> {
    let addressees: Vec<_> = notices.iter().map(addressee).collect();
    let phones = directory::find_phones(conn, &addressees).await?;
    let (mut addressed, mut paid, mut written) = (Vec::new(), Vec::new(), Vec::new());
    for (notice, addressee) in notices.iter().zip(addressees) {
        let Some(has_phone) = phones.get(&addressee) else {
            written.push(Written::TooEarly);
            continue;
        };
        written.push(Written::Yes);
        match notice {
            Notice::Confirmed(facts) => paid.push(facts),
            Notice::Cancelled(cancelled) if cancelled.was_confirmed => {
                bookings::end(conn, &cancelled.booking).await?;
            }
            _ => {}
        }
        let (account_id, event_id) = addressee;
        addressed.push(Addressed {
            notice,
            account_id,
            event_id,
            channels: channels(notice, has_sms && *has_phone),
        });
    }
    bookings::put_paid(conn, &paid).await?;
    notifications::put(conn, &addressed, now).await?;
    Ok(written)
}

fn channels(notice: &Notice, can_sms: bool) -> &'static [Channel] {
    if can_sms && notice.is_worth_an_sms() {
        &[Channel::Email, Channel::Sms]
    } else {
        &[Channel::Email]
    }
}

fn addressee(notice: &Notice) -> (AccountId, EventId) {
    match notice {
        Notice::Refunded(refund) => (refund.account_id, refund.event_id),
        _ => {
            let booking = notice
                .booking()
                .expect("every other message carries the booking");
            (booking.account_id, booking.event_id)
        }
    }
}

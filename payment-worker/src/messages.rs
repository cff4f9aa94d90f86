//! The messages that announce what became of a payment, published with the change itself.

use domain::Money;
use domain::message::{Message, PaymentAuthorised, PaymentCaptured, PaymentFailed, PaymentVoided};
use platform::outbox::{self, Entry};
use sqlx::PgConnection;

use crate::OWNER;
use crate::store::payments::Payment;

/// The message about a payment that has moved, without the payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Announcement {
    /// The money is reserved.
    Authorised,
    /// This amount is captured, in minor units.
    Captured(i64),
    /// No payment can come.
    Voided,
    /// The money can't be captured.
    Failed {
        reason: String,
        /// Stripe refused to create the PaymentIntent, regardless of the payer.
        is_refused: bool,
    },
}

impl Announcement {
    /// The message, ready for the outbox.
    pub(crate) fn entry(self, payment: &Payment) -> Result<Entry, sqlx::Error> {
        let (booking_id, due) = (payment.booking_id, payment.amount);
        match self {
            Self::Authorised => Entry::new(&PaymentAuthorised {
                booking_id,
                amount: due,
            }),
            Self::Captured(minor) => Entry::new(&PaymentCaptured {
                booking_id,
                amount: Money::new(minor, due.currency),
            }),
            Self::Voided => Entry::new(&PaymentVoided { booking_id }),
            Self::Failed { reason, is_refused } => Entry::new(&PaymentFailed {
                booking_id,
                reason,
                is_refused,
            }),
        }
    }
}

/// Stores one announcement in the outbox.
pub(crate) async fn announce(
    conn: &mut PgConnection,
    payment: &Payment,
    announcement: Announcement,
) -> Result<(), sqlx::Error> {
    publish(conn, vec![announcement.entry(payment)?]).await
}

/// Stores messages in the outbox by one statement, for the relay.
pub(crate) async fn publish(
    conn: &mut PgConnection,
    messages: Vec<Entry>,
) -> Result<(), sqlx::Error> {
    outbox::put_all(conn, OWNER, messages).await
}

/// Stores a message in the outbox.
pub(crate) async fn emit<M: Message>(
    conn: &mut PgConnection,
    message: &M,
) -> Result<(), sqlx::Error> {
    outbox::put(conn, OWNER, message).await
}

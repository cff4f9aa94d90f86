//! Handles `payment.void`: the booking worker asks that no payment comes, and waits for the
//! outcome.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use domain::BookingId;
use domain::message::{PaymentVoided, VoidPayment};
use domain::payment::{PaymentState, VoidReason};
use sqlx::PgConnection;

use super::release::{give_back, release};
use super::{Done, Effect};
use crate::messages::{Announcement, announce, emit};
use crate::operation::Request;
use crate::refunds;
use crate::store::{cancellations, operations, payments};

impl Effect for VoidPayment {
    async fn apply(
        &self,
        conn: &mut PgConnection,
        now: DateTime<Utc>,
    ) -> Result<Done, sqlx::Error> {
        let VoidPayment { booking_id, reason } = *self;
        if payments::insert_voided(conn, booking_id, reason, now).await? {
            emit(conn, &PaymentVoided { booking_id }).await?;
            return Ok(Done::Yes);
        }
        let Some(payment) = payments::lock(conn, booking_id).await? else {
            return Ok(Done::TooEarly);
        };
        match (payment.state, reason) {
            // Published again, because the first message may be lost.
            (PaymentState::Failed, _) if payment.is_refused() => {
                let failed = Announcement::Failed {
                    reason: payment.last_error.clone().unwrap_or_default(),
                    is_refused: true,
                };
                announce(conn, &payment, failed).await?;
            }
            (PaymentState::Voided | PaymentState::Failed, _) => {
                announce(conn, &payment, Announcement::Voided).await?;
            }
            (PaymentState::Authorised | PaymentState::Captured, VoidReason::HoldExpired) => {
                announce(conn, &payment, Announcement::Authorised).await?;
            }
            (PaymentState::Captured, VoidReason::Cancelled) => {
                let asked = cancellations::asked(conn, booking_id).await?;
                refunds::refund_cancelled(conn, &payment, asked, now).await?;
                announce(conn, &payment, Announcement::Voided).await?;
            }
            (PaymentState::Authorised, VoidReason::Cancelled) => {
                let asked = cancellations::asked(conn, booking_id).await?;
                give_back(conn, &payment, asked, now).await?;
            }
            (PaymentState::Pending | PaymentState::RequiresAction, _) => {
                release(conn, &payment, reason, now).await?;
            }
        }
        Ok(Done::Yes)
    }
}

/// Requests the cancellation of PaymentIntents that nobody has paid, in one statement, and returns
/// their bookings. The others are handled one by one. Idempotent: a void is repeated while Stripe
/// does not answer.
pub(super) async fn release_unpaid(
    conn: &mut PgConnection,
    voids: &[(BookingId, VoidReason)],
    now: DateTime<Utc>,
) -> Result<HashSet<BookingId>, sqlx::Error> {
    let ids: Vec<_> = voids.iter().map(|(id, _)| *id).collect();
    let payments = payments::lock_all(conn, &ids).await?;
    let mut seen = HashSet::new();
    let unpaid: Vec<_> = voids
        .iter()
        .copied()
        .filter(|(id, _)| {
            let payment = payments.get(id);
            payment.is_some_and(|p| p.state.is_due() && p.intent_id.is_some()) && seen.insert(*id)
        })
        .collect();
    if unpaid.is_empty() {
        return Ok(seen);
    }
    payments::set_void_reasons(conn, &unpaid, now).await?;
    let cancels: Vec<_> = unpaid
        .iter()
        .map(|(id, _)| (*id, &Request::Cancel))
        .collect();
    operations::insert_all(conn, &cancels, now, now).await?;
    Ok(seen)
}

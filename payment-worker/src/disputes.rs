//! Disputes: a cardholder asked the bank for the money, and staff must answer at Stripe.

use chrono::{DateTime, Utc};
use sqlx::PgConnection;

use crate::store::{findings, payments};
use crate::stripe::Dispute;

/// Records a dispute, which staff must answer at Stripe; `false` when its payment is none of ours.
/// One Stripe account may serve several installations, and other programs.
pub(crate) async fn note(
    conn: &mut PgConnection,
    dispute: &Dispute,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let booking_id = match &dispute.intent_id {
        Some(intent_id) => payments::booking_of(conn, intent_id).await?,
        None => None,
    };
    if booking_id.is_none() {
        return Ok(false);
    }
    let Dispute {
        id, amount, reason, ..
    } = dispute;
    let detail = format!("{amount} is disputed: {reason}");
    findings::note(conn, findings::Kind::Dispute, id, booking_id, &detail, now).await?;
    Ok(true)
}

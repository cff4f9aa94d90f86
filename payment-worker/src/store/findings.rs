//! Findings: differences without one right answer, for staff.

use chrono::{DateTime, Utc};
use domain::{BookingId, FindingId};
use serde::Serialize;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A booking was charged by two PaymentIntents.
    SecondCharge,
    /// A charge for a booking that has no payment here.
    UnknownCharge,
    /// An authorisation for a booking that has no payment here.
    UnknownAuthorisation,
    /// Stripe has another amount, or another currency.
    AmountDiffers,
    /// Stripe does not know the object.
    Missing,
    /// The cardholder disputes the charge.
    Dispute,
    /// Refunded in Stripe's dashboard.
    RefundElsewhere,
    /// A refund was refused, or the bank sent it back.
    RefundFailed,
    /// Stripe refuses payments for an event.
    CreationRefused,
}

impl Kind {
    fn as_str(self) -> &'static str {
        match self {
            Self::SecondCharge => "second_charge",
            Self::UnknownCharge => "unknown_charge",
            Self::UnknownAuthorisation => "unknown_authorisation",
            Self::AmountDiffers => "amount_differs",
            Self::Missing => "missing",
            Self::Dispute => "dispute",
            Self::RefundElsewhere => "refund_elsewhere",
            Self::RefundFailed => "refund_failed",
            Self::CreationRefused => "creation_refused",
        }
    }
}

/// A finding as staff see it.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// Such as `dispute`.
    pub kind: String,
    /// Stripe's id of the object.
    pub subject: String,
    /// The booking, if it is known.
    pub booking_id: Option<Uuid>,
    /// Description of the finding, for people.
    pub detail: String,
    /// When it was first found.
    pub found_at: DateTime<Utc>,
}

/// Records a finding, once per kind and subject.
pub(crate) async fn note(
    conn: &mut PgConnection,
    kind: Kind,
    subject: &str,
    booking_id: Option<BookingId>,
    detail: &str,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let done = sqlx::query!(
        "insert into payment.findings (id, kind, subject, booking_id, detail, found_at)
         values ($1, $2, $3, $4, $5, $6)
         on conflict (kind, subject) do nothing",
        FindingId::new(now).0,
        kind.as_str(),
        subject,
        booking_id.map(|id| id.0),
        detail,
        now,
    );
    if done.execute(conn).await?.rows_affected() == 1 {
        tracing::error!(kind = kind.as_str(), subject, detail, "recorded a finding");
        metrics::counter!("payment_worker_findings_total", "kind" => kind.as_str()).increment(1);
    }
    Ok(())
}

/// Findings that nobody has settled, oldest first.
pub(crate) async fn open(pool: &PgPool) -> Result<Vec<Finding>, sqlx::Error> {
    sqlx::query_as!(
        Finding,
        "select kind, subject, booking_id, detail, found_at from payment.findings
         where settled_at is null order by found_at"
    )
    .fetch_all(pool)
    .await
}

/// Result of settling a finding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Settled {
    /// It was open.
    Now {
        /// The booking, if it is known.
        booking_id: Option<Uuid>,
    },
    /// It was settled before.
    Before,
}

/// Settles a finding; `None` when there is no such one.
pub(crate) async fn settle(
    conn: &mut PgConnection,
    kind: &str,
    subject: &str,
    now: DateTime<Utc>,
) -> Result<Option<Settled>, sqlx::Error> {
    let row = sqlx::query!(
        r#"with open as (
             update payment.findings set settled_at = $3
             where kind = $1 and subject = $2 and settled_at is null
             returning id)
         select f.booking_id, exists (select from open) as "is_now!"
         from payment.findings f where f.kind = $1 and f.subject = $2"#,
        kind,
        subject,
        now,
    );
    let row = row.fetch_optional(conn).await?;
    Ok(row.map(|row| match row.is_now {
        true => Settled::Now {
            booking_id: row.booking_id,
        },
        false => Settled::Before,
    }))
}

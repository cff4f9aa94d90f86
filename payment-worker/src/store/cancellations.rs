//! Cancellations of confirmed bookings, from the booking worker's view.

use chrono::{DateTime, Utc};
use domain::message::CancelAsked;
use domain::{AccountId, BookingId};
use sqlx::{PgConnection, PgPool};

/// By whom a confirmed booking was cancelled, and when; `None` when it was not, or by nobody: its
/// event is cancelled, or its payment impossible.
pub(crate) async fn asked(
    conn: &mut PgConnection,
    booking_id: BookingId,
) -> Result<Option<CancelAsked>, sqlx::Error> {
    let row = sqlx::query!(
        r#"select cancelled_by, cancelled_at as "cancelled_at!"
           from booking.public_cancellations where booking_id = $1"#,
        booking_id.0
    );
    let row = row.fetch_optional(conn).await?;
    Ok(row.and_then(|row| {
        row.cancelled_by.map(|by| CancelAsked {
            by: AccountId(by),
            at: row.cancelled_at,
        })
    }))
}

/// Up to `limit` bookings, cancelled in this period, whose money is neither refunded nor released,
/// nor is that in flight.
pub(crate) async fn unsettled(
    pool: &PgPool,
    from: DateTime<Utc>,
    to: DateTime<Utc>,
    limit: i64,
) -> Result<Vec<BookingId>, sqlx::Error> {
    let ids = sqlx::query_scalar!(
        r#"select c.booking_id as "booking_id!"
           from booking.public_cancellations c join payment.payments p using (booking_id)
           where c.cancelled_at between $1 and $2
             and (p.state = 'captured' and p.kept_on_cancel_minor is null
                      and p.refunded_minor + p.kept_minor < p.captured_minor
                      and not exists (select from payment.refunds r
                                      where r.booking_id = p.booking_id and r.occasion = 'cancelled')
                  or p.state in ('pending', 'requires_action', 'authorised')
                      and not exists (select from payment.operations o
                                      where o.booking_id = p.booking_id and o.state = 'pending'))
           order by c.cancelled_at limit $3"#,
        from,
        to,
        limit,
    )
    .fetch_all(pool)
    .await?;
    Ok(ids.into_iter().map(BookingId).collect())
}

//! Moves payments by the [rules], one or many, in the caller's transaction. A step that was taken
//! before changes nothing.

pub(crate) mod rules;

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use domain::payment::machine::PaymentCommand;
use platform::outbox::Entry;
use sqlx::PgConnection;

use crate::messages::publish;
use crate::operation::Request;
use crate::refunds;
use crate::store::payments::{self as table, Payment};
use crate::store::{cancellations, findings, operations};
use crate::stripe::Intent;
use rules::{Consequence, Source, Step};

/// A PaymentIntent as Stripe reports it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Report<'a> {
    pub intent: &'a Intent,
    pub source: Source,
}

/// Steps that a transaction takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// Plain ones: nothing that one payment requires can fail the others.
    Plain,
    All,
}

/// Effect of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Followed {
    /// It is about no payment here.
    Unknown,
    /// It is to be followed alone: its step is out of scope, or another report of the same payment
    /// came first.
    Left,
    /// The PaymentIntent must be read first.
    Unproven,
    /// The payment has no step to take.
    Stayed,
    Moved,
}

/// Moves payments to where Stripe has them, by a handful of statements for all. Returns the effect
/// of each report, and the messages that the caller publishes in the same transaction.
pub(crate) async fn follow(
    conn: &mut PgConnection,
    reports: &[Report<'_>],
    scope: Scope,
    now: DateTime<Utc>,
) -> Result<(Vec<Followed>, Vec<Entry>), sqlx::Error> {
    if reports.is_empty() {
        return Ok((Vec::new(), Vec::new()));
    }
    let ids: Vec<_> = reports.iter().map(|r| r.intent.id.clone()).collect();
    let bookings = table::bookings_of(conn, &ids).await?;
    let ids: Vec<_> = bookings.values().copied().collect();
    let payments = table::lock_all(conn, &ids).await?;

    let (mut steps, mut seen) = (Vec::new(), HashSet::new());
    let mut decide = |report: &Report<'_>| {
        let booking_id = bookings.get(&report.intent.id);
        let Some(payment) = booking_id.and_then(|id| payments.get(id)) else {
            return Followed::Unknown;
        };
        if !seen.insert(payment.booking_id) {
            return Followed::Left;
        }
        let Some(step) = rules::follow(payment, report.intent, report.source) else {
            return Followed::Unproven;
        };
        if scope == Scope::Plain && !step.is_plain() {
            return Followed::Left;
        }
        let is_move = step.is_move();
        steps.push((payment, step));
        if is_move {
            Followed::Moved
        } else {
            Followed::Stayed
        }
    };
    let followed = reports.iter().map(&mut decide).collect();
    Ok((followed, advance(conn, steps, now).await?))
}

/// [`follow`] for one report, with any step it requires; its messages are published.
pub(crate) async fn follow_one(
    conn: &mut PgConnection,
    report: Report<'_>,
    now: DateTime<Utc>,
) -> Result<Followed, sqlx::Error> {
    let (followed, messages) = follow(conn, &[report], Scope::All, now).await?;
    publish(conn, messages).await?;
    Ok(followed[0])
}

/// Takes steps of locked, distinct payments. Returns the messages that the caller publishes in the
/// same transaction.
pub(crate) async fn advance(
    conn: &mut PgConnection,
    steps: Vec<(&Payment, Step)>,
    now: DateTime<Utc>,
) -> Result<Vec<Entry>, sqlx::Error> {
    let moves: Vec<_> = steps
        .iter()
        .filter_map(|(payment, step)| Some((*payment, step.change.as_ref()?)))
        .collect();
    table::advance(conn, &moves, now).await?;
    let mut messages = Vec::with_capacity(steps.len());
    for (payment, step) in steps {
        if let Some(consequence) = step.consequence {
            carry_out(conn, payment, consequence, now).await?;
        }
        for announcement in step.announcements {
            messages.push(announcement.entry(payment)?);
        }
    }
    Ok(messages)
}

/// [`advance`] for one payment; its messages are published. Returns whether it moves.
pub(crate) async fn advance_one(
    conn: &mut PgConnection,
    payment: &Payment,
    step: Step,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    let is_move = step.is_move();
    let messages = advance(conn, vec![(payment, step)], now).await?;
    publish(conn, messages).await?;
    Ok(is_move)
}

/// Applies a command to a locked payment; `false` when it was applied before, or the state does not
/// allow it.
pub(crate) async fn transition(
    conn: &mut PgConnection,
    payment: &Payment,
    command: PaymentCommand,
    now: DateTime<Utc>,
) -> Result<bool, sqlx::Error> {
    advance_one(conn, payment, rules::transition(payment, command), now).await
}

async fn carry_out(
    conn: &mut PgConnection,
    payment: &Payment,
    consequence: Consequence,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let booking_id = payment.booking_id;
    match consequence {
        Consequence::Refund(captured_minor) => {
            let captured = Payment {
                captured_minor,
                ..payment.clone()
            };
            let asked = cancellations::asked(conn, booking_id).await?;
            refunds::refund_cancelled(conn, &captured, asked, now).await?;
        }
        Consequence::OtherMoney {
            intent_id,
            detail,
            is_released,
        } => {
            let kind = findings::Kind::AmountDiffers;
            findings::note(conn, kind, &intent_id, Some(booking_id), &detail, now).await?;
            if is_released {
                operations::insert(conn, booking_id, &Request::Cancel, now, now).await?;
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use domain::Currency;
    use platform::testing::TestApp;

    use super::*;
    use crate::stripe::IntentStatus;
    use crate::testing;

    #[tokio::test]
    async fn other_money_that_was_just_read_fails_the_payment_and_is_released() {
        let app = TestApp::start().await;
        let state = testing::state(&app);
        let [booking] = testing::hold(&state).await;
        testing::set_intent(&state, &booking, "pi_1").await;
        let now = state.now();
        let mut conn = state.db.acquire().await.unwrap();
        let mut intent = testing::intent("pi_1", IntentStatus::RequiresCapture);
        intent.amount_minor = Some(booking.total.amount_minor);
        intent.currency = Some(Currency::try_from("usd").unwrap());
        let intent = &intent;
        for (source, expected) in [
            (Source::Webhook, "pending"),
            (Source::List, "pending"),
            (Source::Read, "failed"),
        ] {
            let report = Report { intent, source };
            let (left, _) = follow(&mut conn, &[report], Scope::Plain, now)
                .await
                .unwrap();
            assert_eq!(left, [Followed::Left], "it is not plain");
            let followed = follow_one(&mut conn, report, now).await.unwrap();
            assert_eq!(followed, Followed::Stayed);
            let (word, _) = testing::payment(&state, &booking).await.unwrap();
            assert_eq!(word, expected);
            let found = findings::open(&state.db).await.unwrap();
            assert_eq!(found.len(), 1);
            assert_eq!(
                found[0].detail,
                "Stripe has 45.00 USD, where 45.00 EUR is due"
            );
        }
        drop(conn);
        let asked = testing::operations_of(&state, &booking).await;
        assert!(asked.iter().any(|(kind, _)| kind == "cancel"), "{asked:?}");
        app.finish().await;
    }
}

//! Compares all that Stripe has of the last days with all that we have.

use std::time::Duration;

use chrono::{DateTime, Utc};
use domain::payment::PaymentState;
use domain::{BookingId, Money};
use platform::pg::run_tx;
use sqlx::PgConnection;

use super::{RoundError, Tally, each, readable};
use crate::disputes;
use crate::operation::Kind as Operation;
use crate::payments;
use crate::payments::rules::{self, Source};
use crate::refunds;
use crate::state::AppState;
use crate::store::findings::{self, Kind};
use crate::store::payments::{self as table, Payment};
use crate::store::{self, operations};
use crate::stripe::{Cursor, Failure, Intent, IntentStatus, Page, Refund, RefundStatus};

/// Tries of a page before its list is abandoned.
const TRIES: u32 = 4;
/// Pause before a page is requested again.
const PAUSE: Duration = Duration::from_secs(1);

/// Compares all that Stripe has since `since`, page by page. A list that fails stops no other; the
/// first error is returned at the end.
pub(super) async fn compare(state: &AppState, since: DateTime<Utc>) -> Result<Tally, RoundError> {
    let intents = compare_intents(state, since).await;
    // Last, since a refund needs its capture.
    let refunds = compare_refunds(state, since).await;
    note_disputes(state, since).await?;
    Ok(intents? + refunds?)
}

/// Requests a page, again when there is no answer.
async fn page<T, Fut>(ask: impl Fn() -> Fut) -> Result<Page<T>, Failure>
where
    Fut: Future<Output = Result<Page<T>, Failure>>,
{
    for _ in 1..TRIES {
        match ask().await {
            Err(failure) if !matches!(failure, Failure::Refused { .. }) => {
                tracing::warn!(%failure, "requesting a page failed; retrying");
                tokio::time::sleep(PAUSE).await;
            }
            answer => return answer,
        }
    }
    ask().await
}

/// Compares the PaymentIntents that were created since `since`.
pub(super) async fn compare_intents(
    state: &AppState,
    since: DateTime<Utc>,
) -> Result<Tally, RoundError> {
    let mut tally = Tally::default();
    let mut next = Some(Cursor::since(since));
    while let Some(cursor) = next {
        let page = page(|| state.stripe.intents(&cursor)).await?;
        next = page.next;
        tally.compared += page.objects.len();
        let doubtful = doubtful(state, page.objects).await?;
        tally += each(
            doubtful,
            |intent| &intent.id,
            |intent| compare_intent(state, intent),
        )
        .await;
    }
    Ok(tally)
}

/// Filters the PaymentIntents of this installation that differ from our records, read without
/// locks.
async fn doubtful(state: &AppState, intents: Vec<Intent>) -> Result<Vec<Intent>, RoundError> {
    let ids: Vec<_> = intents.iter().map(|intent| intent.id.clone()).collect();
    let known = table::standing_of(&state.db, &ids).await?;
    let installation = state.installation().await?;
    let is_ours = |intent: &Intent| {
        intent
            .installation
            .is_none_or(|token| token == installation)
    };
    let is_settled = |intent: &Intent| match known.get(&intent.id) {
        Some((PaymentState::Captured, captured)) => {
            intent.status == IntentStatus::Succeeded && is_captured(intent, *captured)
        }
        Some((state, _)) => agrees(*state, intent.status),
        None => false,
    };
    Ok(intents
        .into_iter()
        .filter(|intent| is_ours(intent) && !is_settled(intent))
        .collect())
}

/// Returns `true` if Stripe captured this amount, in this currency.
fn is_captured(intent: &Intent, amount: Money) -> bool {
    intent.received_minor == amount.amount_minor && !intent.is_in_another_currency(amount.currency)
}

async fn compare_refunds(state: &AppState, since: DateTime<Utc>) -> Result<Tally, RoundError> {
    let mut tally = Tally::default();
    let mut next = Some(Cursor::since(since));
    while let Some(cursor) = next {
        let page = page(|| state.stripe.refunds(&cursor)).await?;
        next = page.next;
        tally += each(
            page.objects,
            |refund| &refund.id,
            |refund| compare_refund(state, refund),
        )
        .await;
    }
    Ok(tally)
}

async fn note_disputes(state: &AppState, since: DateTime<Utc>) -> Result<(), RoundError> {
    let mut next = Some(Cursor::since(since));
    while let Some(cursor) = next {
        let page = page(|| state.stripe.disputes(&cursor)).await?;
        next = page.next;
        for dispute in page.objects {
            let mut conn = state.db.acquire().await?;
            disputes::note(&mut conn, &dispute, state.now()).await?;
        }
    }
    Ok(())
}

/// Result of comparing one PaymentIntent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compared {
    /// Nothing is to be done.
    Agrees,
    /// The payment was moved to Stripe's state.
    Repaired,
    /// An authorisation for a booking of ours that is paid by another PaymentIntent.
    Stray,
    /// Stripe captured another amount, or our record is newer than the list.
    Differs,
}

async fn compare_intent(state: &AppState, intent: Intent) -> Result<bool, RoundError> {
    let intent = &intent;
    let Some(booking_id) = intent.booking_id else {
        return Ok(false);
    };
    let now = state.now();
    let comparing = run_tx(&state.db, "payment compare", |tx| {
        Box::pin(compare_in(tx, booking_id, intent, now))
    });
    match comparing.await? {
        Compared::Agrees => Ok(false),
        Compared::Repaired => {
            state.wake_after_commit();
            Ok(true)
        }
        Compared::Stray => release(state, intent).await,
        Compared::Differs => {
            look_again(state, booking_id, &intent.id).await?;
            Ok(false)
        }
    }
}

/// Reads the PaymentIntent once more, and records a difference that remains: it may have been
/// captured, and that recorded, after the list was read.
async fn look_again(
    state: &AppState,
    booking_id: BookingId,
    intent_id: &str,
) -> Result<(), RoundError> {
    let answer = state.stripe.retrieve(intent_id).await;
    let Some(intent) = readable(state, answer, intent_id).await? else {
        return Ok(());
    };
    let now = state.now();
    let noting = run_tx(&state.db, "payment note difference", |tx| {
        Box::pin(note_difference(tx, booking_id, &intent, now))
    });
    noting.await.map_err(RoundError::from)
}

/// Records a finding when Stripe captured another amount than a captured payment has. Compares
/// under the payment's lock; a payment whose capture is not recorded yet differs from nothing.
async fn note_difference(
    conn: &mut PgConnection,
    booking_id: BookingId,
    intent: &Intent,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let Some(payment) = table::lock(conn, booking_id).await? else {
        return Ok(());
    };
    let captured = Money::new(payment.captured_minor, payment.amount.currency);
    if payment.intent_id.as_ref() != Some(&intent.id)
        || payment.state != PaymentState::Captured
        || is_captured(intent, captured)
    {
        return Ok(());
    }
    let detail = format!(
        "Stripe captured {}, our records say {captured}",
        intent.received()
    );
    let kind = Kind::AmountDiffers;
    findings::note(conn, kind, &intent.id, Some(booking_id), &detail, now).await
}

/// Cancels a PaymentIntent that no payment here has, which releases the buyer's money. No row
/// records it: each comparison finds it again until it is done. The key changes every hour, for
/// Stripe repeats a saved 500 for a day; a second cancellation changes nothing.
async fn release(state: &AppState, intent: &Intent) -> Result<bool, RoundError> {
    let hour = state.now().timestamp() / 3_600;
    let key = format!("onsale-stray-{}-{hour}", intent.id);
    match state.stripe.cancel(&key, &intent.id).await {
        Ok(released) => {
            tracing::warn!(intent_id = intent.id, "released a stray authorisation");
            Ok(released.status == IntentStatus::Canceled)
        }
        // Captured or canceled meanwhile: the next comparison sees which.
        Err(Failure::Refused { .. }) => Ok(false),
        Err(failure) => Err(failure.into()),
    }
}

async fn compare_in(
    conn: &mut PgConnection,
    booking_id: BookingId,
    intent: &Intent,
    now: DateTime<Utc>,
) -> Result<Compared, sqlx::Error> {
    let payment = table::lock(conn, booking_id).await?;
    let payment = match payment {
        Some(payment) if payment.intent_id.as_ref() == Some(&intent.id) => payment,
        other => return compare_unknown(conn, booking_id, other.as_ref(), intent, now).await,
    };
    let captured = Money::new(payment.captured_minor, payment.amount.currency);
    if payment.state == PaymentState::Captured && !is_captured(intent, captured) {
        return Ok(Compared::Differs);
    }
    if agrees(payment.state, intent.status) {
        return Ok(Compared::Agrees);
    }
    let Some(step) = rules::follow(&payment, intent, Source::List) else {
        return Ok(Compared::Agrees);
    };
    let is_moved = payments::advance_one(conn, &payment, step, now).await?;
    Ok(if is_moved {
        Compared::Repaired
    } else {
        Compared::Agrees
    })
}

/// Handles a PaymentIntent that names a booking and is not the one of its payment. A payment of
/// that booking proves that it is of this installation, since booking ids are unique.
async fn compare_unknown(
    conn: &mut PgConnection,
    booking_id: BookingId,
    payment: Option<&Payment>,
    intent: &Intent,
    now: DateTime<Utc>,
) -> Result<Compared, sqlx::Error> {
    // One that is being created becomes the payment's own.
    if operations::is_pending(conn, booking_id, Operation::Create).await? {
        return Ok(Compared::Agrees);
    }
    if intent.status != IntentStatus::RequiresCapture {
        note_foreign_charge(conn, booking_id, intent, now).await?;
        return Ok(Compared::Agrees);
    }
    if payment.is_none() {
        let (kind, id) = (Kind::UnknownAuthorisation, Some(booking_id));
        let detail = "Money is reserved for a booking that has no payment here";
        findings::note(conn, kind, &intent.id, id, detail, now).await?;
        return Ok(Compared::Agrees);
    }
    Ok(Compared::Stray)
}

async fn note_foreign_charge(
    conn: &mut PgConnection,
    booking_id: BookingId,
    intent: &Intent,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    if intent.received_minor == 0 {
        return Ok(());
    }
    let has_payment = table::lock(conn, booking_id)
        .await?
        .is_some_and(|payment| payment.captured_minor > 0);
    let kind = if has_payment {
        Kind::SecondCharge
    } else {
        Kind::UnknownCharge
    };
    let detail = format!("Stripe captured {}, our records nothing", intent.received());
    findings::note(conn, kind, &intent.id, Some(booking_id), &detail, now).await
}

/// Returns `true` if the payment is in Stripe's state, or an operation will bring it there.
fn agrees(state: PaymentState, status: IntentStatus) -> bool {
    match status {
        IntentStatus::Succeeded => state == PaymentState::Captured,
        IntentStatus::Canceled => matches!(state, PaymentState::Voided | PaymentState::Failed),
        IntentStatus::RequiresCapture => !state.is_due(),
        IntentStatus::AwaitsBuyer | IntentStatus::RequiresAction | IntentStatus::Processing => true,
    }
}

async fn compare_refund(state: &AppState, refund: Refund) -> Result<bool, RoundError> {
    let refund = &refund;
    let now = state.now();
    let mut conn = state.db.acquire().await?;
    let known = store::refunds::state_of(&mut conn, &refund.id).await?;
    drop(conn);
    let is_settled = match refund.status {
        RefundStatus::Pending => known.is_some(),
        RefundStatus::Succeeded => known.as_deref() == Some("succeeded"),
        RefundStatus::Failed => known.as_deref() == Some("failed"),
    };
    if is_settled {
        return Ok(false);
    }
    let following = run_tx(&state.db, "payment compare", |tx| {
        Box::pin(refunds::follow(tx, refund, now))
    });
    let is_moved = following.await?.unwrap_or(false);
    if is_moved {
        state.wake_after_commit();
    }
    Ok(is_moved)
}

#[cfg(test)]
mod tests {
    use domain::Currency;
    use platform::testing::TestApp;

    use super::*;
    use crate::testing;

    #[tokio::test]
    async fn a_payment_that_was_captured_after_the_list_was_read_is_no_finding_yet() {
        let app = TestApp::start().await;
        let now = app.ctx.clock.now();
        let booking_id = testing::captured(&app).await;
        let mut conn = app.ctx.db.acquire().await.unwrap();
        let mut listed = testing::intent("pi_1", IntentStatus::RequiresCapture);
        let compared = compare_in(&mut conn, booking_id, &listed, now).await;
        assert_eq!(compared.unwrap(), Compared::Differs);
        listed.status = IntentStatus::Succeeded;
        listed.received_minor = 1_000;
        let compared = compare_in(&mut conn, booking_id, &listed, now).await;
        assert_eq!(compared.unwrap(), Compared::Agrees);
        drop(conn);
        assert!(findings::open(&app.ctx.db).await.unwrap().is_empty());
        app.finish().await;
    }

    #[tokio::test]
    async fn only_a_captured_payment_differs_from_what_stripe_took() {
        let app = TestApp::start().await;
        let now = app.ctx.clock.now();
        let booking_id = testing::captured(&app).await;
        let mut conn = app.ctx.db.acquire().await.unwrap();
        let mut intent = testing::intent("pi_1", IntentStatus::Succeeded);
        let mut noted = async |intent: &Intent| {
            let noting = note_difference(&mut conn, booking_id, intent, now);
            noting.await.unwrap();
            findings::open(&app.ctx.db).await.unwrap().len()
        };
        intent.received_minor = 1_000;
        assert_eq!(noted(&intent).await, 0, "the same amount");
        intent.received_minor = 900;
        let set = async |state: &'static str| {
            let setting = sqlx::query("update payment.payments set state = $1");
            setting.bind(state).execute(&app.ctx.db).await.unwrap();
        };
        set("authorised").await;
        assert_eq!(noted(&intent).await, 0, "its capture is not recorded yet");
        set("captured").await;
        let other = testing::intent("pi_2", IntentStatus::Succeeded);
        assert_eq!(noted(&other).await, 0, "another PaymentIntent");
        for (received, currency, detail) in [
            (
                900,
                "eur",
                "Stripe captured 9.00 EUR, our records say 10.00 EUR",
            ),
            (
                1_000,
                "usd",
                "Stripe captured 10.00 USD, our records say 10.00 EUR",
            ),
        ] {
            intent.received_minor = received;
            intent.currency = Some(Currency::try_from(currency).unwrap());
            assert_eq!(noted(&intent).await, 1);
            let found = findings::open(&app.ctx.db).await.unwrap();
            assert_eq!(found[0].detail, detail);
            let settle = sqlx::query("delete from payment.findings");
            settle.execute(&app.ctx.db).await.unwrap();
        }
        drop(conn);
        app.finish().await;
    }
}

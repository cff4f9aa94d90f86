//! Batched transitions: a step forward with one message is written for many payments by one
//! statement. Everything else goes through [`transitions`](crate::transitions), one payment at a
//! time.

use chrono::{DateTime, Utc};
use domain::payment::machine::{self, PaymentCommand};
use domain::payment::{PaymentState, VoidReason};
use platform::outbox::{Entry, Staged};
use sqlx::PgConnection;

use crate::messages::{authorised, captured};
use crate::store::payments::{self, Payment};
use crate::stripe::{Intent, IntentStatus};

/// The step that follows from a PaymentIntent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Step {
    /// It is in that state already.
    Stay,
    /// It goes to this state, which is published.
    To(machine::Payment),
}

/// The step that follows from the state of the PaymentIntent; `None` when it is not a plain one.
pub(crate) fn step(payment: &Payment, intent: &Intent) -> Option<Step> {
    if intent.differs_from(payment.amount) {
        return None;
    }
    let is_cancelled = payment.void_reason == Some(VoidReason::Cancelled);
    let command = match (intent.status, payment.state) {
        (IntentStatus::RequiresCapture, PaymentState::Authorised | PaymentState::Captured)
        | (IntentStatus::Succeeded, PaymentState::Captured) => return Some(Step::Stay),
        (IntentStatus::RequiresCapture, state) if state.is_due() => PaymentCommand::Authorise,
        (IntentStatus::Succeeded, PaymentState::Authorised) if !is_cancelled => {
            PaymentCommand::Capture {
                taken: intent.received_minor,
            }
        }
        _ => return None,
    };
    payment.standing().after(command).ok().map(Step::To)
}

/// Applies these steps. The payments are locked and distinct.
pub(crate) async fn take(
    conn: &mut PgConnection,
    steps: Vec<(&Payment, Step)>,
    now: DateTime<Utc>,
    staged: &mut Staged,
) -> Result<(), sqlx::Error> {
    let mut moves = Vec::with_capacity(steps.len());
    let mut news = Vec::with_capacity(steps.len());
    for (payment, step) in steps {
        let Step::To(next) = step else { continue };
        match &next {
            machine::Payment::Authorised => news.push(Entry::new(&authorised(payment))?),
            machine::Payment::Captured(money) => {
                news.push(Entry::new(&captured(payment, money.taken))?);
            }
            _ => {}
        }
        moves.push((payment, next));
    }
    payments::advance_all(conn, &moves, now).await?;
    staged.put_all(conn, news).await
}

#[cfg(test)]
mod tests {
    use domain::{AccountId, BookingId, Currency, EventId, Money};
    use uuid::Uuid;

    use super::*;

    fn payment(state: PaymentState, void_reason: Option<VoidReason>) -> Payment {
        Payment {
            booking_id: BookingId(Uuid::nil()),
            event_id: Some(EventId(1)),
            account_id: Some(AccountId(1)),
            amount: Money::new(9_000, Currency::EUR),
            state,
            intent_id: Some("pi_1".to_owned()),
            void_reason,
            captured_minor: 0,
            refunded_minor: 0,
            kept_minor: 0,
            kept_on_cancel_minor: None,
            last_error: None,
        }
    }

    fn intent(status: IntentStatus) -> Intent {
        Intent {
            id: "pi_1".to_owned(),
            status,
            amount_minor: Some(9_000),
            received_minor: 9_000,
            currency: Some(Currency::EUR),
            client_secret: None,
            booking_id: None,
            installation: None,
            last_error: None,
        }
    }

    #[test]
    fn other_money_is_no_step() {
        let payment = payment(PaymentState::Pending, None);
        let right = intent(IntentStatus::RequiresCapture);
        assert!(step(&payment, &right).is_some());
        let mut other_currency = right.clone();
        other_currency.currency = Some(Currency::try_from("usd").unwrap());
        let mut other_amount = right;
        other_amount.amount_minor = Some(8_999);
        for other in [other_currency, other_amount] {
            assert_eq!(step(&payment, &other), None);
        }
    }

    #[test]
    fn only_what_is_wanted_and_one_step_away_is_simple() {
        use IntentStatus::{Canceled, RequiresCapture, Succeeded};
        use PaymentState::{Authorised, Captured, Failed, Pending, RequiresAction, Voided};
        let cancelled = Some(VoidReason::Cancelled);
        let run_out = Some(VoidReason::HoldExpired);
        let of = |state, void_reason, status| step(&payment(state, void_reason), &intent(status));
        let goes_to =
            |state| move |step: &Step| matches!(step, Step::To(to) if to.state() == state);
        for state in [Pending, RequiresAction] {
            let step = of(state, None, RequiresCapture);
            assert!(step.as_ref().is_some_and(goes_to(Authorised)));
            assert_eq!(of(state, None, Succeeded), None);
        }
        for void_reason in [None, run_out] {
            let step = of(Authorised, void_reason, Succeeded);
            assert!(step.as_ref().is_some_and(goes_to(Captured)));
        }
        assert_eq!(of(Authorised, cancelled, Succeeded), None);
        assert_eq!(of(Authorised, None, RequiresCapture), Some(Step::Stay));
        assert_eq!(of(Captured, None, Succeeded), Some(Step::Stay));
        for state in [Failed, Voided] {
            for status in [RequiresCapture, Succeeded, Canceled] {
                assert_eq!(of(state, None, status), None);
            }
        }
        assert_eq!(of(Pending, None, Canceled), None);
    }
}

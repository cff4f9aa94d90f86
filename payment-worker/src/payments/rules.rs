//! The rules by which a payment moves: what a state of its PaymentIntent means for it, which
//! messages announce the move, and what else follows. Functions without I/O on the
//! [state machine](domain::payment::machine), stated once for one payment and for batches.

use domain::payment::PaymentState;
use domain::payment::machine::{self, PaymentCommand};

use crate::messages::Announcement;
use crate::store::payments::{Change, Payment};
use crate::stripe::{Intent, IntentStatus};

/// Source of a report of a PaymentIntent, which decides how far it is trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// A webhook: days old perhaps, and forged if the signing secret leaked.
    Webhook,
    /// A list, read some moments ago.
    List,
    /// The object itself, read just now.
    Read,
}

/// What follows for a payment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// `None` when it stays as it is.
    pub change: Option<Change>,
    /// In the order in which they are published.
    pub announcements: Vec<Announcement>,
    pub consequence: Option<Consequence>,
}

/// What a move requires besides its messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Consequence {
    /// The captured amount, in minor units, pays for nothing any more and is refunded.
    Refund(i64),
    /// Stripe has other money than is due, which staff must see.
    OtherMoney {
        intent_id: String,
        detail: String,
        /// What is reserved on the buyer's card is released.
        is_released: bool,
    },
}

impl Step {
    /// The payment stays as it is.
    pub(crate) const STAY: Self = Self {
        change: None,
        announcements: Vec::new(),
        consequence: None,
    };

    /// Returns `true` if it is a move and its messages at most: many such steps are written by one
    /// statement for each.
    #[must_use]
    pub(crate) fn is_plain(&self) -> bool {
        self.consequence.is_none()
    }

    /// Returns `true` if the payment moves to where Stripe has it, rather than because of other
    /// money.
    #[must_use]
    pub(crate) fn is_move(&self) -> bool {
        self.change.is_some() && !matches!(self.consequence, Some(Consequence::OtherMoney { .. }))
    }
}

/// Returns `true` if a webhook is no proof of this status: a capture makes tickets, and a leaked
/// signing secret must not be worth any. `state` is that of the payment, if it is known.
pub(crate) fn needs_read(state: Option<PaymentState>, status: IntentStatus) -> bool {
    status == IntentStatus::Succeeded && state != Some(PaymentState::Captured)
}

/// The step that follows from the PaymentIntent of a payment; `None` when it must be read first.
/// What was not read just now may be old, so only moves forward follow from it.
pub(crate) fn follow(payment: &Payment, intent: &Intent, source: Source) -> Option<Step> {
    if source == Source::Webhook && needs_read(Some(payment.state), intent.status) {
        return None;
    }
    if let Some(step) = refuse_other_money(payment, intent, source) {
        return Some(step);
    }
    let is_fresh = source == Source::Read;
    Some(match intent.status {
        IntentStatus::RequiresCapture => transition(payment, PaymentCommand::Authorise),
        IntentStatus::Succeeded => transition(payment, capture(intent)),
        IntentStatus::Canceled => transition(payment, PaymentCommand::Void),
        IntentStatus::AwaitsBuyer if is_fresh => {
            progress(payment, PaymentCommand::AwaitBuyer, intent)
        }
        IntentStatus::RequiresAction if is_fresh => {
            progress(payment, PaymentCommand::RequireAction, intent)
        }
        IntentStatus::AwaitsBuyer | IntentStatus::RequiresAction | IntentStatus::Processing => {
            Step::STAY
        }
    })
}

/// The command of a PaymentIntent whose money is captured.
pub(crate) fn capture(intent: &Intent) -> PaymentCommand {
    PaymentCommand::Capture {
        taken: intent.received_minor,
    }
}

/// The step for money of another amount or currency than is due: it is a finding, and worth no
/// ticket. If the object was read just now, the payment fails and what is reserved is released.
/// `None` when the money is what is due, or none.
pub(crate) fn refuse_other_money(
    payment: &Payment,
    intent: &Intent,
    source: Source,
) -> Option<Step> {
    let is_reserved = intent.status == IntentStatus::RequiresCapture;
    let is_money = is_reserved || intent.status == IntentStatus::Succeeded;
    if !is_money || !intent.differs_from(payment.amount) {
        return None;
    }
    let due = payment.amount;
    let detail = format!("Stripe has {}, where {due} is due", intent.amount());
    let is_refused = source == Source::Read && payment.state != PaymentState::Captured;
    let failed = if is_refused {
        let reason = detail.clone();
        transition(payment, PaymentCommand::Fail { reason })
    } else {
        Step::STAY
    };
    Some(Step {
        consequence: Some(Consequence::OtherMoney {
            intent_id: intent.id.clone(),
            detail,
            is_released: is_refused && is_reserved,
        }),
        ..failed
    })
}

/// The step of a command; [`Step::STAY`] when the state does not allow it, as after it was
/// applied before.
pub(crate) fn transition(payment: &Payment, command: PaymentCommand) -> Step {
    let Some(to) = after(payment, command) else {
        return Step::STAY;
    };
    let mut announcements = Vec::with_capacity(1);
    let (mut last_error, mut consequence) = (payment.last_error.clone(), None);
    match &to {
        machine::Payment::Pending | machine::Payment::RequiresAction => {}
        machine::Payment::Authorised => announcements.push(Announcement::Authorised),
        machine::Payment::Captured(money) => {
            // Its authorisation has not been announced.
            announcements.extend(payment.state.is_due().then_some(Announcement::Authorised));
            announcements.push(Announcement::Captured(money.taken));
            let is_unwanted = payment.is_cancelled()
                || matches!(payment.state, PaymentState::Failed | PaymentState::Voided);
            if is_unwanted {
                announcements.push(Announcement::Voided);
                consequence = Some(Consequence::Refund(money.taken));
            }
        }
        machine::Payment::Voided => announcements.push(Announcement::Voided),
        machine::Payment::Failed { reason } => {
            last_error = Some(reason.clone());
            announcements.push(Announcement::Failed {
                reason: reason.clone(),
                is_refused: payment.intent_id.is_none(),
            });
        }
    }
    Step {
        change: Some(Change { to, last_error }),
        announcements,
        consequence,
    }
}

/// The step of a buyer on the way to pay, with the error of the last attempt. Not announced.
fn progress(payment: &Payment, command: PaymentCommand, intent: &Intent) -> Step {
    let last_error = intent.last_error.clone();
    let change = after(payment, command).map(|to| Change { to, last_error });
    Step {
        change: change.filter(|change| change.differs_from(payment)),
        ..Step::STAY
    }
}

fn after(payment: &Payment, command: PaymentCommand) -> Option<machine::Payment> {
    let refused = |refused: &machine::InvalidMove| {
        tracing::debug!(booking_id = %payment.booking_id, %refused, "transition refused");
    };
    let next = payment.standing().after(command);
    next.inspect_err(refused).ok()
}

#[cfg(test)]
mod tests {
    use domain::payment::VoidReason;
    use domain::{AccountId, BookingId, Currency, EventId, Money};
    use uuid::Uuid;

    use super::*;
    use IntentStatus::{
        AwaitsBuyer, Canceled, Processing, RequiresAction, RequiresCapture, Succeeded,
    };
    use Source::{List, Read, Webhook};

    const SOURCES: [Source; 3] = [Webhook, List, Read];

    fn payment(state: PaymentState) -> Payment {
        Payment {
            booking_id: BookingId(Uuid::nil()),
            event_id: Some(EventId(1)),
            account_id: Some(AccountId(1)),
            amount: Money::new(9_000, Currency::EUR),
            state,
            intent_id: Some("pi_1".to_owned()),
            void_reason: None,
            captured_minor: 0,
            refunded_minor: 0,
            kept_minor: 0,
            kept_on_cancel_minor: None,
            last_error: Some("declined".to_owned()),
        }
    }

    fn given_up(state: PaymentState, reason: VoidReason) -> Payment {
        Payment {
            void_reason: Some(reason),
            ..payment(state)
        }
    }

    fn intent(status: IntentStatus) -> Intent {
        Intent {
            amount_minor: Some(9_000),
            received_minor: 9_000,
            ..crate::testing::intent("pi_1", status)
        }
    }

    fn step(payment: &Payment, status: IntentStatus, source: Source) -> Step {
        follow(payment, &intent(status), source).expect("it is believed")
    }

    fn state_after(step: &Step) -> Option<PaymentState> {
        step.change.as_ref().map(|change| change.to.state())
    }

    #[test]
    fn an_authorisation_is_announced_once_and_only_of_a_due_payment() {
        for source in SOURCES {
            for state in PaymentState::ALL {
                let step = step(&payment(state), RequiresCapture, source);
                if state.is_due() {
                    assert_eq!(state_after(&step), Some(PaymentState::Authorised));
                    assert_eq!(step.announcements, [Announcement::Authorised]);
                    assert!(step.is_plain() && step.is_move());
                } else {
                    assert_eq!(step, Step::STAY, "{state:?}");
                }
            }
        }
    }

    #[test]
    fn a_webhook_alone_makes_no_capture() {
        for state in PaymentState::ALL {
            let followed = follow(&payment(state), &intent(Succeeded), Webhook);
            let expected = (state == PaymentState::Captured).then_some(Step::STAY);
            assert_eq!(followed, expected, "{state:?}");
            for source in [List, Read] {
                assert!(follow(&payment(state), &intent(Succeeded), source).is_some());
            }
        }
    }

    #[test]
    fn a_capture_of_a_due_payment_announces_its_authorisation_first() {
        let captured = Announcement::Captured(9_000);
        for (state, announced) in [
            (PaymentState::Authorised, vec![captured.clone()]),
            (
                PaymentState::RequiresAction,
                vec![Announcement::Authorised, captured],
            ),
        ] {
            let step = step(&payment(state), Succeeded, Read);
            assert_eq!(state_after(&step), Some(PaymentState::Captured));
            assert_eq!(step.announcements, announced);
            assert!(step.is_plain());
        }
    }

    #[test]
    fn captured_money_that_pays_for_nothing_is_refunded() {
        use PaymentState::{Authorised, Failed, Voided};
        let cancelled = given_up(Authorised, VoidReason::Cancelled);
        for unwanted in [payment(Failed), payment(Voided), cancelled] {
            let step = step(&unwanted, Succeeded, Read);
            assert_eq!(step.consequence, Some(Consequence::Refund(9_000)));
            let last = [Announcement::Captured(9_000), Announcement::Voided];
            assert_eq!(step.announcements, last);
            assert!(!step.is_plain());
        }
        let in_time = given_up(Authorised, VoidReason::HoldExpired);
        assert!(step(&in_time, Succeeded, Read).is_plain());
    }

    #[test]
    fn a_cancelled_intent_voids_what_is_not_settled() {
        for state in PaymentState::ALL {
            let step = step(&payment(state), Canceled, Webhook);
            if state.is_due() || state == PaymentState::Authorised {
                assert_eq!(state_after(&step), Some(PaymentState::Voided));
                assert_eq!(step.announcements, [Announcement::Voided]);
            } else {
                assert_eq!(step, Step::STAY, "{state:?}");
            }
        }
    }

    #[test]
    fn how_far_the_buyer_is_follows_from_a_read_alone_and_is_not_announced() {
        let of = |state, status, source| step(&payment(state), status, source);
        let moved = of(PaymentState::Pending, RequiresAction, Read);
        assert_eq!(state_after(&moved), Some(PaymentState::RequiresAction));
        assert_eq!(moved.change.unwrap().last_error, None);
        assert_eq!(moved.announcements, []);
        for status in [AwaitsBuyer, RequiresAction, Processing] {
            for source in [Webhook, List] {
                assert_eq!(of(PaymentState::Pending, status, source), Step::STAY);
            }
            assert_eq!(of(PaymentState::Authorised, status, Read), Step::STAY);
        }
        let declined = Intent {
            last_error: Some("declined".to_owned()),
            ..intent(AwaitsBuyer)
        };
        let again = follow(&payment(PaymentState::Pending), &declined, Read);
        assert_eq!(again, Some(Step::STAY), "the same error");
    }

    #[test]
    fn other_money_is_a_finding_and_no_move() {
        let mut other_currency = intent(RequiresCapture);
        other_currency.currency = Some(Currency::try_from("usd").unwrap());
        let mut other_amount = intent(RequiresCapture);
        other_amount.amount_minor = Some(8_999);
        let pending = payment(PaymentState::Pending);
        for other in [&other_currency, &other_amount] {
            for source in SOURCES {
                let step = follow(&pending, other, source).unwrap();
                assert!(!step.is_plain() && !step.is_move());
                let is_read = source == Read;
                let failed = is_read.then_some(PaymentState::Failed);
                assert_eq!(state_after(&step), failed, "{source:?}");
                let Some(Consequence::OtherMoney { is_released, .. }) = step.consequence else {
                    panic!("no finding: {step:?}");
                };
                assert_eq!(is_released, is_read);
            }
        }
        other_amount.status = Succeeded;
        let captured = follow(&payment(PaymentState::Captured), &other_amount, Read).unwrap();
        assert_eq!(captured.change, None, "it is captured for good");
    }

    #[test]
    fn a_failure_says_whether_stripe_refused_to_begin() {
        let mut failing = payment(PaymentState::Pending);
        for is_refused in [false, true] {
            failing.intent_id = (!is_refused).then(|| "pi_1".to_owned());
            let reason = "no".to_owned();
            let step = transition(&failing, PaymentCommand::Fail { reason });
            let change = step.change.unwrap();
            assert_eq!(change.last_error.as_deref(), Some("no"));
            let reason = "no".to_owned();
            let failed = Announcement::Failed { reason, is_refused };
            assert_eq!(step.announcements, [failed]);
        }
    }
}

//! The state machines of a payment and of a refund: the data of each state, and the transitions. A
//! transition consumes the state it starts from, so that its data can't be used afterwards.

use super::{PaymentState, RefundState};

/// A payment, with the data of its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payment {
    /// The buyer has not authorised it.
    Pending,
    /// The buyer's bank requires another step.
    RequiresAction,
    /// The money is reserved.
    Authorised,
    /// The money is taken.
    Captured(Captured),
    /// It can't be taken any more.
    Failed {
        /// Stripe's word for it.
        reason: String,
    },
    /// Cancelled before anything was captured.
    Voided,
}

/// Captured and refunded amounts, in minor units of the payment's currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Captured {
    /// Taken from the buyer; more than zero.
    pub taken: i64,
    /// Refunded or on its way back; at most `taken`.
    pub refunded: i64,
}

/// A command to the payment's state machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PaymentCommand {
    /// The buyer is to try, or to try again.
    AwaitBuyer,
    /// The buyer's bank requires another step.
    RequireAction,
    /// The buyer authorised.
    Authorise,
    /// The money was taken.
    Capture {
        /// The amount, in minor units.
        taken: i64,
    },
    /// Nothing was taken, and nothing can be.
    Void,
    /// The money can't be taken.
    Fail {
        /// Stripe's word for it.
        reason: String,
    },
    /// An amount is to go back.
    SetAside {
        /// The amount, in minor units.
        amount: i64,
    },
    /// A refund failed: its amount is still here.
    TakeBack {
        /// The amount, in minor units.
        amount: i64,
    },
}

/// A command that the state does not allow.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a {subject} that is {state} can't take {command}")]
pub struct InvalidMove {
    subject: &'static str,
    state: &'static str,
    command: String,
}

impl Payment {
    /// The state without its data.
    #[must_use]
    pub fn state(&self) -> PaymentState {
        match self {
            Self::Pending => PaymentState::Pending,
            Self::RequiresAction => PaymentState::RequiresAction,
            Self::Authorised => PaymentState::Authorised,
            Self::Captured(_) => PaymentState::Captured,
            Self::Failed { .. } => PaymentState::Failed,
            Self::Voided => PaymentState::Voided,
        }
    }

    /// Applies `command`.
    ///
    /// # Errors
    /// When its state does not allow the command, or the amount is out of bounds.
    pub fn after(self, command: PaymentCommand) -> Result<Self, InvalidMove> {
        use PaymentCommand::{
            Authorise, AwaitBuyer, Capture, Fail, RequireAction, SetAside, TakeBack, Void,
        };
        match (self, command) {
            (Self::Pending | Self::RequiresAction, AwaitBuyer) => Ok(Self::Pending),
            (Self::Pending | Self::RequiresAction, RequireAction) => Ok(Self::RequiresAction),
            (Self::Pending | Self::RequiresAction, Authorise) => Ok(Self::Authorised),
            (Self::Pending | Self::RequiresAction | Self::Authorised, Void) => Ok(Self::Voided),
            (Self::Pending | Self::RequiresAction | Self::Authorised, Fail { reason }) => {
                Ok(Self::Failed { reason })
            }
            // That it was taken is true whatever was thought before.
            (
                Self::Pending
                | Self::RequiresAction
                | Self::Authorised
                | Self::Failed { .. }
                | Self::Voided,
                Capture { taken },
            ) if taken > 0 => Ok(Self::Captured(Captured { taken, refunded: 0 })),
            (Self::Captured(money), SetAside { amount })
                if amount > 0 && amount <= money.taken - money.refunded =>
            {
                let refunded = money.refunded + amount;
                Ok(Self::Captured(Captured { refunded, ..money }))
            }
            (Self::Captured(money), TakeBack { amount })
                if amount > 0 && amount <= money.refunded =>
            {
                let refunded = money.refunded - amount;
                Ok(Self::Captured(Captured { refunded, ..money }))
            }
            (payment, command) => Err(InvalidMove {
                subject: "payment",
                state: payment.state().as_str(),
                command: format!("{command:?}"),
            }),
        }
    }
}

/// A refund, with the data of its state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refund {
    /// Requested.
    Pending,
    /// The money is on its way back.
    Succeeded,
    /// Refused for good, or sent back by the bank; staff must look.
    Failed {
        /// Why.
        reason: String,
    },
}

/// A command to the refund's state machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RefundCommand {
    /// Stripe gave it back.
    Succeed,
    /// Stripe refused, or the bank sent it back.
    Fail {
        /// Why.
        reason: String,
    },
}

impl Refund {
    /// The state without its data.
    #[must_use]
    pub fn state(&self) -> RefundState {
        match self {
            Self::Pending => RefundState::Pending,
            Self::Succeeded => RefundState::Succeeded,
            Self::Failed { .. } => RefundState::Failed,
        }
    }

    /// Applies `command`. A refund that succeeded may fail still, for the bank may send the
    /// money back.
    ///
    /// # Errors
    /// When its state does not allow the command.
    pub fn after(self, command: RefundCommand) -> Result<Self, InvalidMove> {
        match (self, command) {
            (Self::Pending, RefundCommand::Succeed) => Ok(Self::Succeeded),
            (Self::Pending | Self::Succeeded, RefundCommand::Fail { reason }) => {
                Ok(Self::Failed { reason })
            }
            (refund, command) => Err(InvalidMove {
                subject: "refund",
                state: refund.state().as_str(),
                command: format!("{command:?}"),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use PaymentCommand::{
        Authorise, AwaitBuyer, Capture, Fail, RequireAction, SetAside, TakeBack, Void,
    };

    fn reason() -> String {
        "no".to_owned()
    }

    fn captured(refunded: i64) -> Payment {
        Payment::Captured(Captured {
            taken: 100,
            refunded,
        })
    }

    fn failed() -> Payment {
        Payment::Failed { reason: reason() }
    }

    #[test]
    fn every_command_in_every_state_of_a_payment_is_allowed_or_refused_as_drawn() {
        use Payment::{Authorised, Pending, RequiresAction, Voided};
        let states = [
            Pending,
            RequiresAction,
            Authorised,
            captured(60),
            failed(),
            Voided,
        ];
        let commands = [
            AwaitBuyer,
            RequireAction,
            Authorise,
            Capture { taken: 100 },
            Void,
            Fail { reason: reason() },
            SetAside { amount: 40 },
            TakeBack { amount: 60 },
        ];
        let next = |state: &Payment| {
            let after = commands
                .clone()
                .map(|command| state.clone().after(command).ok());
            after.to_vec()
        };
        let taken = Some(captured(0));
        let (due, action) = (Some(Pending), Some(RequiresAction));
        let (held, over, lost) = (Some(Authorised), Some(Voided), Some(failed()));
        // One row a state, one column a command.
        let table = [
            vec![
                due.clone(),
                action.clone(),
                held.clone(),
                taken.clone(),
                over.clone(),
                lost.clone(),
                None,
                None,
            ],
            vec![
                due,
                action,
                held,
                taken.clone(),
                over.clone(),
                lost.clone(),
                None,
                None,
            ],
            vec![None, None, None, taken.clone(), over, lost, None, None],
            vec![
                None,
                None,
                None,
                None,
                None,
                None,
                Some(captured(100)),
                Some(captured(0)),
            ],
            vec![None, None, None, taken.clone(), None, None, None, None],
            vec![None, None, None, taken, None, None, None, None],
        ];
        for (state, row) in states.iter().zip(table) {
            assert_eq!(next(state), row, "{state:?}");
        }
    }

    #[test]
    fn no_more_goes_back_than_was_taken_and_no_more_comes_back_than_went() {
        for command in [
            SetAside { amount: 41 },
            SetAside { amount: 0 },
            SetAside { amount: -1 },
            TakeBack { amount: 61 },
            TakeBack { amount: 0 },
        ] {
            assert!(captured(60).after(command.clone()).is_err(), "{command:?}");
        }
        assert!(Payment::Authorised.after(Capture { taken: 0 }).is_err());
    }

    #[test]
    fn every_command_in_every_state_of_a_refund_is_allowed_or_refused_as_drawn() {
        let lost = || Refund::Failed { reason: reason() };
        let fail = || RefundCommand::Fail { reason: reason() };
        for (state, succeeded, failed) in [
            (Refund::Pending, Some(Refund::Succeeded), Some(lost())),
            (Refund::Succeeded, None, Some(lost())),
            (lost(), None, None),
        ] {
            assert_eq!(state.clone().after(RefundCommand::Succeed).ok(), succeeded);
            assert_eq!(state.clone().after(fail()).ok(), failed, "{state:?}");
        }
    }
}

//! Payments and refunds: two state machines, apart from the booking's.

use serde::{Deserialize, Serialize};

/// Where a payment stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PaymentState {
    /// The buyer has not authorised it.
    Pending,
    /// The buyer's bank asks for another step.
    RequiresAction,
    /// The money is reserved.
    Authorised,
    /// The money is taken.
    Captured,
    /// It can't be taken any more.
    Failed,
    /// Given up before anything was taken.
    Voided,
}

impl PaymentState {
    /// Every state.
    pub const ALL: [Self; 6] = [
        Self::Pending,
        Self::RequiresAction,
        Self::Authorised,
        Self::Captured,
        Self::Failed,
        Self::Voided,
    ];

    /// The word used on the wire and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::RequiresAction => "requires_action",
            Self::Authorised => "authorised",
            Self::Captured => "captured",
            Self::Failed => "failed",
            Self::Voided => "voided",
        }
    }

    /// The state with this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|state| state.as_str() == word)
    }

    /// Whether the buyer can still authorise it.
    #[must_use]
    pub fn is_due(self) -> bool {
        matches!(self, Self::Pending | Self::RequiresAction)
    }
}

/// Where a refund stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefundState {
    /// Asked for.
    Pending,
    /// The money is on its way back.
    Succeeded,
    /// Refused for good; staff must look.
    Failed,
}

impl RefundState {
    /// The word used on the wire and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Succeeded => "succeeded",
            Self::Failed => "failed",
        }
    }
}

/// Why a payment is to be given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum VoidReason {
    /// The hold ran out. A buyer who has authorised by then won the race, and keeps the seats.
    HoldExpired,
    /// The buyer or staff cancelled. An authorisation is released too.
    Cancelled,
}

impl VoidReason {
    /// The word used on the wire and in the database.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::HoldExpired => "hold_expired",
            Self::Cancelled => "cancelled",
        }
    }

    /// The reason with this word.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::HoldExpired, Self::Cancelled]
            .into_iter()
            .find(|reason| reason.as_str() == word)
    }
}

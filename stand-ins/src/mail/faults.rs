//! Faults of the mail server.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::faults::Faults;

/// A fault of a mail or a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MailFault {
    /// Closes the connection before the greeting. Has no scope: the recipient is unknown.
    RefuseConnection,
    /// Refuses the recipient temporarily (451).
    TemporaryFailure,
    /// Refuses the recipient permanently (550).
    PermanentFailure,
    /// Replies to the recipient with this line, such as `550 5.7.1 Rate limit`.
    AnswerRecipient {
        /// The whole line.
        line: String,
    },
    /// Delays the reply to the recipient.
    DelayRecipient {
        /// Milliseconds.
        milliseconds: u64,
    },
    /// Replies to the mail with this line, without storing it.
    AnswerMessage {
        /// The whole line.
        line: String,
    },
    /// Stores the mail and cuts the connection before the 250: the outcome is unknown to the
    /// sender.
    AcceptThenCut,
    /// Cuts the connection after the data, without storing the mail.
    CutBeforeAccept,
    /// Delays the 250.
    Delay {
        /// Milliseconds.
        milliseconds: u64,
    },
}

/// Faults by recipient address, in lower case.
pub type MailFaults = Faults<String, MailFault>;

impl MailFault {
    pub(crate) fn concerns_connection(&self) -> bool {
        matches!(self, Self::RefuseConnection)
    }

    pub(crate) fn concerns_recipient(&self) -> bool {
        matches!(
            self,
            Self::TemporaryFailure
                | Self::PermanentFailure
                | Self::AnswerRecipient { .. }
                | Self::DelayRecipient { .. }
        )
    }

    pub(crate) fn concerns_message(&self) -> bool {
        matches!(
            self,
            Self::AnswerMessage { .. }
                | Self::AcceptThenCut
                | Self::CutBeforeAccept
                | Self::Delay { .. }
        )
    }
}

/// Maximum delay of a fault: senders time out after ten minutes.
const MAX_DELAY: Duration = Duration::from_secs(10 * 60);

pub(crate) fn delay(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds).min(MAX_DELAY)
}

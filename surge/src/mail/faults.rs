//! What can go wrong with a mail server.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::faults::Faults;

/// What goes wrong with a mail or a connection.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MailFault {
    /// The connection is closed before the greeting. Has no scope: the recipient is not known.
    RefuseConnection,
    /// The recipient is refused for now (451).
    TemporaryFailure,
    /// The recipient is refused for good (550).
    PermanentFailure,
    /// The recipient is answered with this line, such as `550 5.7.1 Rate limit`.
    AnswerRecipient {
        /// The whole line.
        line: String,
    },
    /// The answer to the recipient comes so much later.
    DelayRecipient {
        /// Milliseconds.
        milliseconds: u64,
    },
    /// The mail is answered with this line and not kept.
    AnswerMessage {
        /// The whole line.
        line: String,
    },
    /// The mail is taken and kept, but the connection breaks before the 250: the sender cannot
    /// know.
    AcceptThenCut,
    /// The connection breaks after the data; the mail is not kept.
    CutBeforeAccept,
    /// The 250 comes so much later.
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

/// The longest delay a fault may ask for: senders give up after ten minutes.
const LONGEST_DELAY: Duration = Duration::from_secs(10 * 60);

pub(crate) fn delay(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds).min(LONGEST_DELAY)
}

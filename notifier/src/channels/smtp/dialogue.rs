//! The SMTP command sequence for one mail, on one connection.

use std::fmt;

use lettre::Address;
use lettre::address::Envelope;
use lettre::transport::smtp::Error;
use lettre::transport::smtp::client::AsyncSmtpConnection;
use lettre::transport::smtp::commands::{Data, Ehlo, Mail, Rcpt, Rset};
use lettre::transport::smtp::extension::{ClientId, Extension, MailBodyParameter, MailParameter};
use lettre::transport::smtp::response::{Response, Severity};

use super::answer::{is_answer, meaning_for_mail, meaning_for_sender};
use crate::channels::DeliveryOutcome;

/// Reply code that asks for the data.
const START_DATA: u16 = 354;

/// One connection, either between two mails or at the data of one.
pub(super) struct Dialogue {
    connection: AsyncSmtpConnection,
    can_pipeline: bool,
}

/// Failure before the data.
pub(super) struct Refused {
    pub(super) outcome: DeliveryOutcome,
    /// True if the connection can take another mail.
    pub(super) is_usable: bool,
    /// True if the connection broke, so that the mail itself was not refused.
    pub(super) is_broken: bool,
}

impl Dialogue {
    /// Wraps an authenticated connection. Sends EHLO once more, since lettre does not expose
    /// whether the server supports PIPELINING.
    ///
    /// # Errors
    /// When the connection breaks.
    pub(super) async fn begin(
        mut connection: AsyncSmtpConnection,
        hello: &ClientId,
    ) -> Result<Self, Error> {
        let answer = connection.command(Ehlo::new(hello.clone())).await?;
        let can_pipeline = answer
            .message()
            .any(|line| line.trim().eq_ignore_ascii_case("pipelining"));
        Ok(Self {
            connection,
            can_pipeline,
        })
    }

    /// Runs the protocol up to the server's 354.
    ///
    /// # Errors
    /// [`Refused`], with the state of the connection.
    pub(super) async fn announce(
        &mut self,
        envelope: &Envelope,
        is_ascii: bool,
    ) -> Result<(), Refused> {
        let parameters = match parameters(&self.connection, envelope, is_ascii) {
            Ok(parameters) => parameters,
            Err(outcome) => {
                return Err(Refused {
                    outcome,
                    is_usable: true,
                    is_broken: false,
                });
            }
        };
        let mail = Mail::new(envelope.from().cloned(), parameters);
        let recipients: Vec<_> = envelope
            .to()
            .iter()
            .map(|to| Rcpt::new(to.clone(), Vec::new()))
            .collect();
        if self.can_pipeline {
            self.announce_at_once(mail, recipients).await
        } else {
            self.announce_step_by_step(mail, recipients).await
        }
    }

    async fn announce_step_by_step(
        &mut self,
        mail: Mail,
        recipients: Vec<Rcpt>,
    ) -> Result<(), Refused> {
        let from = self.connection.command(mail).await;
        if let Err(error) = from {
            return Err(self.reset(&error, meaning_for_sender(&error)).await);
        }
        for recipient in recipients {
            if let Err(error) = self.connection.command(recipient).await {
                return Err(self.reset(&error, meaning_for_mail(&error)).await);
            }
        }
        match self.connection.command(Data).await {
            Ok(answer) => wants_data(&answer),
            Err(error) => Err(self.reset(&error, meaning_for_mail(&error)).await),
        }
    }

    /// Pipelines all commands. Reads every reply even after a refusal, to stay in sync.
    async fn announce_at_once(&mut self, mail: Mail, recipients: Vec<Rcpt>) -> Result<(), Refused> {
        let count = recipients.len();
        let from = self.connection.command(Pipelined(mail, recipients)).await;
        let mut refused = match from {
            Err(error) if !is_answer(&error) => return Err(broken(&error)),
            Err(error) => Some(meaning_for_sender(&error)),
            Ok(_) => None,
        };
        for _ in 0..count {
            match self.connection.read_response().await {
                Err(error) if !is_answer(&error) => return Err(broken(&error)),
                Err(error) => refused = refused.or(Some(meaning_for_mail(&error))),
                Ok(_) => {}
            }
        }
        let data = self.connection.read_response().await;
        match (data, refused) {
            (Ok(answer), None) => wants_data(&answer),
            // The server expects data although a command was refused: drop the connection.
            (Ok(_), Some(outcome)) => Err(Refused {
                outcome,
                is_usable: false,
                is_broken: false,
            }),
            (Err(error), _) if !is_answer(&error) => Err(broken(&error)),
            (Err(error), refused) => {
                let outcome = refused.unwrap_or_else(|| meaning_for_mail(&error));
                Err(self.reset(&error, outcome).await)
            }
        }
    }

    /// Transfers the data. Also returns true if the connection can take another mail.
    pub(super) async fn hand_over(&mut self, mail: &[u8]) -> (DeliveryOutcome, bool) {
        match self.connection.message(mail).await {
            Ok(answer) if answer.code().severity == Severity::PositiveCompletion => {
                (DeliveryOutcome::Accepted, true)
            }
            Ok(answer) => {
                let error = format!("the mail server answered {}", answer.code());
                (DeliveryOutcome::Unknown(error), false)
            }
            Err(error) if is_answer(&error) => (meaning_for_mail(&error), true),
            Err(error) => (
                DeliveryOutcome::Unknown(format!("after the data: {error}")),
                false,
            ),
        }
    }

    /// Resets the transaction with RSET, unless the connection is broken.
    async fn reset(&mut self, error: &Error, outcome: DeliveryOutcome) -> Refused {
        if !is_answer(error) {
            return broken(error);
        }
        let is_usable = self.connection.command(Rset).await.is_ok();
        Refused {
            outcome,
            is_usable,
            is_broken: false,
        }
    }
}

fn wants_data(answer: &Response) -> Result<(), Refused> {
    if answer.has_code(START_DATA) {
        return Ok(());
    }
    let error = format!("the mail server answered {} to DATA", answer.code());
    Err(Refused {
        outcome: DeliveryOutcome::Unreachable(error),
        is_usable: false,
        is_broken: false,
    })
}

fn broken(error: &Error) -> Refused {
    Refused {
        outcome: DeliveryOutcome::Unreachable(error.to_string()),
        is_usable: false,
        is_broken: true,
    }
}

/// MAIL, RCPT and DATA as one command, to be sent in one write.
struct Pipelined(Mail, Vec<Rcpt>);

impl fmt::Display for Pipelined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)?;
        for recipient in &self.1 {
            recipient.fmt(f)?;
        }
        Data.fmt(f)
    }
}

fn parameters(
    connection: &AsyncSmtpConnection,
    envelope: &Envelope,
    is_ascii: bool,
) -> Result<Vec<MailParameter>, DeliveryOutcome> {
    let can = |extension| connection.server_info().supports_feature(extension);
    let mut parameters = Vec::new();
    let is_ascii_only = |address: &Address| address.to_string().is_ascii();
    if !envelope
        .to()
        .iter()
        .chain(envelope.from())
        .all(is_ascii_only)
    {
        if !can(Extension::SmtpUtfEight) {
            return Err(DeliveryOutcome::Refused(
                "the mail server takes only ASCII addresses".into(),
            ));
        }
        parameters.push(MailParameter::SmtpUtfEight);
    }
    if !is_ascii {
        if !can(Extension::EightBitMime) {
            return Err(DeliveryOutcome::Refused(
                "the mail server takes only ASCII mails".into(),
            ));
        }
        parameters.push(MailParameter::Body(MailBodyParameter::EightBitMime));
    }
    Ok(parameters)
}

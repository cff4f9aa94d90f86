//! Messages with a confirmation code. They contain no text chosen by the requester, who may not own
//! the address.

use std::time::SystemTime;

use chrono::{DateTime, Utc};
use domain::message::ConfirmationAsked;
use lettre::Message;
use lettre::address::Envelope;
use lettre::message::{Mailbox, SinglePart};

use super::mail::{AutoSubmitted, Letterhead, MailError};

/// Renders the mail to the address to be confirmed.
///
/// # Errors
/// When the address is not valid.
pub(crate) fn code_mail(
    asked: &ConfirmationAsked,
    code: &str,
    letterhead: &Letterhead,
    now: DateTime<Utc>,
) -> Result<Message, MailError> {
    let address = asked.address.parse().map_err(|source| MailError::Address {
        address: asked.address.clone(),
        source,
    })?;
    let to = Mailbox::new(None, address);
    let sender = letterhead.bounces_to.as_ref();
    let sender = sender.unwrap_or(&letterhead.from.email).clone();
    let envelope = Envelope::new(Some(sender), vec![to.email.clone()])?;
    let text = format!(
        "Hello,\n\n\
         Your code is {code}. It is good for ten minutes.\n\n\
         If you did not ask for it, somebody typed your address in by mistake. You need do \
         nothing: without the code, nothing else is sent here.\n"
    );
    let domain = letterhead.from.email.domain();
    let message = Message::builder()
        .from(letterhead.from.clone())
        .to(to)
        .subject(format!("{code} is your code"))
        .date(SystemTime::from(now))
        .message_id(Some(format!("<code.{}@{domain}>", asked.nonce.simple())))
        .header(AutoSubmitted)
        .envelope(envelope);
    Ok(message.singlepart(SinglePart::plain(text))?)
}

/// Renders the SMS to the phone to be confirmed.
pub(crate) fn code_sms(code: &str) -> String {
    format!(
        "{code} is your code. It is good for ten minutes. Did you not ask for it? Then do nothing."
    )
}

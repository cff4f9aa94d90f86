//! Messages with a confirmation code. They contain no text chosen by the requester, who may not own
//! the address.

use chrono::{DateTime, Utc};
use domain::message::ConfirmationAsked;
use lettre::Message;
use lettre::message::SinglePart;

use super::mail::{Letterhead, MailError, recipient};

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
    let to = recipient(&asked.address, String::new())?;
    let text = format!(
        "Hello,\n\n\
         Your code is {code}. It is good for ten minutes.\n\n\
         If you did not ask for it, somebody typed your address in by mistake. You need do \
         nothing: without the code, nothing else is sent here.\n"
    );
    let domain = letterhead.from.email.domain();
    let id = format!("<code.{}@{domain}>", asked.nonce.simple());
    let message = letterhead.message(to, format!("{code} is your code"), id, now)?;
    Ok(message.singlepart(SinglePart::plain(text))?)
}

/// Renders the SMS to the phone to be confirmed.
pub(crate) fn code_sms(code: &str) -> String {
    format!(
        "{code} is your code. It is good for ten minutes. Did you not ask for it? Then do nothing."
    )
}

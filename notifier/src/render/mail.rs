//! MIME messages: text and HTML alternatives, a QR code per ticket, and a calendar file.

use std::error::Error;
use std::time::SystemTime;

use chrono::{DateTime, Utc};
use lettre::address::{AddressError, Envelope};
use lettre::message::header::{ContentType, ContentTypeErr, Header, HeaderName, HeaderValue};
use lettre::message::{Attachment, Mailbox, MessageBuilder, MultiPart, SinglePart};
use lettre::{Address, Message};

use super::letter::{Letter, letter};
use super::qr::ImageError;
use super::{Links, calendar, html, line, plain, qr};
use crate::notice::Notice;
use crate::store::queue::Due;

/// Calendar step that no later one follows.
const LAST_STEP: i64 = i64::MAX;

/// Addresses common to all mails.
#[derive(Debug)]
pub(crate) struct Letterhead {
    pub(crate) from: Mailbox,
    /// Reply-To, if not the sender.
    pub(crate) reply_to: Option<Mailbox>,
    /// Envelope sender, if not the sender.
    pub(crate) bounces_to: Option<Address>,
}

/// Permanent error of rendering a mail.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MailError {
    #[error("{address:?} is not a mail address")]
    Address {
        address: String,
        source: AddressError,
    },
    #[error("a ticket has no QR code")]
    Ticket(#[from] ImageError),
    #[error("a content type is not valid")]
    Type(#[from] ContentTypeErr),
    #[error("failed to build the mail")]
    Message(#[from] lettre::error::Error),
}

/// Renders the mail for a notice. Its `Message-ID` is the same for each attempt.
///
/// # Errors
/// When the address is not valid, or a ticket's code is too long for a QR code.
pub(crate) fn mail(
    due: &Due,
    letterhead: &Letterhead,
    links: &Links,
    now: DateTime<Utc>,
) -> Result<Message, MailError> {
    let notice = &due.notice;
    let letter = letter(&due.event, notice);
    let link = links.of(notice);
    let domain = letterhead.from.email.domain();
    let name = line::name(&due.name);

    let content = MultiPart::alternative()
        .singlepart(SinglePart::plain(plain::text(&letter, &name, &link)))
        .multipart(illustrated(&letter, html::document(&letter, &name, &link))?);
    let mut body = MultiPart::mixed().multipart(content);
    if let Some((is_cancelled, step)) = calendar_step(due) {
        let entry = calendar::CalendarEvent {
            event: &due.event,
            booking_id: due.booking_id,
            organiser: &letterhead.from,
            link: &link,
            is_cancelled,
            step,
        };
        let kind = format!("text/calendar; charset=utf-8; method={}", entry.method());
        let kind = ContentType::parse(&kind)?;
        body = body.singlepart(Attachment::new("event.ics".into()).body(entry.file(now), kind));
    }
    // The buyer and each other holder get separate mails with news about one booking.
    let reader = notice.received_by().map(|account| format!("{account}."));
    let id = format!(
        "<{}.{}.{}{}@{domain}>",
        notice.kind().as_str(),
        due.occasion,
        reader.unwrap_or_default(),
        due.booking_id
    );
    let to = recipient(&due.email, name)?;
    let message = letterhead.message(to, letter.subject, id, now)?;
    Ok(message.multipart(body)?)
}

impl Letterhead {
    /// Begins a message with the envelope and the headers common to all mails.
    ///
    /// # Errors
    /// When the envelope is not valid.
    pub(super) fn message(
        &self,
        to: Mailbox,
        subject: String,
        id: String,
        now: DateTime<Utc>,
    ) -> Result<MessageBuilder, MailError> {
        let sender = self.bounces_to.as_ref().unwrap_or(&self.from.email);
        let envelope = Envelope::new(Some(sender.clone()), vec![to.email.clone()])?;
        let message = Message::builder()
            .from(self.from.clone())
            .to(to)
            .subject(subject)
            .date(SystemTime::from(now))
            .message_id(Some(id))
            .header(AutoSubmitted)
            .envelope(envelope);
        Ok(match &self.reply_to {
            Some(reply_to) => message.reply_to(reply_to.clone()),
            None => message,
        })
    }
}

/// `Auto-Submitted: auto-generated` (RFC 3834), which suppresses out-of-office replies.
#[derive(Debug, Clone, Copy)]
struct AutoSubmitted;

impl Header for AutoSubmitted {
    fn name() -> HeaderName {
        HeaderName::new_from_ascii_str("Auto-Submitted")
    }

    fn parse(_: &str) -> Result<Self, Box<dyn Error + Send + Sync>> {
        Ok(Self)
    }

    fn display(&self) -> HeaderValue {
        HeaderValue::new(Self::name(), "auto-generated".to_owned())
    }
}

/// Returns whether a notice removes the event from the reader's calendar, and the entry's step;
/// `None` if it has no calendar file. Transfer numbers order the leaving and return of a ticket.
fn calendar_step(due: &Due) -> Option<(bool, i64)> {
    match &due.notice {
        Notice::Confirmed(_) | Notice::EventChanged(_) => Some((false, 0)),
        Notice::Received(facts) => Some((false, facts.number)),
        Notice::Transferred(facts) if !due.holds_tickets => Some((true, facts.number)),
        Notice::Cancelled(facts) if facts.was_confirmed => Some((true, LAST_STEP)),
        Notice::Withdrawn(_) | Notice::EventCancelled(_) => Some((true, LAST_STEP)),
        Notice::Held(_)
        | Notice::Expired(_)
        | Notice::Cancelled(_)
        | Notice::Refunded(_)
        | Notice::RefundFailed(_)
        | Notice::Reminder(_)
        | Notice::Transferred(_) => None,
    }
}

/// The mailbox of a reader; `name` may be empty.
///
/// # Errors
/// When the address is not valid.
pub(super) fn recipient(email: &str, name: String) -> Result<Mailbox, MailError> {
    let address = email.parse().map_err(|source| MailError::Address {
        address: email.to_owned(),
        source,
    })?;
    Ok(Mailbox::new(
        Some(name).filter(|name| !name.is_empty()),
        address,
    ))
}

/// The HTML part with its inline images.
fn illustrated(letter: &Letter<'_>, html: String) -> Result<MultiPart, MailError> {
    let mut part = MultiPart::related().singlepart(SinglePart::html(html));
    for (number, ticket) in (1..).zip(letter.tickets) {
        let image = Attachment::new_inline_with_name(
            html::image_id(number),
            format!("ticket-{number}.png"),
        );
        let kind = ContentType::parse("image/png")?;
        part = part.singlepart(image.body(qr::png(&ticket.code)?, kind));
    }
    Ok(part)
}

//! Mails: text, HTML, a QR code per ticket and a calendar file.

use std::time::SystemTime;

use chrono::{DateTime, Utc};
use lettre::Message;
use lettre::address::AddressError;
use lettre::message::header::{ContentType, ContentTypeErr};
use lettre::message::{Attachment, Mailbox, MultiPart, SinglePart};

use super::letter::{Letter, letter};
use super::line::one_line;
use super::qr::ImageError;
use super::{Links, calendar, html, plain, qr};
use crate::notice::Notice;
use crate::store::notifications::Due;

/// The longest name of a person in a header.
const NAME_LIMIT: usize = 80;
const CALENDAR_TYPE: &str = "text/calendar; charset=utf-8; method=PUBLISH";

/// Why a mail can't be written; it never can.
#[derive(Debug, thiserror::Error)]
pub(crate) enum MailError {
    #[error("{address:?} is not a mail address")]
    Address {
        address: String,
        source: AddressError,
    },
    #[error("a ticket has no QR code")]
    Ticket(#[from] ImageError),
    #[error("a type of content is not valid")]
    Type(#[from] ContentTypeErr),
    #[error("the mail can't be put together")]
    Message(#[from] lettre::error::Error),
}

/// The mail for a notice. Its `Message-ID` is the same whenever it is written.
///
/// # Errors
/// When the address or a ticket is unusable.
pub(crate) fn mail(
    due: &Due,
    notice: &Notice,
    from: &Mailbox,
    links: &Links,
    now: DateTime<Utc>,
) -> Result<Message, MailError> {
    let letter = letter(&due.event, notice);
    let link = links.of(notice);
    let domain = from.email.domain();
    let name = one_line(&due.name, NAME_LIMIT);

    let content = MultiPart::alternative()
        .singlepart(SinglePart::plain(plain::text(&letter, &name, &link)))
        .multipart(illustrated(&letter, html::document(&letter, &name, &link))?);
    let mut body = MultiPart::mixed().multipart(content);
    if letter.has_calendar {
        let file = calendar::entry(&due.event, due.booking_id, domain, &link, now);
        let kind = ContentType::parse(CALENDAR_TYPE)?;
        body = body.singlepart(Attachment::new("event.ics".into()).body(file, kind));
    }
    // Of one booking's news, its buyer and each holder of a received ticket have their own.
    let reader = notice.received_by().map(|account| format!("{account}."));
    let id = format!(
        "<{}.{}.{}{}@{domain}>",
        due.kind,
        due.occasion,
        reader.unwrap_or_default(),
        due.booking_id
    );
    let message = Message::builder()
        .from(from.clone())
        .to(recipient(&due.email, name)?)
        .subject(letter.subject)
        .date(SystemTime::from(now))
        .message_id(Some(id))
        .multipart(body)?;
    Ok(message)
}

fn recipient(email: &str, name: String) -> Result<Mailbox, MailError> {
    let address = email.parse().map_err(|source| MailError::Address {
        address: email.to_owned(),
        source,
    })?;
    Ok(Mailbox::new(
        Some(name).filter(|name| !name.is_empty()),
        address,
    ))
}

/// The HTML with the images it shows.
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

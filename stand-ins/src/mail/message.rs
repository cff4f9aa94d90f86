//! A received mail, raw and parsed.

use mail_parser::{Message, MessageParser, MimeHeaders};

use crate::inbox::Addressed;

/// A mail as it was received.
#[derive(Clone, Debug)]
pub struct Mail {
    /// Envelope sender; empty for a bounce.
    pub from: String,
    /// Envelope recipients.
    pub to: Vec<String>,
    /// The raw message, without dot-stuffing.
    pub raw: Vec<u8>,
    /// `Message-ID`, without angle brackets.
    pub message_id: Option<String>,
    /// `Subject`, decoded; empty without one.
    pub subject: String,
    /// Text of the body, decoded; converted from HTML where there is no plain text.
    pub text: String,
}

/// An attachment.
#[derive(Clone, Debug)]
pub struct Attachment {
    /// File name; `attachment` without one.
    pub name: String,
    /// Media type, such as `text/calendar`.
    pub media_type: String,
    /// `Content-ID`, without angle brackets, by which the HTML part references it.
    pub content_id: Option<String>,
    /// Decoded content.
    pub content: Vec<u8>,
}

impl Mail {
    pub(crate) fn receive(from: String, to: Vec<String>, raw: Vec<u8>) -> Self {
        let parsed = MessageParser::default().parse(&raw);
        let (mut message_id, mut subject, mut text) = (None, String::new(), String::new());
        if let Some(message) = &parsed {
            message_id = message.message_id().map(str::to_owned);
            subject = message.subject().unwrap_or_default().to_owned();
            text = message.body_text(0).unwrap_or_default().into_owned();
        }
        Self {
            from,
            to,
            message_id,
            subject,
            text,
            raw,
        }
    }

    /// Returns the first header of this name, decoded.
    pub fn header(&self, name: &str) -> Option<String> {
        let message = self.parse()?;
        let value = message.header_raw(name)?;
        Some(value.trim().to_owned())
    }

    /// Returns the HTML part, if the mail has one.
    pub fn html(&self) -> Option<String> {
        let message = self.parse()?;
        let part = message.parts.get(*message.html_body.first()? as usize)?;
        if !part.is_text_html() {
            return None;
        }
        Some(message.body_html(0)?.into_owned())
    }

    /// Returns the attachments, in order.
    pub fn attachments(&self) -> Vec<Attachment> {
        let Some(message) = self.parse() else {
            return Vec::new();
        };
        message
            .attachments()
            .map(|part| Attachment {
                name: part.attachment_name().unwrap_or("attachment").to_owned(),
                media_type: part.content_type().map_or_else(
                    || "application/octet-stream".to_owned(),
                    |kind| match kind.subtype() {
                        Some(subtype) => format!("{}/{subtype}", kind.ctype()),
                        None => kind.ctype().to_owned(),
                    },
                ),
                content_id: part.content_id().map(str::to_owned),
                content: part.contents().to_vec(),
            })
            .collect()
    }

    fn parse(&self) -> Option<Message<'_>> {
        MessageParser::default().parse(&self.raw)
    }
}

impl Addressed for Mail {
    fn is_to(&self, address: &str) -> bool {
        self.to.iter().any(|to| to.eq_ignore_ascii_case(address))
    }

    fn size(&self) -> usize {
        self.raw.len() + self.text.len() + self.subject.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_subjects_and_bodies_are_decoded() {
        let raw = b"Message-ID: <1@x>\r\nSubject: =?utf-8?B?w4RoIQ==?=\r\n\
                    Content-Type: text/plain; charset=utf-8\r\n\
                    Content-Transfer-Encoding: quoted-printable\r\n\r\ncaf=C3=A9\r\n";
        let mail = Mail::receive("a@x".into(), vec!["b@x".into()], raw.to_vec());
        assert_eq!(mail.message_id.as_deref(), Some("1@x"));
        assert_eq!(mail.subject, "Äh!");
        assert_eq!(mail.text.trim(), "café");
        assert!(mail.html().is_none());
    }
}

//! iCalendar attachments (RFC 5545, iTIP methods of RFC 5546).

use chrono::{DateTime, Utc};
use domain::BookingId;
use domain::event::Event;
use domain::text::is_invisible_control;
use lettre::message::Mailbox;
use url::Url;

use super::letter::place;

/// Longest line in octets, without its CRLF.
const LINE_LIMIT: usize = 75;

/// Assumed duration, as events have no end time.
const DURATION: &str = "PT3H";
/// Sequence numbers per version of an event.
const STEPS: i64 = 1_000;

/// The event in the reader's calendar. The UID is that of the booking, so that a later file updates
/// or removes the entry.
pub(super) struct CalendarEvent<'a> {
    pub(super) event: &'a Event,
    pub(super) booking_id: BookingId,
    pub(super) organiser: &'a Mailbox,
    pub(super) link: &'a Url,
    /// True if the entry is to be removed from the calendar.
    pub(super) is_cancelled: bool,
    /// Sequence number within one version of the event.
    pub(super) step: i64,
}

impl CalendarEvent<'_> {
    /// The iTIP method.
    pub(super) fn method(&self) -> &'static str {
        if self.is_cancelled {
            "CANCEL"
        } else {
            "PUBLISH"
        }
    }

    /// Renders the file.
    pub(super) fn file(&self, now: DateTime<Utc>) -> String {
        let Self { event, link, .. } = self;
        let email = &self.organiser.email;
        let (id, domain) = (self.booking_id, email.domain());
        let sequence = event.version * STEPS + self.step.clamp(0, STEPS - 1);
        let status = if self.is_cancelled {
            "CANCELLED"
        } else {
            "CONFIRMED"
        };
        let mut file = String::new();
        let mut add = |line: String| fold(&mut file, &line);
        add("BEGIN:VCALENDAR".into());
        add("VERSION:2.0".into());
        add("PRODID:-//Onsale//Tickets//EN".into());
        add(format!("METHOD:{}", self.method()));
        add("BEGIN:VEVENT".into());
        add(format!("UID:{id}@{domain}"));
        add(format!("SEQUENCE:{sequence}"));
        add(format!("DTSTAMP:{}", utc(now)));
        add(format!("DTSTART:{}", utc(event.date)));
        add(format!("DURATION:{DURATION}"));
        add(format!("SUMMARY:{}", escape(&event.name)));
        if let Some(place) = place(event) {
            add(format!("LOCATION:{}", escape(&place)));
        }
        match self.organiser.name.as_deref().map(parameter) {
            Some(name) => add(format!("ORGANIZER;CN=\"{name}\":mailto:{email}")),
            None => add(format!("ORGANIZER:mailto:{email}")),
        }
        add(format!("URL:{link}"));
        add(format!("STATUS:{status}"));
        add("END:VEVENT".into());
        add("END:VCALENDAR".into());
        file
    }
}

/// Strips characters not allowed in a quoted parameter value.
fn parameter(text: &str) -> String {
    text.chars()
        .filter(|character| *character != '"' && !character.is_control())
        .collect()
}

fn utc(at: DateTime<Utc>) -> String {
    at.format("%Y%m%dT%H%M%SZ").to_string()
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.replace("\r\n", "\n").chars() {
        match character {
            '\\' | ';' | ',' => escaped.extend(['\\', character]),
            '\n' | '\r' => escaped.push_str("\\n"),
            character if character.is_control() || is_invisible_control(character) => {}
            character => escaped.push(character),
        }
    }
    escaped
}

/// Appends a line, folded after [`LINE_LIMIT`] octets.
fn fold(file: &mut String, line: &str) {
    let mut octets = 0;
    for character in line.chars() {
        if octets + character.len_utf8() > LINE_LIMIT {
            file.push_str("\r\n ");
            octets = 1;
        }
        file.push(character);
        octets += character.len_utf8();
    }
    file.push_str("\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::letter::tests::event;

    fn file_of(event: &Event, is_cancelled: bool, step: i64) -> String {
        let entry = CalendarEvent {
            event,
            booking_id: BookingId("018f0000-0000-7000-8000-000000000000".parse().unwrap()),
            organiser: &"Onsale <shop@tickets.test>".parse().unwrap(),
            link: &"https://tickets.test/bookings/1".parse().unwrap(),
            is_cancelled,
            step,
        };
        entry.file(event.date)
    }

    #[test]
    fn an_entry_says_what_when_and_where() {
        let expected = "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//Onsale//Tickets//EN\r\n\
            METHOD:PUBLISH\r\nBEGIN:VEVENT\r\n\
            UID:018f0000-0000-7000-8000-000000000000@tickets.test\r\nSEQUENCE:3000\r\n\
            DTSTAMP:20240503T180000Z\r\nDTSTART:20240503T180000Z\r\nDURATION:PT3H\r\n\
            SUMMARY:Gala\r\nLOCATION:Opera\\, Berlin\r\n\
            ORGANIZER;CN=\"Onsale\":mailto:shop@tickets.test\r\nURL:https://tickets.test/bookings/1\r\n\
            STATUS:CONFIRMED\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n";
        assert_eq!(file_of(&event(), false, 0), expected);
    }

    #[test]
    fn an_entry_that_is_taken_away_is_the_same_and_later() {
        let file = file_of(&event(), true, 5_000);
        for line in [
            "METHOD:CANCEL",
            "UID:018f0000-0000-7000-8000-000000000000@tickets.test",
            "SEQUENCE:3999",
            "STATUS:CANCELLED",
        ] {
            assert!(file.split("\r\n").any(|found| found == line), "{file}");
        }
    }

    #[test]
    fn names_are_escaped_and_long_lines_folded() {
        let name = format!("A;B\\C\r\nEND:VEVENT {}", "ä".repeat(60));
        let file = Event {
            name: name.clone(),
            ..event()
        };
        let file = file_of(&file, false, 0);
        assert!(
            file.split("\r\n")
                .all(|line| line.len() <= LINE_LIMIT && !line.contains('\n'))
        );
        let unfolded = file.replace("\r\n ", "");
        assert!(unfolded.contains(&format!(
            "\r\nSUMMARY:A\\;B\\\\C\\nEND:VEVENT {}\r\n",
            "ä".repeat(60)
        )));
    }
}

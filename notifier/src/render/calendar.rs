//! Calendar files (RFC 5545).

use chrono::{DateTime, Utc};
use domain::BookingId;
use domain::event::{Event, EventState};
use url::Url;

use super::letter::place;

/// Octets of a line, without its end.
const LINE_LIMIT: usize = 75;

/// The event as a calendar entry. The same booking gives the same entry again, so that a later
/// file changes it.
pub(super) fn entry(
    event: &Event,
    booking_id: BookingId,
    domain: &str,
    link: &Url,
    now: DateTime<Utc>,
) -> String {
    let status = match event.state {
        EventState::Announced => "CONFIRMED",
        EventState::Cancelled => "CANCELLED",
    };
    let mut file = String::new();
    let mut add = |line: String| fold(&mut file, &line);
    add("BEGIN:VCALENDAR".into());
    add("VERSION:2.0".into());
    add("PRODID:-//Onsale//Tickets//EN".into());
    add("METHOD:PUBLISH".into());
    add("BEGIN:VEVENT".into());
    add(format!("UID:{booking_id}@{domain}"));
    add(format!("SEQUENCE:{}", event.version));
    add(format!("DTSTAMP:{}", utc(now)));
    add(format!("DTSTART:{}", utc(event.date)));
    add(format!("SUMMARY:{}", escape(&event.name)));
    if let Some(place) = place(event) {
        add(format!("LOCATION:{}", escape(&place)));
    }
    add(format!("URL:{link}"));
    add(format!("STATUS:{status}"));
    add("END:VEVENT".into());
    add("END:VCALENDAR".into());
    file
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
            character if character.is_control() => {}
            character => escaped.push(character),
        }
    }
    escaped
}

/// Adds a line, continued on further ones when it is long.
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

    fn entry_of(event: &Event) -> String {
        let id = BookingId("018f0000-0000-7000-8000-000000000000".parse().unwrap());
        let link = "https://tickets.test/bookings/1".parse().unwrap();
        entry(event, id, "tickets.test", &link, event.date)
    }

    #[test]
    fn an_entry_says_what_when_and_where() {
        let expected = "BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:-//Onsale//Tickets//EN\r\n\
            METHOD:PUBLISH\r\nBEGIN:VEVENT\r\n\
            UID:018f0000-0000-7000-8000-000000000000@tickets.test\r\nSEQUENCE:3\r\n\
            DTSTAMP:20240503T180000Z\r\nDTSTART:20240503T180000Z\r\nSUMMARY:Gala\r\n\
            LOCATION:Opera\\, Berlin\r\nURL:https://tickets.test/bookings/1\r\n\
            STATUS:CONFIRMED\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n";
        assert_eq!(entry_of(&event()), expected);
    }

    #[test]
    fn names_are_escaped_and_long_lines_folded() {
        let name = format!("A;B\\C\r\nEND:VEVENT {}", "ä".repeat(60));
        let file = entry_of(&Event {
            name: name.clone(),
            ..event()
        });
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

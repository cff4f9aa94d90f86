//! HTML part of a mail, with inline styles, since many mail programs ignore style sheets.

use std::fmt;

use url::Url;

use super::letter::{Letter, seat};
use super::plain::greeting;

const BODY: &str = "margin:0;padding:24px;background:#f4f4f5;\
    font:16px/1.5 system-ui,sans-serif;color:#18181b";
const CARD: &str = "max-width:560px;margin:0 auto;padding:24px;background:#fff;border-radius:8px";
const TICKET: &str = "margin:16px 0;padding:16px;border:1px solid #d4d4d8;border-radius:8px;\
    text-align:center";
const LABEL: &str = "padding:2px 16px 2px 0;color:#71717a;vertical-align:top";
const BUTTON: &str = "display:inline-block;padding:10px 20px;background:#18181b;color:#fff;\
    border-radius:6px;text-decoration:none";

/// Renders the document. Ticket `n` shows the image whose `Content-ID` is [`image_id`]`(n)`.
pub(super) fn document(letter: &Letter<'_>, name: &str, link: &Url) -> String {
    let mut parts = vec![
        format!(
            "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
             <title>{}</title></head><body style=\"{BODY}\"><div style=\"{CARD}\">",
            Escaped(&letter.subject)
        ),
        format!(
            "<h1 style=\"font-size:22px\">{}</h1>",
            Escaped(&letter.subject)
        ),
        paragraph(&greeting(name)),
    ];
    parts.extend(letter.paragraphs.iter().map(|text| paragraph(text)));
    if !letter.details.is_empty() {
        parts.push("<table style=\"border-collapse:collapse\">".into());
        parts.extend(
            letter
                .details
                .iter()
                .map(|(label, value)| row(label, value)),
        );
        parts.push("</table>".into());
    }
    for (number, ticket) in (1..).zip(letter.tickets) {
        let seat = seat(&ticket.seat);
        parts.push(format!(
            "<div style=\"{TICKET}\"><strong>{}</strong><br>\
             <img src=\"cid:{}\" alt=\"QR code {number}\" width=\"200\" height=\"200\"><br>\
             <code>{}</code></div>",
            Escaped(&seat),
            image_id(number),
            Escaped(&ticket.code)
        ));
    }
    parts.push(format!(
        "<p><a href=\"{}\" style=\"{BUTTON}\">{}</a></p></div></body></html>\n",
        Escaped(link.as_str()),
        Escaped(letter.link_label)
    ));
    parts.join("\n")
}

/// The `Content-ID` of the QR code of ticket `number`, from 1.
pub(super) fn image_id(number: usize) -> String {
    format!("ticket-{number}")
}

fn paragraph(text: &str) -> String {
    format!("<p>{}</p>", Escaped(text))
}

fn row(label: &str, value: &str) -> String {
    format!(
        "<tr><td style=\"{LABEL}\">{}</td><td>{}</td></tr>",
        Escaped(label),
        Escaped(value)
    )
}

/// Text escaped for an element or a quoted attribute.
struct Escaped<'a>(&'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                character => write!(f, "{character}")?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use domain::event::Event;

    use super::*;
    use crate::notice::Notice;
    use crate::render::letter::letter;
    use crate::render::letter::tests::{event, paid};

    #[test]
    fn nothing_from_others_is_read_as_html() {
        let hostile = "<img src=x onerror=\"alert('1')\">&";
        let event = Event {
            name: hostile.into(),
            venue: hostile.into(),
            ..event()
        };
        let mut paid = paid();
        paid.tickets[0].code = hostile.into();
        paid.tickets[0].seat.section = hostile.into();
        let notice = Notice::Confirmed(paid);
        let link = "https://tickets.test/bookings/1".parse().unwrap();
        let html = document(&letter(&event, &notice), hostile, &link);
        assert!(
            !html.contains("onerror=\"") && !html.contains("<img src=x"),
            "{html}"
        );
        let escaped = "&lt;img src=x onerror=&quot;alert(&#39;1&#39;)&quot;&gt;&amp;";
        // In title, heading, greeting, event, place, seat and code.
        assert_eq!(html.matches(escaped).count(), 7, "{html}");
    }
}

//! Plain text part of a mail.

use url::Url;

use super::letter::{Letter, seat};

/// Renders the text; `name` is the reader's, empty if unknown.
pub(super) fn text(letter: &Letter<'_>, name: &str, link: &Url) -> String {
    let mut blocks = vec![greeting(name)];
    blocks.extend(letter.paragraphs.iter().cloned());
    let details: Vec<_> = letter
        .details
        .iter()
        .map(|(label, value)| format!("{label}: {value}"))
        .collect();
    if !details.is_empty() {
        blocks.push(details.join("\n"));
    }
    for (number, ticket) in (1..).zip(letter.tickets) {
        let seat = seat(&ticket.seat);
        blocks.push(format!("Ticket {number}: {seat}\nCode: {}", ticket.code));
    }
    blocks.push(format!("{}: {link}", letter.link_label));
    let mut text = blocks.join("\n\n");
    text.push('\n');
    text
}

/// The salutation, such as `Hello Ada,`.
pub(super) fn greeting(name: &str) -> String {
    if name.is_empty() {
        "Hello,".into()
    } else {
        format!("Hello {name},")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::notice::Notice;
    use crate::render::letter::letter;
    use crate::render::letter::tests::{event, paid};

    #[test]
    fn a_confirmation_reads_well_without_html() {
        let notice = Notice::Confirmed(paid());
        let link = "https://tickets.test/bookings/1".parse().unwrap();
        let expected = "Hello Ada,\n\n\
            Here are your tickets. Each admits one person: show its code at the entrance.\n\n\
            Event: Gala\nWhen: Friday 3 May 2024, 20:00 CEST\nWhere: Opera, Berlin\n\
            Paid: 90.00 EUR\n\n\
            Ticket 1: Stalls, row C, seat 14\nCode: T-14\n\n\
            Ticket 2: Stalls, row C, seat 15\nCode: T-15\n\n\
            Your booking: https://tickets.test/bookings/1\n";
        assert_eq!(text(&letter(&event(), &notice), "Ada", &link), expected);
    }
}

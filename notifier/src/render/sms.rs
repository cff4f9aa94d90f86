//! Text of SMS.

use domain::event::Event;

use super::Links;
use super::letter::place;
use super::line::one_line;
use super::time::in_short;
use crate::notice::Notice;

/// Longest name of an event or a place, so that a message with its link fits into two segments of
/// 153 characters.
const NAME_LIMIT: usize = 50;

/// Renders the text for a notice; `None` for a kind that is not sent by SMS.
pub(crate) fn sms(event: &Event, notice: &Notice, links: &Links) -> Option<String> {
    let name = one_line(&event.name, NAME_LIMIT);
    let when = in_short(event, event.date);
    let link = links.of(notice);
    let text = match notice {
        Notice::Confirmed(paid) => match paid.tickets.len() {
            1 => format!("Your ticket for {name}, {when}: {link}"),
            count => format!("Your {count} tickets for {name}, {when}: {link}"),
        },
        Notice::Cancelled(_) => format!("Your booking for {name} is cancelled: {link}"),
        Notice::Reminder(_) => format!("Reminder: {name}, {}. {link}", when_and_where(event)),
        Notice::EventChanged(_) => format!("{name} was changed: {}. {link}", when_and_where(event)),
        Notice::EventCancelled(_) => format!("{name}, {when}, does not take place: {link}"),
        Notice::Held(_)
        | Notice::Expired(_)
        | Notice::Refunded(_)
        | Notice::RefundFailed(_)
        | Notice::Transferred(_)
        | Notice::Received(_)
        | Notice::Withdrawn(_) => return None,
    };
    Some(without_typography(&text))
}

fn when_and_where(event: &Event) -> String {
    let when = in_short(event, event.date);
    match place(event) {
        Some(place) => format!("{when}, {}", one_line(&place, NAME_LIMIT)),
        None => when,
    }
}

/// Replaces typographic characters by ASCII. A single one outside of the GSM alphabet would switch
/// the whole message to UCS-2 and halve its capacity.
fn without_typography(text: &str) -> String {
    let mut simple = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '‘' | '’' | '‚' | '′' => simple.push('\''),
            '“' | '”' | '„' | '″' => simple.push('"'),
            '‐' | '‑' | '–' | '—' => simple.push('-'),
            '…' => simple.push_str("..."),
            '\u{a0}' | '\u{202f}' => simple.push(' '),
            character => simple.push(character),
        }
    }
    simple
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::letter::tests::{event, holding, paid};

    fn text(event: &Event, notice: &Notice) -> Option<String> {
        sms(
            event,
            notice,
            &Links::new("https://tickets.test".parse().unwrap()),
        )
    }

    #[test]
    fn an_sms_says_the_most_important_thing_and_links_to_the_rest() {
        assert_eq!(
            text(&event(), &Notice::Confirmed(paid())).unwrap(),
            "Your 2 tickets for Gala, Fri 3 May, 20:00: \
             https://tickets.test/bookings/018f0000-0000-7000-8000-000000000000"
        );
    }

    #[test]
    fn typography_is_kept_out() {
        let event = Event {
            name: "Rock ’n’ Roll — Live…".into(),
            ..event()
        };
        let text = text(&event, &Notice::Reminder(holding())).unwrap();
        assert!(
            text.starts_with("Reminder: Rock 'n' Roll - Live..., Fri 3 May, 20:00"),
            "{text}"
        );
    }

    #[test]
    fn every_kind_that_is_worth_an_sms_has_a_text() {
        let notices = [
            Notice::Confirmed(paid()),
            Notice::Reminder(holding()),
            Notice::EventChanged(holding()),
            Notice::EventCancelled(holding()),
        ];
        for notice in notices {
            assert!(notice.is_worth_an_sms() && text(&event(), &notice).is_some());
        }
    }
}

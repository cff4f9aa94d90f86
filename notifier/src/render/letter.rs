//! The wording of mails, shared by the text and HTML parts.

use domain::booking::{BookedSeat, BookingFacts, EndReason, TicketFacts};
use domain::event::{Event, EventState};
use domain::message::{BookingCancelled, BookingPaid, TicketTransferred};

use super::line::one_line;
use super::time::{in_full, in_full_of, in_short};
use crate::notice::{Announced, Holding, Notice};

/// Longest name of an event, place or section, in characters.
const NAME_LIMIT: usize = 120;
/// Link label for holders who are not the buyer.
const TO_TICKETS: &str = "Your tickets";

/// The contents of a mail, without markup.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Letter<'a> {
    /// Without line breaks.
    pub(super) subject: String,
    pub(super) paragraphs: Vec<String>,
    /// Labels and values.
    pub(super) details: Vec<(&'static str, String)>,
    /// Tickets, each shown with its QR code.
    pub(super) tickets: &'a [TicketFacts],
    /// Label of the link to the booking or tickets.
    pub(super) link_label: &'static str,
}

/// Sentences about the money of a cancelled booking, conditional, since only the payment worker
/// knows if it was captured and how much the event's refund terms return.
fn money_back(cancelled: &BookingCancelled) -> String {
    let booking = &cancelled.booking;
    let total = booking.total;
    if total.is_zero() {
        return String::new();
    }
    let owner = booking.account_id;
    if cancelled.asked.is_some_and(|asked| asked.by == owner) {
        format!(
            " If the {total} were charged already, the event's refund terms decide how much of it \
             goes back, as the page said before you cancelled. A mail names the sum when it is on \
             its way, mostly within the hour. If nothing goes back, or nothing was charged, no \
             further mail comes."
        )
    } else {
        format!(
            " If the {total} were charged already, all of it goes back, and a mail says when it is \
             on its way. If not, nothing is charged."
        )
    }
}

/// The reason, with a trailing space, if the whole event is cancelled; else empty.
fn why_cancelled(event: &Event, name: &str) -> String {
    if event.state == EventState::Cancelled {
        format!("{name} does not take place. We are sorry. ")
    } else {
        String::new()
    }
}

/// Writes the letter for a notice.
pub(super) fn letter<'a>(event: &Event, notice: &'a Notice) -> Letter<'a> {
    let name = one_line(&event.name, NAME_LIMIT);
    match notice {
        Notice::Held(facts) => held(event, &name, &facts.booking),
        Notice::Confirmed(paid) => confirmed(event, &name, paid),
        Notice::Expired(facts) => Letter {
            paragraphs: vec![match facts.reason {
                Some(EndReason::PaymentRefused) => format!(
                    "Your seats for {name} are on sale again: the payment provider refused to \
                     take this payment, which is no fault of yours. Nothing was charged, and we \
                     are looking into it."
                ),
                None => format!(
                    "Your seats for {name} are on sale again, because their payment was not made. \
                     Nothing was charged."
                ),
            }],
            details: seats(facts.booking.seats.iter()),
            ..plain(format!("Your seats for {name} were released"))
        },
        Notice::Cancelled(facts) => Letter {
            paragraphs: vec![if facts.was_confirmed {
                format!(
                    "{}Your booking for {name} is cancelled, and its tickets are no longer valid.{}",
                    why_cancelled(event, &name),
                    money_back(facts)
                )
            } else {
                format!("Your seats for {name} were given up. Nothing was charged.")
            }],
            details: seats(facts.booking.seats.iter()),
            ..plain(format!("Your booking for {name} is cancelled"))
        },
        Notice::Refunded(refund) => Letter {
            paragraphs: vec![format!(
                "We have sent {} back to you for {name}. Your bank may take a few days to show it.",
                refund.amount
            )],
            ..plain(format!("Your refund for {name}"))
        },
        Notice::RefundFailed(refund) => Letter {
            paragraphs: vec![
                format!(
                    "Your bank did not take the {} that was to go back to you for {name}.",
                    refund.amount
                ),
                "The money is still yours: we have been told, and will pay it in another way."
                    .to_owned(),
            ],
            ..plain(format!("Your refund for {name} did not arrive"))
        },
        Notice::Reminder(holding) => Letter {
            paragraphs: vec![
                format!("{name} begins on {}.", in_full(event, event.date)),
                if holding.received_by.is_some() {
                    "Your tickets are on the page of your tickets."
                } else {
                    "Your tickets are in your confirmation mail and on the page of your booking."
                }
                .to_owned(),
            ],
            ..to_holder(
                event,
                holding,
                format!("Reminder: {name}, {}", in_short(event, event.date)),
            )
        },
        Notice::EventChanged(holding) => Letter {
            paragraphs: vec![
                changes(event, &name, holding.before.as_ref()),
                "Your tickets stay valid.".to_owned(),
            ],
            ..to_holder(event, holding, format!("Changed: {name}"))
        },
        Notice::Transferred(facts) => Letter {
            paragraphs: vec![
                format!(
                    "You have transferred a ticket for {name} to somebody else. Its code is no \
                     longer valid; the new holder has another."
                ),
                "If it was not you, write to us at once.".to_owned(),
            ],
            details: vec![("Seat", seat(&facts.ticket.seat))],
            ..plain(format!("Your ticket for {name} was transferred"))
        },
        Notice::Received(facts) => received(event, &name, facts),
        Notice::Withdrawn(facts) => Letter {
            paragraphs: vec![format!(
                "{}The booking of the ticket for {name} that was transferred to you is cancelled. The \
                 ticket is no longer valid. If money goes back, it goes to who bought it.",
                why_cancelled(event, &name)
            )],
            details: vec![("Seat", seat(&facts.ticket.seat))],
            link_label: TO_TICKETS,
            ..plain(format!("Your ticket for {name} is cancelled"))
        },
        Notice::EventCancelled(holding) => event_cancelled(event, &name, holding),
    }
}

/// Describes the differences from the last notice to the reader; generic if that is unknown.
fn changes(event: &Event, name: &str, before: Option<&Announced>) -> String {
    let Some(before) = before else {
        return format!("{name} was changed. This is how it takes place now:");
    };
    let mut sentences = vec![format!("{name} was changed.")];
    if before.cancelled {
        sentences.push("It takes place after all.".to_owned());
    }
    if before.name != event.name {
        let old = one_line(&before.name, NAME_LIMIT);
        sentences.push(format!("It was called {old} before."));
    }
    let (old, new) = (
        in_full_of(&before.time_zone, before.date),
        in_full(event, event.date),
    );
    if old != new {
        sentences.push(format!("It begins on {new} instead of {old}."));
    }
    let old = joined(&before.venue, &before.city);
    match (old, place(event)) {
        (Some(old), Some(new)) if old != new => {
            sentences.push(format!("It takes place at {new} instead of {old}."));
        }
        (None, Some(new)) => {
            sentences.push(format!("It takes place at {new}."));
        }
        _ => {}
    }
    sentences.join(" ")
}

fn event_cancelled<'a>(event: &Event, name: &str, holding: &Holding) -> Letter<'a> {
    let sorry = format!("{name} does not take place. We are sorry.");
    let subject = format!("Cancelled: {name}");
    let (payment, letter) = if holding.received_by.is_some() {
        (
            "What was paid for your tickets goes back to who bought them.",
            to_holder(event, holding, subject),
        )
    } else {
        // All seats, also those whose tickets were transferred: the buyer gets the whole refund.
        let seats = seats(holding.booking.seats.iter());
        let letter = Letter {
            details: [whereabouts(event), seats].concat(),
            ..plain(subject)
        };
        (
            "The page of your booking shows what happens to your payment.",
            letter,
        )
    };
    Letter {
        paragraphs: vec![sorry, payment.to_owned()],
        ..letter
    }
}

/// A letter with event news for the holder of tickets.
fn to_holder<'a>(event: &Event, holding: &Holding, subject: String) -> Letter<'a> {
    let seats = seats(holding.tickets.iter().map(|ticket| &ticket.seat));
    let plain = plain(subject);
    Letter {
        details: [whereabouts(event), seats].concat(),
        link_label: match holding.received_by {
            Some(_) => TO_TICKETS,
            None => plain.link_label,
        },
        ..plain
    }
}

fn held<'a>(event: &Event, name: &str, booking: &BookingFacts) -> Letter<'a> {
    let deadline = in_full(event, booking.hold_until);
    let mut details = seats(booking.seats.iter());
    details.push(("To pay", booking.total.to_string()));
    details.push(("Pay by", deadline.clone()));
    Letter {
        paragraphs: vec![format!(
            "Your seats for {name} are set aside for you until {deadline}. Pay until then, or \
             they go on sale again."
        )],
        details,
        link_label: "Pay now",
        ..plain(format!("Your seats for {name} are held"))
    }
}

fn confirmed<'a>(event: &Event, name: &str, paid: &'a BookingPaid) -> Letter<'a> {
    let mut details = whereabouts(event);
    let total = paid.booking.total;
    if !total.is_zero() {
        details.push(("Paid", total.to_string()));
    }
    let (subject, sentence) = if paid.tickets.len() == 1 {
        (
            "Your ticket",
            "Here is your ticket. Show its code at the entrance.",
        )
    } else {
        (
            "Your tickets",
            "Here are your tickets. Each admits one person: show its code at the entrance.",
        )
    };
    Letter {
        paragraphs: vec![sentence.to_owned()],
        details,
        tickets: &paid.tickets,
        ..plain(format!("{subject} for {name}"))
    }
}

fn received<'a>(event: &Event, name: &str, facts: &'a TicketTransferred) -> Letter<'a> {
    Letter {
        paragraphs: vec![format!(
            "A ticket for {name} was transferred to you. Show its code at the entrance; codes it \
             had before are no longer valid."
        )],
        details: whereabouts(event),
        tickets: std::slice::from_ref(&facts.ticket),
        link_label: TO_TICKETS,
        ..plain(format!("A ticket for {name}"))
    }
}

fn plain<'a>(subject: String) -> Letter<'a> {
    Letter {
        subject,
        paragraphs: Vec::new(),
        details: Vec::new(),
        tickets: &[],
        link_label: "Your booking",
    }
}

fn whereabouts(event: &Event) -> Vec<(&'static str, String)> {
    let mut details = vec![
        ("Event", one_line(&event.name, NAME_LIMIT)),
        ("When", in_full(event, event.date)),
    ];
    details.extend(place(event).map(|place| ("Where", place)));
    details
}

fn seats<'a>(seats: impl Iterator<Item = &'a BookedSeat>) -> Vec<(&'static str, String)> {
    let seats: Vec<_> = seats.map(seat).collect();
    let label = if seats.len() == 1 { "Seat" } else { "Seats" };
    vec![(label, seats.join("; "))]
}

/// Formats the place, such as `Opera, Berlin`; `None` if unknown.
pub(super) fn place(event: &Event) -> Option<String> {
    joined(&event.venue, &event.city)
}

fn joined(venue: &str, city: &str) -> Option<String> {
    let parts: Vec<_> = [venue, city]
        .map(|part| one_line(part, NAME_LIMIT))
        .into_iter()
        .filter(|part| !part.is_empty())
        .collect();
    (!parts.is_empty()).then(|| parts.join(", "))
}

/// Formats a seat, such as `Stalls, row C, seat 14`, or `Standing`.
pub(super) fn seat(seat: &BookedSeat) -> String {
    let section = one_line(&seat.section, NAME_LIMIT);
    match (&seat.row, seat.number) {
        (Some(row), Some(number)) => {
            let row = one_line(row, NAME_LIMIT);
            format!("{section}, row {row}, seat {number}")
        }
        _ => section,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use domain::booking::BookedSeat;
    use domain::message::{BookingExpired, CancelAsked, HoldPlaced, RefundFailed, RefundSucceeded};
    use domain::{AccountId, BookingId, Currency, EventId, Money, SeatId};

    use super::*;

    /// On 3 May 2024 at 20:00 in Berlin.
    pub(in crate::render) fn event() -> Event {
        Event {
            id: EventId(1),
            version: 3,
            name: "Gala".into(),
            date: "2024-05-03T18:00:00Z".parse().unwrap(),
            capacity: 100,
            description: String::new(),
            category: "concert".into(),
            venue: "Opera".into(),
            city: "Berlin".into(),
            country: "DE".into(),
            time_zone: "Europe/Berlin".into(),
            state: EventState::Announced,
            max_tickets_per_account: 6,
            reminder_before_seconds: Some(86_400),
            ticket_transfer: false,
            sections: Vec::new(),
        }
    }

    /// Two seats and their tickets.
    pub(in crate::render) fn paid() -> BookingPaid {
        let seats: Vec<_> = [14, 15]
            .map(|number| BookedSeat {
                id: SeatId(number.into()),
                section: "Stalls".into(),
                row: Some("C".into()),
                number: Some(number),
            })
            .into();
        let at = event().date;
        BookingPaid {
            tickets: seats
                .iter()
                .map(|seat| TicketFacts {
                    code: format!("T-{}", seat.id),
                    seat: seat.clone(),
                })
                .collect(),
            booking: BookingFacts {
                booking_id: BookingId("018f0000-0000-7000-8000-000000000000".parse().unwrap()),
                event_id: EventId(1),
                account_id: AccountId(1),
                seats,
                total: Money::new(9_000, Currency::EUR),
                hold_until: at,
                created_at: at,
            },
        }
    }

    /// Both tickets, held by the buyer.
    pub(in crate::render) fn holding() -> Holding {
        let BookingPaid { booking, tickets } = paid();
        Holding {
            booking,
            tickets,
            received_by: None,
            before: None,
        }
    }

    #[test]
    fn a_hold_says_how_much_is_due_and_until_when() {
        let notice = Notice::Held(HoldPlaced {
            booking: paid().booking,
        });
        let letter = letter(&event(), &notice);
        assert!(letter.details.contains(&("To pay", "90.00 EUR".into())));
        assert!(
            letter
                .details
                .contains(&("Pay by", "Friday 3 May 2024, 20:00 CEST".into()))
        );
        assert!(letter.details.contains(&(
            "Seats",
            "Stalls, row C, seat 14; Stalls, row C, seat 15".into()
        )));
    }

    #[test]
    fn a_cancellation_promises_no_money_that_may_not_come() {
        let sentence = |total: i64, asked_by: Option<i64>, was_confirmed: bool| {
            let mut booking = paid().booking;
            booking.total = Money::new(total, Currency::try_from("ugx").unwrap());
            let asked = asked_by.map(|by| CancelAsked {
                by: AccountId(by),
                at: event().date,
            });
            let notice = Notice::Cancelled(BookingCancelled {
                booking,
                was_confirmed,
                asked,
            });
            letter(&event(), &notice).paragraphs.join(" ")
        };
        let free = sentence(0, Some(1), true);
        assert!(free.ends_with("are no longer valid."), "{free}");
        let by_buyer = sentence(38_000, Some(1), true);
        assert!(
            by_buyer.contains("If the 38000 UGX were charged already, the event's refund terms")
        );
        assert!(by_buyer.contains("A mail names the sum"), "{by_buyer}");
        assert!(
            by_buyer.contains("If nothing goes back") && by_buyer.contains("no further mail comes"),
            "{by_buyer}"
        );
        for asked_by in [None, Some(2)] {
            let by_others = sentence(38_000, asked_by, true);
            assert!(by_others.contains("all of it goes back"), "{by_others}");
            assert!(
                by_others.ends_with("If not, nothing is charged."),
                "{by_others}"
            );
        }
        assert!(sentence(38_000, None, false).ends_with("Nothing was charged."));
    }

    #[test]
    fn a_hold_that_ended_blames_no_delay_on_the_buyer() {
        let sentence = |reason| {
            let booking = paid().booking;
            let notice = Notice::Expired(BookingExpired { booking, reason });
            letter(&event(), &notice).paragraphs.join(" ")
        };
        for reason in [None, Some(EndReason::PaymentRefused)] {
            let text = sentence(reason);
            assert!(
                text.contains("Nothing was charged") && !text.contains("in time"),
                "{text}"
            );
        }
        let refused = sentence(Some(EndReason::PaymentRefused));
        assert!(
            refused.contains("the payment provider refused")
                && refused.contains("no fault of yours"),
            "{refused}"
        );
        assert!(sentence(None).contains("their payment was not made"));
    }

    #[test]
    fn what_goes_back_and_what_the_bank_refused_are_named() {
        let amount = Money::new(3_500, Currency::EUR);
        let BookingFacts {
            booking_id,
            event_id,
            account_id,
            ..
        } = paid().booking;
        let sent = Notice::Refunded(RefundSucceeded {
            booking_id,
            event_id,
            account_id,
            amount,
            number: 0,
        });
        let sent = letter(&event(), &sent).paragraphs.join(" ");
        assert!(sent.starts_with("We have sent 35.00 EUR back to you for Gala."));
        let failed = Notice::RefundFailed(RefundFailed {
            booking_id,
            event_id,
            account_id,
            amount,
            number: 0,
        });
        let failed = letter(&event(), &failed);
        assert_eq!(failed.subject, "Your refund for Gala did not arrive");
        let failed = failed.paragraphs.join(" ");
        assert!(
            failed.contains("did not take the 35.00 EUR") && failed.contains("still yours"),
            "{failed}"
        );
    }

    #[test]
    fn amounts_are_written_in_the_unit_that_people_know() {
        for (amount, code, text) in [
            (4_505, "eur", "45.05 EUR"),
            (38_000, "ugx", "38000 UGX"),
            (350_000, "isk", "3500 ISK"),
            (4_510, "kwd", "4.510 KWD"),
            (1_500_000, "huf", "15000.00 HUF"),
            (4_505, "jpy", "4505 JPY"),
        ] {
            let mut booking = paid().booking;
            booking.total = Money::new(amount, Currency::try_from(code).unwrap());
            let held = Notice::Held(HoldPlaced { booking });
            let letter = letter(&event(), &held);
            assert!(
                letter.details.contains(&("To pay", text.to_owned())),
                "{text}"
            );
        }
    }

    #[test]
    fn a_name_with_line_breaks_gives_a_subject_of_one_line() {
        let event = Event {
            name: "Gala\r\nBcc: everyone@x.test".into(),
            ..event()
        };
        let paid = Notice::Confirmed(paid());
        assert_eq!(
            letter(&event, &paid).subject,
            "Your tickets for Gala Bcc: everyone@x.test"
        );
    }

    #[test]
    fn news_name_the_seats_that_the_reader_holds_and_a_cancelled_event_those_that_were_paid() {
        let all = (
            "Seats",
            "Stalls, row C, seat 14; Stalls, row C, seat 15".to_owned(),
        );
        let one = ("Seat", "Stalls, row C, seat 15".to_owned());
        let (mut bought, mut received) = (holding(), holding());
        bought.tickets.remove(0);
        received.tickets.remove(0);
        received.received_by = Some(AccountId(2));
        for (notice, expected, label) in [
            (Notice::EventChanged(holding()), &all, "Your booking"),
            (Notice::EventChanged(bought.clone()), &one, "Your booking"),
            (Notice::Reminder(received.clone()), &one, "Your tickets"),
            (Notice::EventCancelled(received), &one, "Your tickets"),
            (Notice::EventCancelled(bought), &all, "Your booking"),
        ] {
            let letter = letter(&event(), &notice);
            assert!(letter.details.contains(expected), "{letter:?}");
            assert_eq!(letter.link_label, label);
        }
    }

    #[test]
    fn a_change_says_what_is_different() {
        let before = Announced {
            name: "Gala night".into(),
            venue: "Town hall".into(),
            date: "2024-05-02T18:00:00Z".parse().unwrap(),
            ..Announced::of(&event())
        };
        let holding = Holding {
            before: Some(before),
            ..holding()
        };
        let notice = Notice::EventChanged(holding);
        assert_eq!(
            letter(&event(), &notice).paragraphs[0],
            "Gala was changed. It was called Gala night before. It begins on Friday 3 May 2024, \
             20:00 CEST instead of Thursday 2 May 2024, 20:00 CEST. It takes place at Opera, Berlin \
             instead of Town hall, Berlin."
        );
    }
}

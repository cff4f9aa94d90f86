//! Classification of SMTP refusals: specific to the recipient or mail, or about the sender. Uses
//! the enhanced status code (RFC 3463) if there is one, else the reply code.

use std::error::Error as _;

use lettre::transport::smtp::Error;

use crate::channels::DeliveryOutcome;

/// Returns true for a negative reply, as opposed to a broken connection or protocol error.
pub(super) fn is_answer(error: &Error) -> bool {
    error.is_transient() || error.is_permanent()
}

/// Classifies a refused `MAIL FROM`, which is never about the recipient.
pub(super) fn meaning_for_sender(error: &Error) -> DeliveryOutcome {
    if error.is_permanent() {
        DeliveryOutcome::Rejected(error.to_string())
    } else {
        DeliveryOutcome::Unreachable(error.to_string())
    }
}

/// Classifies an error at `RCPT TO`, at `DATA` or after the data.
pub(super) fn meaning_for_mail(error: &Error) -> DeliveryOutcome {
    let Some(code) = error.status() else {
        return DeliveryOutcome::Unreachable(error.to_string());
    };
    let text = error.source().map(ToString::to_string).unwrap_or_default();
    let words = error.to_string();
    match meaning(u16::from(code), &text) {
        Meaning::Unreachable => DeliveryOutcome::Unreachable(words),
        Meaning::Rejected => DeliveryOutcome::Rejected(words),
        Meaning::Deferred => DeliveryOutcome::Deferred(words),
        Meaning::Refused => DeliveryOutcome::Refused(words),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    Unreachable,
    Rejected,
    Deferred,
    Refused,
}

fn meaning(code: u16, text: &str) -> Meaning {
    match (code, enhanced(text)) {
        (421, _) | (400..500, Some((3, _))) => Meaning::Unreachable,
        (400..500, _) => Meaning::Deferred,
        // A bad address of the sender's, as opposed to the recipient's.
        (_, Some((1, 7 | 8))) => Meaning::Rejected,
        // Mailbox full, which may change.
        (_, Some((2, 2))) => Meaning::Deferred,
        // Addresses and mailboxes that do not exist, and contents that are never accepted.
        (_, Some((1 | 2 | 6, _))) => Meaning::Refused,
        // The mail system, routing and quotas, protocol, policy.
        (_, Some((3 | 4 | 5 | 7, _))) => Meaning::Rejected,
        // No such mailbox, or a domain that accepts no mail, without an enhanced code.
        (550 | 551 | 553 | 556, _) => Meaning::Refused,
        (552, _) => Meaning::Deferred,
        _ => Meaning::Rejected,
    }
}

/// Parses the subject and detail of a leading enhanced status code such as `5.7.1`.
fn enhanced(text: &str) -> Option<(u16, u16)> {
    let word = text.split_whitespace().next()?;
    let mut numbers = word.split('.').map(|number| number.parse::<u16>().ok());
    let (class, subject, detail) = (numbers.next()??, numbers.next()??, numbers.next()??);
    (matches!(class, 4 | 5) && numbers.next().is_none()).then_some((subject, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_about_the_recipient_is_final() {
        for (code, text, expected) in [
            (550, "5.1.1 No such user", Meaning::Refused),
            (550, "5.1.10 Null MX", Meaning::Refused),
            (550, "No such user", Meaning::Refused),
            (553, "5.1.7 Sender address unknown", Meaning::Rejected),
            (552, "5.2.2 Mailbox full", Meaning::Deferred),
            (552, "Exceeded storage allocation", Meaning::Deferred),
            (
                550,
                "5.4.5 Daily user sending quota exceeded",
                Meaning::Rejected,
            ),
            (550, "5.7.1 Rate limit", Meaning::Rejected),
            (504, "5.5.2 <vm>: Helo command rejected", Meaning::Rejected),
            (530, "5.7.0 Authentication required", Meaning::Rejected),
            (535, "Authentication failed", Meaning::Rejected),
            (554, "Transaction failed", Meaning::Rejected),
            (451, "4.3.0 Try again later", Meaning::Unreachable),
            (451, "4.7.1 Greylisted", Meaning::Deferred),
            (450, "Mailbox busy", Meaning::Deferred),
            (421, "Too many connections", Meaning::Unreachable),
        ] {
            assert_eq!(meaning(code, text), expected, "{code} {text}");
        }
    }

    #[test]
    fn a_number_in_a_sentence_is_no_status_code() {
        assert_eq!(enhanced("5.7.1 no"), Some((7, 1)));
        for text in [
            "",
            "mail.5.7",
            "5.7.1.2 no",
            "192.168.0.1 is listed",
            "5.x.1",
        ] {
            assert_eq!(enhanced(text), None, "{text}");
        }
    }
}

//! I6 from the buyers' side: checks that the mailbox has each confirmation exactly once.

use std::collections::HashMap;

use serde::Serialize;
use stand_ins::Inbox;
use stand_ins::mail::Mail;
use uuid::Uuid;

/// The result of the check.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Mailbox {
    /// Number of mails of every kind.
    pub(super) mails: usize,
    /// Number of bookings whose buyers saw them confirmed.
    pub(super) confirmed: usize,
    /// Confirmed bookings without a confirmation mail.
    pub(super) without_confirmation: Vec<Uuid>,
    /// Bookings with more than one confirmation mail.
    pub(super) confirmed_twice: Vec<Uuid>,
}

impl Mailbox {
    /// Number of bookings with none or several confirmations.
    pub(super) fn violations(&self) -> usize {
        self.without_confirmation.len() + self.confirmed_twice.len()
    }
}

/// Counts the confirmations of each booking in `confirmed`, and of all others.
pub(super) fn check(inbox: &Inbox<Mail>, confirmed: &[Uuid]) -> Mailbox {
    let mails = inbox.all();
    let mut confirmations: HashMap<Uuid, usize> = HashMap::new();
    for mail in &mails {
        if let Some(booking) = confirmed_booking(mail.message_id.as_deref().unwrap_or_default()) {
            *confirmations.entry(booking).or_default() += 1;
        }
    }
    let missing = |id: &&Uuid| !confirmations.contains_key(id);
    Mailbox {
        mails: mails.len(),
        confirmed: confirmed.len(),
        without_confirmation: confirmed.iter().filter(missing).copied().collect(),
        confirmed_twice: confirmations
            .iter()
            .filter(|(_, n)| **n > 1)
            .map(|(id, _)| *id)
            .collect(),
    }
}

/// The booking of a confirmation mail, whose `Message-ID` is `confirmed.0.BOOKING@host`.
fn confirmed_booking(message_id: &str) -> Option<Uuid> {
    let rest = message_id
        .trim_matches(['<', '>'])
        .strip_prefix("confirmed.0.")?;
    rest.split('@').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_confirmation_is_known_by_its_message_id() {
        let id = Uuid::from_u128(7);
        assert_eq!(
            confirmed_booking(&format!("<confirmed.0.{id}@tickets.example>")),
            Some(id)
        );
        assert_eq!(
            confirmed_booking(&format!("<held.0.{id}@tickets.example>")),
            None
        );
    }
}

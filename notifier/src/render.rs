//! Rendering of mails and SMS.

mod calendar;
mod code;
mod html;
mod letter;
mod line;
mod mail;
mod plain;
mod qr;
mod sms;
mod time;

use domain::BookingId;
use url::Url;

pub(crate) use code::{code_mail, code_sms};
pub(crate) use mail::{Letterhead, mail};
pub(crate) use sms::sms;

use crate::notice::Notice;

/// Builds URLs of pages. None carries a credential, since mails get forwarded.
#[derive(Debug, Clone)]
pub(crate) struct Links {
    public_url: Url,
}

impl Links {
    /// Links to pages below `public_url`.
    pub(crate) fn new(public_url: Url) -> Self {
        Self { public_url }
    }

    /// The page linked in a notice. The booking's page is only accessible to its buyer, so other
    /// holders get their list of tickets.
    fn of(&self, notice: &Notice) -> Url {
        match notice {
            Notice::Received(_) | Notice::Withdrawn(_) => self.page(&["tickets"]),
            _ if notice.received_by().is_some() => self.page(&["tickets"]),
            _ => self.booking(notice.booking_id()),
        }
    }

    /// The URL of a booking's page.
    fn booking(&self, id: BookingId) -> Url {
        self.page(&["bookings", &id.to_string()])
    }

    fn page(&self, below: &[&str]) -> Url {
        let mut url = self.public_url.clone();
        if let Ok(mut path) = url.path_segments_mut() {
            path.pop_if_empty().extend(below);
        }
        url
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_keeps_the_path_the_site_is_under() {
        let id = BookingId("018f0000-0000-7000-8000-000000000000".parse().unwrap());
        for (base, expected) in [
            ("https://tickets.test", "https://tickets.test/bookings/"),
            (
                "https://site.test/tickets/",
                "https://site.test/tickets/bookings/",
            ),
        ] {
            let links = Links::new(base.parse().unwrap());
            assert_eq!(links.booking(id).as_str(), format!("{expected}{id}"));
        }
    }
}

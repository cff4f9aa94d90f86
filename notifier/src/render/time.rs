//! Formatting of times in the event's time zone.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use domain::event::Event;

/// Formats a time such as `Friday 3 May 2024, 20:00 CEST`.
pub(super) fn in_full(event: &Event, at: DateTime<Utc>) -> String {
    in_full_of(&event.time_zone, at)
}

/// Like [`in_full`], in a given time zone.
pub(super) fn in_full_of(time_zone: &str, at: DateTime<Utc>) -> String {
    local(time_zone, at)
        .format("%A %-d %B %Y, %H:%M %Z")
        .to_string()
}

/// Formats a time such as `Fri 3 May, 20:00`.
pub(super) fn in_short(event: &Event, at: DateTime<Utc>) -> String {
    local(&event.time_zone, at)
        .format("%a %-d %b, %H:%M")
        .to_string()
}

/// Converts to local time; falls back to UTC if the zone is unknown.
fn local(time_zone: &str, at: DateTime<Utc>) -> DateTime<Tz> {
    at.with_timezone(&time_zone.parse().unwrap_or(Tz::UTC))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::render::letter::tests::event;

    #[test]
    fn times_are_those_of_the_events_place() {
        let event = event();
        assert_eq!(in_full(&event, event.date), "Friday 3 May 2024, 20:00 CEST");
        assert_eq!(in_short(&event, event.date), "Fri 3 May, 20:00");
        let nowhere = Event {
            time_zone: "Mars/Olympus".into(),
            ..event
        };
        assert_eq!(
            in_full(&nowhere, nowhere.date),
            "Friday 3 May 2024, 18:00 UTC"
        );
    }
}

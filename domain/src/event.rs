//! What is sold: an event, its sections and their price tiers.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::{EventId, Money, SectionId};

/// The state of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventState {
    /// Planned.
    Announced,
    /// Will not take place, or was withdrawn.
    Cancelled,
}

/// An event as box-office owns it and publishes it to the other services.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its id; its sale has the same.
    pub id: EventId,
    /// Grows with every change; a reader ignores a version it has passed.
    pub version: i64,
    /// Its name.
    pub name: String,
    /// When it starts.
    pub date: DateTime<Utc>,
    /// The sum of its sections' capacities.
    pub capacity: u32,
    /// Free text.
    pub description: String,
    /// Such as `concert`; empty when unknown.
    pub category: String,
    /// Empty when unknown.
    pub venue: String,
    /// Empty when unknown.
    pub city: String,
    /// ISO 3166 two letters; empty when unknown.
    pub country: String,
    /// IANA time zone in which people read `date`.
    pub time_zone: String,
    /// Its state.
    pub state: EventState,
    /// Most live tickets of one account.
    pub max_tickets_per_account: u32,
    /// Lead time of the reminder before the start; `None` sends none.
    pub reminder_before_seconds: Option<u32>,
    /// Whether tickets may be transferred to another account.
    #[serde(default)]
    pub ticket_transfer: bool,
    /// The sections on sale.
    pub sections: Vec<Section>,
}

/// A part of the venue with one price.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Section {
    /// Its id.
    pub id: SectionId,
    /// Its name, unique in the event.
    pub name: String,
    /// Whether seats have a row and a number; general admission has not.
    pub numbered: bool,
    /// Number of seats.
    pub capacity: u32,
    /// Rows of a numbered section.
    pub rows: Option<u32>,
    /// Seats in each row of a numbered section.
    pub seats_per_row: Option<u32>,
    /// The price of a seat.
    pub tier: Tier,
}

/// A named price.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Tier {
    /// Such as `Standard`.
    pub name: String,
    /// The price of one ticket; zero is free.
    pub price: Money,
}

/// The label of row `index` (from 0): A … Z, AA, AB, ….
#[must_use]
pub fn row_label(index: u32) -> String {
    let mut label = Vec::new();
    let mut rest = index;
    loop {
        let letter = u8::try_from(rest % 26).expect("a remainder of 26 fits in a byte");
        label.push(b'A' + letter);
        if rest < 26 {
            break;
        }
        rest = rest / 26 - 1;
    }
    label.reverse();
    String::from_utf8(label).expect("only ASCII letters were pushed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_lettered_like_a_house() {
        let labels: Vec<_> = [0, 1, 25, 26, 27, 701, 702].map(row_label).into();
        assert_eq!(labels, ["A", "B", "Z", "AA", "AB", "ZZ", "AAA"]);
    }
}

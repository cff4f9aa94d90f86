//! The result of one fault.

use std::fmt::{Display, Formatter, Result};
use std::ops::RangeInclusive;
use std::time::Duration;

use surge::buyer::Requests;

pub(super) const HEADER: &str = "\
| fault | buyers | requests | 503 | other 5xx | no answer | no tickets | gone | twice | oversold | violations | ready | longest pause | recovery |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|";

/// Counts of one sale, all of whose buyers should have tickets.
pub(super) struct Row {
    pub(super) name: String,
    pub(super) buyers: u64,
    pub(super) requests: Requests,
    /// Buyers who got no tickets.
    pub(super) unserved: u64,
    /// Bookings that were answered to buyers as confirmed, and the database does not have as such.
    pub(super) gone: u64,
    /// The fault loses commits, which the audit must then find.
    pub(super) is_lossy: bool,
    /// Accounts with more than one booking.
    pub(super) twice: u64,
    /// Tickets for a seat that another ticket has, too.
    pub(super) oversold: u64,
    /// Violations that `onsale audit` found; `None` while something is in flight.
    pub(super) violations: Option<u64>,
    /// Processes that were ready at the end of the fault, and how many should have been.
    pub(super) ready: usize,
    pub(super) ready_expected: RangeInclusive<usize>,
    /// Longest time in which nobody claimed a pass.
    pub(super) pause: Duration,
    /// From the repair to the last failed request.
    pub(super) recovery: Duration,
}

impl Row {
    /// Names each promise that is broken, with its count.
    pub(super) fn broken_promises(&self, longest_recovery: Duration) -> Vec<String> {
        let (unserved, gone) = match self.is_lossy {
            true => (0, 0),
            false => (self.unserved, self.gone),
        };
        let counts = [
            (self.requests.broken, "requests answered 5xx other than 503"),
            (unserved, "buyers without tickets"),
            (gone, "confirmed bookings that are gone"),
            (self.twice, "accounts with a second booking"),
            (self.oversold, "tickets for seats that were sold before"),
        ];
        let mut broken: Vec<_> = counts
            .into_iter()
            .filter(|(count, _)| *count > 0)
            .map(|(count, what)| format!("{count} {what}"))
            .collect();
        match self.violations {
            Some(0) if self.is_lossy && self.gone > 0 => {
                broken.push(format!("the audit does not find {} losses", self.gone));
            }
            Some(0) => {}
            Some(_) if self.is_lossy => {}
            Some(count) => broken.push(format!("{count} violations found by the audit")),
            None => broken.push("the audit still finds something in flight".to_owned()),
        }
        if !self.ready_expected.contains(&self.ready) {
            let (ready, expected) = (self.ready, &self.ready_expected);
            broken.push(format!("{ready} processes were ready, not {expected:?}"));
        }
        if self.recovery > longest_recovery {
            broken.push(format!("requests failed for {:.1?} more", self.recovery));
        }
        broken
    }
}

impl Display for Row {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        let Self {
            name,
            buyers,
            requests,
            unserved,
            gone,
            twice,
            oversold,
            ready,
            ..
        } = self;
        let violations = self
            .violations
            .map_or("in flight".to_owned(), |count| count.to_string());
        write!(
            f,
            "| {name} | {buyers} | {} | {} | {} | {} | {unserved} | {gone} | {twice} | {oversold} | {violations} | {ready} | {:.1} s | {:.1} s |",
            requests.sent,
            requests.unavailable,
            requests.broken,
            requests.unanswered,
            self.pause.as_secs_f64(),
            self.recovery.as_secs_f64()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(15);

    fn good() -> Row {
        Row {
            name: "redis-killed".to_owned(),
            buyers: 60,
            requests: Requests {
                sent: 900,
                unavailable: 7,
                unanswered: 2,
                ..Requests::default()
            },
            unserved: 0,
            gone: 0,
            is_lossy: false,
            twice: 0,
            oversold: 0,
            violations: Some(0),
            ready: 11,
            ready_expected: 11..=11,
            pause: Duration::from_secs(60),
            recovery: LIMIT,
        }
    }

    #[test]
    fn each_broken_promise_is_named() {
        assert_eq!(good().broken_promises(LIMIT), Vec::<String>::new());
        let bad = Row {
            requests: Requests {
                broken: 1,
                ..Requests::default()
            },
            unserved: 2,
            gone: 6,
            twice: 3,
            oversold: 4,
            violations: Some(5),
            ready: 10,
            recovery: LIMIT + Duration::from_millis(100),
            ..good()
        };
        assert_eq!(
            bad.broken_promises(LIMIT),
            [
                "1 requests answered 5xx other than 503",
                "2 buyers without tickets",
                "6 confirmed bookings that are gone",
                "3 accounts with a second booking",
                "4 tickets for seats that were sold before",
                "5 violations found by the audit",
                "10 processes were ready, not 11..=11",
                "requests failed for 15.1s more",
            ]
        );
        let unsettled = Row {
            violations: None,
            ..good()
        };
        assert_eq!(unsettled.broken_promises(LIMIT).len(), 1);
    }

    #[test]
    fn what_a_lossy_fault_lost_is_found_by_the_audit() {
        let found = Row {
            unserved: 2,
            gone: 3,
            is_lossy: true,
            violations: Some(4),
            ..good()
        };
        assert_eq!(found.broken_promises(LIMIT), Vec::<String>::new());
        let overlooked = Row {
            violations: Some(0),
            ..found
        };
        assert_eq!(
            overlooked.broken_promises(LIMIT),
            ["the audit does not find 3 losses"]
        );
    }

    #[test]
    fn a_row_has_a_cell_for_each_column() {
        let cells = |line: &str| line.matches('|').count();
        for line in HEADER.lines() {
            assert_eq!(cells(line), cells(&good().to_string()));
        }
    }
}

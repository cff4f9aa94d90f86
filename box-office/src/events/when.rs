//! Parsing of times: an instant, a local time in the event's zone, or a day.

use chrono::{
    DateTime, Days, LocalResult, NaiveDate, NaiveDateTime, NaiveTime, Offset as _, TimeDelta,
    TimeZone as _, Utc,
};
use chrono_tz::Tz;
use platform::http;
use platform::problem::Problem;

use crate::fields::invalid;

/// Formats of local times accepted beside RFC 3339.
const LOCAL: [&str; 2] = ["%Y-%m-%dT%H:%M:%S%.f", "%Y-%m-%dT%H:%M"];

/// Parses an event's start: an instant, or a local time in `zone`. An offset other than `Z` must be
/// that of `zone` at the time, since a wrong one usually means an event an hour off.
///
/// # Errors
/// `invalid`, naming `date` or `time_zone`.
pub(super) fn start(text: &str, zone: Option<Tz>) -> Result<DateTime<Utc>, Problem> {
    let text = text.trim();
    let start = match DateTime::parse_from_rfc3339(text) {
        Ok(instant) => {
            if !text.ends_with(['Z', 'z'])
                && let Some(zone) = zone
            {
                let offset = zone.offset_from_utc_datetime(&instant.naive_utc()).fix();
                if offset != *instant.offset() {
                    let detail = format!(
                        "At that time {zone} is at {offset}, not {}. Leave the offset out to mean \
                         the local time.",
                        instant.offset()
                    );
                    return Err(invalid("date", detail));
                }
            }
            instant.to_utc()
        }
        Err(_) => local(text, zone)?,
    };
    http::date("date", start)
}

fn local(text: &str, zone: Option<Tz>) -> Result<DateTime<Utc>, Problem> {
    let parsed = LOCAL
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok());
    let Some(local) = parsed else {
        let detail =
            "A time such as 2027-01-30T20:00:00 with a time_zone, or 2027-01-30T19:00:00Z.";
        return Err(invalid("date", detail));
    };
    let Some(zone) = zone else {
        let detail = "A local time needs a time_zone such as Europe/Amsterdam.";
        return Err(invalid("time_zone", detail));
    };
    match zone.from_local_datetime(&local) {
        LocalResult::Single(instant) => Ok(instant.to_utc()),
        LocalResult::None => {
            let detail = format!("This time does not exist in {zone}: the clocks go forward.");
            Err(invalid("date", detail))
        }
        LocalResult::Ambiguous(first, second) => {
            let detail = format!(
                "This time occurs twice in {zone}, as the clocks go back. Use {} or {}.",
                first.to_rfc3339(),
                second.to_rfc3339()
            );
            Err(invalid("date", detail))
        }
    }
}

/// Which end of a range is parsed. A day as `Last` is included to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum RangeEnd {
    First,
    Last,
}

/// Parses a bound of a range: an instant, or a day in UTC.
///
/// # Errors
/// `invalid`, naming `field`.
pub(super) fn bound(field: &str, text: &str, end: RangeEnd) -> Result<DateTime<Utc>, Problem> {
    // An unencoded plus sign in a query arrives as a space.
    let text = text.trim().replace(' ', "+");
    let day = || {
        let day = NaiveDate::parse_from_str(&text, "%Y-%m-%d").ok()?;
        let begin = day.and_time(NaiveTime::MIN).and_utc();
        Some(match end {
            RangeEnd::First => begin,
            RangeEnd::Last => begin.checked_add_days(Days::new(1))? - TimeDelta::microseconds(1),
        })
    };
    let instant = DateTime::parse_from_rfc3339(&text).map(|instant| instant.to_utc());
    let bound = instant.ok().or_else(day).ok_or_else(|| {
        let detail = "A day such as 2027-01-30, or a time such as 2027-01-30T19:00:00Z.";
        invalid(field, detail)
    })?;
    http::date(field, bound)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str, zone: &str) -> Option<String> {
        let zone = Some(zone).filter(|zone| !zone.is_empty());
        let zone = zone.map(|zone| zone.parse().unwrap());
        start(text, zone).ok().map(|start| start.to_rfc3339())
    }

    #[test]
    fn a_local_time_is_read_in_the_zone_of_its_day() {
        let summer = at("2027-09-01T20:00:00", "America/Moncton");
        assert_eq!(summer.as_deref(), Some("2027-09-01T23:00:00+00:00"));
        let winter = at("2027-01-30T20:00", "Europe/Amsterdam");
        assert_eq!(winter.as_deref(), Some("2027-01-30T19:00:00+00:00"));
        assert_eq!(at("2027-01-30T20:00", ""), None);
    }

    #[test]
    fn an_offset_is_that_of_the_zone_or_z() {
        for (text, zone, is_read) in [
            ("2027-09-01T20:00:00-03:00", "America/Moncton", true),
            ("2027-09-01T20:00:00-04:00", "America/Moncton", false),
            ("2027-09-01T20:00:00Z", "America/Moncton", true),
            ("2027-07-01T19:30:00+00:00", "Europe/London", false),
            ("2027-07-01T19:30:00+05:45", "Asia/Kathmandu", true),
            ("2027-07-01T19:30:00+05:30", "Asia/Kathmandu", false),
            ("2027-07-01T19:30:00+05:30", "", true),
        ] {
            assert_eq!(at(text, zone).is_some(), is_read, "{text} {zone}");
        }
    }

    #[test]
    fn hours_that_the_clock_skips_or_repeats_are_refused() {
        assert_eq!(at("2027-03-28T02:30:00", "Europe/Amsterdam"), None);
        assert_eq!(at("2027-03-28T02:30:00+01:00", "Europe/Amsterdam"), None);
        assert_eq!(at("2027-10-31T02:30:00", "Europe/Amsterdam"), None);
        assert!(at("2027-10-31T02:30:00+01:00", "Europe/Amsterdam").is_some());
        assert!(at("2027-10-31T02:30:00+02:00", "Europe/Amsterdam").is_some());
    }

    #[test]
    fn a_range_is_bounded_by_days_or_times() {
        let read = |text, end| bound("from", text, end).map(|bound| bound.to_rfc3339());
        let first = read("2027-01-01", RangeEnd::First).unwrap();
        assert_eq!(first, "2027-01-01T00:00:00+00:00");
        let last = read("2027-01-01", RangeEnd::Last).unwrap();
        assert_eq!(last, "2027-01-01T23:59:59.999999+00:00");
        let plus = read("2027-01-01T01:00:00 01:00", RangeEnd::First).unwrap();
        assert_eq!(plus, first);
        assert!(read("tomorrow", RangeEnd::First).is_err());
    }
}

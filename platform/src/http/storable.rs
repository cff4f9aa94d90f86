//! Validation of what PostgreSQL can store: no U+0000 in text, and dates in a sane range of years.
//! Extractors check the text of every path, query and body; handlers check dates here.

use std::fmt::Display;
use std::ops::RangeInclusive;

use chrono::{DateTime, Datelike as _, Utc};

use crate::problem::{Kind, Problem};

/// The years that a date may lie in.
const YEARS: RangeInclusive<i32> = 2000..=2199;

/// Returns `date` when it lies in a year that a ticket could be for.
///
/// # Errors
/// `invalid` for any other, with `field` as its name.
pub fn date(field: impl Display, date: DateTime<Utc>) -> Result<DateTime<Utc>, Problem> {
    if YEARS.contains(&date.year()) {
        return Ok(date);
    }
    let detail = format!("A date from {} to {}.", YEARS.start(), YEARS.end());
    Err(Problem::new(Kind::Invalid, detail).with("field", field.to_string()))
}

/// Returns whether any string of a JSON text contains U+0000, which JSON can only express as an
/// escape.
pub(super) fn has_nul_in_json(json: &[u8]) -> bool {
    let mut rest = json;
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        let escape = &rest[at + 1..];
        if escape.starts_with(b"u0000") {
            return true;
        }
        rest = escape.get(1..).unwrap_or_default();
    }
    false
}

/// Returns whether a query contains U+0000.
pub(super) fn has_nul_in_query(query: &str) -> bool {
    query.contains("%00")
}

/// The refusal of text with U+0000 in it.
pub(super) fn nul_in(what: &str) -> Problem {
    let detail = format!("{what} can't be read: no text may contain the character U+0000.");
    Problem::new(Kind::Malformed, detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nul_is_found_in_any_string_and_nothing_else_is_taken_for_it() {
        for json in [
            r#"{"a":"\u0000"}"#,
            r#"{"\u0000":1}"#,
            r#"["\\\u0000"]"#,
            r#"["\n\u0000"]"#,
        ] {
            assert!(has_nul_in_json(json.as_bytes()), "{json}");
        }
        for json in [
            "",
            r#"{"a":"u0000"}"#,
            r#"["\\u0000"]"#,
            r#"["\u0001"]"#,
            "\\",
            r"\u000",
        ] {
            assert!(!has_nul_in_json(json.as_bytes()), "{json}");
        }
    }

    #[test]
    fn dates_keep_to_years_that_a_ticket_could_be_for() {
        let of = |text: &str| date("until", text.parse().unwrap());
        assert!(of("2000-01-01T00:00:00Z").is_ok() && of("2199-12-31T23:59:59Z").is_ok());
        for text in [
            "-9999-01-01T00:00:00Z",
            "1999-12-31T23:59:59Z",
            "2200-01-01T00:00:00Z",
            "+262000-01-01T00:00:00Z",
        ] {
            assert_eq!(of(text).unwrap_err().kind(), Kind::Invalid, "{text}");
        }
    }
}

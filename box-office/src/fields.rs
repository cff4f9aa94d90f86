//! Validation of input fields. Each refusal names the field and the expected form.

mod email;

use std::fmt::Display;
use std::ops::RangeInclusive;

use domain::text::is_invisible_control;
use platform::problem::{Kind, Problem};
use serde::{Deserialize, Deserializer};

pub(crate) use email::email;

/// Deserializes a present `null` as `Some(None)`, to distinguish it from a missing field.
pub(crate) fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<T>, D::Error> {
    T::deserialize(deserializer).map(Some)
}

/// The `invalid` problem for a field.
pub(crate) fn invalid(field: impl Display, detail: impl Into<String>) -> Problem {
    Problem::new(Kind::Invalid, detail).with("field", field.to_string())
}

/// Validates and trims one line of text of at most `max` characters; may be empty.
pub(crate) fn line(field: impl Display, text: &str, max: usize) -> Result<String, Problem> {
    let text = text.trim();
    if text.chars().count() > max {
        return Err(invalid(field, format!("At most {max} characters.")));
    }
    if text
        .chars()
        .any(|c| breaks_line(c) || is_invisible_control(c))
    {
        return Err(invalid(field, "One line without control characters."));
    }
    Ok(text.to_owned())
}

/// Returns true for control characters, line separators and paragraph separators.
fn breaks_line(c: char) -> bool {
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}')
}

/// Validates a person's name: one line without links, since it is shown in mails to others.
pub(crate) fn person(field: impl Display, text: &str, max: usize) -> Result<String, Problem> {
    let name = line(&field, text, max)?;
    let lower = name.to_lowercase();
    let is_link = |word: &str| {
        word.contains("://") || word.contains("www.") || (word.contains('.') && word.contains('/'))
    };
    if lower.split_whitespace().any(is_link) {
        return Err(invalid(field, "A name without links."));
    }
    Ok(name)
}

/// Validates and trims one non-empty line of text.
pub(crate) fn name(field: impl Display, text: &str, max: usize) -> Result<String, Problem> {
    let text = line(&field, text, max)?;
    if text.is_empty() {
        Err(invalid(field, format!("1 to {max} characters.")))
    } else {
        Ok(text)
    }
}

/// Validates and trims multi-line text of at most `max` characters; may be empty.
pub(crate) fn text(field: impl Display, text: &str, max: usize) -> Result<String, Problem> {
    let text = text.trim();
    if text.chars().count() > max {
        return Err(invalid(field, format!("At most {max} characters.")));
    }
    if text
        .chars()
        .any(|c| c.is_control() && !matches!(c, '\n' | '\r' | '\t'))
    {
        return Err(invalid(field, "Text without control characters."));
    }
    Ok(text.to_owned())
}

/// Validates a whole number within `bounds`.
pub(crate) fn number(
    field: impl Display,
    value: i64,
    bounds: RangeInclusive<u32>,
) -> Result<u32, Problem> {
    u32::try_from(value)
        .ok()
        .filter(|value| bounds.contains(value))
        .ok_or_else(|| {
            invalid(
                field,
                format!(
                    "A whole number from {} to {}.",
                    bounds.start(),
                    bounds.end()
                ),
            )
        })
}

/// Validates an ISO 3166 alpha-2 code and returns it in upper case; may be empty. Unassigned codes
/// are not refused.
pub(crate) fn country(field: impl Display, text: &str) -> Result<String, Problem> {
    let text = text.trim();
    if text.is_empty() || (text.len() == 2 && text.bytes().all(|b| b.is_ascii_alphabetic())) {
        Ok(text.to_ascii_uppercase())
    } else {
        Err(invalid(field, "Two letters such as NL."))
    }
}

/// Validates a phone number in E.164.
pub(crate) fn phone(field: impl Display, text: &str) -> Result<String, Problem> {
    let digits = text.strip_prefix('+').unwrap_or_default();
    let is_number = (7..=15).contains(&digits.len())
        && digits.bytes().all(|byte| byte.is_ascii_digit())
        && !digits.starts_with('0');
    if is_number {
        Ok(text.to_owned())
    } else {
        Err(invalid(
            field,
            "A number with its country code, such as +31201234567.",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_that_postgres_cannot_store_is_refused() {
        assert!(line("name", "a\0b", 10).is_err());
        assert!(text("description", "a\0b", 10).is_err());
        assert_eq!(text("description", " a\nb ", 10).unwrap(), "a\nb");
    }

    #[test]
    fn names_carry_no_links_and_turn_no_text() {
        for text in ["Ada Lovelace", "J.R.R. Tolkien", "عائشة", "Ada & Bob", ""] {
            assert_eq!(person("name", text, 200).unwrap(), text);
        }
        for text in [
            "WIN http://evil.example now",
            "WWW.evil.example",
            "see evil.example/x",
            "a\u{202E}b",
            "a\u{61C}b",
            "a\u{2028}b",
        ] {
            assert!(person("name", text, 200).is_err(), "{text} passed");
        }
    }

    #[test]
    fn phone_numbers_are_e164() {
        assert!(phone("phone", "+31201234567").is_ok());
        for text in [
            "",
            "+",
            "31201234567",
            "+0201234567",
            "+123456",
            "+1234567890123456",
            "+12 34567",
        ] {
            assert!(phone("phone", text).is_err(), "{text} passed");
        }
    }

    #[test]
    fn numbers_keep_their_bounds() {
        assert_eq!(number("n", 5, 5..=6).unwrap(), 5);
        for value in [4, 7, -1, i64::MAX] {
            assert!(number("n", value, 5..=6).is_err());
        }
    }
}

//! Bounds on what callers write. Each refusal names the field and says what is expected.

use std::fmt::Display;
use std::ops::RangeInclusive;

use platform::problem::{Kind, Problem};

/// Most addresses mail can go to are far shorter (RFC 5321).
const MAX_EMAIL_CHARS: usize = 254;
const MAX_LOCAL_PART_CHARS: usize = 64;
const MAX_DOMAIN_LABEL_CHARS: usize = 63;

/// A value that is out of its bounds.
pub(crate) fn invalid(field: impl Display, detail: impl Into<String>) -> Problem {
    Problem::new(Kind::Invalid, detail).with("field", field.to_string())
}

/// One line of text, trimmed, at most `max` characters; may be empty.
pub(crate) fn line(field: impl Display, text: &str, max: usize) -> Result<String, Problem> {
    let text = text.trim();
    if text.chars().count() > max {
        return Err(invalid(field, format!("At most {max} characters.")));
    }
    if text.chars().any(char::is_control) {
        return Err(invalid(field, "One line without control characters."));
    }
    Ok(text.to_owned())
}

/// One line of text that is not empty.
pub(crate) fn name(field: impl Display, text: &str, max: usize) -> Result<String, Problem> {
    let text = line(&field, text, max)?;
    if text.is_empty() {
        Err(invalid(field, format!("1 to {max} characters.")))
    } else {
        Ok(text)
    }
}

/// Text of several lines, at most `max` characters; may be empty.
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

/// A whole number within `bounds`.
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

/// An ISO 3166 country of two letters, in upper case; may be empty.
pub(crate) fn country(field: impl Display, text: &str) -> Result<String, Problem> {
    let text = text.trim();
    if text.is_empty() || (text.len() == 2 && text.bytes().all(|b| b.is_ascii_alphabetic())) {
        Ok(text.to_ascii_uppercase())
    } else {
        Err(invalid(field, "Two letters such as NL."))
    }
}

/// An address that a mail server would take: `local@domain` in ASCII.
pub(crate) fn email(field: impl Display, text: &str) -> Result<String, Problem> {
    let text = text.trim();
    if is_email(text) {
        Ok(text.to_owned())
    } else {
        Err(invalid(field, "An email address such as ada@example.org."))
    }
}

fn is_email(text: &str) -> bool {
    let Some((local, domain)) = text.rsplit_once('@') else {
        return false;
    };
    text.len() <= MAX_EMAIL_CHARS
        && (1..=MAX_LOCAL_PART_CHARS).contains(&local.len())
        && local
            .split('.')
            .all(|atom| !atom.is_empty() && atom.bytes().all(is_atom_byte))
        && domain.split('.').all(is_domain_label)
}

/// `atext` of RFC 5322.
fn is_atom_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte)
}

fn is_domain_label(label: &str) -> bool {
    (1..=MAX_DOMAIN_LABEL_CHARS).contains(&label.len())
        && label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

/// A phone number in E.164.
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
    fn addresses_that_mail_can_reach_pass() {
        for text in ["ada@example.org", "a.b+c@x.y-z.nl", "o'neil@localhost"] {
            assert!(email("email", text).is_ok(), "{text} was refused");
        }
    }

    #[test]
    fn addresses_that_mail_cannot_reach_are_refused() {
        let long = format!("{}@example.org", "a".repeat(65));
        for text in [
            "",
            "ada",
            "@x.org",
            "ada@",
            "a b@x.org",
            "a..b@x.org",
            "a@-x.org",
            "a@x..org",
            &long,
        ] {
            assert!(email("email", text).is_err(), "{text} passed");
        }
    }

    #[test]
    fn text_that_postgres_cannot_store_is_refused() {
        assert!(line("name", "a\0b", 10).is_err());
        assert!(text("description", "a\0b", 10).is_err());
        assert_eq!(text("description", " a\nb ", 10).unwrap(), "a\nb");
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

//! Validation of mail addresses: an ASCII local part, and a domain that is converted to A-labels.

use std::fmt::Display;

use platform::problem::Problem;
use url::Host;

use super::invalid;

/// Longest address that fits into a path of RFC 5321.
const MAX_CHARS: usize = 254;
const MAX_LOCAL_PART_CHARS: usize = 64;
const MAX_LABEL_CHARS: usize = 63;

/// Validates an address by the syntax of RFC 5321, without quoted local parts and address literals.
///
/// # Errors
/// `invalid`, with the reason.
pub(crate) fn email(field: impl Display, text: &str) -> Result<String, Problem> {
    read(text.trim()).map_err(|why| invalid(field, why))
}

fn read(text: &str) -> Result<String, &'static str> {
    let (local, domain) = text
        .rsplit_once('@')
        .ok_or("An email address such as ada@example.org.")?;
    let too_long = "An email address of at most 254 characters.";
    if text.chars().count() > MAX_CHARS {
        return Err(too_long);
    }
    check_local(local)?;
    let address = format!("{local}@{}", ascii(domain)?);
    // A-labels may be longer than the input.
    Some(address)
        .filter(|address| address.len() <= MAX_CHARS)
        .ok_or(too_long)
}

fn check_local(local: &str) -> Result<(), &'static str> {
    if local.is_empty() {
        return Err("The part before the @ is missing.");
    }
    if local.starts_with('"') {
        return Err("Quoted addresses are not supported.");
    }
    if !local.is_ascii() {
        return Err("Only ASCII characters are supported before the @.");
    }
    if local.len() > MAX_LOCAL_PART_CHARS {
        return Err("At most 64 characters before the @.");
    }
    if local.split('.').any(str::is_empty) {
        return Err("The part before the @ has a leading, trailing or double dot.");
    }
    if !local.bytes().all(|byte| byte == b'.' || is_atom_byte(byte)) {
        return Err("The part before the @ has an invalid character.");
    }
    Ok(())
}

/// `atext` of RFC 5322.
fn is_atom_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-/=?^_`{|}~".contains(&byte)
}

/// Returns an ASCII domain as given, and any other as its A-labels.
fn ascii(domain: &str) -> Result<String, &'static str> {
    let unknown = "A domain such as example.org must follow the @.";
    let number = "A domain must follow the @, not an IP address.";
    if domain.starts_with('[') {
        return Err(number);
    }
    let ascii = match Host::parse(domain) {
        Ok(Host::Domain(ascii)) => ascii,
        Ok(Host::Ipv4(_) | Host::Ipv6(_)) => return Err(number),
        Err(_) => return Err(unknown),
    };
    if !ascii.split('.').all(is_label) {
        return Err(unknown);
    }
    Ok(if domain.is_ascii() {
        domain.to_owned()
    } else {
        ascii
    })
}

fn is_label(label: &str) -> bool {
    (1..=MAX_LABEL_CHARS).contains(&label.len())
        && label
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
        && !label.starts_with('-')
        && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_mail_can_reach_pass() {
        for text in ["Ada@Example.org", "a.b+c@x.y-z.nl", "o'neil@localhost"] {
            assert_eq!(read(text), Ok(text.to_owned()));
        }
        let labels = read("ada@müller.example");
        assert_eq!(labels, Ok("ada@xn--mller-kva.example".to_owned()));
        assert!(read("ada@例え.example").is_ok());
    }

    #[test]
    fn each_fault_has_its_own_sentence() {
        let long = format!("{}@example.org", "a".repeat(65));
        let longer = format!("ada@{}org", "a.".repeat(130));
        let faults = [
            "ada",
            "@x.org",
            "\"a b\"@x.org",
            "用户@x.org",
            &long,
            "a..b@x.org",
            "a b@x.org",
            "ada@[192.0.2.1]",
            "a@-x.org",
            &longer,
        ];
        let mut sentences: Vec<_> = faults.map(|text| read(text).unwrap_err()).into();
        sentences.sort_unstable();
        sentences.dedup();
        assert_eq!(sentences.len(), faults.len(), "{sentences:?}");
        for text in ["", "ada@", "a@x..org", "root@127.0.0.1", "a.@x.org"] {
            assert!(read(text).is_err(), "{text} passed");
        }
    }
}

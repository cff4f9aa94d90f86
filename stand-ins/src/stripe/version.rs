//! `Stripe-Version`: a date, followed since September 2024 by the name of its major release.

use axum::http::HeaderMap;

use super::errors::Refusal;

/// The account's version, the default of requests, and the version of events.
pub(crate) const DEFAULT: &str = "2026-09-30.endive";
/// First version with a name.
const FIRST_NAMED: &str = "2024-09-30";

/// Name of the header, in requests and responses.
pub(crate) const HEADER: &str = "stripe-version";

/// Checks the version of a request; without one the account's holds.
pub(crate) fn check(headers: &HeaderMap) -> Result<(), Refusal> {
    let Some(header) = headers.get(HEADER) else {
        return Ok(());
    };
    let asked = header.to_str().unwrap_or_default();
    // Preview features follow a semicolon.
    let version = asked.split(';').next().unwrap_or_default().trim();
    if is_valid(version) {
        Ok(())
    } else {
        Err(Refusal::malformed(format!(
            "Invalid Stripe API version: {asked}"
        )))
    }
}

fn is_valid(version: &str) -> bool {
    let (date, name) = match version.split_once('.') {
        Some((date, name)) => (date, Some(name)),
        None => (version, None),
    };
    let is_date = date.len() == 10 && date.parse::<chrono::NaiveDate>().is_ok();
    let is_named = match name {
        None => date < FIRST_NAMED,
        Some(name) => {
            date >= FIRST_NAMED && !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase())
        }
    };
    is_date && is_named
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_a_date_with_a_name_since_versions_have_names() {
        for version in [
            DEFAULT,
            "2026-10-28.endive",
            "2023-10-16",
            "2024-09-30.acacia",
        ] {
            assert!(is_valid(version), "{version}");
        }
        for version in [
            "",
            "latest",
            "2026-09-30",
            "2026-13-30.endive",
            "2023-10-16.x",
            "1.0",
        ] {
            assert!(!is_valid(version), "{version}");
        }
    }
}

//! Durations in flags and environment variables, as plain numbers in the unit of the key's name.

use std::time::Duration;

/// Beyond it, a deadline computed from it could overflow. 136 years.
const MAX: Duration = Duration::from_secs(u32::MAX as u64);
/// A shorter interval would make its loop spin, a shorter timeout fail every call.
const MIN_POSITIVE: Duration = Duration::from_millis(10);

/// Parses a number of seconds, which may be 0 or have decimals, for `value_parser`.
///
/// # Errors
/// When it is not a number, negative or above 2³² - 1.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let number: f64 = text
        .parse()
        .map_err(|_| "not a number of seconds".to_owned())?;
    bounded(Duration::try_from_secs_f64(number).map_err(|error| error.to_string())?)
}

/// Parses a number of seconds of at least 0.01, for intervals and timeouts.
///
/// # Errors
/// When it is not a number, below 0.01 or above 2³² - 1.
pub fn positive_seconds(text: &str) -> Result<Duration, String> {
    let duration = seconds(text)?;
    if duration < MIN_POSITIVE {
        return Err("must be at least 0.01".to_owned());
    }
    Ok(duration)
}

/// Parses a whole number of milliseconds, which may be 0, for `value_parser`.
///
/// # Errors
/// When it is not a whole number, or more than 2³² - 1 seconds.
pub fn milliseconds(text: &str) -> Result<Duration, String> {
    let number: u64 = text
        .parse()
        .map_err(|_| "not a whole number of milliseconds".to_owned())?;
    bounded(Duration::from_millis(number))
}

fn bounded(duration: Duration) -> Result<Duration, String> {
    if duration > MAX {
        return Err(format!("must be at most {} seconds", MAX.as_secs()));
    }
    Ok(duration)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_in_the_unit_of_its_key() {
        assert_eq!(seconds("15"), Ok(Duration::from_secs(15)));
        assert_eq!(seconds("0"), Ok(Duration::ZERO));
        assert_eq!(seconds("0.25"), Ok(Duration::from_millis(250)));
        assert_eq!(positive_seconds("0.01"), Ok(Duration::from_millis(10)));
        assert_eq!(milliseconds("2000"), Ok(Duration::from_secs(2)));
    }

    #[test]
    fn what_no_deadline_can_be_computed_from_is_refused() {
        for text in ["", "ten", "-1", "NaN", "inf", "1e30", "4294967296"] {
            assert!(seconds(text).is_err(), "{text}");
        }
        for text in ["0", "0.001", "-1"] {
            assert!(positive_seconds(text).is_err(), "{text}");
        }
        for text in ["1.5", "-1", "18446744073709551615"] {
            assert!(milliseconds(text).is_err(), "{text}");
        }
    }
}

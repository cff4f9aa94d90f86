//! Money: whole minor units and a currency, never a float.

use std::fmt;

use serde::{Deserialize, Serialize};

/// An ISO 4217 currency code, kept in lower case as Stripe writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Currency([u8; 3]);

/// A text that is not three ASCII letters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a currency is three letters such as eur")]
pub struct InvalidCurrency;

impl Currency {
    /// The euro.
    pub const EUR: Self = Self(*b"eur");

    /// The three lower-case letters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("only ASCII letters are ever stored")
    }
}

impl TryFrom<&str> for Currency {
    type Error = InvalidCurrency;

    fn try_from(text: &str) -> Result<Self, Self::Error> {
        let bytes: [u8; 3] = text.as_bytes().try_into().map_err(|_| InvalidCurrency)?;
        if bytes.iter().all(u8::is_ascii_alphabetic) {
            Ok(Self(bytes.map(|letter| letter.to_ascii_lowercase())))
        } else {
            Err(InvalidCurrency)
        }
    }
}

impl TryFrom<String> for Currency {
    type Error = InvalidCurrency;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::try_from(text.as_str())
    }
}

impl From<Currency> for String {
    fn from(currency: Currency) -> Self {
        currency.as_str().to_owned()
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// An amount in one currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Money {
    /// Whole minor units (cents); never negative in Onsale.
    pub amount_minor: i64,
    /// The currency.
    pub currency: Currency,
}

impl Money {
    /// An amount of `amount_minor` minor units.
    #[must_use]
    pub fn new(amount_minor: i64, currency: Currency) -> Self {
        Self {
            amount_minor,
            currency,
        }
    }

    /// `count` times this amount; `None` when it does not fit.
    #[must_use]
    pub fn times(self, count: u32) -> Option<Self> {
        let amount_minor = self.amount_minor.checked_mul(i64::from(count))?;
        Some(Self {
            amount_minor,
            ..self
        })
    }

    /// Whether nothing is due.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.amount_minor == 0
    }

    /// How many minor units make one unit of the currency, as a power of ten
    /// (ISO 4217; Stripe's lists of zero- and three-decimal currencies).
    fn exponent(self) -> u32 {
        match self.currency.as_str() {
            "bif" | "clp" | "djf" | "gnf" | "jpy" | "kmf" | "krw" | "mga" | "pyg" | "rwf"
            | "ugx" | "vnd" | "vuv" | "xaf" | "xof" | "xpf" => 0,
            "bhd" | "jod" | "kwd" | "omr" | "tnd" => 3,
            _ => 2,
        }
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.currency.as_str().to_ascii_uppercase();
        let exponent = self.exponent();
        if exponent == 0 {
            return write!(f, "{} {code}", self.amount_minor);
        }
        let unit = 10_i64.pow(exponent);
        let (whole, rest) = (self.amount_minor / unit, (self.amount_minor % unit).abs());
        write!(
            f,
            "{whole}.{rest:0width$} {code}",
            width = exponent as usize
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn money_is_written_with_the_decimals_of_its_currency() {
        let yen = Currency::try_from("JPY").unwrap();
        let dinar = Currency::try_from("kwd").unwrap();
        assert_eq!(Money::new(4505, Currency::EUR).to_string(), "45.05 EUR");
        assert_eq!(Money::new(4505, yen).to_string(), "4505 JPY");
        assert_eq!(Money::new(4505, dinar).to_string(), "4.505 KWD");
    }

    #[test]
    fn a_currency_is_three_letters() {
        assert_eq!(Currency::try_from("eu"), Err(InvalidCurrency));
        assert_eq!(Currency::try_from("e1r"), Err(InvalidCurrency));
    }

    #[test]
    fn an_amount_that_does_not_fit_is_refused() {
        assert_eq!(Money::new(i64::MAX, Currency::EUR).times(2), None);
    }
}

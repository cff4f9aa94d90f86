//! Money: whole minor units and a currency, never a float.
//!
//! `amount_minor` counts the unit that [`Rules::digits`] says, everywhere: in the API, the
//! database, messages, mails and pages. Stripe's own unit exists only at Stripe's door, as
//! [`Wire`].

mod currencies;

use std::fmt;

use serde::{Deserialize, Serialize};

pub use currencies::Rules;

/// An ISO 4217 currency code, in lower case as Stripe writes it.
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

    /// Its units and bounds; `None` when Stripe does not charge it, as may be the case for
    /// what was stored before it was checked.
    #[must_use]
    pub fn rules(self) -> Option<&'static Rules> {
        currencies::TABLE
            .binary_search_by(|rules| rules.currency.0.cmp(&self.0))
            .ok()
            .map(|found| &currencies::TABLE[found])
    }

    /// Every currency that can be charged, sorted by code.
    pub fn all() -> impl Iterator<Item = &'static Rules> {
        currencies::TABLE.iter()
    }

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

    /// Returns whether it is zero.
    #[must_use]
    pub fn is_zero(self) -> bool {
        self.amount_minor == 0
    }

    /// Returns whether Stripe accepts a charge of this amount, or it is zero.
    ///
    /// # Errors
    /// The first bound that it breaks.
    pub fn chargeable(self) -> Result<(), NotChargeable> {
        let rules = self
            .currency
            .rules()
            .ok_or(NotChargeable::UnknownCurrency(self.currency))?;
        let bound = |amount_minor| Self {
            amount_minor,
            ..self
        };
        match self.amount_minor {
            0 => Ok(()),
            amount if amount < rules.minimum => {
                Err(NotChargeable::BelowMinimum(bound(rules.minimum)))
            }
            amount if amount > rules.maximum => {
                Err(NotChargeable::AboveMaximum(bound(rules.maximum)))
            }
            amount if amount % rules.step != 0 => Err(NotChargeable::NotOfStep(bound(rules.step))),
            _ => Ok(()),
        }
    }

    /// The next smaller amount that can be moved: a multiple of the currency's step.
    #[must_use]
    pub fn rounded_down(self) -> Self {
        let step = self.currency.rules().map_or(1, |rules| rules.step);
        Self {
            amount_minor: self.amount_minor - self.amount_minor.rem_euclid(step),
            ..self
        }
    }
}

/// Why an amount can't be charged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotChargeable {
    /// Stripe does not know the currency.
    #[error("{0} is no currency that can be charged")]
    UnknownCurrency(Currency),
    /// Below the smallest charge.
    #[error("the smallest charge is {0}")]
    BelowMinimum(Money),
    /// Above the largest charge.
    #[error("the largest charge is {0}")]
    AboveMaximum(Money),
    /// Not a multiple of the currency's step.
    #[error("the amount must be a multiple of {0}")]
    NotOfStep(Money),
}

/// An amount as Stripe's API has it in `amount`: the only number that is not in minor units.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Wire(pub i64);

impl Wire {
    /// This amount in minor units of `currency`; a fraction of one is dropped.
    #[must_use]
    pub fn minor(self, currency: Currency) -> i64 {
        self.0 / factor(currency)
    }
}

impl From<Money> for Wire {
    fn from(money: Money) -> Self {
        Self(money.amount_minor.saturating_mul(factor(money.currency)))
    }
}

fn factor(currency: Currency) -> i64 {
    currency.rules().map_or(1, |rules| rules.wire_factor)
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let code = self.currency.as_str().to_ascii_uppercase();
        let rules = self.currency.rules();
        let digits = rules.map_or(2, |rules| rules.digits);
        let shown = rules.map_or(digits, Rules::shown_digits);
        let unit = 10_i64.pow(digits);
        let (whole, rest) = (self.amount_minor / unit, (self.amount_minor % unit).abs());
        if rest == 0 && shown == 0 {
            return write!(f, "{whole} {code}");
        }
        write!(f, "{whole}.{rest:0width$} {code}", width = digits as usize)
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
        let krona = Currency::try_from("isk").unwrap();
        assert_eq!(Money::new(350_000, krona).to_string(), "3500 ISK");
        assert_eq!(Money::new(350_050, krona).to_string(), "3500.50 ISK");
        let unknown = Currency::try_from("zzz").unwrap();
        assert_eq!(Money::new(4505, unknown).to_string(), "45.05 ZZZ");
    }

    #[test]
    fn what_stripe_refuses_is_refused_with_the_bound() {
        let check =
            |amount, code| Money::new(amount, Currency::try_from(code).unwrap()).chargeable();
        let bound = |amount, code| Money::new(amount, Currency::try_from(code).unwrap());
        assert_eq!(check(0, "eur"), Ok(()));
        assert_eq!(check(50, "eur"), Ok(()));
        assert_eq!(
            check(49, "eur"),
            Err(NotChargeable::BelowMinimum(bound(50, "eur")))
        );
        assert_eq!(
            check(4_505, "kwd"),
            Err(NotChargeable::NotOfStep(bound(10, "kwd")))
        );
        assert_eq!(check(4_510, "kwd"), Ok(()));
        assert_eq!(
            check(350_050, "isk"),
            Err(NotChargeable::NotOfStep(bound(100, "isk")))
        );
        let largest = NotChargeable::AboveMaximum(bound(99_999_999, "eur"));
        assert_eq!(check(100_000_000, "eur"), Err(largest));
        assert_eq!(check(100_000_000, "idr"), Ok(()));
        for unknown in ["zzz", "iqd", "irr", "uyw"] {
            let code = Currency::try_from(unknown).unwrap();
            assert_eq!(check(0, unknown), Err(NotChargeable::UnknownCurrency(code)));
        }
    }

    #[test]
    fn stripes_unit_is_another_one_for_ugx_alone() {
        for rules in Currency::all() {
            let money = Money::new(rules.minimum, rules.currency);
            let factor = if rules.currency.as_str() == "ugx" {
                100
            } else {
                1
            };
            assert_eq!(Wire::from(money), Wire(rules.minimum * factor));
            assert_eq!(Wire::from(money).minor(rules.currency), rules.minimum);
        }
    }

    #[test]
    fn an_amount_is_rounded_down_to_what_can_be_moved() {
        let dinar = Currency::try_from("kwd").unwrap();
        assert_eq!(Money::new(1_357, dinar).rounded_down().amount_minor, 1_350);
        assert_eq!(
            Money::new(1_357, Currency::EUR).rounded_down().amount_minor,
            1_357
        );
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

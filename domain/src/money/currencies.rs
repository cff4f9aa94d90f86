//! Table of the currencies that Stripe charges, with their units and bounds.
//!
//! Sources: <https://docs.stripe.com/currencies> (presentment currencies, minor units,
//! zero-decimal currencies, special cases, minimum and maximum charge amounts; the revision
//! current on 27 November 2026), the `amount` parameter of
//! <https://docs.stripe.com/api/payment_intents/create>, and for the last digit of three-decimal
//! currencies the revision of the first page of 31 December 2022, as the current one is silent.
//!
//! Where they leave a choice:
//! - **UGX** is in the list of zero-decimal currencies and also a special case that is sent as two
//!   decimals, always `00`. The special case is the more exact statement: `500` charges 5 UGX.
//! - **HUF** and **TWD** are whole only in payouts; charges have two decimals.
//! - **Minimum**: that of the currency where the page has one. The others must reach the minimum
//!   of the account's settlement currency after conversion, which no table can know; there the
//!   smallest amount is the bound, and a refusal by Stripe a finding.
//! - **Maximum**: the API reference has eight digits, the page the exceptions for IDR, INR, COP,
//!   and by card HUF, JPY and LBP, and its newest revision twelve digits by card, nine by American
//!   Express. The table has eight digits and those exceptions, and nine where eight are no more
//!   than the price of a few good seats.

use super::Currency;

/// Units and bounds of one currency. Amounts are in minor units, as in
/// [`Money`](super::Money).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// The currency.
    pub currency: Currency,
    /// Decimals of the minor unit: 2 where it is a hundredth.
    pub digits: u32,
    /// Every amount that is charged or refunded is a multiple of it.
    pub step: i64,
    /// The smallest charge.
    pub minimum: i64,
    /// The largest charge.
    pub maximum: i64,
    /// Stripe's `amount` per minor unit.
    pub wire_factor: i64,
}

impl Rules {
    const fn new(code: &[u8; 3], digits: u32, step: i64) -> Self {
        Self {
            currency: Currency(*code),
            digits,
            step,
            minimum: step,
            maximum: 99_999_999 / step * step,
            wire_factor: 1,
        }
    }

    const fn from(self, minimum: i64) -> Self {
        Self { minimum, ..self }
    }

    /// With a maximum of so many digits in Stripe's `amount`.
    const fn digits(self, digits: u32) -> Self {
        let largest = (10_i64.pow(digits) - 1) / self.wire_factor;
        Self {
            maximum: largest / self.step * self.step,
            ..self
        }
    }

    /// Decimals shown for a whole amount: none where fractions are never charged.
    #[must_use]
    pub const fn shown_digits(&self) -> u32 {
        if self.step == 10_i64.pow(self.digits) {
            0
        } else {
            self.digits
        }
    }
}

/// Two decimals.
const fn two(code: &[u8; 3]) -> Rules {
    Rules::new(code, 2, 1)
}

/// No decimals.
const fn zero(code: &[u8; 3]) -> Rules {
    Rules::new(code, 0, 1)
}

/// Three decimals, of which the last is always 0.
const fn three(code: &[u8; 3]) -> Rules {
    Rules::new(code, 3, 10)
}

/// Two decimals, always 00.
const fn whole(code: &[u8; 3]) -> Rules {
    Rules::new(code, 2, 100)
}

/// No decimals here, two at Stripe.
const fn hundredfold(code: &[u8; 3]) -> Rules {
    Rules {
        wire_factor: 100,
        ..zero(code)
    }
    .digits(8)
}

/// Every currency that can be charged, sorted by code.
pub(super) const TABLE: &[Rules] = &[
    two(b"aed").from(200),
    two(b"afn"),
    two(b"all"),
    two(b"amd"),
    two(b"ang"),
    two(b"aoa"),
    two(b"ars").from(50).digits(9),
    two(b"aud").from(50),
    two(b"awg"),
    two(b"azn"),
    two(b"bam"),
    two(b"bbd"),
    two(b"bdt"),
    three(b"bhd"),
    zero(b"bif"),
    two(b"bmd"),
    two(b"bnd"),
    two(b"bob"),
    two(b"brl").from(50),
    two(b"bsd"),
    two(b"bwp"),
    two(b"byn"),
    two(b"bzd"),
    two(b"cad").from(50),
    two(b"cdf").digits(9),
    two(b"chf").from(50),
    zero(b"clp"),
    two(b"cny"),
    two(b"cop").from(50).digits(10),
    two(b"crc"),
    two(b"cve"),
    two(b"czk").from(1_500),
    zero(b"djf"),
    two(b"dkk").from(250),
    two(b"dop"),
    two(b"dzd"),
    two(b"egp"),
    two(b"etb"),
    two(b"eur").from(50),
    two(b"fjd"),
    two(b"fkp"),
    two(b"gbp").from(30),
    two(b"gel"),
    two(b"gip"),
    two(b"gmd"),
    zero(b"gnf"),
    two(b"gtq"),
    two(b"gyd"),
    two(b"hkd").from(400),
    two(b"hnl"),
    two(b"htg"),
    two(b"huf").from(17_500).digits(10),
    two(b"idr").from(50).digits(12),
    two(b"ils").from(50),
    two(b"inr").from(50).digits(9),
    whole(b"isk"),
    two(b"jmd"),
    three(b"jod"),
    zero(b"jpy").from(50).digits(10),
    two(b"kes"),
    two(b"kgs"),
    two(b"khr").digits(9),
    zero(b"kmf"),
    zero(b"krw").from(50),
    three(b"kwd"),
    two(b"kyd"),
    two(b"kzt"),
    two(b"lak").digits(9),
    two(b"lbp").digits(11),
    two(b"lkr"),
    two(b"lrd"),
    two(b"lsl"),
    two(b"mad"),
    two(b"mdl"),
    zero(b"mga"),
    two(b"mkd"),
    two(b"mmk").digits(9),
    two(b"mnt").digits(9),
    two(b"mop"),
    two(b"mur"),
    two(b"mvr"),
    two(b"mwk").digits(9),
    two(b"mxn").from(1_000),
    two(b"myr").from(200),
    two(b"mzn"),
    two(b"nad"),
    two(b"ngn").digits(9),
    two(b"nio"),
    two(b"nok").from(300),
    two(b"npr"),
    two(b"nzd").from(50),
    three(b"omr"),
    two(b"pab"),
    two(b"pen"),
    two(b"pgk"),
    two(b"php").from(50),
    two(b"pkr"),
    two(b"pln").from(200),
    zero(b"pyg"),
    two(b"qar"),
    two(b"ron").from(200),
    two(b"rsd"),
    two(b"rub").from(50),
    zero(b"rwf"),
    two(b"sar"),
    two(b"sbd"),
    two(b"scr"),
    two(b"sek").from(300),
    two(b"sgd").from(50),
    two(b"shp"),
    two(b"sle"),
    two(b"sos"),
    two(b"srd"),
    two(b"std"),
    two(b"szl"),
    two(b"thb").from(1_000),
    two(b"tjs"),
    three(b"tnd"),
    two(b"top"),
    two(b"try"),
    two(b"ttd"),
    two(b"twd"),
    two(b"tzs").digits(9),
    two(b"uah"),
    hundredfold(b"ugx").digits(9),
    two(b"usd").from(50),
    two(b"uyu"),
    two(b"uzs").digits(9),
    zero(b"vnd"),
    zero(b"vuv"),
    two(b"wst"),
    zero(b"xaf"),
    two(b"xcd"),
    two(b"xcg"),
    zero(b"xof"),
    zero(b"xpf"),
    two(b"yer"),
    two(b"zar").from(50),
    two(b"zmw"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_its_bounds_are_multiples_of_the_step() {
        assert!(TABLE.is_sorted_by(|a, b| a.currency.as_str() < b.currency.as_str()));
        for rules in TABLE {
            assert_eq!(rules.minimum % rules.step, 0, "{}", rules.currency);
            assert_eq!(rules.maximum % rules.step, 0, "{}", rules.currency);
            assert!(rules.minimum < rules.maximum, "{}", rules.currency);
        }
    }
}

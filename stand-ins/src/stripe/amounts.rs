//! Stripe's rules of amounts: currencies, units, steps, minimum and maximum charges.
//!
//! Transcribed from <https://docs.stripe.com/currencies> independently of the program's own table,
//! so that tests can compare the two.

use super::errors::Refusal;

/// Presentment currencies.
const CURRENCIES: &str = "usd aed afn all amd ang aoa ars aud awg azn bam bbd bdt bhd bif bmd bnd \
    bob brl bsd bwp byn bzd cad cdf chf clp cny cop crc cve czk djf dkk dop dzd egp etb eur fjd \
    fkp gbp gel gip gmd gnf gtq gyd hkd hnl htg huf idr ils inr isk jmd jod jpy kes kgs khr kmf \
    krw kwd kyd kzt lak lbp lkr lrd lsl mad mdl mga mkd mmk mnt mop mur mvr mwk mxn myr mzn nad \
    ngn nio nok npr nzd omr pab pen pgk php pkr pln pyg qar ron rsd rub rwf sar sbd scr sek sgd \
    shp sle sos srd std szl thb tjs tnd top try ttd twd tzs uah ugx uyu uzs vnd vuv wst xaf xcd \
    xcg xof xpf yer zar zmw";
const ZERO_DECIMAL: [&str; 15] = [
    "bif", "clp", "djf", "gnf", "jpy", "kmf", "krw", "mga", "pyg", "rwf", "vnd", "vuv", "xaf",
    "xof", "xpf",
];
/// Three-decimal currencies; the last digit must be 0.
const THREE_DECIMAL: [&str; 5] = ["bhd", "jod", "kwd", "omr", "tnd"];
/// Currencies without fractions that are sent with two decimals, always 00.
const NO_FRACTIONS: [&str; 2] = ["isk", "ugx"];
/// Minimum charges, as documented.
const MINIMA: [(&str, &str); 31] = [
    ("usd", "0.50"),
    ("aed", "2.00"),
    ("ars", "0.50"),
    ("aud", "0.50"),
    ("brl", "0.50"),
    ("cad", "0.50"),
    ("chf", "0.50"),
    ("cop", "0.50"),
    ("czk", "15.00"),
    ("dkk", "2.50"),
    ("eur", "0.50"),
    ("gbp", "0.30"),
    ("hkd", "4.00"),
    ("huf", "175.00"),
    ("idr", "0.50"),
    ("ils", "0.50"),
    ("inr", "0.50"),
    ("jpy", "50"),
    ("krw", "50"),
    ("mxn", "10.00"),
    ("myr", "2.00"),
    ("nok", "3.00"),
    ("nzd", "0.50"),
    ("php", "0.50"),
    ("pln", "2.00"),
    ("ron", "2.00"),
    ("rub", "0.50"),
    ("sek", "3.00"),
    ("sgd", "0.50"),
    ("thb", "10.00"),
    ("zar", "0.50"),
];
/// Maximum digits of `amount`, where more than eight are allowed.
const MORE_DIGITS: [(&str, u32); 17] = [
    ("idr", 12),
    ("lbp", 11),
    ("cop", 10),
    ("huf", 10),
    ("jpy", 10),
    ("inr", 9),
    ("ars", 9),
    ("cdf", 9),
    ("khr", 9),
    ("lak", 9),
    ("mmk", 9),
    ("mnt", 9),
    ("mwk", 9),
    ("ngn", 9),
    ("tzs", 9),
    ("ugx", 9),
    ("uzs", 9),
];

/// Returns the currency in lower case, if it can be charged.
pub(crate) fn currency(text: &str) -> Result<String, Refusal> {
    let currency = text.to_ascii_lowercase();
    if CURRENCIES.split(' ').any(|known| known == currency) {
        return Ok(currency);
    }
    let message = format!(
        "Invalid currency: {text}. Stripe currently supports these currencies: {}",
        CURRENCIES.replace(' ', ", ")
    );
    Err(Refusal::invalid("currency", message))
}

/// Checks the amount of a charge.
pub(crate) fn charge(param: &str, amount: i64, currency: &str) -> Result<(), Refusal> {
    let bound = |code: &str, what: &str, bound: i64| {
        let message = format!(
            "Amount must be {what} {} {currency}",
            shown(bound, currency)
        );
        Err(Refusal::parameter(code, param, message))
    };
    let (minimum, maximum) = (minimum(currency), maximum(currency));
    if amount < minimum {
        return bound("amount_too_small", "at least", minimum);
    }
    if amount > maximum {
        return bound("amount_too_large", "no more than", maximum);
    }
    part(param, amount, currency)
}

/// Checks the step of an amount, which may be a part of a charge.
pub(crate) fn part(param: &str, amount: i64, currency: &str) -> Result<(), Refusal> {
    let step = if NO_FRACTIONS.contains(&currency) {
        100
    } else if THREE_DECIMAL.contains(&currency) {
        10
    } else {
        1
    };
    if amount % step == 0 {
        return Ok(());
    }
    let message = format!("Invalid amount: {currency} takes multiples of {step}, not {amount}.");
    Err(Refusal::parameter("invalid_charge_amount", param, message))
}

fn minimum(currency: &str) -> i64 {
    let listed = MINIMA.iter().find(|(code, _)| *code == currency);
    listed.map_or(1, |(_, amount)| {
        let digits: String = amount.chars().filter(char::is_ascii_digit).collect();
        digits.parse().expect("the table has numbers only")
    })
}

fn maximum(currency: &str) -> i64 {
    let listed = MORE_DIGITS.iter().find(|(code, _)| *code == currency);
    10_i64.pow(listed.map_or(8, |(_, digits)| *digits)) - 1
}

/// Formats an amount for people, without its currency.
pub(crate) fn shown(amount: i64, currency: &str) -> String {
    let digits = if ZERO_DECIMAL.contains(&currency) {
        return amount.to_string();
    } else if THREE_DECIMAL.contains(&currency) {
        3
    } else {
        2
    };
    let unit = 10_i64.pow(digits);
    let width = digits as usize;
    format!("{}.{:0width$}", amount / unit, amount % unit)
}

//! One table for all: what people read on pages and in mails is what Stripe charges.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use domain::{Currency, Money, Wire};

/// From <https://docs.stripe.com/currencies>: not two decimals in the API.
const ZERO_DECIMAL: &str = "bif clp djf gnf jpy kmf krw mga pyg rwf vnd vuv xaf xof xpf";
const THREE_DECIMAL: &str = "bhd jod kwd omr tnd";
/// Special cases: to charge 5 of them, `amount` is 500, and no fractions are charged.
const WHOLE: &str = "isk ugx";
/// Formatted amounts of 1.5 million minor units, for currencies that were once wrong.
const MISREAD: &str = "huf idr cop pkr lbp afn all lak mmk sos yer eur";

fn currency(code: &str) -> Currency {
    Currency::try_from(code).unwrap()
}

/// `1234.50` of `1234.50 EUR`.
fn number(money: Money) -> String {
    money.to_string().split(' ').next().unwrap().to_owned()
}

/// An amount as a number of hundredths of hundredths, whatever its decimals.
fn value(text: &str) -> i128 {
    let (whole, rest) = text.split_once('.').unwrap_or((text, ""));
    format!("{whole}{rest:0<4}").parse().unwrap()
}

/// The value of a Stripe `amount`, by its documentation alone.
fn charged(code: &str, amount: i64) -> i128 {
    let has = |list: &str| list.split(' ').any(|one| one == code);
    let parts = if has(ZERO_DECIMAL) {
        10_000
    } else if has(THREE_DECIMAL) {
        10
    } else {
        100
    };
    i128::from(amount) * parts
}

fn samples() -> Vec<Money> {
    let amounts = |rules: &'static domain::money::Rules| {
        [rules.minimum, 1_500_000, rules.maximum]
            .map(|amount| Money::new(amount, rules.currency).rounded_down())
    };
    Currency::all().flat_map(amounts).collect()
}

#[test]
fn what_a_mail_says_is_what_stripe_charges_in_every_currency() {
    assert_eq!(Currency::all().count(), 139);
    for money in samples() {
        let wire = Wire::from(money).0;
        let code = money.currency.as_str();
        assert_eq!(value(&number(money)), charged(code, wire), "{money}");
        assert_eq!(Wire(wire).minor(money.currency), money.amount_minor);
        if WHOLE.contains(code) {
            assert_eq!(wire % 100, 0, "{money}");
        }
        if THREE_DECIMAL.contains(code) {
            assert_eq!(wire % 10, 0, "{money}");
        }
    }
    for code in MISREAD.split(' ') {
        let money = Money::new(1_500_000, currency(code));
        assert_eq!(value(&number(money)), value("15000"), "{money}");
    }
    assert_eq!(
        Wire::from(Money::new(38_000, currency("ugx"))),
        Wire(3_800_000)
    );
}

#[test]
fn what_a_page_says_is_what_a_mail_says_in_every_currency() {
    let Some(shown) = on_the_page(&samples()) else {
        assert!(
            std::env::var_os("CI").is_none(),
            "node is needed for this test"
        );
        {
            eprintln!("skipped: there is no node to run the page's module");
        }
        return;
    };
    for (money, shown) in samples().into_iter().zip(shown) {
        let digits: String = shown
            .chars()
            .filter(|letter| letter.is_ascii_digit() || *letter == '.')
            .collect();
        assert_eq!(
            digits.trim_matches('.'),
            number(money),
            "{shown:?} and {money}"
        );
    }
}

/// These amounts as formatted by the page's own module; `None` without node.
fn on_the_page(amounts: &[Money]) -> Option<Vec<String>> {
    let module = web("api.js");
    let amounts = serde_json::to_string(amounts).unwrap();
    let script = format!(
        "import {{ money }} from {:?};\nfor (const one of {amounts}) console.log(money(one));",
        module.to_str().unwrap()
    );
    let mut node = Command::new("node");
    node.args(["--input-type=module", "--eval", &script]);
    let output = node.env("LC_ALL", "en_US.UTF-8").output().ok()?;
    let failure = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{failure}");
    let text = String::from_utf8(output.stdout).unwrap();
    Some(text.lines().map(str::to_owned).collect())
}

fn web(file: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../web/shared/assets", file]
        .iter()
        .collect()
}

#[test]
fn the_pages_table_is_made_from_the_programs() {
    let mut module = "// Generated from domain/src/money/currencies.rs by its tests; do not edit.\n\n\
         /** Decimals of the unit that `amount_minor` counts, and those shown of a whole amount. */\n\
         export const CURRENCIES = {\n"
        .to_owned();
    for rules in Currency::all() {
        let (digits, shown) = (rules.digits, rules.shown_digits());
        writeln!(module, "  {}: [{digits}, {shown}],", rules.currency).unwrap();
    }
    module.push_str("};\n");
    let path = web("currencies.js");
    if std::env::var_os("ONSALE_UPDATE").is_some() {
        fs::write(&path, &module).unwrap();
    }
    let stored = fs::read_to_string(&path).unwrap();
    assert_eq!(stored, module, "run this test with ONSALE_UPDATE=1");
}

#[test]
fn no_currency_is_twice_in_a_list_of_exceptions() {
    let mut seen = HashMap::new();
    for list in [ZERO_DECIMAL, THREE_DECIMAL, WHOLE] {
        for code in list.split(' ') {
            assert!(currency(code).rules().is_some(), "{code}");
            assert!(seen.insert(code, list).is_none(), "{code}");
        }
    }
}

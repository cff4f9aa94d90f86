//! Random ids in Stripe's format.

use rand::Rng;
use rand::distr::Alphanumeric;

/// Returns `prefix` followed by `length` random letters and digits.
///
/// Never seeded: two stand-ins with the same seed must not issue the same ids, because they may
/// share a database.
pub(crate) fn random(prefix: &str, length: usize) -> String {
    let tail = rand::rng()
        .sample_iter(Alphanumeric)
        .take(length)
        .map(char::from);
    prefix.chars().chain(tail).collect()
}

pub(crate) fn payment_intent() -> String {
    random("pi_3", 23)
}

pub(crate) fn client_secret(payment_intent: &str) -> String {
    random(&format!("{payment_intent}_secret_"), 25)
}

pub(crate) fn charge() -> String {
    random("ch_3", 23)
}

pub(crate) fn payment_method() -> String {
    random("pm_1", 23)
}

pub(crate) fn customer() -> String {
    random("cus_", 14)
}

pub(crate) fn refund() -> String {
    random("re_3", 23)
}

pub(crate) fn event() -> String {
    random("evt_1", 23)
}

pub(crate) fn request() -> String {
    random("req_", 14)
}

pub(crate) fn dispute() -> String {
    random("du_1", 23)
}

//! `GET /v1/balance`, and refunds pending until the balance covers them.

use std::collections::BTreeMap;

use serde_json::json;

use super::ledger::{Books, Effect};
use super::model::{Refund, RefundStatus};
use super::refunds;

/// `GET /v1/balance`: returns the available balance by currency.
pub(crate) fn retrieve() -> Effect {
    Box::new(|books| {
        let amounts = books.balance.clone().unwrap_or_else(|| net(books));
        let available: Vec<_> = amounts
            .iter()
            .map(|(currency, amount)| {
                json!({ "amount": amount, "currency": currency, "source_types": { "card": amount } })
            })
            .collect();
        Ok(json!({
            "object": "balance",
            "available": available,
            "livemode": false,
            "pending": [],
        }))
    })
}

/// `GET /v1/account`: returns a fixed account.
pub(crate) fn account() -> Effect {
    Box::new(|_| {
        Ok(json!({
            "id": "acct_standin",
            "object": "account",
            "charges_enabled": true,
            "country": "US",
            "default_currency": "usd",
            "details_submitted": true,
            "email": null,
            "payouts_enabled": true,
            "type": "standard",
        }))
    })
}

/// Sums captures minus refunds, which is the balance while nothing has been paid out.
fn net(books: &Books) -> BTreeMap<String, i64> {
    let mut amounts = BTreeMap::new();
    for charge in books.charges.iter() {
        let net = charge.amount_captured - charge.amount_refunded;
        *amounts.entry(charge.currency.clone()).or_default() += net;
    }
    amounts
}

/// Returns whether the balance covers a refund.
pub(crate) fn covers(books: &Books, currency: &str, amount: i64) -> bool {
    books.balance.as_ref().is_none_or(|balance| {
        balance
            .get(currency)
            .is_some_and(|available| *available >= amount)
    })
}

/// Adds to the balance, and settles refunds waiting for it, oldest first.
pub(crate) fn add(books: &mut Books, currency: &str, amount: i64) {
    let Some(balance) = &mut books.balance else {
        return;
    };
    *balance.entry(currency.to_owned()).or_default() += amount;
    while let Some((id, amount)) = next_waiting(books, currency) {
        if !covers(books, currency, amount) {
            return;
        }
        if let Some(balance) = &mut books.balance {
            *balance.entry(currency.to_owned()).or_default() -= amount;
        }
        refunds::settle(books, &id, RefundStatus::Succeeded);
    }
}

fn next_waiting(books: &Books, currency: &str) -> Option<(String, i64)> {
    let waits = |refund: &&Refund| refund.waits_for_balance && refund.currency == currency;
    let refund = books.refunds.iter().find(waits)?;
    Some((refund.id.clone(), refund.amount))
}

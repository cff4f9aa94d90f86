//! Reads accounts from the public views of box-office and the booking worker.

use std::collections::HashSet;

use domain::{AccountId, EventId};
use sqlx::PgPool;

/// Returns whether the account exists. Visitors have none.
pub(crate) async fn exists(db: &PgPool, id: AccountId) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar!(
        r#"select exists (select from box_office.public_accounts where account_id = $1) as "yes!""#,
        id.0,
    )
    .fetch_one(db)
    .await
}

/// Returns those of `accounts` that have reached the event's limit of tickets per account.
pub(crate) async fn full(
    db: &PgPool,
    event_id: EventId,
    accounts: &[AccountId],
) -> Result<HashSet<AccountId>, sqlx::Error> {
    if accounts.is_empty() {
        return Ok(HashSet::new());
    }
    let ids: Vec<_> = accounts.iter().map(|account| account.0).collect();
    let full = sqlx::query_scalar!(
        r#"select account_id as "id!" from booking.public_full_accounts
           where event_id = $1 and account_id = any($2)"#,
        event_id.0,
        &ids,
    )
    .fetch_all(db)
    .await?;
    Ok(full.into_iter().map(AccountId).collect())
}

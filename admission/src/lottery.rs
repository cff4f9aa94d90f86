//! Commit-reveal lottery of a lobby. Each step is one guarded transaction, so that neither a crash
//! between two of them nor a second leader changes anything that was published:
//!
//! 1. [`commit`]: a random seed is stored, and its hash is published before the lobby opens.
//! 2. [`draw`] first fixes the entries and publishes their digest. Only then may the announced
//!    entropy be entered.
//! 3. [`draw`] then reveals the seed, and with it everybody's place.

mod receipts;
mod store;

use std::collections::HashMap;
use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use chrono::{DateTime, Utc};
use domain::EventId;
use domain::queue::Lottery;
use domain::sale::SaleSettings;
use platform::limits::{Key, Quota};
use platform::tokens::KeyRing;
use rand::TryRngCore;
use rand::rngs::OsRng;
use sqlx::PgPool;

use crate::state::AppState;

/// Commits to a seed from the system's randomness unless the sale has one, and returns the
/// lottery's state. Idempotent.
///
/// # Errors
/// When the database fails.
///
/// # Panics
/// When the system has no randomness.
pub async fn commit(
    db: &PgPool,
    keys: &KeyRing,
    sale: &SaleSettings,
    now: DateTime<Utc>,
) -> Result<Lottery, sqlx::Error> {
    let mut lotteries = commit_all(db, keys, &[sale], now).await?;
    Ok(lotteries
        .remove(&sale.event_id)
        .expect("a draw is never removed"))
}

/// [`commit`] for many sales.
pub(crate) async fn commit_all(
    db: &PgPool,
    keys: &KeyRing,
    sales: &[&SaleSettings],
    now: DateTime<Utc>,
) -> Result<HashMap<EventId, Lottery>, sqlx::Error> {
    let mut lotteries = store::get_all(db, sales).await?;
    let missing: Vec<&SaleSettings> = sales
        .iter()
        .filter(|sale| !lotteries.contains_key(&sale.event_id))
        .copied()
        .collect();
    if missing.is_empty() {
        return Ok(lotteries);
    }
    let seeds: Vec<(EventId, [u8; 32])> = missing
        .iter()
        .map(|sale| (sale.event_id, new_seed()))
        .collect();
    store::insert_all(db, &seeds, keys.entries_key(), now).await?;
    lotteries.extend(store::get_all(db, &missing).await?);
    Ok(lotteries)
}

/// Commits to another seed if the lottery was fixed without entries: a sale that opened before
/// anybody had joined, and whose opening is moved, has another lobby to draw. Idempotent.
///
/// # Errors
/// When the database fails.
///
/// # Panics
/// As [`commit`].
pub async fn renew(
    db: &PgPool,
    keys: &KeyRing,
    sale: &SaleSettings,
    now: DateTime<Utc>,
) -> Result<Lottery, sqlx::Error> {
    store::renew(db, sale.event_id, &new_seed(), keys.entries_key(), now).await?;
    commit(db, keys, sale, now).await
}

fn new_seed() -> [u8; 32] {
    let mut seed = [0; 32];
    OsRng
        .try_fill_bytes(&mut seed)
        .expect("the system has randomness");
    seed
}

/// Fixes the numbers `1..=lobby`, all of which were issued, as the entries, unless entries are
/// fixed already; then draws, unless the announced entropy is still missing. Idempotent: `drawn`
/// is set once everybody has a place, and `fixed` holds the size of the lobby that counts, which
/// may differ from the `lobby` of a repeat.
///
/// # Errors
/// When the database fails. Steps that committed stay, and a repeat continues from there.
pub async fn draw(
    db: &PgPool,
    keys: &KeyRing,
    sale: &SaleSettings,
    lobby: i64,
    now: DateTime<Utc>,
) -> Result<Lottery, sqlx::Error> {
    let mut lottery = commit(db, keys, sale, now).await?;
    if lottery.fixed.is_none() {
        store::fix(db, keys, sale, lobby, now).await?;
        lottery = commit(db, keys, sale, now).await?;
    }
    if lottery.drawn.is_none() && !sale.awaits_entropy() {
        store::draw(db, sale, now).await?;
        lottery = commit(db, keys, sale, now).await?;
    }
    Ok(lottery)
}

pub(crate) fn routes(state: &AppState) -> Router<Arc<AppState>> {
    let quota = Quota::per_minute(60);
    let limit = state.ctx.limits.layer("lottery", quota, Key::Address);
    Router::new().route(
        "/api/events/{id}/queue/lottery",
        get(receipts::receipts).layer(limit),
    )
}

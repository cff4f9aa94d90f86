//! The lottery of a lobby, step by step. Each step is one guarded transaction, so that a crash
//! between two of them, or a second leader, changes nothing that was told to anybody:
//!
//! 1. [`commit`]: a seed is drawn at random, and its hash is published before the lobby opens.
//! 2. [`draw`] first fixes who takes part, and publishes a digest of that. Only then may the
//!    entropy be told that was announced.
//! 3. [`draw`] then shows the seed, and with it everybody's place.

mod receipts;
mod store;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

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

use crate::Desk;

/// The lottery of `sale`, with a seed from the machine's randomness if it has none yet. May be
/// repeated at any time: the answer says how far it has come.
///
/// # Errors
/// When the database fails.
///
/// # Panics
/// When the machine has no randomness.
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

/// The lotteries of `sales`, as [`commit`] does.
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

/// Commits to another seed, unless somebody takes part in the lottery as it is: a sale that opened
/// before anybody came, and opens again later, has a lobby that is to be drawn. May be repeated.
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
        .expect("the machine gives randomness");
    seed
}

/// Fixes that the numbers `1..=lobby` take part, all of them given, unless that is fixed already;
/// and draws, unless the announced entropy is still to be told. May be repeated at any time:
/// `drawn` of the answer says whether everybody has a place, and `fixed` how many take part, which
/// may differ from `lobby` of a repeat.
///
/// # Errors
/// When the database fails. What was done stays done, and a repeat goes on from there.
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

pub(crate) fn routes(desk: &Desk) -> Router<Arc<Desk>> {
    let quota = Quota {
        burst: 60,
        per: Duration::from_secs(60),
    };
    let limit = desk.ctx.limits.layer("lottery", quota, Key::Address);
    Router::new().route(
        "/api/events/{id}/queue/lottery",
        get(receipts::receipts).layer(limit),
    )
}

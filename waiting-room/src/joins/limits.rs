//! Rate limits shared by all nodes, taken for a whole batch in one call to Redis. A circuit breaker
//! skips them while Redis is unavailable or slow; each node's own limits still apply.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU32, Ordering};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use domain::EventId;
use domain::queue::SaleKeys;
use platform::limits::{Quota, SharedLimits, Take, TakeOutcome};
use platform::problem::Problem;
use platform::service::Context;

use super::Join;
use crate::Config;
use crate::quotas::PER_ACCOUNT;
use crate::store::IssuedNumber;

/// Time for which the breaker stays open: every attempt delays a batch.
const BREAKER_TIMEOUT: TimeDelta = TimeDelta::seconds(5);
/// Consecutive timeouts that open the breaker.
const MAX_TIMEOUTS: u32 = 2;
/// Window of a network's joins to one lobby. In a draw more entries are more luck, so all of them
/// count together.
const LOBBY: Duration = Duration::from_secs(7 * 24 * 3_600);
/// A network may hold one in this many entries of a lobby, if that exceeds the fixed limit.
const LOBBY_PART: i64 = 50;

/// The shared limits and their circuit breaker.
#[derive(Clone)]
pub(crate) struct JoinLimits {
    limits: SharedLimits,
    namespace: Arc<str>,
    per_network: u32,
    per_network_of_lobby: u32,
    /// Timeout of one call to Redis.
    timeout: Duration,
    slow: Arc<AtomicU32>,
    /// End of the breaker's open state, in Unix milliseconds.
    open_until: Arc<AtomicI64>,
}

impl JoinLimits {
    pub(crate) fn new(ctx: &Context, config: &Config) -> Self {
        Self {
            limits: ctx.limits.shared(ctx.redis.clone()),
            namespace: ctx.config.namespace.as_str().into(),
            per_network: config.joins_per_network,
            per_network_of_lobby: config.lobby_joins_per_network,
            timeout: config.shared_limits_timeout,
            slow: Arc::default(),
            open_until: Arc::default(),
        }
    }

    /// Applies the limit per network and sale. Refused jobs are answered; the rest are returned.
    pub(super) async fn admit(
        &self,
        event_id: EventId,
        batch: Vec<Join>,
        now: DateTime<Utc>,
    ) -> Vec<Join> {
        let keys = SaleKeys::new(&self.namespace, event_id);
        let quota = Quota::per_minute(self.per_network);
        // Replacing a used-up number was counted by the request that found it.
        let cell = |join: &Join| {
            let item = &join.item;
            item.number.used_up.is_none().then_some(item.from.group)
        };
        let key = |group| keys.limit("join-network", group);
        let refuse = |join: Join, problem| join.asker.answer(Err(problem));
        self.take(batch, quota, cell, key, refuse, now).await
    }

    /// Applies the limit per network and lobby to new joiners; `joined` is the size of the lobby.
    /// Refused jobs are answered; the rest are returned.
    pub(super) async fn admit_to_lobby(
        &self,
        event_id: EventId,
        batch: Vec<Join>,
        joined: i64,
        now: DateTime<Utc>,
    ) -> Vec<Join> {
        let keys = SaleKeys::new(&self.namespace, event_id);
        let fair = u32::try_from(joined / LOBBY_PART).unwrap_or(u32::MAX);
        let quota = Quota {
            burst: self.per_network_of_lobby.max(fair),
            per: LOBBY,
        };
        let cell = |join: &Join| {
            let item = &join.item;
            let counts = item.from.lobby.is_some() && item.number.used_up.is_none();
            counts.then_some(item.from.group)
        };
        let key = |group| keys.limit("lobby-network", group);
        let refuse = |join: Join, problem| join.asker.answer(Err(problem));
        self.take(batch, quota, cell, key, refuse, now).await
    }

    /// Applies the limit per account to repeats. First joins need none: an account gets one number.
    /// Refused jobs are answered; the rest are returned.
    pub(super) async fn admit_again(
        &self,
        event_id: EventId,
        repeated: Vec<(Join, IssuedNumber)>,
        now: DateTime<Utc>,
    ) -> Vec<(Join, IssuedNumber)> {
        let keys = SaleKeys::new(&self.namespace, event_id);
        let cell = |(join, _): &(Join, IssuedNumber)| Some(join.item.number.joiner);
        let key = |joiner| keys.limit("join-account", joiner);
        let refuse = |(join, _): (Join, IssuedNumber), problem| join.asker.answer(Err(problem));
        self.take(repeated, PER_ACCOUNT, cell, key, refuse, now)
            .await
    }

    /// Takes from each item's cell, refusing items beyond its quota. Items without a cell pass.
    async fn take<T, C: Copy + Eq + Hash>(
        &self,
        batch: Vec<T>,
        quota: Quota,
        cell: impl Fn(&T) -> Option<C>,
        key: impl Fn(C) -> String,
        refuse: impl Fn(T, Problem),
        now: DateTime<Utc>,
    ) -> Vec<T> {
        let mut cells: HashMap<C, usize> = HashMap::new();
        let mut takes: Vec<Take> = Vec::new();
        let cell_of: Vec<Option<usize>> = batch
            .iter()
            .map(|item| {
                let cell = cell(item)?;
                let nth = *cells.entry(cell).or_insert_with(|| {
                    takes.push(Take::none(key(cell), quota));
                    takes.len() - 1
                });
                takes[nth].count += 1;
                Some(nth)
            })
            .collect();
        if takes.is_empty() || self.is_open(now) {
            return batch;
        }
        let Some(mut taken) = self.ask(&takes, now).await else {
            metrics::counter!("waiting_room_joins_unlimited_total").increment(1);
            return batch;
        };
        let mut admitted = Vec::with_capacity(batch.len());
        for (item, cell) in batch.into_iter().zip(cell_of) {
            match cell.map(|cell| &mut taken[cell]) {
                Some(taken) if taken.count == 0 => {
                    refuse(item, SharedLimits::refusal(taken.wait));
                }
                Some(taken) => {
                    taken.count -= 1;
                    admitted.push(item);
                }
                None => admitted.push(item),
            }
        }
        admitted
    }

    /// Calls Redis; `None` when it fails or times out.
    async fn ask(&self, takes: &[Take], now: DateTime<Utc>) -> Option<Vec<TakeOutcome>> {
        match tokio::time::timeout(self.timeout, self.limits.take(takes, now)).await {
            Ok(Ok(taken)) => {
                self.slow.store(0, Ordering::Relaxed);
                return Some(taken);
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "shared join limits failed, skipping them");
            }
            Err(_) if self.slow.fetch_add(1, Ordering::Relaxed) + 1 < MAX_TIMEOUTS => return None,
            Err(_) => {
                tracing::warn!(limit = ?self.timeout, "shared join limits are slow, skipping them");
            }
        }
        self.slow.store(0, Ordering::Relaxed);
        let until = (now + BREAKER_TIMEOUT).timestamp_millis();
        self.open_until.store(until, Ordering::Relaxed);
        None
    }

    fn is_open(&self, now: DateTime<Utc>) -> bool {
        now.timestamp_millis() < self.open_until.load(Ordering::Relaxed)
    }
}

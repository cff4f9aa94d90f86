//! The limits across nodes, for a whole batch in one call to Redis. While Redis is away joins go
//! on without: those of each node hold.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, TimeDelta, Utc};
use domain::EventId;
use domain::queue::SaleKeys;
use platform::limits::{Quota, SharedLimits, Take};
use platform::service::Context;

use super::Wish;
use crate::queue::{MINUTE, PER_ACCOUNT};

/// How long Redis is left alone after it did not answer: every try makes a batch wait.
const LEFT_ALONE: TimeDelta = TimeDelta::seconds(5);

/// The limits across nodes.
#[derive(Clone)]
pub(crate) struct JoinLimits {
    limits: SharedLimits,
    namespace: Arc<str>,
    per_network: u32,
    /// Until when Redis is left alone, Unix milliseconds.
    away_until: Arc<AtomicI64>,
}

impl JoinLimits {
    pub(crate) fn new(ctx: &Context, per_network: u32) -> Self {
        Self {
            limits: ctx.limits.shared(ctx.redis.clone()),
            namespace: ctx.config.namespace.as_str().into(),
            per_network,
            away_until: Arc::default(),
        }
    }

    /// Those whose network may join; the others are refused.
    pub(super) async fn admit(
        &self,
        event_id: EventId,
        batch: Vec<Wish>,
        now: DateTime<Utc>,
    ) -> Vec<Wish> {
        let keys = SaleKeys::new(&self.namespace, event_id);
        let quota = Quota {
            burst: self.per_network,
            per: MINUTE,
        };
        // Whoever is due another number was counted when it was asked for the one it has.
        let is_counted = |wish: &Wish| wish.asks.used_up.is_none();
        let key = |wish: &Wish| is_counted(wish).then(|| keys.limit("join-network", wish.group));
        self.take(batch, quota, key, now).await
    }

    /// Those who may ask for a number that they have; the others are refused. That a first number
    /// is given once to each is limit enough.
    pub(super) async fn admit_again(
        &self,
        event_id: EventId,
        batch: Vec<Wish>,
        now: DateTime<Utc>,
    ) -> Vec<Wish> {
        let keys = SaleKeys::new(&self.namespace, event_id);
        let key = |wish: &Wish| Some(keys.limit("join-account", wish.asks.joiner));
        self.take(batch, PER_ACCOUNT, key, now).await
    }

    async fn take(
        &self,
        batch: Vec<Wish>,
        quota: Quota,
        key: impl Fn(&Wish) -> Option<String>,
        now: DateTime<Utc>,
    ) -> Vec<Wish> {
        let mut cells: HashMap<String, usize> = HashMap::new();
        let mut takes: Vec<Take> = Vec::new();
        let cell_of: Vec<Option<usize>> = batch
            .iter()
            .map(|wish| {
                let cell = *cells.entry(key(wish)?).or_insert_with_key(|key| {
                    takes.push(Take::none(key.clone(), quota));
                    takes.len() - 1
                });
                takes[cell].count += 1;
                Some(cell)
            })
            .collect();
        if takes.is_empty() || self.is_away(now) {
            return batch;
        }
        let mut taken = match self.limits.take(&takes, now).await {
            Ok(taken) => taken,
            Err(error) => {
                let until = (now + LEFT_ALONE).timestamp_millis();
                self.away_until.store(until, Ordering::Relaxed);
                metrics::counter!("waiting_room_joins_unlimited_total").increment(1);
                tracing::warn!(%error, "joins go on without the limits across nodes");
                return batch;
            }
        };
        let mut admitted = Vec::with_capacity(batch.len());
        for (wish, cell) in batch.into_iter().zip(cell_of) {
            match cell.map(|cell| &mut taken[cell]) {
                Some(taken) if taken.count == 0 => {
                    wish.tell(Err(SharedLimits::refusal(taken.wait)));
                }
                Some(taken) => {
                    taken.count -= 1;
                    admitted.push(wish);
                }
                None => admitted.push(wish),
            }
        }
        admitted
    }

    fn is_away(&self, now: DateTime<Utc>) -> bool {
        now.timestamp_millis() < self.away_until.load(Ordering::Relaxed)
    }
}

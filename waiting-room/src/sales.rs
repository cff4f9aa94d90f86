//! What this node keeps of each sale that somebody asks for.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use domain::EventId;
use platform::line::{Follower, LineError};
use platform::service::Context;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::asked::Asked;
use crate::calibration::Calibration;
use crate::joins::{JoinLimits, Joins};
use crate::leavings::Leavings;
use crate::lookups::Lookups;
use crate::seen;
use crate::shown::Shown;

/// How often those who were seen are told to Redis.
const SEEN_PERIOD: Duration = Duration::from_secs(2);
/// For how many such periods, a minute, a sale is kept that nobody asks for.
const KEPT_PERIODS: u32 = 30;

/// The sales that somebody asks for.
pub(crate) struct Sales {
    ctx: Context,
    limits: JoinLimits,
    known: RwLock<HashMap<EventId, Arc<Sale>>>,
}

/// One of them.
pub(crate) struct Sale {
    /// The sale.
    pub(crate) event_id: EventId,
    /// When each number may ask again, and who has asked.
    pub(crate) asked: Asked,
    /// Gives numbers.
    pub(crate) joins: Joins,
    /// Records who leaves.
    pub(crate) leavings: Leavings,
    /// Finds the number that somebody has.
    pub(crate) lookups: Lookups,
    /// How good the predictions are.
    pub(crate) calibration: Calibration,
    shown: watch::Sender<Arc<Shown>>,
    is_asked_for: AtomicBool,
}

impl Sale {
    /// The moment of now.
    pub(crate) fn shown(&self) -> Arc<Shown> {
        Arc::clone(&self.shown.borrow())
    }

    /// Every moment from now on.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Shown>> {
        self.shown.subscribe()
    }
}

impl Sales {
    pub(crate) fn new(ctx: Context, limits: JoinLimits) -> Self {
        Self {
            ctx,
            limits,
            known: RwLock::default(),
        }
    }

    /// The sale of `event_id`.
    ///
    /// # Errors
    /// When there is none, or its line can't be read for the first time.
    pub(crate) async fn get(self: &Arc<Self>, event_id: EventId) -> Result<Arc<Sale>, LineError> {
        if let Some(known) = self.known(event_id) {
            return Ok(known);
        }
        let follower = self.ctx.lines.follow(event_id).await?;
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = known.get(&event_id) {
            return Ok(Arc::clone(known));
        }
        let sale = Arc::new(Sale {
            event_id,
            asked: Asked::default(),
            joins: Joins::new(&self.ctx, event_id, self.limits.clone()),
            leavings: Leavings::new(&self.ctx, event_id),
            lookups: Lookups::new(&self.ctx, event_id),
            calibration: Calibration::default(),
            shown: watch::Sender::new(Arc::new(Shown::new(follower.view()))),
            is_asked_for: AtomicBool::new(true),
        });
        known.insert(event_id, Arc::clone(&sale));
        drop(known);
        let (sales, kept) = (Arc::clone(self), Arc::clone(&sale));
        self.ctx.spawn("waiting-room.sale", async move {
            sales.keep(kept, follower).await;
            Ok(())
        });
        Ok(sale)
    }

    fn known(&self, event_id: EventId) -> Option<Arc<Sale>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let sale = known.get(&event_id)?;
        // Mostly set already, and reading does not take the line from other cores.
        if !sale.is_asked_for.load(Ordering::Relaxed) {
            sale.is_asked_for.store(true, Ordering::Relaxed);
        }
        Some(Arc::clone(sale))
    }

    /// Keeps `sale` up to date until nobody asks for it, or soft shutdown: polls during the drain
    /// are answered from the last moment.
    async fn keep(&self, sale: Arc<Sale>, mut follower: Follower) {
        let soft = self.ctx.shutdown.soft().clone();
        let mut periods = tokio::time::interval(SEEN_PERIOD);
        periods.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut unasked = 0;
        loop {
            tokio::select! {
                () = soft.cancelled() => break,
                Some(view) = follower.next() => {
                    sale.calibration.settle(&view);
                    sale.shown.send_replace(Arc::new(Shown::new(view)));
                    continue;
                }
                _ = periods.tick() => {}
            }
            seen::tell(&self.ctx, &sale).await;
            let is_asked_for =
                sale.is_asked_for.swap(false, Ordering::Relaxed) || sale.shown.receiver_count() > 0;
            unasked = if is_asked_for { 0 } else { unasked + 1 };
            if unasked > KEPT_PERIODS {
                let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
                known.remove(&sale.event_id);
                return;
            }
        }
        seen::tell(&self.ctx, &sale).await;
    }
}

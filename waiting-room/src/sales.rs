//! The node's state of each sale in use: its view of the line, batchers and polling state.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use domain::EventId;
use platform::health::Heartbeat;
use platform::line::{Follower, LineError};
use platform::service::Context;
use platform::sync::RwLockExt as _;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use crate::calibration::Calibration;
use crate::joins::{JoinLimits, Joins};
use crate::leavings::Leavings;
use crate::lookups::Lookups;
use crate::polls::Polls;
use crate::presence;
use crate::rendered::Rendered;

/// Period at which presence is flushed to Redis.
const SEEN_PERIOD: Duration = Duration::from_secs(2);
/// Unused periods, a minute in all, after which a sale is evicted.
const MAX_UNUSED_PERIODS: u32 = 30;
/// Heartbeat limit of a sale's loop: its calls to Redis have deadlines of a second or less.
const MAX_SILENCE: Duration = Duration::from_secs(30);

/// Name of the loops of sales, as tasks and in `/readyz`.
const SALE_LOOP: &str = "waiting-room.sale";

/// The sales in use on this node.
pub(crate) struct Sales {
    ctx: Context,
    limits: JoinLimits,
    known: RwLock<HashMap<EventId, Arc<LiveSale>>>,
}

/// The state of one sale.
pub(crate) struct LiveSale {
    pub(crate) event_id: EventId,
    pub(crate) polls: Polls,
    pub(crate) joins: Joins,
    pub(crate) leavings: Leavings,
    pub(crate) lookups: Lookups,
    pub(crate) calibration: Calibration,
    rendered: watch::Sender<Arc<Rendered>>,
    is_used: AtomicBool,
}

impl LiveSale {
    /// Returns the latest snapshot, rendered.
    pub(crate) fn rendered(&self) -> Arc<Rendered> {
        Arc::clone(&self.rendered.borrow())
    }

    /// Subscribes to rendered snapshots.
    pub(crate) fn subscribe(&self) -> watch::Receiver<Arc<Rendered>> {
        self.rendered.subscribe()
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

    /// Returns the sale of `event_id`, loading it on first use.
    ///
    /// # Errors
    /// When there is none, or its line can't be loaded.
    pub(crate) async fn get(
        self: &Arc<Self>,
        event_id: EventId,
    ) -> Result<Arc<LiveSale>, LineError> {
        if let Some(known) = self.known(event_id) {
            return Ok(known);
        }
        let follower = self.ctx.lines.follow(event_id).await?;
        let mut known = self.known.write_unpoisoned();
        if let Some(known) = known.get(&event_id) {
            return Ok(Arc::clone(known));
        }
        let sale = Arc::new(LiveSale {
            event_id,
            polls: Polls::default(),
            joins: Joins::new(&self.ctx, event_id, self.limits.clone()),
            leavings: Leavings::new(&self.ctx, event_id),
            lookups: Lookups::new(&self.ctx, event_id),
            calibration: Calibration::default(),
            rendered: watch::Sender::new(Arc::new(Rendered::new(follower.view()))),
            is_used: AtomicBool::new(true),
        });
        known.insert(event_id, Arc::clone(&sale));
        drop(known);
        let (sales, refreshed) = (Arc::clone(self), Arc::clone(&sale));
        let heartbeat = self.ctx.health.heartbeat(SALE_LOOP, MAX_SILENCE);
        self.ctx.spawn(SALE_LOOP, async move {
            sales.run(refreshed, follower, &heartbeat).await;
            Ok(())
        });
        Ok(sale)
    }

    fn known(&self, event_id: EventId) -> Option<Arc<LiveSale>> {
        let known = self.known.read_unpoisoned();
        let sale = known.get(&event_id)?;
        // Usually set already, and a load does not invalidate other cores' cache lines.
        if !sale.is_used.load(Ordering::Relaxed) {
            sale.is_used.store(true, Ordering::Relaxed);
        }
        Some(Arc::clone(sale))
    }

    /// Updates `sale` and flushes its presence until it is unused, or until soft shutdown: polls
    /// during the drain are answered from the last snapshot.
    async fn run(&self, sale: Arc<LiveSale>, mut follower: Follower, heartbeat: &Heartbeat) {
        let soft = self.ctx.shutdown.soft().clone();
        let mut periods = tokio::time::interval(SEEN_PERIOD);
        periods.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut unused = 0;
        loop {
            heartbeat.beat();
            tokio::select! {
                () = soft.cancelled() => break,
                Some(view) = follower.next() => {
                    sale.calibration.settle(&view);
                    sale.rendered.send_replace(Arc::new(Rendered::new(view)));
                    continue;
                }
                _ = periods.tick() => {}
            }
            presence::flush(&self.ctx, sale.event_id, &sale.polls).await;
            let is_used =
                sale.is_used.swap(false, Ordering::Relaxed) || sale.rendered.receiver_count() > 0;
            unused = if is_used { 0 } else { unused + 1 };
            if unused > MAX_UNUSED_PERIODS {
                let mut known = self.known.write_unpoisoned();
                known.remove(&sale.event_id);
                return;
            }
        }
        presence::flush(&self.ctx, sale.event_id, &sale.polls).await;
    }
}

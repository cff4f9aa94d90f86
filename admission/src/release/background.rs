//! Background tasks of the release loop, for work that exceeds a tick: reading lines, drawing and
//! ordering lobbies, checkpoints. Outcomes are applied in a later tick. Dropping the leader aborts
//! the tasks, which is safe: each is one guarded transaction, or only reads.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use domain::EventId;
use domain::lottery::Permutation;
use domain::sale::SaleSettings;
use platform::service::Context;
use sqlx::PgPool;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::checkpoint;
use super::line::{Line, LotteryStep, order_of};
use super::loader::{LineRequest, Loader};
use super::presence::Presence;
use super::quarantine::SaleFailure;
use super::store;
use super::task::{Advanced, TaskId, TaskOutcome};
use crate::lottery;

/// Bound on concurrent statements that read lines.
const READERS: usize = 2;
/// Bound on lobbies drawn concurrently.
const DRAWERS: usize = 2;
/// Bound on checkpoints made concurrently.
const COMPACTORS: usize = 1;

pub(super) struct Background {
    ctx: Context,
    tasks: JoinSet<()>,
    sender: UnboundedSender<TaskOutcome>,
    receiver: UnboundedReceiver<TaskOutcome>,
    /// Notified when lines were read.
    arrived: Arc<Notify>,
    readers: Arc<Semaphore>,
    drawers: Arc<Semaphore>,
    compactors: Arc<Semaphore>,
}

impl Background {
    /// Tasks that use the pool of `ctx`.
    pub(super) fn new(ctx: Context) -> Self {
        let (sender, receiver) = unbounded_channel();
        Self {
            ctx,
            tasks: JoinSet::new(),
            sender,
            receiver,
            arrived: Arc::default(),
            readers: Arc::new(Semaphore::new(READERS)),
            drawers: Arc::new(Semaphore::new(DRAWERS)),
            compactors: Arc::new(Semaphore::new(COMPACTORS)),
        }
    }

    /// Returns the next outcome, if any is available.
    pub(super) fn try_next(&mut self) -> Option<TaskOutcome> {
        // Panics attributable to a sale were caught in the task; others only end their task.
        while self.tasks.try_join_next().is_some() {}
        self.receiver.try_recv().ok()
    }

    /// Notified when lines were read.
    pub(super) fn arrived(&self) -> Arc<Notify> {
        Arc::clone(&self.arrived)
    }

    /// Waits for every task, and returns whether any ran or left an outcome.
    pub(super) async fn settle(&mut self) -> bool {
        let did = !self.tasks.is_empty() || !self.receiver.is_empty();
        while self.tasks.join_next().await.is_some() {}
        did
    }

    /// Aborts every task and discards their outcomes.
    pub(super) fn forget(&mut self) {
        *self = Self::new(self.ctx.clone());
    }

    /// Returns a permit to read lines, if one is free.
    pub(super) fn reader(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.readers).try_acquire_owned().ok()
    }

    /// Spawns a read of lines.
    pub(super) fn load(
        &mut self,
        permit: OwnedSemaphorePermit,
        presence: Presence,
        now: DateTime<Utc>,
        wanted: Vec<LineRequest>,
    ) {
        let loader = Loader {
            ctx: self.ctx.clone(),
            presence,
            now,
            done: self.sender.clone(),
            arrived: Arc::clone(&self.arrived),
        };
        self.tasks.spawn(async move {
            loader.run(wanted).await;
            drop(permit);
        });
    }

    /// Spawns a check of which ended sales are at rest.
    pub(super) fn check_rest(&mut self, permit: OwnedSemaphorePermit, ended: Vec<(EventId, i64)>) {
        let (db, sender) = (self.ctx.db.clone(), self.sender.clone());
        self.tasks.spawn(async move {
            let ids: Vec<EventId> = ended.iter().map(|(id, _)| *id).collect();
            match store::at_rest(&db, &ids).await {
                Ok(resting) => {
                    let _gone = sender.send(TaskOutcome::AtRest(ended, resting));
                }
                Err(error) => tracing::warn!(%error, "failed to read ended sales"),
            }
            drop(permit);
        });
    }

    /// Spawns the next step of a lottery. A draw of a million takes seconds.
    pub(super) fn advance_lottery(
        &mut self,
        now: DateTime<Utc>,
        sale: &Arc<SaleSettings>,
        epoch: i64,
        (step, joined): (LotteryStep, i64),
    ) {
        let (ctx, sender) = (self.ctx.clone(), self.sender.clone());
        let (drawers, sale) = (Arc::clone(&self.drawers), Arc::clone(sale));
        self.tasks.spawn(async move {
            let _permit = drawers.acquire_owned().await;
            let outcome = advance(&ctx, &sale, step, joined, now).await;
            let _gone = sender.send(TaskOutcome::Lottery(sale.event_id, epoch, outcome));
        });
    }

    /// Spawns the reordering of a line by its draw.
    pub(super) fn order(
        &mut self,
        event_id: EventId,
        task: TaskId,
        mut line: Box<Line>,
        order: Arc<Permutation>,
    ) {
        let sender = self.sender.clone();
        self.tasks.spawn(async move {
            let ordered = tokio::task::spawn_blocking(move || {
                line.release.draw(order);
                line
            });
            let done = match ordered.await {
                Ok(line) => TaskOutcome::Loaded(event_id, task, line),
                Err(_) => TaskOutcome::Failed(
                    task,
                    SaleFailure {
                        event_id,
                        step: "order",
                        error: "panicked".to_owned(),
                    },
                ),
            };
            let _gone = sender.send(done);
        });
    }

    /// Spawns a checkpoint of the moves up to and including `until`.
    pub(super) fn compact(&mut self, event_id: EventId, until: i64) {
        let (db, sender) = (self.ctx.db.clone(), self.sender.clone());
        let compactors = Arc::clone(&self.compactors);
        self.tasks.spawn(async move {
            let _permit = compactors.acquire_owned().await;
            let compacted = checkpoint::compact(&db, event_id, until)
                .await
                .inspect_err(|error| tracing::warn!(%event_id, %error, "failed to checkpoint"))
                .ok();
            let _gone = sender.send(TaskOutcome::Compacted(event_id, compacted));
        });
    }

    pub(super) fn db(&self) -> &PgPool {
        &self.ctx.db
    }

    pub(super) fn ctx(&self) -> &Context {
        &self.ctx
    }
}

async fn advance(
    ctx: &Context,
    sale: &SaleSettings,
    step: LotteryStep,
    joined: i64,
    now: DateTime<Utc>,
) -> Result<Advanced, String> {
    let lottery = match step {
        LotteryStep::Announcement => lottery::commit(&ctx.db, &ctx.keys, sale, now).await,
        LotteryStep::Renewal => lottery::renew(&ctx.db, &ctx.keys, sale, now).await,
        LotteryStep::Draw => lottery::draw(&ctx.db, &ctx.keys, sale, joined, now).await,
    };
    let lottery = lottery.map_err(|error| error.to_string())?;
    let order = match &lottery.drawn {
        Some(drawn) => Some(order_of(drawn).await?),
        None => None,
    };
    Ok((lottery, order))
}

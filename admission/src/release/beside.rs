//! What takes longer than a tick may: reading lines, drawing and ordering lobbies, checkpoints.
//! It runs in tasks beside the loop, which hears of the outcome in a later tick. When the leader
//! is dropped, so are they; each is one guarded transaction, or only reads.

use std::collections::HashSet;
use std::sync::Arc;

use chrono::{DateTime, Utc};
use domain::EventId;
use domain::lottery::Order;
use domain::queue::Lottery;
use domain::sale::SaleSettings;
use platform::service::Context;
use sqlx::PgPool;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;

use super::checkpoint;
use super::line::{Line, Need, order_of};
use super::presence::Presence;
use super::quarantine::Failure;
use super::recall::{Recall, Wanted};
use super::store;
use crate::lottery;

/// How many statements read lines at once.
const READERS: usize = 2;
/// How many lobbies are drawn at once.
const DRAWERS: usize = 2;
/// How many checkpoints are made at once.
const COMPACTORS: usize = 1;

/// Tells a line that is awaited from one that is awaited no more.
pub(super) type Ticket = u64;

/// How far a lottery is, with the order if it is drawn.
pub(super) type Advanced = (Lottery, Option<Arc<Order>>);

/// The outcome of a task.
pub(super) enum Done {
    /// A line is there, or there again.
    Recalled(EventId, Ticket, Box<Line>),
    /// A line can't be had, and that is its own trouble.
    Failed(Ticket, Failure),
    /// Lines were not read, and that is nobody's fault.
    Unread(Vec<(EventId, Ticket)>),
    /// Of ended sales, with the versions of their settings, those at rest.
    AtRest(Vec<(EventId, i64)>, HashSet<EventId>),
    /// A lottery is so far, under the epoch in which it was asked for.
    Lottery(EventId, i64, Result<Advanced, String>),
    /// A checkpoint was made, or not; with whether it left more moves to take in.
    Compacted(EventId, Option<bool>),
}

pub(super) struct Beside {
    ctx: Context,
    tasks: JoinSet<()>,
    sender: UnboundedSender<Done>,
    receiver: UnboundedReceiver<Done>,
    /// Told when lines were read.
    arrived: Arc<Notify>,
    readers: Arc<Semaphore>,
    drawers: Arc<Semaphore>,
    compactors: Arc<Semaphore>,
}

impl Beside {
    /// Works on `db`.
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

    /// The next outcome that is there.
    pub(super) fn next(&mut self) -> Option<Done> {
        // Panics were caught where they say whose they are; others end nothing but their task.
        while self.tasks.try_join_next().is_some() {}
        self.receiver.try_recv().ok()
    }

    /// Told when lines were read.
    pub(super) fn arrived(&self) -> Arc<Notify> {
        Arc::clone(&self.arrived)
    }

    /// Waits until no task runs; whether any did.
    pub(super) async fn settle(&mut self) -> bool {
        let did = !self.tasks.is_empty() || !self.receiver.is_empty();
        while self.tasks.join_next().await.is_some() {}
        did
    }

    /// Ends every task.
    pub(super) fn forget(&mut self) {
        *self = Self::new(self.ctx.clone());
    }

    /// The right to read lines now, if nobody else uses it.
    pub(super) fn reader(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.readers).try_acquire_owned().ok()
    }

    /// Reads lines.
    pub(super) fn recall(
        &mut self,
        permit: OwnedSemaphorePermit,
        presence: Presence,
        now: DateTime<Utc>,
        wanted: Vec<Wanted>,
    ) {
        let recall = Recall {
            ctx: self.ctx.clone(),
            presence,
            now,
            done: self.sender.clone(),
            arrived: Arc::clone(&self.arrived),
        };
        self.tasks.spawn(async move {
            recall.run(wanted).await;
            drop(permit);
        });
    }

    /// Asks which of the ended sales are at rest.
    pub(super) fn ask_rest(&mut self, permit: OwnedSemaphorePermit, ended: Vec<(EventId, i64)>) {
        let (db, sender) = (self.ctx.db.clone(), self.sender.clone());
        self.tasks.spawn(async move {
            let ids: Vec<EventId> = ended.iter().map(|(id, _)| *id).collect();
            match store::at_rest(&db, &ids).await {
                Ok(resting) => {
                    let _gone = sender.send(Done::AtRest(ended, resting));
                }
                Err(error) => tracing::warn!(%error, "ended sales were not read"),
            }
            drop(permit);
        });
    }

    /// Does what a lottery needs. A draw of a million takes seconds.
    pub(super) fn advance_lottery(
        &mut self,
        now: DateTime<Utc>,
        sale: &Arc<SaleSettings>,
        epoch: i64,
        (need, joined): (Need, i64),
    ) {
        let (ctx, sender) = (self.ctx.clone(), self.sender.clone());
        let (drawers, sale) = (Arc::clone(&self.drawers), Arc::clone(sale));
        self.tasks.spawn(async move {
            let _permit = drawers.acquire_owned().await;
            let outcome = advance(&ctx, &sale, need, joined, now).await;
            let _gone = sender.send(Done::Lottery(sale.event_id, epoch, outcome));
        });
    }

    /// Gives everybody in the line the place that was drawn.
    pub(super) fn order(
        &mut self,
        event_id: EventId,
        ticket: Ticket,
        mut line: Box<Line>,
        order: Arc<Order>,
    ) {
        let sender = self.sender.clone();
        self.tasks.spawn(async move {
            let ordered = tokio::task::spawn_blocking(move || {
                line.release.draw(order);
                line
            });
            let done = match ordered.await {
                Ok(line) => Done::Recalled(event_id, ticket, line),
                Err(_) => Done::Failed(
                    ticket,
                    Failure {
                        event_id,
                        step: "order",
                        error: "panicked".to_owned(),
                    },
                ),
            };
            let _gone = sender.send(done);
        });
    }

    /// Makes a checkpoint of the moves up to and with `until`.
    pub(super) fn compact(&mut self, event_id: EventId, until: i64) {
        let (db, sender) = (self.ctx.db.clone(), self.sender.clone());
        let compactors = Arc::clone(&self.compactors);
        self.tasks.spawn(async move {
            let _permit = compactors.acquire_owned().await;
            let compacted = checkpoint::compact(&db, event_id, until)
                .await
                .inspect_err(|error| tracing::warn!(%event_id, %error, "no checkpoint was made"))
                .ok();
            let _gone = sender.send(Done::Compacted(event_id, compacted));
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
    need: Need,
    joined: i64,
    now: DateTime<Utc>,
) -> Result<Advanced, String> {
    let lottery = match need {
        Need::Announcement => lottery::commit(&ctx.db, &ctx.keys, sale, now).await,
        Need::Renewal => lottery::renew(&ctx.db, &ctx.keys, sale, now).await,
        Need::Draw => lottery::draw(&ctx.db, &ctx.keys, sale, joined, now).await,
    };
    let lottery = lottery.map_err(|error| error.to_string())?;
    let order = match &lottery.drawn {
        Some(drawn) => Some(order_of(drawn).await?),
        None => None,
    };
    Ok((lottery, order))
}

//! Loads lines in the background: dozens in a statement and a bounded number of rows at a time, so
//! that neither many lines nor a long one delays those already loaded.

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use domain::EventId;
use domain::lottery::Permutation;
use domain::queue::{Lottery, SEEN_PART};
use domain::release::Release;
use domain::sale::SaleSettings;
use futures_util::future::BoxFuture;
use platform::line::moves::{self, Stretch};
use platform::service::Context;
use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedSender;

use super::line::{Line, order_of};
use super::presence::{self, Presence, PresenceSlot, WaitedParts};
use super::quarantine::{SaleFailure, is_of_one_sale};
use super::store::{self, JoinCounts, StoredLine};
use super::task::{TaskId, TaskOutcome};
use crate::lottery;

/// Rows read by one statement.
const ROWS: usize = 20_000;
/// Precedes every seq.
const NOTHING_READ: i64 = -1;

/// A line to load.
#[derive(Debug, Clone)]
pub(super) struct LineRequest {
    pub(super) sale: Arc<SaleSettings>,
    pub(super) joined: JoinCounts,
    pub(super) epoch: i64,
    pub(super) task: TaskId,
}

/// Loads lines, and sends each as it is ready.
pub(super) struct Loader {
    pub(super) ctx: Context,
    pub(super) presence: Presence,
    pub(super) now: DateTime<Utc>,
    pub(super) done: UnboundedSender<TaskOutcome>,
    /// Notified after each batch.
    pub(super) arrived: Arc<Notify>,
}

/// A line whose moves are still to be read.
struct Begun {
    wanted: LineRequest,
    written: Option<StoredLine>,
    lottery: Lottery,
}

impl Loader {
    pub(super) async fn run(&self, wanted: Vec<LineRequest>) {
        let again = wanted.clone();
        let Err(error) = self.read(wanted).await else {
            return;
        };
        if !is_of_one_sale(&error) {
            // PostgreSQL is unavailable or too slow; no sale is to blame.
            tracing::warn!(%error, "failed to read lines");
            let tasks = again.iter().map(|one| (one.sale.event_id, one.task));
            self.send(TaskOutcome::NotLoaded(tasks.collect()));
            return;
        }
        // One of them is the cause: read singly. The leader ignores lines it already received.
        for one in again {
            let (event_id, task) = (one.sale.event_id, one.task);
            if let Err(error) = self.read(vec![one]).await {
                let failure = SaleFailure {
                    event_id,
                    step: "read",
                    error: error.to_string(),
                };
                self.send(TaskOutcome::Failed(task, failure));
            }
        }
    }

    fn send(&self, done: TaskOutcome) {
        // The receiver is gone if the leader was dropped.
        let _gone = self.done.send(done);
    }

    /// Boxed, since the future is large.
    fn read(&self, wanted: Vec<LineRequest>) -> BoxFuture<'_, Result<(), sqlx::Error>> {
        Box::pin(async move {
            let db = &self.ctx.db;
            let ids: Vec<EventId> = wanted.iter().map(|one| one.sale.event_id).collect();
            let mut lines = store::lines(db, &ids).await?;
            let with_lobby: Vec<&SaleSettings> = wanted
                .iter()
                .map(|one| &*one.sale)
                .filter(|sale| {
                    let written = lines.get(&sale.event_id);
                    let published = written.and_then(|written| written.as_ref().ok());
                    let is_fixed = published
                        .is_some_and(|published| published.snapshot.lottery.fixed.is_some());
                    sale.lobby_seconds > 0 || is_fixed
                })
                .collect();
            let keys = &self.ctx.keys;
            let mut lotteries = lottery::commit_all(db, keys, &with_lobby, self.now).await?;
            let (mut plain, mut drawn) = (Vec::new(), Vec::new());
            for wanted in wanted {
                let event_id = wanted.sale.event_id;
                let written = match lines.remove(&event_id).transpose() {
                    Ok(written) => written,
                    Err(error) => {
                        let failure = SaleFailure {
                            event_id,
                            step: "read",
                            error: format!("unreadable snapshot: {error}"),
                        };
                        self.send(TaskOutcome::Failed(wanted.task, failure));
                        continue;
                    }
                };
                let lottery = lotteries.remove(&event_id).unwrap_or_default();
                let begun = Begun {
                    wanted,
                    written,
                    lottery,
                };
                match begun.lottery.drawn {
                    Some(_) => drawn.push(begun),
                    None => plain.push(begun),
                }
            }
            let order = Arc::new(Permutation::identity());
            let plain = plain.into_iter().map(|begun| (begun, Arc::clone(&order)));
            self.finish(plain.collect()).await?;
            for begun in drawn {
                let drawn = begun.lottery.drawn.clone();
                let order = order_of(&drawn.expect("only those that have one")).await;
                match order {
                    Ok(order) => self.finish(vec![(begun, order)]).await?,
                    Err(error) => {
                        let failure = SaleFailure {
                            event_id: begun.wanted.sale.event_id,
                            step: "order",
                            error,
                        };
                        self.send(TaskOutcome::Failed(begun.wanted.task, failure));
                    }
                }
            }
            Ok(())
        })
    }

    async fn finish(&self, begun: Vec<(Begun, Arc<Permutation>)>) -> Result<(), sqlx::Error> {
        if begun.is_empty() {
            return Ok(());
        }
        let mut lines: HashMap<EventId, (TaskId, Line)> = HashMap::new();
        let mut to_read = Vec::new();
        for (begun, order) in begun {
            let event_id = begun.wanted.sale.event_id;
            if let Some(written) = &begun.written {
                to_read.push(Stretch {
                    event_id,
                    after: NOTHING_READ,
                    until: written.snapshot.seq,
                });
            }
            let task = begun.wanted.task;
            lines.insert(event_id, (task, begin(begun, order)));
        }
        self.read_moves(&mut lines, to_read).await?;
        let present: Vec<WaitedParts> = lines
            .iter()
            .filter(|(_, (_, line))| line.has_people())
            .map(|(id, (_, line))| (*id, 0..=line.joined.joined / SEEN_PART))
            .collect();
        let mut seen = self.presence.retained(&self.ctx, self.now, &present).await;
        for (event_id, (task, line)) in lines {
            let retained = seen.remove(&event_id).unwrap_or_default();
            self.send(resume(self.now, event_id, task, line, &retained));
        }
        self.arrived.notify_one();
        Ok(())
    }

    /// Reads and folds moves, [`ROWS`] at a time, until every line is complete.
    async fn read_moves(
        &self,
        lines: &mut HashMap<EventId, (TaskId, Line)>,
        mut to_read: Vec<Stretch>,
    ) -> Result<(), sqlx::Error> {
        while !to_read.is_empty() {
            let mut pieces = moves::read(&self.ctx.db, &to_read, ROWS).await?;
            to_read.retain_mut(|stretch| {
                let piece = pieces.remove(&stretch.event_id).unwrap_or_default();
                let Some((task, line)) = lines.get_mut(&stretch.event_id) else {
                    return false;
                };
                line.unfolded += piece.moves.len();
                let recalled = catch_unwind(AssertUnwindSafe(|| {
                    for moved in &piece.moves {
                        line.release.replay(moved);
                    }
                }));
                if recalled.is_err() {
                    let failure = SaleFailure {
                        event_id: stretch.event_id,
                        step: "recall",
                        error: "panicked".to_owned(),
                    };
                    self.send(TaskOutcome::Failed(*task, failure));
                    lines.remove(&stretch.event_id);
                    return false;
                }
                stretch.after = piece.moves.last().map_or(stretch.after, |last| last.seq);
                !piece.is_last
            });
        }
        Ok(())
    }
}

fn begin(begun: Begun, order: Arc<Permutation>) -> Line {
    let Begun {
        wanted,
        written,
        lottery,
    } = begun;
    let (claims, leavings) = written
        .as_ref()
        .map_or((0, 0), |written| (written.claims, written.leavings));
    let published = written.map(|written| written.snapshot);
    let joined = published.as_ref().map_or(0, |published| published.joined.0);
    let mut release = Release::default();
    release.reset(order, joined, published);
    Line {
        release,
        version: None,
        epoch: wanted.epoch,
        joined: wanted.joined,
        claims,
        leavings,
        lottery,
        unfolded: 0,
        is_drawing: false,
        is_compacting: false,
    }
}

fn resume(
    now: DateTime<Utc>,
    event_id: EventId,
    task: TaskId,
    mut line: Line,
    retained: &[PresenceSlot],
) -> TaskOutcome {
    let resumed = catch_unwind(AssertUnwindSafe(|| {
        if line.has_people() {
            presence::restore(&mut line.release, now, retained);
        }
        line
    }));
    match resumed {
        Ok(line) => TaskOutcome::Loaded(event_id, task, Box::new(line)),
        Err(_) => TaskOutcome::Failed(
            task,
            SaleFailure {
                event_id,
                step: "recall",
                error: "panicked".to_owned(),
            },
        ),
    }
}

//! A cache of lines, polled from PostgreSQL: for each sale that this process is asked about, an
//! immutable view of the shared snapshot, the state of every place and the drawn order.
//!
//! One loop polls the changes of all followed sales, four times a second with two queries. All
//! requests are served from memory, so the load on PostgreSQL is the same whether ten wait in a
//! line or a million. While PostgreSQL is unavailable the last view is served.
//!
//! A second loop catches up with lines that are new or far behind, a bounded number of rows at a
//! time shared between them, so that a long history causes no head-of-line blocking. Unknown ids
//! are looked up in batches at a bounded pace: made-up ones cost no memory, and at most one
//! statement each 50 ms.

mod catch_up;
pub mod moves;
mod store;
mod view;

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::time::Duration;

use domain::EventId;
use domain::line::Line;
use domain::lottery::Permutation;
use domain::queue::{Drawn, Snapshot};
use sqlx::PgPool;
use tokio::sync::{Notify, watch};
use tokio::time::MissedTickBehavior;
use uuid::Uuid;

use crate::batcher::{BatchLimits, BatchWork, Batcher, Job};
use crate::health::{Health, Heartbeat};
use crate::problem::{Kind, Problem};
use crate::sync::{MutexExt as _, RwLockExt as _};
use moves::Stretch;

pub use view::View;

/// Interval at which changes are polled.
pub const REFRESH_PERIOD: Duration = Duration::from_millis(250);
/// Time after which an unused line is evicted.
const RETENTION: Duration = Duration::from_secs(60);
/// Longest wait for the first view of a line.
const FIRST_WAIT: Duration = Duration::from_secs(4);
/// Timeout of one refresh.
const REFRESH_LIMIT: Duration = Duration::from_secs(20);
/// Heartbeat limit of the loops, beyond [`REFRESH_LIMIT`].
const HEARTBEAT_LIMIT: Duration = Duration::from_secs(30);
/// Most rows of moves that one statement reads.
const ROWS: usize = 4_000;
/// Batching of look-ups of unknown ids.
const UNKNOWN: BatchLimits = BatchLimits {
    batch: 4_096,
    waiting: 100_000,
    pace: Duration::from_millis(50),
    time: Duration::from_secs(5),
};

/// Failure to return a view.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum LineError {
    /// The release leader has never seen the sale.
    #[error("there is no such sale")]
    NoSale,
    /// It was never read, and PostgreSQL does not answer.
    #[error("the line was not read in time")]
    Unread,
}

impl From<LineError> for Problem {
    fn from(error: LineError) -> Self {
        match error {
            LineError::NoSale => Self::new(Kind::NotFound, "There is no sale of this event."),
            LineError::Unread => Self::new(
                Kind::Overloaded,
                "The queue can't be read right now; try again in a moment.",
            ),
        }
    }
}

/// A cache of the followed lines. Cheap to clone.
#[derive(Clone)]
pub struct Lines(Arc<Inner>);

struct Inner {
    db: PgPool,
    kept_refreshes: u32,
    followed: RwLock<HashMap<EventId, Arc<FollowedLine>>>,
    unknown: Batcher<Existing>,
    /// The history of the database that the lines are of.
    generation: Mutex<Option<Uuid>>,
    /// Notified when there is a line to catch up with.
    behind: Notify,
}

/// A line that this process follows.
struct FollowedLine {
    known: watch::Sender<Known>,
    /// True if it was requested since the last refresh.
    is_asked: AtomicBool,
    /// Refreshes since the last request.
    unasked: AtomicU32,
    /// True if it lags by more than one refresh reads.
    is_behind: AtomicBool,
    /// True if the view is of a history that a failover may have discarded.
    is_void: AtomicBool,
    /// The last seq whose snapshot could not be read.
    unreadable: AtomicI64,
    order: Mutex<Option<(Drawn, Arc<Permutation>)>>,
    is_ordering: AtomicBool,
}

/// Less than every seq.
const NEVER_READ: i64 = -1;

#[derive(Debug, Clone)]
enum Known {
    Unread,
    Here(Arc<View>),
}

/// The views of one line, as they come.
#[derive(Debug, Clone)]
pub struct Follower(watch::Receiver<Known>);

impl Follower {
    /// Returns the current view.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.0
            .borrow()
            .view()
            .expect("a follower is made when there is a view, and views stay")
    }

    /// Waits for the next view; `None` when the line is no longer followed.
    pub async fn next(&mut self) -> Option<Arc<View>> {
        self.0.changed().await.ok()?;
        self.0.borrow_and_update().view()
    }
}

impl Known {
    fn view(&self) -> Option<Arc<View>> {
        match self {
            Self::Here(view) => Some(Arc::clone(view)),
            Self::Unread => None,
        }
    }

    /// The last seq that was read.
    fn seq(&self) -> i64 {
        match self {
            Self::Here(view) => view.snapshot.seq,
            Self::Unread => NEVER_READ,
        }
    }
}

impl Lines {
    /// Creates a cache whose lines are evicted after a minute without a request. Nothing is read
    /// until [`refresh`](Self::refresh) runs.
    #[must_use]
    pub fn new(db: PgPool) -> Self {
        Self::with_retention(db, RETENTION)
    }

    /// Creates a cache whose lines are evicted after `retention` without a request.
    #[must_use]
    pub fn with_retention(db: PgPool, retention: Duration) -> Self {
        let refreshes = retention.as_millis() / REFRESH_PERIOD.as_millis();
        Self(Arc::new(Inner {
            kept_refreshes: u32::try_from(refreshes).unwrap_or(u32::MAX),
            followed: RwLock::default(),
            unknown: Batcher::new(Existing(db.clone()), UNKNOWN),
            generation: Mutex::default(),
            behind: Notify::new(),
            db,
        }))
    }

    /// Returns the view of `event_id`'s line: at most about [`REFRESH_PERIOD`] old, unless
    /// PostgreSQL is unavailable.
    ///
    /// # Errors
    /// When there is no such sale, or it can't be read for the first time.
    pub async fn view(&self, event_id: EventId) -> Result<Arc<View>, LineError> {
        let known = self
            .ask(event_id)
            .and_then(|followed| followed.known.borrow().view());
        if let Some(view) = known {
            return Ok(view);
        }
        self.first(event_id).await.map(|(view, _)| view)
    }

    /// Follows `event_id`'s line. It is not evicted while the follower is held.
    ///
    /// # Errors
    /// As [`view`](Self::view).
    pub async fn follow(&self, event_id: EventId) -> Result<Follower, LineError> {
        self.first(event_id)
            .await
            .map(|(_, receiver)| Follower(receiver))
    }

    /// Returns the number of followed lines.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.read_lock().len()
    }

    /// Polls for changes and catches up with lines that are behind, until dropped. Both loops have
    /// a heartbeat in `health`: a process whose views stand still is not ready.
    pub async fn refresh(&self, health: &Health) {
        let keeping_up = health.heartbeat("lines.refresh", HEARTBEAT_LIMIT);
        let catching_up = health.heartbeat("lines.catch-up", HEARTBEAT_LIMIT);
        tokio::join!(
            self.keep_up(&keeping_up),
            catch_up::run(&self.0, &catching_up)
        );
    }

    async fn keep_up(&self, heartbeat: &Heartbeat) {
        let mut ticks = tokio::time::interval(REFRESH_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            heartbeat.beat();
            let lines = self.0.asked_for();
            if lines.is_empty() {
                continue;
            }
            let reading = tokio::time::timeout(REFRESH_LIMIT, self.0.read_again(&lines));
            match reading.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the lines were not refreshed"),
                Err(_) => tracing::warn!("the lines were not refreshed in time"),
            }
        }
    }

    /// Returns a followed line, and marks it as requested.
    fn ask(&self, event_id: EventId) -> Option<Arc<FollowedLine>> {
        let followed = self.0.read_lock().get(&event_id).map(Arc::clone)?;
        followed.is_asked.store(true, Ordering::Relaxed);
        Some(followed)
    }

    /// Waits for the first reading of a line.
    async fn first(
        &self,
        event_id: EventId,
    ) -> Result<(Arc<View>, watch::Receiver<Known>), LineError> {
        let first = async {
            let followed = match self.ask(event_id) {
                Some(followed) => followed,
                None => self.begin(event_id).await?,
            };
            let mut receiver = followed.known.subscribe();
            let is_read = |known: &Known| known.view().is_some();
            let view = receiver.wait_for(is_read).await;
            let view = view.ok().and_then(|known| known.view());
            receiver.mark_unchanged();
            Ok::<_, LineError>((view.ok_or(LineError::Unread)?, receiver))
        };
        let first = tokio::time::timeout(FIRST_WAIT, first).await;
        first.unwrap_or(Err(LineError::Unread))
    }

    /// Starts to follow a line, if it exists.
    async fn begin(&self, event_id: EventId) -> Result<Arc<FollowedLine>, LineError> {
        match self.0.unknown.ask(event_id).await {
            Ok(Ok(true)) => {}
            Ok(Ok(false)) => return Err(LineError::NoSale),
            Ok(Err(LookupFailed)) | Err(_) => return Err(LineError::Unread),
        }
        let followed = {
            let mut all = self.0.write_lock();
            Arc::clone(all.entry(event_id).or_default())
        };
        self.0.behind.notify_one();
        Ok(followed)
    }
}

impl fmt::Debug for Lines {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lines")
            .field("count", &self.count())
            .finish_non_exhaustive()
    }
}

impl Inner {
    fn read_lock(&self) -> std::sync::RwLockReadGuard<'_, HashMap<EventId, Arc<FollowedLine>>> {
        self.followed.read_unpoisoned()
    }

    fn write_lock(&self) -> std::sync::RwLockWriteGuard<'_, HashMap<EventId, Arc<FollowedLine>>> {
        self.followed.write_unpoisoned()
    }

    /// Returns the lines to poll, and evicts unused ones.
    fn asked_for(&self) -> Vec<(EventId, Arc<FollowedLine>)> {
        let mut followed = self.write_lock();
        followed.retain(|_, line| line.is_asked_for(self.kept_refreshes));
        let near = followed
            .iter()
            .filter(|(_, line)| !line.is_behind.load(Ordering::Relaxed));
        near.map(|(event_id, line)| (*event_id, Arc::clone(line)))
            .collect()
    }

    async fn read_again(&self, lines: &[(EventId, Arc<FollowedLine>)]) -> Result<(), sqlx::Error> {
        let known: Vec<_> = lines
            .iter()
            .map(|(event_id, line)| (*event_id, line.known.borrow().seq()))
            .collect();
        let mut changes = store::changes(&self.db, &known).await?;
        if self.is_of_another_history(changes.generation) {
            return Ok(());
        }
        let mut changed = Vec::new();
        let mut to_read = Vec::new();
        for ((event_id, line), (_, after)) in lines.iter().zip(&known) {
            match changes.lines.remove(event_id) {
                None => {}
                Some(Err(unreadable)) => line.note_unreadable(*event_id, &unreadable),
                Some(Ok(snapshot)) => {
                    to_read.push(Stretch {
                        event_id: *event_id,
                        after: *after,
                        until: snapshot.seq,
                    });
                    changed.push((line, snapshot));
                }
            }
        }
        if to_read.is_empty() {
            return Ok(());
        }
        let mut pieces = moves::read(&self.db, &to_read, ROWS).await?;
        for (line, snapshot) in changed {
            let piece = pieces.remove(&snapshot.event_id).unwrap_or_default();
            if piece.is_last {
                let mut fold = line
                    .known
                    .borrow()
                    .view()
                    .map_or_else(Line::default, |view| Line::clone(&view.line));
                piece.moves.iter().for_each(|moved| fold.apply(moved));
                line.show(snapshot, fold);
            } else {
                line.is_behind.store(true, Ordering::Relaxed);
                self.behind.notify_one();
            }
        }
        Ok(())
    }

    /// Detects a failover that may have lost commits: all lines are read anew, and the old views
    /// are served until then.
    fn is_of_another_history(&self, now: Option<Uuid>) -> bool {
        let mut known = self.generation.lock_unpoisoned();
        let was = *known;
        *known = now.or(was);
        let is_other = was.is_some() && *known != was;
        drop(known);
        if is_other {
            tracing::info!("the database has another history than before; reading all lines anew");
            for line in self.write_lock().values() {
                line.is_void.store(true, Ordering::Relaxed);
                line.is_behind.store(true, Ordering::Relaxed);
            }
            self.behind.notify_one();
        }
        is_other
    }
}

/// Looks up which ids have a line.
struct Existing(PgPool);

/// The database failed; logged where it did.
#[derive(Clone, Copy)]
struct LookupFailed;

impl BatchWork for Existing {
    type Item = EventId;
    type Output = Result<bool, LookupFailed>;

    async fn work(&self, jobs: Vec<Job<Self>>) {
        let ids: Vec<EventId> = jobs.iter().map(|job| job.item).collect();
        let existing = store::existing(&self.0, &ids).await.map_err(|error| {
            tracing::warn!(%error, "unknown sales were not looked up");
            LookupFailed
        });
        for Job { item, asker } in jobs {
            asker.answer(match &existing {
                Ok(existing) => Ok(existing.contains(&item)),
                Err(error) => Err(*error),
            });
        }
    }
}

impl Default for FollowedLine {
    fn default() -> Self {
        Self {
            known: watch::Sender::new(Known::Unread),
            is_asked: AtomicBool::new(true),
            unasked: AtomicU32::new(0),
            is_behind: AtomicBool::new(true),
            is_void: AtomicBool::new(false),
            unreadable: AtomicI64::new(NEVER_READ),
            order: Mutex::default(),
            is_ordering: AtomicBool::new(false),
        }
    }
}

impl FollowedLine {
    /// Returns whether the line is in use; called once per refresh.
    fn is_asked_for(&self, kept_refreshes: u32) -> bool {
        if self.is_asked.swap(false, Ordering::Relaxed) || self.known.receiver_count() > 0 {
            self.unasked.store(0, Ordering::Relaxed);
            return true;
        }
        self.unasked.fetch_add(1, Ordering::Relaxed) < kept_refreshes
    }

    /// Logs an unreadable snapshot once per seq.
    fn note_unreadable(&self, event_id: EventId, unreadable: &store::Unreadable) {
        let store::Unreadable { seq, error } = unreadable;
        if self.unreadable.swap(*seq, Ordering::Relaxed) != *seq {
            tracing::error!(%event_id, seq, %error, "the snapshot can't be read");
        }
    }

    /// Publishes a view to all readers.
    fn show(self: &Arc<Self>, snapshot: Snapshot, line: Line) {
        let drawn = snapshot.lottery.drawn.clone();
        let order = self.order_of(drawn.as_ref());
        let event_id = snapshot.event_id;
        let view = View::new(snapshot, line, order.clone());
        self.known.send_replace(Known::Here(Arc::new(view)));
        // A draw without participants orders nothing, and may be repeated.
        if let (Some(drawn), None) = (drawn.filter(|drawn| drawn.lobby > 0), order) {
            self.order_in_the_background(event_id, drawn);
        }
    }

    /// Returns the order of a draw, if it was computed.
    fn order_of(&self, drawn: Option<&Drawn>) -> Option<Arc<Permutation>> {
        let order = self.order.lock_unpoisoned();
        let (of, order) = order.as_ref()?;
        (Some(of) == drawn).then(|| Arc::clone(order))
    }

    /// Computes the order on a blocking thread: a large lobby takes too long for the runtime's.
    fn order_in_the_background(self: &Arc<Self>, event_id: EventId, drawn: Drawn) {
        if self.is_ordering.swap(true, Ordering::Relaxed) {
            return;
        }
        let Some(draw) = view::draw(&drawn) else {
            tracing::error!(%event_id, "the seed of the lottery can't be read");
            return;
        };
        let line = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let order = Arc::new(draw.permutation());
            let computed = Some((drawn.clone(), Arc::clone(&order)));
            *line.order.lock_unpoisoned() = computed;
            line.known.send_if_modified(|known| {
                let Some(view) = known.view() else {
                    return false;
                };
                let is_same = view.snapshot.lottery.drawn.as_ref() == Some(&drawn);
                if is_same {
                    *known = Known::Here(Arc::new(view.ordered(Arc::clone(&order))));
                }
                is_same
            });
            line.is_ordering.store(false, Ordering::Relaxed);
        });
    }
}

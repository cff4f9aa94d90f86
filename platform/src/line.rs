//! What a node knows of the lines of its sales: the shared snapshot, where every place stands, and
//! the order that the lottery drew.
//!
//! One task reads, four times a second and with two queries for all sales that somebody asks for,
//! what has changed. Everybody else reads memory, so a line costs PostgreSQL the same whether ten
//! wait in it or a million. While PostgreSQL is away the last view stays.

mod store;
mod view;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use domain::EventId;
use domain::lottery::Order;
use domain::queue::Snapshot;
use sqlx::PgPool;
use tokio::sync::{Notify, watch};
use tokio::time::MissedTickBehavior;

use crate::problem::{Kind, Problem};

pub use view::View;

/// How often changes are read.
pub const REFRESH_PERIOD: Duration = Duration::from_millis(250);
/// How long a line is kept that nobody asks for.
const KEPT: Duration = Duration::from_secs(60);
/// Longest wait for a line that is asked for the first time.
const FIRST_WAIT: Duration = Duration::from_secs(4);
/// Longest time that one refresh may take.
const REFRESH_LIMIT: Duration = Duration::from_secs(20);

/// Why there is no view of a line.
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

/// The lines of all sales that somebody asks for. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Lines(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    db: PgPool,
    kept_refreshes: u32,
    followed: RwLock<HashMap<EventId, Arc<Followed>>>,
    /// Told when somebody asks for a line that was not read yet.
    first_asked: Notify,
}

/// One sale's line.
#[derive(Debug)]
struct Followed {
    known: watch::Sender<Known>,
    /// Whether somebody has asked since the last refresh.
    is_asked: AtomicBool,
    /// How many refreshes ago somebody did.
    unasked: AtomicU32,
    order: OnceLock<Arc<Order>>,
    is_ordering: AtomicBool,
}

#[derive(Debug, Clone)]
enum Known {
    Unread,
    Absent,
    Here(Arc<View>),
}

/// The views of one line, as they come.
#[derive(Debug, Clone)]
pub struct Follower(watch::Receiver<Known>);

impl Follower {
    /// The view of now.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        self.0
            .borrow()
            .view()
            .expect("a follower is made when there is a view, and views stay")
    }

    /// The next view; `None` when nobody reads any more.
    pub async fn next(&mut self) -> Option<Arc<View>> {
        self.0.changed().await.ok()?;
        self.0.borrow_and_update().view()
    }
}

impl Known {
    fn view(&self) -> Option<Arc<View>> {
        match self {
            Self::Here(view) => Some(Arc::clone(view)),
            Self::Unread | Self::Absent => None,
        }
    }

    /// The last seq that was read.
    fn seq(&self) -> i64 {
        match self {
            Self::Here(view) => view.snapshot.seq,
            Self::Unread | Self::Absent => store::NEVER_READ,
        }
    }
}

impl Lines {
    /// Lines that are forgotten when nobody has asked for a minute. They are read once
    /// [`refresh`](Self::refresh) runs.
    #[must_use]
    pub fn new(db: PgPool) -> Self {
        Self::kept_for(db, KEPT)
    }

    /// Lines that are forgotten when nobody has asked for `kept`.
    #[must_use]
    pub fn kept_for(db: PgPool, kept: Duration) -> Self {
        let refreshes = kept.as_millis() / REFRESH_PERIOD.as_millis();
        Self(Arc::new(Inner {
            db,
            kept_refreshes: u32::try_from(refreshes).unwrap_or(u32::MAX),
            followed: RwLock::default(),
            first_asked: Notify::new(),
        }))
    }

    /// The view of `event_id`'s line: at most about [`REFRESH_PERIOD`] old, unless PostgreSQL is
    /// away.
    ///
    /// # Errors
    /// When there is no such sale, or it can't be read for the first time.
    pub async fn view(&self, event_id: EventId) -> Result<Arc<View>, LineError> {
        let followed = self.ask(event_id);
        if let Known::Here(view) = &*followed.known.borrow() {
            return Ok(Arc::clone(view));
        }
        self.first(&followed).await.map(|(view, _)| view)
    }

    /// The views of `event_id`'s line from now on. While the follower is held, the line is not
    /// forgotten.
    ///
    /// # Errors
    /// As [`view`](Self::view).
    pub async fn follow(&self, event_id: EventId) -> Result<Follower, LineError> {
        let followed = self.ask(event_id);
        self.first(&followed)
            .await
            .map(|(_, receiver)| Follower(receiver))
    }

    /// How many lines are read.
    #[must_use]
    pub fn count(&self) -> usize {
        self.read_lock().len()
    }

    /// Reads what has changed, again and again; runs until dropped.
    pub async fn refresh(&self) {
        let mut ticks = tokio::time::interval(REFRESH_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let is_due = tokio::select! {
                _ = ticks.tick() => true,
                () = self.0.first_asked.notified() => false,
            };
            let lines = self.asked_for(is_due);
            if lines.is_empty() {
                continue;
            }
            let reading = tokio::time::timeout(REFRESH_LIMIT, self.read_again(&lines));
            match reading.await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::warn!(%error, "the lines were not refreshed"),
                Err(_) => tracing::warn!("the lines were not refreshed in time"),
            }
        }
    }

    fn ask(&self, event_id: EventId) -> Arc<Followed> {
        let known = self.read_lock().get(&event_id).map(Arc::clone);
        let followed = known.unwrap_or_else(|| {
            let mut all = self
                .0
                .followed
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            Arc::clone(all.entry(event_id).or_default())
        });
        followed.is_asked.store(true, Ordering::Relaxed);
        followed
    }

    /// Waits for the first reading of a line.
    async fn first(
        &self,
        followed: &Followed,
    ) -> Result<(Arc<View>, watch::Receiver<Known>), LineError> {
        let mut receiver = followed.known.subscribe();
        if matches!(*receiver.borrow(), Known::Unread) {
            self.0.first_asked.notify_one();
        }
        let is_read = |known: &Known| !matches!(known, Known::Unread);
        let known = match tokio::time::timeout(FIRST_WAIT, receiver.wait_for(is_read)).await {
            Ok(Ok(known)) => known.clone(),
            Ok(Err(_)) | Err(_) => return Err(LineError::Unread),
        };
        let view = known.view().ok_or(LineError::NoSale)?;
        receiver.mark_unchanged();
        Ok((view, receiver))
    }

    /// The lines to read. When `is_due`, those that nobody asks for are forgotten.
    fn asked_for(&self, is_due: bool) -> Vec<(EventId, Arc<Followed>)> {
        let mut followed = self
            .0
            .followed
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        if is_due {
            followed.retain(|_, line| line.is_asked_for(self.0.kept_refreshes));
        }
        followed
            .iter()
            .map(|(event_id, line)| (*event_id, Arc::clone(line)))
            .collect()
    }

    async fn read_again(&self, lines: &[(EventId, Arc<Followed>)]) -> Result<(), sqlx::Error> {
        let known: Vec<_> = lines
            .iter()
            .map(|(event_id, line)| (*event_id, line.known.borrow().seq()))
            .collect();
        let mut changes = store::changes_since(&self.0.db, &known).await?;
        for (event_id, line) in lines {
            match changes.remove(event_id) {
                Some(change) => line.take(change),
                None => line.note_absent(),
            }
        }
        Ok(())
    }

    fn read_lock(&self) -> std::sync::RwLockReadGuard<'_, HashMap<EventId, Arc<Followed>>> {
        self.0
            .followed
            .read()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Followed {
    fn default() -> Self {
        Self {
            known: watch::Sender::new(Known::Unread),
            is_asked: AtomicBool::new(true),
            unasked: AtomicU32::new(0),
            order: OnceLock::new(),
            is_ordering: AtomicBool::new(false),
        }
    }
}

impl Followed {
    /// Whether to keep it; called once in each refresh. A sale that does not exist is kept only
    /// until the next one, so that made-up ids take no memory.
    fn is_asked_for(&self, kept_refreshes: u32) -> bool {
        if self.is_asked.swap(false, Ordering::Relaxed) || self.known.receiver_count() > 0 {
            self.unasked.store(0, Ordering::Relaxed);
            return true;
        }
        let is_here = matches!(*self.known.borrow(), Known::Here(_));
        is_here && self.unasked.fetch_add(1, Ordering::Relaxed) < kept_refreshes
    }

    fn note_absent(&self) {
        self.known.send_if_modified(|known| {
            let is_first = matches!(known, Known::Unread);
            if is_first {
                *known = Known::Absent;
            }
            is_first
        });
    }

    fn take(self: &Arc<Self>, change: store::Change) {
        self.known.send_modify(|known| {
            let mut line = known.view().map_or_else(Default::default, |view| {
                domain::line::Line::clone(&view.line)
            });
            for moved in &change.moves {
                line.apply(moved);
            }
            let order = self.order.get().cloned();
            *known = Known::Here(Arc::new(View::new(change.snapshot, line, order)));
        });
        let view = self.known.borrow().view();
        if let Some(view) = view {
            self.order_in_the_background(&view.snapshot);
        }
    }

    /// Ordering a large lobby takes longer than a task may keep its thread.
    fn order_in_the_background(self: &Arc<Self>, snapshot: &Snapshot) {
        // A draw of nobody orders nobody, and may be made anew.
        let drawn = snapshot.lottery.drawn.as_ref();
        let Some(drawn) = drawn.filter(|drawn| drawn.lobby > 0) else {
            return;
        };
        if self.order.get().is_some() || self.is_ordering.swap(true, Ordering::Relaxed) {
            return;
        }
        let Some(draw) = view::draw(drawn) else {
            let event_id = snapshot.event_id;
            tracing::error!(%event_id, "the seed of the lottery can't be read");
            return;
        };
        let line = Arc::clone(self);
        tokio::task::spawn_blocking(move || {
            let order = line.order.get_or_init(|| Arc::new(draw.order()));
            line.known.send_if_modified(|known| {
                let Some(view) = known.view() else {
                    return false;
                };
                *known = Known::Here(Arc::new(view.ordered(Arc::clone(order))));
                true
            });
        });
    }
}

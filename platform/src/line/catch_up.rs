//! Catch-up of lines that are new or far behind, in bounded pieces: each round advances all of
//! them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use domain::EventId;
use domain::line::Line;
use domain::queue::Snapshot;

use super::moves::{self, Stretch};
use super::{FollowedLine, Inner, NEVER_READ, REFRESH_LIMIT, REFRESH_PERIOD, ROWS, store};
use crate::health::Heartbeat;

/// Most lines that one round advances.
const MAX_LINES_PER_ROUND: usize = 256;
/// Pause before an unreadable line is retried.
const RETRY_PAUSE: Duration = Duration::from_secs(1);

/// A line that is being read.
struct PartialRead {
    of: Arc<FollowedLine>,
    snapshot: Snapshot,
    line: Line,
    /// The last seq that was read.
    after: i64,
}

#[derive(Default)]
struct Round {
    begun: HashMap<EventId, PartialRead>,
    unreadable: HashMap<EventId, Instant>,
}

/// Advances the lines that are behind; runs until dropped.
pub(super) async fn run(lines: &Inner, heartbeat: &Heartbeat) {
    let mut round = Round::default();
    loop {
        heartbeat.beat();
        let reading = tokio::time::timeout(REFRESH_LIMIT, round.read(lines)).await;
        let has_more = match reading {
            Ok(Ok(has_more)) => has_more,
            Ok(Err(error)) => {
                tracing::warn!(%error, "lines were not read");
                tokio::time::sleep(REFRESH_PERIOD).await;
                continue;
            }
            Err(_) => {
                tracing::warn!("lines were not read in time");
                continue;
            }
        };
        if !has_more {
            let _either = tokio::time::timeout(REFRESH_PERIOD, lines.behind.notified()).await;
        }
    }
}

impl Round {
    /// Advances every line that is behind. Returns whether there is more to read.
    async fn read(&mut self, lines: &Inner) -> Result<bool, sqlx::Error> {
        let behind = self.behind(lines);
        if behind.is_empty() {
            return Ok(false);
        }
        self.begin(lines, &behind).await?;
        let stretches: Vec<Stretch> = self
            .begun
            .iter()
            .map(|(event_id, begun)| Stretch {
                event_id: *event_id,
                after: begun.after,
                until: begun.snapshot.seq,
            })
            .collect();
        if stretches.is_empty() {
            return Ok(false);
        }
        for (event_id, piece) in moves::read(&lines.db, &stretches, ROWS).await? {
            let Some(begun) = self.begun.get_mut(&event_id) else {
                continue;
            };
            for moved in &piece.moves {
                begun.line.apply(moved);
                begun.after = moved.seq;
            }
            if piece.is_last
                && let Some(begun) = self.begun.remove(&event_id)
            {
                begun.of.show(begun.snapshot, begun.line);
                begun.of.is_behind.store(false, Ordering::Release);
                if begun.of.is_void.load(Ordering::Acquire) {
                    begun.of.is_behind.store(true, Ordering::Relaxed);
                }
            }
        }
        Ok(true)
    }

    /// Returns the lines to advance, and discards the progress of others.
    fn behind(&mut self, lines: &Inner) -> Vec<(EventId, Arc<FollowedLine>)> {
        let now = Instant::now();
        self.unreadable
            .retain(|_, tried| now - *tried < RETRY_PAUSE);
        let followed = lines.read_lock();
        self.begun.retain(|event_id, begun| {
            let is_same = followed
                .get(event_id)
                .is_some_and(|of| Arc::ptr_eq(of, &begun.of));
            // A failover may have discarded the history that was read.
            is_same && !begun.of.is_void.load(Ordering::Relaxed)
        });
        let behind = followed.iter().filter(|(event_id, line)| {
            line.is_behind.load(Ordering::Relaxed) && !self.unreadable.contains_key(event_id)
        });
        behind
            .take(MAX_LINES_PER_ROUND)
            .map(|(event_id, line)| (*event_id, Arc::clone(line)))
            .collect()
    }

    /// Reads the snapshots of lines that are not begun yet.
    async fn begin(
        &mut self,
        lines: &Inner,
        behind: &[(EventId, Arc<FollowedLine>)],
    ) -> Result<(), sqlx::Error> {
        let new: Vec<&(EventId, Arc<FollowedLine>)> = behind
            .iter()
            .filter(|(event_id, _)| !self.begun.contains_key(event_id))
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        let ids: Vec<_> = new.iter().map(|(id, _)| (*id, NEVER_READ)).collect();
        let mut changes = store::changes(&lines.db, &ids).await?;
        for (event_id, of) in new {
            let snapshot = match changes.lines.remove(event_id) {
                Some(Ok(snapshot)) => snapshot,
                Some(Err(unreadable)) => {
                    of.note_unreadable(*event_id, &unreadable);
                    self.unreadable.insert(*event_id, Instant::now());
                    continue;
                }
                // Only a failover that lost commits removes a line.
                None => {
                    self.unreadable.insert(*event_id, Instant::now());
                    continue;
                }
            };
            let is_void = of.is_void.swap(false, Ordering::Relaxed);
            let known = of.known.borrow().view().filter(|_| !is_void);
            let (line, after) = match known {
                Some(view) => (Line::clone(&view.line), view.snapshot.seq),
                None => (Line::default(), NEVER_READ),
            };
            let begun = PartialRead {
                of: Arc::clone(of),
                snapshot,
                line,
                after,
            };
            self.begun.insert(*event_id, begun);
        }
        Ok(())
    }
}

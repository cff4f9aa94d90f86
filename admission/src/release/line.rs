//! The leader's in-memory state of one sale's line.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use domain::hex;
use domain::lottery::{Draw, Permutation, Stage};
use domain::queue::{BrakeState, Drawn, Lottery};
use domain::release::{Facts, Release};
use domain::sale::{SaleSettings, SaleState, Stock};

use super::store::{GateChanges, JoinCounts, PendingStep};

#[derive(Debug)]
pub(super) struct Line {
    pub(super) release: Release,
    /// Version of the settings in the last step.
    pub(super) version: Option<i64>,
    /// The shard's epoch when the line was read: under another it is read again.
    pub(super) epoch: i64,
    pub(super) joined: JoinCounts,
    /// Last change of a claim that a step includes.
    pub(super) claims: i64,
    /// Last change of a leaving that a step includes.
    pub(super) leavings: i64,
    pub(super) lottery: Lottery,
    /// Approximate number of moves since the last checkpoint.
    pub(super) unfolded: usize,
    /// A background task is advancing its lottery.
    pub(super) is_drawing: bool,
    /// A background task is making a checkpoint.
    pub(super) is_compacting: bool,
}

/// The next step of a sale's lottery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LotteryStep {
    /// Load or make the commitment, on first sight and after each change of settings.
    Announcement,
    /// The sale opens: fix the entries and draw.
    Draw,
    /// The draw had no entries and another lobby is due: commit to another seed.
    Renewal,
}

impl Line {
    /// Returns the sale's state. A sale whose lobby is not drawn yet stays in the lobby.
    pub(super) fn state_at(
        &self,
        now: DateTime<Utc>,
        sale: &SaleSettings,
        stock: Option<Stock>,
    ) -> Option<SaleState> {
        let state = sale.state_at(now, stock);
        let has_places = sale.lobby_seconds == 0 || self.lottery.drawn.is_some();
        Some(match state {
            SaleState::Open | SaleState::Paused | SaleState::SoldOut if !has_places => {
                SaleState::Lobby
            }
            state => state,
        })
    }

    pub(super) fn has_waiters(&self) -> bool {
        self.joined.joined > 0 && self.release.has_waiters()
    }

    /// Returns whether the published snapshot counts anybody who joined.
    pub(super) fn has_people(&self) -> bool {
        self.release
            .published()
            .is_some_and(|published| published.joined.0 > 0)
    }

    /// Returns whether the sale's end has been published, nobody shops and nobody may claim.
    pub(super) fn is_at_rest(&self, sale: &SaleSettings) -> bool {
        self.version == Some(sale.version)
            && !self.is_drawing
            && !self.is_compacting
            && !self.release.is_busy()
            && self.release.published().is_some_and(|published| {
                published.state == SaleState::Closed && published.shopping == 0
            })
    }

    /// Returns the lottery's next step at `now`.
    pub(super) fn lottery_step(
        &self,
        now: DateTime<Utc>,
        sale: &SaleSettings,
    ) -> Option<LotteryStep> {
        if self.is_drawing {
            return None;
        }
        let is_news = self.version != Some(sale.version);
        let is_known = !self.lottery.commitment.is_empty() && !is_news;
        match self.stage(now, sale) {
            Stage::Due if is_known && self.lottery.fixed.is_some() && sale.awaits_entropy() => None,
            Stage::Due => Some(LotteryStep::Draw),
            Stage::Renewed => Some(LotteryStep::Renewal),
            Stage::Committed if !is_known => Some(LotteryStep::Announcement),
            Stage::None | Stage::Committed | Stage::Drawn => None,
        }
    }

    /// Clears the lottery of a sale that no longer has one.
    pub(super) fn drop_lottery(&mut self, now: DateTime<Utc>, sale: &SaleSettings) {
        if self.stage(now, sale) == Stage::None && !self.is_drawing {
            self.lottery = Lottery::default();
        }
    }

    fn stage(&self, now: DateTime<Utc>, sale: &SaleSettings) -> Stage {
        let has_called = self
            .release
            .published()
            .is_some_and(|published| published.cursor.0 > 0);
        Stage::of(sale, now, &self.lottery, has_called)
    }

    /// Returns whether the sale must not be published yet, because its lottery has no commitment.
    pub(super) fn awaits_commitment(&self, sale: &SaleSettings) -> bool {
        sale.lobby_seconds > 0 && self.lottery.commitment.is_empty()
    }

    /// Decides one step; `None` when nothing changes.
    ///
    /// # Errors
    /// When the rules panicked. The line is then in an unknown state and must be dropped.
    pub(super) fn step(
        &mut self,
        now: DateTime<Utc>,
        sale: &SaleSettings,
        stock: Option<Stock>,
        gate: &GateChanges,
        brake: BrakeState,
    ) -> std::thread::Result<Option<PendingStep>> {
        catch_unwind(AssertUnwindSafe(|| {
            self.try_step(now, sale, stock, gate, brake)
        }))
    }

    fn try_step(
        &mut self,
        now: DateTime<Utc>,
        sale: &SaleSettings,
        stock: Option<Stock>,
        gate: &GateChanges,
        brake: BrakeState,
    ) -> Option<PendingStep> {
        let state = self.state_at(now, sale, stock)?;
        let before = self
            .release
            .published()
            .map_or(0, |published| published.seq);
        self.claims = gate.change.unwrap_or(self.claims);
        self.leavings = gate.leaving.unwrap_or(self.leavings);
        self.version = Some(sale.version);
        let step = self.release.step(&Facts {
            now,
            sale,
            state,
            joined: self.joined.joined,
            left: &gate.left,
            claimed: &gate.claimed,
            over: &gate.over,
            ready: &gate.ready,
            shopping: gate.shopping,
            claimed_last_minute: gate.claimed_last_minute,
            stock,
            brake,
            lottery: self.lottery.clone(),
        })?;
        let called = step.moved.called.iter();
        let called = called.map(|run| run.last.0 - run.first.0 + 1).sum::<i64>();
        metrics::counter!("admission_calls_total").increment(called.unsigned_abs());
        self.unfolded += usize::from(!step.moved.is_empty());
        Some(PendingStep {
            step,
            epoch: self.epoch,
            before,
            claims: self.claims,
            leavings: self.leavings,
        })
    }
}

/// Computes the order of a draw on a blocking thread: a million places take a second.
///
/// # Errors
/// When the draw is malformed, or the computation panicked.
pub(super) async fn order_of(drawn: &Drawn) -> Result<Arc<Permutation>, String> {
    let seed = hex::decode(&drawn.seed).ok_or("the seed of the lottery is not hexadecimal")?;
    let draw = Draw {
        lobby: drawn.lobby,
        seed,
        entropy: drawn.entropy.clone(),
    };
    let order = tokio::task::spawn_blocking(move || draw.permutation()).await;
    order.map(Arc::new).map_err(|error| error.to_string())
}

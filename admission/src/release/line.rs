//! What the leader knows of one sale.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use domain::hex;
use domain::lottery::{Draw, Order, Stage};
use domain::queue::{Braking, Drawn, Lottery};
use domain::release::{Facts, Release};
use domain::sale::{SaleSettings, SaleState, Stock};

use super::store::{AtGate, Joined, ToWrite};

#[derive(Debug)]
pub(super) struct Line {
    pub(super) release: Release,
    /// The version of the settings it acted on last.
    pub(super) version: Option<i64>,
    /// The epoch of its shard when it was read: under another it is read again.
    pub(super) epoch: i64,
    pub(super) joined: Joined,
    /// The last change of a claim that was told of.
    pub(super) claims: i64,
    /// The last change of a leaving that was told of.
    pub(super) leavings: i64,
    pub(super) lottery: Lottery,
    /// How many moves there are about, since the last checkpoint.
    pub(super) unfolded: usize,
    /// Whether a task beside the loop works at its lottery.
    pub(super) is_drawing: bool,
    /// Whether one makes a checkpoint.
    pub(super) is_compacting: bool,
}

/// What a sale's lottery needs next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Need {
    /// What was announced is read again, the settings having changed.
    Announcement,
    /// It is the opening: who takes part is fixed, and everybody gets a place.
    Draw,
    /// Nobody took part, and another lobby comes: another seed is committed to.
    Renewal,
}

impl Line {
    /// Where the sale stands; `None` before it was ever told of.
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

    pub(super) fn is_waited_for(&self) -> bool {
        self.joined.joined > 0 && self.release.is_waited_for()
    }

    /// Whether it was told that somebody had joined.
    pub(super) fn has_people(&self) -> bool {
        self.release.told().is_some_and(|told| told.joined.0 > 0)
    }

    /// Whether everybody was told that the sale has ended, and nobody shops or may claim.
    pub(super) fn is_at_rest(&self, sale: &SaleSettings) -> bool {
        self.version == Some(sale.version)
            && !self.is_drawing
            && !self.is_compacting
            && !self.release.is_busy()
            && self
                .release
                .told()
                .is_some_and(|told| told.state == SaleState::Closed && told.shopping == 0)
    }

    /// What the lottery needs at `now`.
    pub(super) fn need(&self, now: DateTime<Utc>, sale: &SaleSettings) -> Option<Need> {
        if self.is_drawing {
            return None;
        }
        let is_news = self.version != Some(sale.version);
        let is_known = !self.lottery.commitment.is_empty() && !is_news;
        match self.stage(now, sale) {
            Stage::Due if is_known && self.lottery.fixed.is_some() && sale.awaits_entropy() => None,
            Stage::Due => Some(Need::Draw),
            Stage::Renewed => Some(Need::Renewal),
            Stage::Committed if !is_known => Some(Need::Announcement),
            Stage::None | Stage::Committed | Stage::Drawn => None,
        }
    }

    /// Forgets a lottery that there is no more.
    pub(super) fn drop_lottery(&mut self, now: DateTime<Utc>, sale: &SaleSettings) {
        if self.stage(now, sale) == Stage::None && !self.is_drawing {
            self.lottery = Lottery::default();
        }
    }

    fn stage(&self, now: DateTime<Utc>, sale: &SaleSettings) -> Stage {
        let has_called = self.release.told().is_some_and(|told| told.cursor.0 > 0);
        Stage::of(sale, now, &self.lottery, has_called)
    }

    /// Whether nobody may be told of the sale yet: what its lottery is bound to comes first.
    pub(super) fn awaits_commitment(&self, sale: &SaleSettings) -> bool {
        sale.lobby_seconds > 0 && self.lottery.commitment.is_empty()
    }

    /// # Errors
    /// When the rules panicked. The line is then good for nothing.
    pub(super) fn step(
        &mut self,
        now: DateTime<Utc>,
        sale: &SaleSettings,
        stock: Option<Stock>,
        gate: &AtGate,
        brake: Braking,
    ) -> std::thread::Result<Option<ToWrite>> {
        catch_unwind(AssertUnwindSafe(|| {
            self.try_step(now, sale, stock, gate, brake)
        }))
    }

    fn try_step(
        &mut self,
        now: DateTime<Utc>,
        sale: &SaleSettings,
        stock: Option<Stock>,
        gate: &AtGate,
        brake: Braking,
    ) -> Option<ToWrite> {
        let state = self.state_at(now, sale, stock)?;
        let before = self.release.told().map_or(0, |told| told.seq);
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
        Some(ToWrite {
            step,
            epoch: self.epoch,
            before,
            claims: self.claims,
            leavings: self.leavings,
        })
    }
}

/// The order of a lottery, computed off the async threads: a million places take a second.
///
/// # Errors
/// When what was drawn can't be read.
pub(super) async fn order_of(drawn: &Drawn) -> Result<Arc<Order>, String> {
    let seed = hex::decode(&drawn.seed).ok_or("the seed of the lottery can't be read")?;
    let draw = Draw {
        lobby: drawn.lobby,
        seed,
        entropy: drawn.entropy.clone(),
    };
    let order = tokio::task::spawn_blocking(move || draw.order()).await;
    order.map(Arc::new).map_err(|error| error.to_string())
}

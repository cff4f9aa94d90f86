//! What the leader knows of one sale.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use domain::hex;
use domain::line::Move;
use domain::lottery::{Draw, Order, Stage};
use domain::queue::{Braking, Drawn, Lottery};
use domain::release::{Facts, Release};
use domain::sale::{SaleSettings, SaleState, Stock};
use platform::service::Context;

use super::presence::{self, Slot};
use super::store::{AtGate, Joined, ToWrite, Written};
use crate::lottery;

#[derive(Debug)]
pub(super) struct Line {
    pub(super) release: Release,
    /// The version of the settings it acted on last.
    pub(super) version: Option<i64>,
    pub(super) joined: Joined,
    /// The last change of a claim that was told of.
    pub(super) claims: i64,
    /// The last change of a leaving that was told of.
    pub(super) leavings: i64,
    lottery: Lottery,
}

impl Line {
    /// The line as it was written last, by whichever leader; `kept` is who was seen in it.
    pub(super) async fn recall(
        ctx: &Context,
        now: DateTime<Utc>,
        sale: &SaleSettings,
        written: Option<Written>,
        moves: &[Move],
        joined: Joined,
        kept: &[Slot],
    ) -> Result<Self, sqlx::Error> {
        let (claims, leavings) = written
            .as_ref()
            .map_or((0, 0), |written| (written.claims, written.leavings));
        let told = written.map(|written| written.snapshot.0);
        // Not from the snapshot: it may be older than the draw.
        let lottery = match &told {
            Some(told) if sale.lobby_seconds > 0 || told.lottery.fixed.is_some() => {
                lottery::commit(&ctx.db, &ctx.keys, sale, now).await?
            }
            _ => Lottery::default(),
        };
        let mut release = Release::default();
        let order = match &lottery.drawn {
            Some(drawn) => order_of(drawn).await,
            None => Arc::new(Order::of_joining()),
        };
        let was_joined = told.as_ref().map_or(0, |told| told.joined.0);
        release.remember(order, was_joined, told, moves.iter());
        if was_joined > 0 {
            presence::recall(&mut release, now, kept);
        }
        Ok(Self {
            release,
            version: None,
            joined,
            claims,
            leavings,
            lottery,
        })
    }

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

    /// Publishes the commitment before the lobby opens, and draws at the opening.
    pub(super) async fn prepare_lottery(
        &mut self,
        ctx: &Context,
        now: DateTime<Utc>,
        sale: &SaleSettings,
    ) -> Result<(), sqlx::Error> {
        let has_called = self.release.told().is_some_and(|told| told.cursor.0 > 0);
        let (db, keys) = (&ctx.db, &ctx.keys);
        let is_known = !self.lottery.commitment.is_empty() && self.version == Some(sale.version);
        self.lottery = match Stage::of(sale, now, &self.lottery, has_called) {
            Stage::None => Lottery::default(),
            Stage::Due => lottery::draw(db, keys, sale, self.joined.joined, now).await?,
            Stage::Renewed => lottery::renew(db, keys, sale, now).await?,
            Stage::Committed if !is_known => lottery::commit(db, keys, sale, now).await?,
            Stage::Committed | Stage::Drawn => return Ok(()),
        };
        if let Some(drawn) = &self.lottery.drawn {
            self.release.draw(order_of(drawn).await);
        }
        Ok(())
    }

    pub(super) fn step(
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
        Some(ToWrite {
            step,
            before,
            claims: self.claims,
            leavings: self.leavings,
        })
    }
}

/// Computed off the async threads: a million places take a second.
async fn order_of(drawn: &Drawn) -> Arc<Order> {
    let draw = Draw {
        lobby: drawn.lobby,
        seed: hex::decode(&drawn.seed).expect("a drawn seed is 32 bytes in hexadecimal"),
        entropy: drawn.entropy.clone(),
    };
    let order = tokio::task::spawn_blocking(move || draw.order());
    Arc::new(order.await.expect("computing an order does not panic"))
}

//! Publishes the shared snapshot: the state of the line that is the same for everybody.

use chrono::{DateTime, Utc};

use super::{Facts, Release, Step};
use crate::Place;
use crate::ahead::{Ahead, AheadBuilder};
use crate::line::Move;
use crate::queue::Snapshot;
use crate::release::bits::members;
use crate::sale::{SaleSettings, SaleState};

const DAY_SECONDS: i64 = 86_400;

impl Release {
    /// Returns the move and the snapshot after it; `None` when neither has changed. `served` is the
    /// number of waiting people for whom the stock suffices.
    pub(super) fn publish(
        &mut self,
        facts: &Facts<'_>,
        mut moved: Move,
        calls_per_second: f64,
        served: Option<f64>,
    ) -> Option<Step> {
        let ahead = self.count();
        let (waiting, steps) = (ahead.total(), ahead.steps());
        let pace = (calls_per_second > 0.0).then(|| self.forecast.pace(calls_per_second));
        if pace.is_some() {
            let (waits, presence) = (&self.waiting, &self.presence);
            let find = |people| {
                let place = steps.place_behind(people)?;
                let is_here = waits.contains(place.0) && presence.has(place, 2);
                is_here.then_some(place)
            };
            self.forecast
                .follow(facts.now, calls_per_second, waiting, find);
        }
        let seq = self.published.as_ref().map_or(0, |published| published.seq);
        let mut next = self.snapshot(facts, ahead);
        next.seq = seq;
        next.pace = pace;
        let wait = |people| next.wait(Some(people), facts.now);
        self.timeouts
            .sample(facts.now, &steps, Place(self.joined), wait);
        next.likely_until = served.and_then(|served| last_served(&next, served));
        let is_news = self
            .published
            .as_ref()
            .is_none_or(|published| differ(published, &next));
        if !is_news && moved.is_empty() {
            return None;
        }
        next.seq = seq + 1;
        moved.seq = next.seq;
        self.published = Some(next.clone());
        Some(Step {
            moved,
            snapshot: next,
        })
    }

    fn snapshot(&self, facts: &Facts<'_>, ahead: Ahead) -> Snapshot {
        let (now, sale, state) = (facts.now, facts.sale, facts.state);
        Snapshot {
            event_id: sale.event_id,
            seq: 0,
            at: now,
            state,
            message: sale.message.clone(),
            challenge: sale.challenge,
            anonymous: sale.anonymous,
            lottery: facts.lottery.clone(),
            opens_at: Some(sale.opens_at),
            lobby_opens_at: Some(sale.lobby_opens_at()),
            closes_at: sale.closes_at,
            claim_window_seconds: sale.claim_window_seconds,
            rate_per_minute: sale.rate_per_minute,
            joined: Place(self.joined),
            cursor: Place(self.cursor),
            left: self.left,
            waiting: ahead.total(),
            shopping: facts.shopping,
            shopper_cap: sale.shopper_cap,
            claimed_last_minute: facts.claimed_last_minute,
            available: facts.stock.map(|stock| stock.available),
            likely_until: None,
            poll_after_ms: poll_after_ms(state, ahead.total()),
            ahead,
            pace: None,
            brake: facts.brake,
            tokens_expire_at: tokens_expire_at(now, sale),
        }
    }

    /// Counts the waiting and present places.
    fn count(&self) -> Ahead {
        let mut present = self.present();
        let Some((at, word)) = present.next() else {
            return Ahead::empty(Place(self.cursor + 1), Place(self.joined));
        };
        let from = members(at, word).next().expect("a word with somebody");
        let mut builder = AheadBuilder::new(Place(from), Place(self.joined));
        builder.add(first(at), word);
        for (at, word) in present {
            builder.add(first(at), word);
        }
        builder.finish()
    }

    /// Returns the words with waiting and present places.
    fn present(&self) -> impl Iterator<Item = (usize, u64)> {
        let depths = self.timeouts.depths();
        (0..self.waiting.words())
            .map(move |at| {
                let waiting = self.waiting.word(at);
                if waiting == 0 {
                    return (at, 0);
                }
                let seen = |depth: Option<usize>| {
                    depth.map_or(waiting, |depth| self.presence.word(at, depth))
                };
                (at, waiting & depths.present(first(at), seen))
            })
            .filter(|(_, word)| *word != 0)
    }
}

/// The first place of a word.
fn first(at: usize) -> i64 {
    i64::try_from(at).expect("as many words as memory has") * 64
}

/// The last place for which the stock probably suffices; `None` when it does for all.
fn last_served(snapshot: &Snapshot, served: f64) -> Option<Place> {
    #[expect(clippy::cast_possible_truncation, reason = "at most a few billions")]
    let served = served.min(1e9) as i64;
    if served >= snapshot.waiting {
        return None;
    }
    let next = snapshot.ahead.steps().place_behind(served)?;
    Some(Place(next.0 - 1).max(snapshot.cursor))
}

/// Returns whether two snapshots differ, apart from their time.
fn differ(a: &Snapshot, b: &Snapshot) -> bool {
    *a != Snapshot {
        seq: a.seq,
        at: a.at,
        ..b.clone()
    }
}

/// A day after the sale ends; of one without an end, the end of the day after it has opened or of
/// tomorrow, whatever is later, so that it changes once a day only.
fn tokens_expire_at(now: DateTime<Utc>, sale: &SaleSettings) -> i64 {
    match sale.closes_at {
        Some(end) => end.timestamp() + DAY_SECONDS,
        None => {
            let from = now.max(sale.opens_at);
            (from.timestamp().div_euclid(DAY_SECONDS) + 2) * DAY_SECONDS
        }
    }
}

fn poll_after_ms(state: SaleState, waiting: i64) -> u32 {
    match state {
        SaleState::Open if waiting == 0 => 2_000,
        SaleState::Lobby | SaleState::Open | SaleState::Paused => 5_000,
        SaleState::Scheduled | SaleState::Closed | SaleState::SoldOut => 30_000,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::tests::{at, facts, sale};
    use chrono::TimeDelta;

    #[test]
    fn tokens_last_a_day_longer_than_the_lobby_and_the_sale() {
        let now = at(0);
        let life = |sale: &SaleSettings| {
            let end = tokens_expire_at(now, sale);
            TimeDelta::seconds(end - now.timestamp())
        };
        let (day, week) = (TimeDelta::days(1), TimeDelta::days(7));
        let mut open = sale(60);
        assert!(life(&open) > day && life(&open) <= day * 2);
        open.closes_at = Some(now + week);
        assert_eq!(life(&open), week + day);
        let lobby = SaleSettings {
            opens_at: now + week,
            closes_at: None,
            ..sale(60)
        };
        assert!(life(&lobby) > week + day && life(&lobby) <= week + day * 2);
    }

    #[test]
    fn the_snapshot_has_the_times_of_the_opening_and_the_end() {
        let mut sale = sale(60);
        sale.opens_at = at(60_000);
        sale.lobby_seconds = 10;
        sale.closes_at = Some(at(90_000));
        let mut release = Release::default();
        let step = release.step(&facts(&sale, 0, 0)).unwrap();
        let published = step.snapshot;
        assert_eq!(
            (
                published.lobby_opens_at,
                published.opens_at,
                published.closes_at
            ),
            (Some(at(50_000)), Some(at(60_000)), Some(at(90_000)))
        );
    }

    #[test]
    fn places_beyond_the_stock_are_published() {
        let mut published = Release::default()
            .step(&facts(&sale(60), 0, 0))
            .unwrap()
            .snapshot;
        published.ahead = Ahead::count(Place(3), Place(12), [3, 5, 9].map(Place).into_iter());
        published.waiting = 3;
        let until = |served| last_served(&published, served);
        assert_eq!(
            [until(0.0), until(1.0), until(2.9)],
            [2, 4, 8].map(|n| Some(Place(n)))
        );
        assert_eq!(until(3.0), None);
    }

    #[test]
    fn a_quiet_sale_is_polled_seldom_and_an_empty_open_one_often() {
        use SaleState::{Closed, Lobby, Open, Paused, Scheduled, SoldOut};
        assert_eq!(
            [poll_after_ms(Open, 0), poll_after_ms(Open, 1)],
            [2_000, 5_000]
        );
        assert_eq!(
            [Lobby, Paused].map(|state| poll_after_ms(state, 0)),
            [5_000; 2]
        );
        let quiet = [Scheduled, Closed, SoldOut].map(|state| poll_after_ms(state, 9));
        assert_eq!(quiet, [30_000; 3]);
    }
}

//! What everyone is told.

use chrono::{DateTime, Utc};

use super::{Facts, Release, Step, presence};
use crate::Place;
use crate::ahead::Ahead;
use crate::line::Move;
use crate::queue::Snapshot;
use crate::release::bits::members;
use crate::sale::{SaleSettings, SaleState};

const DAY_SECONDS: i64 = 86_400;
/// So many words share what silence they allow: who is so near to each other polls alike.
const ALIKE_WORDS: usize = 16;

impl Release {
    /// The move and the snapshot after it, unless neither has anything new. `served` is how many
    /// of those who wait will find something.
    pub(super) fn tell(
        &mut self,
        facts: &Facts<'_>,
        mut moved: Move,
        calls_per_second: f64,
        served: Option<f64>,
    ) -> Option<Step> {
        let ahead = self.count();
        let waiting = ahead.total();
        let pace = (calls_per_second > 0.0).then(|| self.forecast.pace(calls_per_second));
        self.forecast.tell(facts.now, pace);
        if pace.is_some() {
            let (waits, presence) = (&self.waiting, &self.presence);
            let find = |people| {
                let place = place_behind(&ahead, people)?;
                let is_here = waits.has(place.0) && presence.has(place, 2);
                is_here.then_some(place)
            };
            self.forecast
                .follow(facts.now, calls_per_second, waiting, find);
        }
        let seq = self.told.as_ref().map_or(0, |told| told.seq);
        let mut next = self.snapshot(facts, ahead);
        next.seq = seq;
        next.pace = pace;
        next.likely_until = served.and_then(|served| last_served(&next, served));
        let is_news = self.told.as_ref().is_none_or(|told| differ(told, &next));
        if !is_news && moved.is_empty() {
            return None;
        }
        next.seq = seq + 1;
        moved.seq = next.seq;
        self.told = Some(next.clone());
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

    /// Counts those who wait and are present. How long one may be silent depends on how many are
    /// ahead, so the count goes from the front to the back.
    fn count(&self) -> Ahead {
        let words = self.waiting.words();
        let front = self.present(0, words, 0).next();
        let Some(from) = front.and_then(|(at, word)| members(at, word).next()) else {
            return Ahead::empty(Place(self.cursor + 1), Place(self.joined));
        };
        let mut ahead = Ahead::empty(Place(from), Place(self.joined));
        let mut people = 0;
        let first = super::index(from);
        for start in (first..words).step_by(ALIKE_WORDS) {
            let end = (start + ALIKE_WORDS).min(words);
            for (at, word) in self.present(start, end, people) {
                people += i64::from(word.count_ones());
                add(&mut ahead, at, word);
            }
        }
        ahead
    }

    /// Words with somebody who waits and is present, where `people` are ahead.
    fn present(&self, start: usize, end: usize, people: i64) -> impl Iterator<Item = (usize, u64)> {
        let depth = presence::depth(self.forecast.silence(people));
        (start..end)
            .filter(|at| self.waiting.word(*at) != 0)
            .map(move |at| (at, self.waiting.word(at) & self.presence.word(at, depth)))
            .filter(|(_, word)| *word != 0)
    }
}

fn add(ahead: &mut Ahead, at: usize, word: u64) {
    let start = i64::try_from(at).expect("as many words as memory has") * 64;
    if ahead.is_together(Place(start), Place(start + 63)) {
        ahead.add(Place(start), word.count_ones());
    } else {
        for place in members(at, word) {
            ahead.add(Place(place), 1);
        }
    }
}

/// A place with about so many people ahead.
fn place_behind(ahead: &Ahead, people: i64) -> Option<Place> {
    let mut before = 0;
    for (start, count) in (ahead.from.0..)
        .step_by(usize::try_from(ahead.step).ok()?)
        .zip(&ahead.counts)
    {
        let count = i64::from(*count);
        if before + count > people {
            return Some(Place(start + (people - before) * ahead.step / count));
        }
        before += count;
    }
    None
}

/// The last place that will probably find something; `None` when all who wait will.
fn last_served(snapshot: &Snapshot, served: f64) -> Option<Place> {
    #[expect(clippy::cast_possible_truncation, reason = "at most a few billions")]
    let served = served.min(1e9) as i64;
    if served >= snapshot.waiting {
        return None;
    }
    let next = place_behind(&snapshot.ahead, served)?;
    Some(Place(next.0 - 1).max(snapshot.cursor))
}

/// Whether the two say different things; when they were taken is not one.
fn differ(a: &Snapshot, b: &Snapshot) -> bool {
    *a != Snapshot {
        seq: a.seq,
        at: a.at,
        ..b.clone()
    }
}

/// A day after the sale ends; of one without an end, the end of tomorrow, so that it changes once
/// a day only.
fn tokens_expire_at(now: DateTime<Utc>, sale: &SaleSettings) -> i64 {
    match sale.closes_at {
        Some(end) => end.timestamp() + DAY_SECONDS,
        None => (now.timestamp().div_euclid(DAY_SECONDS) + 2) * DAY_SECONDS,
    }
}

fn poll_after_ms(state: SaleState, waiting: i64) -> u32 {
    match state {
        SaleState::Open if waiting == 0 => 2_000,
        SaleState::Lobby | SaleState::Open | SaleState::Paused => 5_000,
        SaleState::Scheduled | SaleState::Closed | SaleState::SoldOut => 30_000,
    }
}

//! One simulated sale: people, operator, gate and release loop, ticked together.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use domain::ahead::Steps;
use domain::lottery::{Draw, Permutation};
use domain::queue::{
    BrakeState, Eta, Lottery, PlaceState, SEEN_SLOTS, Snapshot, Wait, poll_after_ms, seen_slot,
};
use domain::release::{Facts, Release, Step};
use domain::sale::SaleSettings;
use domain::{Number, Place};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::checks::{Broken, Minute, Stand, Truth};
use super::door::Door;
use super::operator::{Act, apply, plan, sale, ticks};
use super::people::People;
use super::{Failure, Report, Scale};

/// Ticks from the start to the opening.
const LOBBY_TICKS: u32 = 40;
/// Ticks after the opening during which people join.
const JOIN_TICKS: u32 = 600;
/// Time limit of a sale, in ticks.
const MAX_TICKS: u32 = 12_000;
/// Period of presence flushes, in ticks.
const FLUSH_TICKS: u32 = 8;
/// Period of the check of people ahead, in ticks.
const CHECKED_TICKS: u32 = 20;
/// One person in this many has their forecasts compared.
const FOLLOWED: u32 = 64;

pub(super) struct World {
    seed: u64,
    scale: Scale,
    rng: StdRng,
    start: DateTime<Utc>,
    sale: SaleSettings,
    plan: std::iter::Peekable<std::vec::IntoIter<(u32, Act)>>,
    people: People,
    order: Arc<Permutation>,
    release: Release,
    moves: Vec<domain::line::Move>,
    snapshot: Option<Published>,
    truth: Truth,
    door: Door,
    minute: Minute,
    claimants: Vec<Place>,
    left: Vec<Number>,
    /// Presence bitmaps by slot, as in Redis.
    seen: Vec<(i64, Vec<u8>)>,
    no_shows: f64,
    joined: u32,
    /// Open forecasts: place, tick, ETA.
    predictions: Vec<(i64, u32, Eta)>,
    report: Report,
}

/// The published snapshot, with its people ahead prepared for lookups.
struct Published {
    snapshot: Snapshot,
    steps: Steps,
}

impl Published {
    fn new(snapshot: Snapshot) -> Self {
        Self {
            steps: snapshot.ahead.steps(),
            snapshot,
        }
    }

    /// Returns the number of people ahead of `place`; those who joined since count as present.
    fn ahead(&self, place: Place) -> i64 {
        self.steps.of(place) + (place.0 - self.snapshot.ahead.last.0 - 1).max(0)
    }
}

impl World {
    pub(super) fn new(seed: u64, scale: Scale) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let start = DateTime::from_timestamp(1_800_000_000, 0).expect("a time");
        let sale = sale(scale, start + ticks(LOBBY_TICKS), &mut rng);
        let plan = plan(&mut rng);
        Self {
            seed,
            scale,
            start,
            sale,
            plan: plan.into_iter().peekable(),
            people: People::new(scale.waiters),
            order: Arc::new(Permutation::identity()),
            release: Release::default(),
            moves: Vec::new(),
            snapshot: None,
            truth: Truth::new(scale.waiters),
            door: Door::default(),
            minute: Minute::default(),
            claimants: Vec::new(),
            left: Vec::new(),
            seen: Vec::new(),
            no_shows: 0.0,
            joined: 0,
            predictions: Vec::new(),
            report: Report::default(),
            rng,
        }
    }

    pub(super) fn run(mut self) -> Result<Report, Failure> {
        for tick in 0..MAX_TICKS {
            let is_over = self
                .tick(tick)
                .map_err(|broken| self.failure(tick, broken))?;
            if is_over {
                self.report.joined = u64::from(self.joined);
                return Ok(self.report);
            }
        }
        let waiting = self
            .snapshot
            .as_ref()
            .map_or(0, |published| published.snapshot.waiting);
        Err(self.failure(MAX_TICKS, Broken::Stall(waiting)))
    }

    fn failure(&self, tick: u32, broken: Broken) -> Failure {
        Failure {
            seed: self.seed,
            seconds: f64::from(tick) / 4.0,
            broken,
        }
    }

    /// Advances a quarter of a second; returns whether the sale is over.
    fn tick(&mut self, tick: u32) -> Result<bool, Broken> {
        let now = self.start + ticks(tick);
        self.join(tick);
        if tick == LOBBY_TICKS {
            self.draw()?;
        }
        while let Some((_, act)) = self.plan.next_if(|(at, _)| at + LOBBY_TICKS <= tick) {
            self.act(act, tick);
        }
        let (claimed, over) = self.claim(now)?;
        self.flush(tick, now);
        let ready = self.door.ready();
        let left = std::mem::take(&mut self.left);
        let facts = Facts {
            now,
            sale: &self.sale,
            state: self.sale.state_at(now, None),
            joined: i64::from(self.joined),
            left: &left,
            claimed: &claimed,
            over: &over,
            ready: &ready,
            shopping: i64::from(self.door.shopping),
            claimed_last_minute: i64::from(self.door.in_minute(now)),
            stock: None,
            brake: BrakeState::default(),
            lottery: Lottery::default(),
        };
        let step = self.release.step(&facts);
        self.report.steps += 1;
        if let Some(step) = step {
            self.published(tick, step)?;
        }
        self.ask(tick);
        if tick.is_multiple_of(CHECKED_TICKS) {
            self.check_ahead(tick)?;
        }
        self.settle(tick)
    }

    fn join(&mut self, tick: u32) {
        let lobby = self.scale.waiters / 3;
        let due = if tick < LOBBY_TICKS {
            u64::from(lobby) * u64::from(tick + 1) / u64::from(LOBBY_TICKS)
        } else {
            let rest = u64::from(self.scale.waiters - lobby);
            let part = u64::from((tick - LOBBY_TICKS).min(JOIN_TICKS));
            u64::from(lobby) + rest * part / u64::from(JOIN_TICKS)
        };
        while u64::from(self.joined) < due {
            self.joined = self.people.join(tick, 2_000, &mut self.rng);
            self.truth.set(i64::from(self.joined), Stand::Waiting);
        }
    }

    /// Draws the lobby's places; those who left have none.
    fn draw(&mut self) -> Result<(), Broken> {
        let lobby = i64::from(self.joined);
        let draw = Draw {
            lobby,
            seed: self.rng.random(),
            entropy: String::new(),
        };
        let order = Arc::new(draw.permutation());
        let mut given = vec![false; self.joined as usize + 1];
        for number in 1..=lobby {
            let place = order.place_of(Number(number)).0;
            let at = usize::try_from(place)
                .ok()
                .filter(|at| *at < given.len() && *at > 0);
            match at {
                Some(at) if !given[at] && order.number_of(Place(place)) == Number(number) => {
                    given[at] = true;
                }
                _ => return Err(Broken::Place(place)),
            }
            let has_left = self.people.all[usize::try_from(number).expect("few")].has_left;
            let stand = if has_left {
                Stand::Nobody
            } else {
                Stand::Waiting
            };
            self.truth.set(place, stand);
        }
        self.order = Arc::clone(&order);
        self.release.draw(order);
        Ok(())
    }

    fn act(&mut self, act: Act, tick: u32) {
        apply(&mut self.sale, act, self.scale);
        match act {
            Act::NoShows(share) => self.no_shows = share,
            Act::Vanish(share) => self.people.vanish(tick, share, &mut self.rng),
            Act::Restart => {
                let published = self.release.published().cloned();
                let joined = published.as_ref().map_or(0, |published| published.joined.0);
                self.release = Release::default();
                let order = Arc::clone(&self.order);
                self.release.reset(order, joined, published);
                for moved in &self.moves {
                    self.release.replay(moved);
                }
                for (slot, bitmap) in &self.seen {
                    self.release.record_presence(*slot, 0, bitmap);
                }
            }
            Act::Rate(_) | Act::Cap(_) | Act::Pause | Act::Resume => (),
        }
    }

    /// Passes claimants to the gate, checking its rate and cap from outside.
    fn claim(&mut self, now: DateTime<Utc>) -> Result<(Vec<Place>, Vec<Place>), Broken> {
        let mut claimants = std::mem::take(&mut self.claimants);
        claimants.retain(|place| self.truth.of(place.0) == Stand::Called);
        let seconds = self.rng.random_range(10..40);
        let passed = self.door.tick(now, &self.sale, &claimants, seconds);
        for place in &passed.claimed {
            if self.truth.of(place.0) != Stand::Called {
                return Err(Broken::Pass(place.0));
            }
            self.truth.set(place.0, Stand::Claimed);
        }
        let claims = passed.claimed.len() as u64;
        self.minute
            .add(now.timestamp_millis(), claims, self.sale.rate_per_minute)?;
        if claims > 0 && self.door.shopping > self.sale.shopper_cap {
            return Err(Broken::Cap {
                shopping: self.door.shopping,
                cap: self.sale.shopper_cap,
            });
        }
        self.report.claims += claims;
        for (place, pause) in passed.to_wait {
            let after = u32::try_from(pause.num_milliseconds() / 250 + 1).expect("seconds");
            let number = self.order.number_of(place).0;
            let tick = u32::try_from((now - self.start).num_milliseconds() / 250).expect("hours");
            self.people
                .plan(u32::try_from(number).expect("few"), tick, after);
        }
        Ok((passed.claimed, passed.over))
    }

    /// Flushes presence to the leader every two seconds.
    fn flush(&mut self, tick: u32, now: DateTime<Utc>) {
        if tick.is_multiple_of(FLUSH_TICKS) {
            for (slot, bitmap) in self.seen.iter().rev().take(2) {
                self.release.record_presence(*slot, 0, bitmap);
            }
        }
        let slot = seen_slot(now);
        if self.seen.last().is_none_or(|last| last.0 < slot) {
            self.seen.push((slot, Vec::new()));
            if self.seen.len() > usize::try_from(SEEN_SLOTS).expect("few") {
                self.seen.remove(0);
            }
        }
    }

    fn published(&mut self, tick: u32, step: Step) -> Result<(), Broken> {
        let Step { moved, snapshot } = step;
        let (all, order) = (&self.people.all, &self.order);
        let is_present = |place: i64| {
            let number = usize::try_from(order.number_of(Place(place)).0).expect("few");
            all[number].is_known_to_be_here(tick)
        };
        self.truth.apply(&moved, is_present)?;
        for run in &moved.called {
            self.report.called += u64::try_from(run.last.0 - run.first.0 + 1).expect("few");
        }
        self.report.missed += moved.missed.len() as u64;
        if !moved.is_empty() {
            self.moves.push(moved);
        }
        self.snapshot = Some(Published::new(snapshot));
        Ok(())
    }

    /// Checks that no place is shown fewer people ahead than are certainly present.
    fn check_ahead(&mut self, tick: u32) -> Result<(), Broken> {
        let Some(published) = self.snapshot.as_ref().filter(|_| tick > LOBBY_TICKS) else {
            return Ok(());
        };
        let place = self.rng.random_range(1..=i64::from(self.joined.max(1)));
        let is_here = |place: &i64| {
            let number = usize::try_from(self.order.number_of(Place(*place)).0).expect("few");
            self.people.all[number].is_known_to_be_here(tick)
        };
        let before = self.truth.waiting().take_while(|other| *other < place);
        let truth = before.filter(is_here).count();
        let truth = i64::try_from(truth).expect("few");
        let ahead = published.ahead(Place(place));
        if ahead < truth - 1 - truth / 50 {
            return Err(Broken::Ahead {
                place,
                shown: ahead,
                truth,
            });
        }
        Ok(())
    }

    /// Runs the polls that are due.
    fn ask(&mut self, tick: u32) {
        let due = self.people.asking(tick);
        for number in due {
            let person = &mut self.people.all[number as usize];
            person.ask(tick);
            let (leaves_at, reliability) = (person.leaves_at, person.reliability);
            if let Some((_, bitmap)) = self.seen.last_mut() {
                mark(bitmap, number as usize);
            }
            let place = self.order.place_of(Number(number.into()));
            match self.truth.of(place.0) {
                Stand::Waiting if tick >= leaves_at => self.leave(number, place),
                Stand::Waiting => self.wait(number, place, tick),
                Stand::Called if f64::from(reliability) / 256.0 < self.no_shows => (),
                Stand::Called => self.claimants.push(place),
                Stand::Nobody | Stand::Claimed | Stand::GivenUp => (),
            }
        }
    }

    fn leave(&mut self, number: u32, place: Place) {
        self.people.all[number as usize].has_left = true;
        self.truth.set(place.0, Stand::GivenUp);
        self.left.push(Number(number.into()));
        self.report.left += 1;
    }

    fn wait(&mut self, number: u32, place: Place, tick: u32) {
        let now = self.start + ticks(tick);
        let published = self.snapshot.as_ref();
        let wait = published.map_or(Wait::Unknown, |published| {
            published.snapshot.wait(Some(published.ahead(place)), now)
        });
        let pause = poll_after_ms(PlaceState::Waiting, wait, self.rng.random());
        self.people.plan(number, tick, pause.div_ceil(250));
        let eta = match wait {
            Wait::Call(eta) => Some(eta),
            Wait::Opening(_) | Wait::Unknown => None,
        };
        let is_followed = number.is_multiple_of(FOLLOWED) && self.rng.random_ratio(1, 8);
        if let Some(eta) = eta.filter(|eta| is_followed && eta.p50 > 3.0) {
            self.predictions.push((place.0, tick, eta));
        }
    }

    /// Scores forecasts; returns whether the sale is over.
    fn settle(&mut self, tick: u32) -> Result<bool, Broken> {
        let (truth, report) = (&self.truth, &mut self.report);
        let cursor = self
            .snapshot
            .as_ref()
            .map_or(0, |published| published.snapshot.cursor.0);
        self.predictions
            .retain(|(place, at, eta)| match truth.of(*place) {
                // Passed by the cursor while absent: unpredictable.
                Stand::Waiting => *place > cursor,
                Stand::Called => {
                    let waited = f64::from(tick - at) / 4.0;
                    report.predicted += 1;
                    report.within_p50 += u64::from(waited <= eta.p50);
                    report.within_p90 += u64::from(waited <= eta.p90);
                    false
                }
                _ => false,
            });
        let published = self.snapshot.as_ref().map(|published| &published.snapshot);
        let is_waited_for = published.is_none_or(|published| published.waiting > 0);
        let is_joined = tick > LOBBY_TICKS + JOIN_TICKS;
        if is_joined && !is_waited_for && self.door.shopping == 0 && !self.release.is_busy() {
            return self.finish(tick).map(|()| true);
        }
        Ok(false)
    }

    /// Checks that nobody present was left waiting.
    fn finish(&self, tick: u32) -> Result<(), Broken> {
        let forgotten = self.truth.waiting().find(|place| {
            let number = usize::try_from(self.order.number_of(Place(*place)).0).expect("few");
            self.people.all[number].is_known_to_be_here(tick)
        });
        forgotten.map_or(Ok(()), |place| Err(Broken::Place(place)))
    }
}

fn mark(bitmap: &mut Vec<u8>, number: usize) {
    if bitmap.len() <= number / 8 {
        bitmap.resize(number / 8 + 1, 0);
    }
    bitmap[number / 8] |= 0x80 >> (number % 8);
}

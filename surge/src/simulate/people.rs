//! Simulated people: each polls on schedule, and may close the tab, come back, leave, or not show
//! up.

use rand::Rng;
use rand::rngs::StdRng;

/// Size of the timer wheel: the longest delay of a poll or a return, in ticks.
const RING: usize = 4_096;
/// A poll within this time counts as present everywhere in the line.
const CERTAIN_TICKS: u32 = 20;
/// Ticks until the leader certainly knows of presence.
const KNOWN_TICKS: u32 = 16;
/// A closed tab polls at no tick.
const NEVER: u32 = u32::MAX;

/// A person, indexed by number.
#[derive(Debug, Clone, Copy)]
pub(super) struct Person {
    /// Tick of the last poll.
    pub(super) asked_at: u32,
    /// Tick since which they have polled without long pauses.
    pub(super) here_since: u32,
    /// Tick at which the tab is closed.
    pub(super) closes_at: u32,
    /// Ticks for which it stays closed; [`NEVER`] for good.
    pub(super) away: u32,
    /// Tick at which they leave the queue.
    pub(super) leaves_at: u32,
    /// Does not claim when this is below the no-show rate.
    pub(super) reliability: u8,
    pub(super) has_left: bool,
}

impl Person {
    fn new(now: u32, horizon: u32, rng: &mut StdRng) -> Self {
        let sometime = |rng: &mut StdRng, share: f64| {
            if rng.random_bool(share) {
                now + rng.random_range(1..horizon)
            } else {
                NEVER
            }
        };
        let closes_at = sometime(rng, 0.15);
        let away = match rng.random_range(0..10) {
            0..5 => NEVER,
            5..9 => rng.random_range(20..600),
            _ => rng.random_range(600..3_500),
        };
        Self {
            asked_at: now,
            here_since: now,
            closes_at,
            away,
            leaves_at: sometime(rng, 0.05),
            reliability: rng.random(),
            has_left: false,
        }
    }
}

impl Person {
    /// Records a poll.
    pub(super) fn ask(&mut self, now: u32) {
        if now - self.asked_at > CERTAIN_TICKS {
            self.here_since = now;
        }
        self.asked_at = now;
    }

    /// Returns whether they are present and the leader must know it.
    pub(super) fn is_known_to_be_here(&self, now: u32) -> bool {
        now - self.asked_at <= CERTAIN_TICKS && now - self.here_since >= KNOWN_TICKS
    }
}

/// All people, and a timer wheel of their polls.
pub(super) struct People {
    pub(super) all: Vec<Person>,
    due: Vec<Vec<u32>>,
}

impl People {
    pub(super) fn new(most: u32) -> Self {
        Self {
            all: Vec::with_capacity(most as usize + 1),
            due: vec![Vec::new(); RING],
        }
    }

    /// Adds a person; returns their number.
    pub(super) fn join(&mut self, now: u32, horizon: u32, rng: &mut StdRng) -> u32 {
        if self.all.is_empty() {
            self.all.push(Person::new(0, 2, rng));
        }
        let number = u32::try_from(self.all.len()).expect("a million or so");
        self.all.push(Person::new(now, horizon, rng));
        self.plan(number, now, rng.random_range(1..40));
        number
    }

    /// Returns those who poll at this tick; those with a closed tab do not.
    pub(super) fn asking(&mut self, now: u32) -> Vec<u32> {
        let mut due = std::mem::take(&mut self.due[now as usize % RING]);
        let all = &mut self.all;
        let mut back = Vec::new();
        due.retain(|number| {
            let person = &mut all[*number as usize];
            if person.has_left || now < person.closes_at {
                return !person.has_left;
            }
            let away = person.away;
            person.closes_at = NEVER;
            if away != NEVER {
                back.push((*number, away));
            }
            false
        });
        for (number, away) in back {
            self.plan(number, now, away);
        }
        due
    }

    /// Schedules the next poll.
    pub(super) fn plan(&mut self, number: u32, now: u32, after: u32) {
        let after = after.clamp(1, u32::try_from(RING - 1).expect("few"));
        self.due[(now + after) as usize % RING].push(number);
    }

    /// Lets a share of all people close their tabs for good.
    pub(super) fn vanish(&mut self, now: u32, share: f64, rng: &mut StdRng) {
        for person in &mut self.all {
            if rng.random_bool(share) {
                person.closes_at = now;
                person.away = NEVER;
            }
        }
    }
}

use std::collections::VecDeque;

use super::*;
use crate::{EventId, testing};

pub(super) fn at(millis: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(1_800_000_000_000 + millis).unwrap()
}

pub(super) fn sale(rate_per_minute: u32) -> SaleSettings {
    SaleSettings {
        rate_per_minute,
        shopper_cap: 1_000_000,
        ..testing::sale(EventId(1), at(-60_000))
    }
}

pub(super) fn facts(sale: &SaleSettings, millis: i64, joined: i64) -> Facts<'_> {
    Facts {
        now: at(millis),
        sale,
        state: sale.state_at(at(millis), None),
        joined,
        left: &[],
        claimed: &[],
        over: &[],
        ready: &[],
        shopping: 0,
        claimed_last_minute: 0,
        stock: None,
        brake: BrakeState::default(),
        lottery: Lottery::default(),
    }
}

/// A line in which everybody who is called claims `delay` ticks later, if their place may.
struct Simple {
    release: Release,
    sale: SaleSettings,
    millis: i64,
    joined: i64,
    called: VecDeque<Vec<Place>>,
    delay: usize,
    away: std::ops::Range<i64>,
}

impl Simple {
    fn new(rate_per_minute: u32, joined: i64) -> Self {
        Self {
            release: Release::default(),
            sale: sale(rate_per_minute),
            millis: 0,
            joined,
            called: VecDeque::new(),
            delay: 4,
            away: 0..0,
        }
    }

    /// Everybody but those away is seen.
    fn see(&mut self) {
        let mut bitmap = vec![0_u8; usize::try_from(self.joined / 8 + 1).unwrap()];
        for place in (1..=self.joined).filter(|place| !self.away.contains(place)) {
            bitmap[usize::try_from(place / 8).unwrap()] |= 0x80 >> (place % 8);
        }
        self.release
            .record_presence(seen_slot(at(self.millis)), 0, &bitmap);
    }

    fn tick(&mut self) -> Vec<Place> {
        self.millis += 250;
        if self.millis % 1_000 == 0 {
            self.see();
        }
        let claimed = if self.called.len() >= self.delay {
            self.called.pop_front().unwrap_or_default()
        } else {
            Vec::new()
        };
        let facts = Facts {
            claimed: &claimed,
            ..facts(&self.sale, self.millis, self.joined)
        };
        let step = self.release.step(&facts);
        let called: Vec<Place> = step
            .iter()
            .flat_map(|step| step.moved.called.iter().flat_map(|run| run.places()))
            .collect();
        self.called.push_back(called.clone());
        called
    }

    fn run(&mut self, ticks: usize) -> Vec<Place> {
        (0..ticks).flat_map(|_| self.tick()).collect()
    }
}

#[test]
fn people_are_called_in_order_so_that_they_come_at_the_rate() {
    let mut line = Simple::new(6_000, 10_000);
    let called = line.run(40);
    assert!(called.is_sorted());
    let came = called.len() - line.called.iter().map(Vec::len).sum::<usize>();
    assert!((880..=1_010).contains(&came), "{came} in ten seconds");
}

#[test]
fn an_absent_place_is_passed_and_called_first_when_it_is_back() {
    let mut line = Simple::new(600, 400);
    line.release.step(&facts(&line.sale, 0, 0));
    line.sale.paused = true;
    line.away = 3..6;
    line.run(200);
    line.sale.paused = false;
    let called = line.run(40);
    assert!(called.contains(&Place(2)) && !called.contains(&Place(4)));
    let highest = *called.last().unwrap();
    line.away = 0..0;
    let next = line.run(8);
    let back = next.iter().position(|place| *place == Place(3)).unwrap();
    assert_eq!(next[back..back + 3], [3, 4, 5].map(Place), "in one go");
    assert!(next[..back].iter().all(|place| *place > highest));
    assert!(
        back <= 12,
        "called in the tick after they were seen: {next:?}"
    );
}

#[test]
fn a_phone_that_was_locked_for_half_an_hour_is_called_first_when_it_is_back() {
    let mut line = Simple::new(60, 5_000);
    line.away = 1..4;
    line.sale.paused = true;
    line.run(200);
    line.sale.paused = false;
    let mut missed = Vec::new();
    let mut tick = |line: &mut Simple| {
        line.millis += 250;
        if line.millis % 1_000 == 0 {
            line.see();
        }
        let step = line
            .release
            .step(&facts(&line.sale, line.millis, line.joined));
        let moved = step.map(|step| step.moved);
        missed.extend(moved.iter().flat_map(|moved| moved.missed.clone()));
        let runs = moved.into_iter().flat_map(|moved| moved.called);
        runs.flat_map(Run::places).collect::<Vec<_>>()
    };
    for _ in 0..30 * 240 {
        tick(&mut line);
    }
    line.away = 0..0;
    let next: Vec<Place> = (0..200).flat_map(|_| tick(&mut line)).collect();
    let back = next.iter().position(|place| *place == Place(1)).unwrap();
    assert!(back <= 2, "{next:?}");
    assert_eq!(next[back..back + 3], [1, 2, 3].map(Place));
    assert!(missed.iter().all(|place| place.0 > 3), "{missed:?}");
}

#[test]
fn an_absent_place_is_still_awaited_when_nobody_else_waits() {
    let mut line = Simple::new(600, 1);
    line.sale.paused = true;
    line.away = 1..2;
    line.run(400);
    assert_eq!(
        line.release.published().map(|published| published.waiting),
        Some(0)
    );
    assert!(!line.release.is_busy() && line.release.has_waiters());
    line.sale.paused = false;
    line.away = 0..0;
    assert_eq!(line.run(20), [Place(1)]);
    assert!(!line.release.has_waiters());
}

#[test]
fn the_cap_counts_those_who_shop_and_those_who_are_called() {
    let mut line = Simple::new(60_000, 1_000);
    line.sale.shopper_cap = 50;
    line.millis = 250;
    let shopping = Facts {
        shopping: 30,
        ..facts(&line.sale, line.millis, line.joined)
    };
    let mut called = 0;
    for tick in 1..20 {
        let facts = Facts {
            now: at(250 * tick),
            ..shopping.clone()
        };
        let step = line.release.step(&facts);
        called += step.map_or(0, |step| people(&step.moved.called));
    }
    assert!((20..=80).contains(&called), "{called} for 20 slots");
    let full = Facts {
        now: at(6_000),
        shopping: 50,
        ..shopping
    };
    assert!(
        line.release
            .step(&full)
            .is_none_or(|step| step.moved.called.is_empty())
    );
}

#[test]
fn the_lobby_is_called_in_the_order_of_the_draw_without_those_who_left() {
    let mut line = Simple::new(60_000, 100);
    line.sale.opens_at = at(10_000);
    line.sale.lobby_seconds = 60;
    line.run(4);
    let order = crate::lottery::Draw {
        lobby: 100,
        seed: [3; 32],
        entropy: String::new(),
    }
    .permutation();
    let gone = Number(17);
    let left = Facts {
        left: &[gone],
        ..facts(&line.sale, line.millis + 250, 100)
    };
    line.release.step(&left);
    assert_eq!(
        line.release
            .published()
            .map(|published| (published.left, published.waiting)),
        Some((1, 99))
    );
    let place = order.place_of(gone);
    line.release.draw(Arc::new(order));
    line.millis = 10_000;
    let called = line.run(12);
    let expected: Vec<Place> = (1..=100).map(Place).filter(|one| *one != place).collect();
    assert_eq!(called, expected);
}

#[test]
fn the_brake_slows_by_its_part_and_nothing_is_called_when_nothing_is_available() {
    let sale = sale(6_000);
    let rate_with = |percent, available| {
        let stock = Stock {
            available,
            held: 5,
            sold: 5,
        };
        rate(&Facts {
            stock: Some(stock),
            brake: BrakeState { percent, by: None },
            ..facts(&sale, 0, 10)
        })
    };
    assert!((rate_with(100, 1) - 100.0).abs() < 1e-9);
    assert!((rate_with(25, 1) - 25.0).abs() < 1e-9);
    assert!(rate_with(100, 0).abs() < 1e-9);
}

#[test]
fn a_leader_that_takes_over_calls_nobody_twice_and_forgets_nobody() {
    let mut line = Simple::new(6_000, 1_000);
    let mut moves = Vec::new();
    let mut called = Vec::new();
    for tick in 0..160 {
        if tick == 20 {
            let published = line.release.published().cloned();
            line.release = Release::default();
            let order = Arc::new(Permutation::identity());
            line.release.reset(order, line.joined, published);
            moves.iter().for_each(|moved| line.release.replay(moved));
            line.release.mark_all_present(at(line.millis));
        }
        line.millis += 250;
        line.see();
        let step = line
            .release
            .step(&facts(&line.sale, line.millis, line.joined));
        if let Some(step) = step {
            called.extend(step.moved.called.iter().flat_map(|run| run.places()));
            moves.push(step.moved);
        }
    }
    let mut once = called.clone();
    once.dedup();
    assert!(called.is_sorted() && once == called && called.len() > 100);
    assert!(moves.iter().map(|moved| moved.seq).is_sorted());
}

#[test]
fn the_stock_stops_the_calls_and_bounds_the_places_it_suffices_for() {
    let mut line = Simple::new(60_000, 10_000);
    line.millis = 250;
    let stock = Stock {
        available: 300,
        held: 0,
        sold: 700,
    };
    let mut last = None;
    let mut called = 0;
    for _ in 0..8 {
        line.millis += 250;
        let facts = Facts {
            stock: Some(stock),
            ..facts(&line.sale, line.millis, line.joined)
        };
        if let Some(step) = line.release.step(&facts) {
            called += people(&step.moved.called);
            last = Some(step.snapshot);
        }
    }
    assert!(
        (150..=400).contains(&called),
        "{called} for 300 seats at 1.5 each"
    );
    let likely = last.unwrap().likely_until.unwrap();
    assert!(likely < Place(600), "{likely}");
}

#[test]
fn the_published_pace_is_the_rate_and_at_the_cap_the_measured_one() {
    let mut sale = sale(600);
    let mut release = Release::default();
    let published = release.step(&facts(&sale, 250, 100)).unwrap().snapshot;
    let pace = published.pace.unwrap();
    // Ten a second come, and some more are called.
    assert!((36_000..40_000).contains(&pace.p50_per_hour), "{pace:?}");
    assert!(pace.p90_per_hour < pace.p50_per_hour);

    sale.shopper_cap = 5;
    let mut full = Release::default();
    let mut published = None;
    for tick in 1..9 {
        let facts = Facts {
            shopping: 5,
            ..facts(&sale, tick * 250, 100)
        };
        published = full.step(&facts).map(|step| step.snapshot).or(published);
    }
    let published = published.unwrap();
    assert_eq!(
        (published.pace, published.cursor, published.waiting),
        (None, Place(0), 100)
    );
    assert!(full.is_busy());
}

#[test]
fn a_poll_interval_beyond_the_claim_window_extends_it() {
    let mut line = Simple::new(60, 2_000);
    line.sale.claim_window_seconds = 5;
    line.delay = usize::MAX;
    line.run(40);
    // From ten a minute to ten a second: called places have poll intervals of half a minute.
    line.sale.rate_per_minute = 600;
    let called = line.run(4).len();
    assert!(called > 2, "{called}");
    let missed = |line: &mut Simple, ticks: usize| {
        let mut missed = Vec::new();
        for _ in 0..ticks {
            line.millis += 250;
            let facts = facts(&line.sale, line.millis, line.joined);
            let step = line.release.step(&facts);
            missed.extend(step.into_iter().flat_map(|step| step.moved.missed));
        }
        missed
    };
    assert_eq!(missed(&mut line, 100), []);
    assert!(!missed(&mut line, 100).is_empty(), "after 40 s");
}

#[test]
fn presence_is_read_for_the_parts_in_which_somebody_waits() {
    let mut release = Release::default();
    let parts = |release: &Release| release.presence_parts();
    assert_eq!(parts(&release), 0..=0);
    let moved = Move {
        seq: 1,
        at: at(0),
        called: vec![Run {
            first: Place(1),
            last: Place(3 * SEEN_PART),
        }],
        missed: Vec::new(),
        claimed: Vec::new(),
        over: Vec::new(),
        left: Vec::new(),
    };
    let order = Arc::new(Permutation::identity());
    release.reset(order, 3 * SEEN_PART + 9, None);
    release.replay(&moved);
    assert_eq!(parts(&release), 3..=3);
    release.record_presence(7, 3, &[0, 0b0100_0000]);
    assert!(release.presence.has(Place(3 * SEEN_PART + 9), 1));
    let order = |lobby| {
        let (seed, entropy) = ([3; 32], String::new());
        let lottery = crate::lottery::Draw {
            lobby,
            seed,
            entropy,
        };
        Arc::new(lottery.permutation())
    };
    release.reset(order(4), 3 * SEEN_PART, None);
    assert_eq!(parts(&release), 0..=3);
    // Somebody waits at the last place of the lottery, whose number may be any of the lobby's.
    let called = Move {
        called: vec![Run {
            first: Place(1),
            last: Place(SEEN_PART - 1),
        }],
        ..moved
    };
    release.reset(order(SEEN_PART), 3 * SEEN_PART, None);
    release.replay(&called);
    assert_eq!(parts(&release), 0..=3);
}

#[test]
fn everybody_can_be_marked_present() {
    let mut release = Release::default();
    release.reset(Arc::new(Permutation::identity()), 9, None);
    assert!(release.has_no_presence());
    release.mark_all_present(at(0));
    assert!(!release.has_no_presence());
}

#[test]
fn nothing_is_published_when_nothing_changes() {
    let sale = sale(600);
    let mut release = Release::default();
    assert!(release.step(&facts(&sale, 250, 0)).is_some());
    assert!(release.step(&facts(&sale, 500, 0)).is_none());
    assert!(!release.is_busy());
}

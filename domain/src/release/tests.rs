use super::*;
use crate::EventId;

pub(super) fn at(millis: i64) -> DateTime<Utc> {
    DateTime::from_timestamp_millis(1_800_000_000_000 + millis).unwrap()
}

pub(super) fn sale(rate_per_minute: u32) -> SaleSettings {
    SaleSettings {
        event_id: EventId(1),
        version: 1,
        opens_at: at(-60_000),
        closes_at: None,
        lobby_seconds: 0,
        rate_per_minute,
        shopper_cap: 1_000_000,
        claim_window_seconds: 60,
        pass_seconds: 60,
        hold_seconds: 60,
        paused: false,
        closed: false,
        queue: true,
        challenge: false,
        anonymous: false,
        entropy_source: String::new(),
        entropy: String::new(),
        message: String::new(),
        max_tickets_per_account: 4,
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
        brake: Braking::default(),
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
        self.release.see(seen_slot(at(self.millis)), &bitmap);
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
fn who_was_passed_and_stays_away_is_given_up_after_ten_minutes() {
    let mut line = Simple::new(60, 5_000);
    line.away = 1..4;
    line.sale.paused = true;
    line.run(200);
    line.sale.paused = false;
    let mut missed = Vec::new();
    for _ in 0..2_600 {
        line.millis += 250;
        if line.millis % 1_000 == 0 {
            line.see();
        }
        let step = line
            .release
            .step(&facts(&line.sale, line.millis, line.joined));
        missed.extend(step.into_iter().flat_map(|step| step.moved.missed));
    }
    let away: Vec<_> = missed.iter().filter(|place| place.0 < 4).collect();
    assert_eq!(away, [&Place(1), &Place(2), &Place(3)]);
}

#[test]
fn a_leader_that_takes_over_calls_nobody_twice_and_forgets_nobody() {
    let mut line = Simple::new(6_000, 1_000);
    let mut moves = Vec::new();
    let mut called = Vec::new();
    for tick in 0..160 {
        if tick == 20 {
            let told = line.release.told().cloned();
            line.release = Release::default();
            let order = Arc::new(Order::of_joining());
            line.release
                .remember(at(line.millis), order, line.joined, told, moves.iter());
            line.release.see_everybody(at(line.millis));
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
fn the_stock_stops_the_calls_and_tells_who_will_find_nothing() {
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
fn nothing_is_told_when_nothing_changes() {
    let sale = sale(600);
    let mut release = Release::default();
    assert!(release.step(&facts(&sale, 250, 0)).is_some());
    assert!(release.step(&facts(&sale, 500, 0)).is_none());
    assert!(!release.is_busy());
}

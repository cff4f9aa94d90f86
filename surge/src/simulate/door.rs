//! The gate: admission's rules over a table in memory.

use std::collections::{HashMap, VecDeque};

use chrono::{DateTime, TimeDelta, Utc};
use domain::Place;
use domain::gate::{Gate, Ready, Turn, Window};
use domain::sale::SaleSettings;

/// Outcome of one tick of the gate.
#[derive(Default)]
pub(super) struct Passed {
    pub(super) claimed: Vec<Place>,
    /// Places to retry, and after which pause.
    pub(super) to_wait: Vec<(Place, TimeDelta)>,
    pub(super) over: Vec<Place>,
}

#[derive(Default)]
pub(super) struct Door {
    window: Window,
    ready: HashMap<Place, Ready>,
    shoppers: VecDeque<(DateTime<Utc>, Vec<Place>)>,
    pub(super) shopping: u32,
}

impl Door {
    /// Places in the ready line.
    pub(super) fn ready(&self) -> Vec<Place> {
        self.ready.keys().copied().collect()
    }

    pub(super) fn in_minute(&self, now: DateTime<Utc>) -> u32 {
        self.window.claims(now)
    }

    /// Admits those of `claimants` that the rules allow, who shop for `seconds`.
    pub(super) fn tick(
        &mut self,
        now: DateTime<Utc>,
        sale: &SaleSettings,
        claimants: &[Place],
        seconds: i64,
    ) -> Passed {
        let mut passed = Passed::default();
        while self
            .shoppers
            .front()
            .is_some_and(|(until, _)| *until <= now)
        {
            let (_, over) = self.shoppers.pop_front().expect("there is a first");
            self.shopping -= u32::try_from(over.len()).expect("few");
            passed.over.extend(over);
        }
        self.window.forget_before(now);
        self.ready.retain(|_, ready| ready.is_reserved(now));
        let ready: Vec<Ready> = self.ready.values().copied().collect();
        let gate = Gate {
            now,
            rate_per_minute: sale.rate_per_minute,
            shopper_cap: sale.shopper_cap,
            window: &self.window,
            shopping: self.shopping,
            ready: &ready,
        };
        for (place, turn) in claimants.iter().zip(gate.decide(claimants)) {
            match turn {
                Turn::Pass => {
                    self.ready.remove(place);
                    passed.claimed.push(*place);
                }
                Turn::Wait(pause) => {
                    let since = self.ready.get(place).map_or(now, |ready| ready.since);
                    let (place, tried_at) = (*place, now);
                    self.ready.insert(
                        place,
                        Ready {
                            place,
                            since,
                            tried_at,
                        },
                    );
                    let pause = TimeDelta::from_std(pause).expect("seconds");
                    passed.to_wait.push((place, pause));
                }
            }
        }
        let claims = u32::try_from(passed.claimed.len()).expect("few");
        if claims > 0 {
            self.window.add(now, claims);
            self.shopping += claims;
            let until = now + TimeDelta::seconds(seconds);
            let at = self.shoppers.partition_point(|(other, _)| *other <= until);
            self.shoppers.insert(at, (until, passed.claimed.clone()));
        }
        passed
    }
}

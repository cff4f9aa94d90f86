//! Readiness: the state behind `/readyz`.
//!
//! Each service declares the dependencies it can't serve without, and each loop reports a
//! heartbeat. Anything else that is unavailable makes the process degraded, not unready: a balancer
//! must not remove nodes that could go on.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::Serialize;

use crate::sync::MutexExt as _;

/// A check older than this is ignored.
const CHECK_LIFE: Duration = Duration::from_secs(5);

/// A server behind the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Dependency {
    /// PostgreSQL, reachable, taking writes, with the schema of this version.
    Postgres,
    /// Redis, taking writes.
    Redis,
    /// RabbitMQ, taking messages.
    RabbitMq,
}

impl Dependency {
    const ALL: [Self; 3] = [Self::Postgres, Self::Redis, Self::RabbitMq];

    /// The word used in `/readyz` and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Postgres => "postgres",
            Self::Redis => "redis",
            Self::RabbitMq => "rabbitmq",
        }
    }
}

/// The health of a process. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Inner>);

/// The outcome of a check, with the reason of a failure.
type Checked = Result<(), String>;

#[derive(Debug, Default)]
struct Inner {
    needed: Mutex<BTreeSet<Dependency>>,
    stand_ins: Mutex<BTreeSet<&'static str>>,
    checked: Mutex<BTreeMap<Dependency, (Instant, Checked)>>,
    loops: Mutex<BTreeMap<&'static str, Vec<Arc<Loop>>>>,
    /// Warnings by their source.
    warnings: Mutex<BTreeMap<&'static str, BTreeSet<String>>>,
}

#[derive(Debug)]
struct Loop {
    limit: Duration,
    begun: Instant,
    /// Milliseconds from `begun` to the last heartbeat.
    turned: AtomicU64,
    has_ended: AtomicBool,
}

/// The heartbeat of one loop. Dropping it deregisters a loop that ends in good order.
#[derive(Debug)]
pub struct Heartbeat(Arc<Loop>);

/// The response of `/readyz`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Whether the process accepts requests.
    pub ready: bool,
    /// Whether it is shutting down.
    pub stopping: bool,
    /// By server: `ok`, or the reason.
    #[serde(flatten)]
    pub servers: BTreeMap<&'static str, String>,
    /// By loop: `ok`, or the time since its last heartbeat.
    pub loops: BTreeMap<&'static str, String>,
    /// Warnings that don't make the process unready.
    pub degraded: Vec<String>,
}

impl Health {
    /// Adds required dependencies; those of several services in one process add up.
    pub fn needs(&self, dependencies: &[Dependency]) {
        self.0.needed.lock_unpoisoned().extend(dependencies);
    }

    /// Registers a loop that sends a heartbeat at least once in `limit`, also while its
    /// dependencies are unavailable. A missed heartbeat makes the process unready. Loops of the
    /// same name share an entry of `/readyz`, which shows the one that has been silent for longest.
    #[must_use]
    pub fn heartbeat(&self, name: &'static str, limit: Duration) -> Heartbeat {
        let turning = Arc::new(Loop {
            limit,
            begun: Instant::now(),
            turned: AtomicU64::new(0),
            has_ended: AtomicBool::new(false),
        });
        let mut loops = self.0.loops.lock_unpoisoned();
        let of_name = loops.entry(name).or_default();
        of_name.retain(|other| !other.has_ended.load(Ordering::Relaxed));
        of_name.push(Arc::clone(&turning));
        drop(loops);
        Heartbeat(turning)
    }

    /// Records the outcome of a check.
    pub fn record(&self, dependency: Dependency, outcome: Result<(), String>) {
        let is_up = if outcome.is_ok() { 1.0 } else { 0.0 };
        metrics::gauge!("dependency_up", "server" => dependency.as_str()).set(is_up);
        self.0
            .checked
            .lock_unpoisoned()
            .insert(dependency, (Instant::now(), outcome));
    }

    /// Replaces the warnings of `source`, which `/readyz` lists as degraded; none clears them.
    pub fn set_warnings(&self, source: &'static str, warnings: impl IntoIterator<Item = String>) {
        let warnings = warnings.into_iter().collect();
        self.0.warnings.lock_unpoisoned().insert(source, warnings);
    }

    /// Publishes in `/readyz` and as `onsale_stand_in_active` whether a stand-in replaces `server`.
    /// One service does not withdraw a stand-in that another of the process has reported.
    pub fn show_stand_in(&self, server: &'static str, is_active: bool) {
        let gauge = metrics::gauge!("onsale_stand_in_active", "server" => server);
        if is_active {
            gauge.set(1.0);
            self.0.stand_ins.lock_unpoisoned().insert(server);
        } else {
            gauge.increment(0.0);
        }
    }

    /// Returns the readiness, with the state of each server and loop.
    #[must_use]
    pub fn readiness(&self, stopping: bool) -> Readiness {
        let needed = self.0.needed.lock_unpoisoned().clone();
        let mut ready = !stopping;
        let mut degraded: Vec<String> = self
            .0
            .warnings
            .lock_unpoisoned()
            .values()
            .flatten()
            .cloned()
            .collect();
        for server in self.0.stand_ins.lock_unpoisoned().iter() {
            degraded.push(format!("{server}: a stand-in answers, nothing is real"));
        }
        let mut servers = BTreeMap::new();
        for dependency in Dependency::ALL {
            let found = self.found(dependency);
            let is_needed = needed.contains(&dependency);
            if found != "ok" && is_needed {
                ready = false;
            } else if found != "ok" {
                degraded.push(format!("{}: {found}", dependency.as_str()));
            }
            servers.insert(dependency.as_str(), found);
        }
        let mut loops = BTreeMap::new();
        for (name, turning) in self.0.loops.lock_unpoisoned().iter() {
            let silence = turning.iter().filter_map(|one| one.silence()).max();
            ready &= silence.is_none();
            let found = silence.map_or_else(
                || "ok".to_owned(),
                |silence| format!("no heartbeat for {} s", silence.as_secs()),
            );
            loops.insert(*name, found);
        }
        Readiness {
            ready,
            stopping,
            servers,
            loops,
            degraded,
        }
    }

    fn found(&self, dependency: Dependency) -> String {
        match self.0.checked.lock_unpoisoned().get(&dependency) {
            None => "not checked yet".to_owned(),
            Some((at, _)) if at.elapsed() > CHECK_LIFE => "not checked lately".to_owned(),
            Some((_, Ok(()))) => "ok".to_owned(),
            Some((_, Err(what))) => what.clone(),
        }
    }
}

impl Heartbeat {
    /// Records a heartbeat.
    pub fn beat(&self) {
        let millis = self.0.begun.elapsed().as_millis();
        let millis = u64::try_from(millis).unwrap_or(u64::MAX);
        self.0.turned.store(millis, Ordering::Relaxed);
    }
}

impl Drop for Heartbeat {
    fn drop(&mut self) {
        self.0.has_ended.store(true, Ordering::Relaxed);
    }
}

impl Loop {
    /// The time since the last heartbeat, if it exceeds the limit.
    fn silence(&self) -> Option<Duration> {
        let turned = Duration::from_millis(self.turned.load(Ordering::Relaxed));
        let silence = self.begun.elapsed().saturating_sub(turned);
        let is_late = silence > self.limit && !self.has_ended.load(Ordering::Relaxed);
        is_late.then_some(silence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_well() -> Health {
        let health = Health::default();
        for dependency in Dependency::ALL {
            health.record(dependency, Ok(()));
        }
        health
    }

    #[test]
    fn what_a_process_can_do_without_makes_it_degraded_and_not_unready() {
        let health = all_well();
        health.needs(&[Dependency::Postgres]);
        assert!(health.readiness(false).ready);
        assert!(!health.readiness(true).ready);

        health.record(Dependency::Redis, Err("connection refused".to_owned()));
        let readiness = health.readiness(false);
        assert!(readiness.ready);
        assert_eq!(readiness.degraded, ["redis: connection refused"]);

        health.record(Dependency::Postgres, Err("read-only".to_owned()));
        let readiness = health.readiness(false);
        assert!(!readiness.ready);
        assert_eq!(readiness.servers["postgres"], "read-only");
    }

    #[test]
    fn a_stand_in_makes_the_process_degraded_and_not_unready() {
        let health = all_well();
        health.show_stand_in("stripe", true);
        health.show_stand_in("stripe", false);
        health.show_stand_in("mail", false);
        let readiness = health.readiness(false);
        assert!(readiness.ready);
        let expected = ["stripe: a stand-in answers, nothing is real"];
        assert_eq!(readiness.degraded, expected);
    }

    #[test]
    fn nothing_is_ready_before_it_was_checked() {
        let health = Health::default();
        health.needs(&[Dependency::RabbitMq]);
        let readiness = health.readiness(false);
        assert!(!readiness.ready);
        assert_eq!(readiness.servers["rabbitmq"], "not checked yet");
    }

    #[test]
    fn a_source_replaces_and_clears_its_own_warnings_only() {
        let health = all_well();
        let warn = |source, warnings: &[&str]| {
            health.set_warnings(source, warnings.iter().map(|warning| (*warning).to_owned()));
        };
        warn("queues", &["queue a", "queue b"]);
        warn("proxy", &["a stranger"]);
        assert_eq!(
            health.readiness(false).degraded,
            ["a stranger", "queue a", "queue b"]
        );
        warn("queues", &["queue b"]);
        assert_eq!(health.readiness(false).degraded, ["a stranger", "queue b"]);
        warn("queues", &[]);
        assert_eq!(health.readiness(false).degraded, ["a stranger"]);
        assert!(health.readiness(false).ready);
    }

    /// A loop with a limit of half an hour that has had no beat since it began an hour ago.
    fn stuck_loop(health: &Health, name: &'static str) -> Heartbeat {
        let hour = Duration::from_secs(3_600);
        let turning = Arc::new(Loop {
            limit: hour / 2,
            begun: Instant::now().checked_sub(hour).unwrap(),
            turned: AtomicU64::new(0),
            has_ended: AtomicBool::new(false),
        });
        let mut loops = health.0.loops.lock_unpoisoned();
        loops.entry(name).or_default().push(Arc::clone(&turning));
        drop(loops);
        Heartbeat(turning)
    }

    #[test]
    fn a_loop_that_stops_turning_makes_the_process_unready_and_one_that_ended_does_not() {
        let health = all_well();
        let turning = health.heartbeat("read", Duration::from_secs(1_800));
        assert!(health.readiness(false).ready);
        turning.beat();
        let stuck = stuck_loop(&health, "release");
        let readiness = health.readiness(false);
        assert!(!readiness.ready);
        assert_eq!(readiness.loops["read"], "ok");
        assert!(readiness.loops["release"].contains("no heartbeat"));
        stuck.beat();
        assert!(health.readiness(false).ready);
        drop(stuck_loop(&health, "ended"));
        assert!(health.readiness(false).ready);
    }

    #[test]
    fn one_of_several_loops_of_a_name_that_stops_turning_makes_the_process_unready() {
        let health = all_well();
        let [first, second] = [(); 2].map(|()| stuck_loop(&health, "sale"));
        first.beat();
        assert!(!health.readiness(false).ready);
        second.beat();
        assert!(health.readiness(false).ready);
        let third = stuck_loop(&health, "sale");
        assert!(!health.readiness(false).ready);
        drop(third);
        assert!(
            health.readiness(false).ready,
            "one that ended does not count"
        );
    }
}

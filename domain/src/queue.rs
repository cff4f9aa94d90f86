//! The queue of one sale: the shared snapshot, predicted waits, and the Redis keys of presence and
//! of attempts.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::ahead::Ahead;
use crate::sale::SaleState;
use crate::{EventId, Place};

/// Names of one sale's Redis keys. All carry the hash tag `{sale:ID}`, so that one script may use
/// them together in a Redis Cluster. In brackets: type and writer.
#[derive(Debug, Clone)]
pub struct SaleKeys {
    prefix: String,
}

impl SaleKeys {
    /// The keys of `event_id`'s sale in `namespace`.
    #[must_use]
    pub fn new(namespace: &str, event_id: EventId) -> Self {
        Self {
            prefix: format!("{namespace}:{{sale:{event_id}}}"),
        }
    }

    /// Join attempts of each group of addresses in this minute, and how many of `all`
    /// were paid for by a solved challenge [hash; waiting-room].
    #[must_use]
    pub fn attempts(&self, minute: i64) -> String {
        format!("{}:attempts:{minute}", self.prefix)
    }

    /// Exists once the challenge with this id was used, until it expires [string, waiting-room].
    #[must_use]
    pub fn solved(&self, id: &str) -> String {
        format!("{}:solved:{id}", self.prefix)
    }

    /// The remaining quota of `subject` in a limit across nodes [string, waiting-room].
    #[must_use]
    pub fn limit(&self, name: &str, subject: impl std::fmt::Display) -> String {
        format!("{}:limit:{name}:{subject}", self.prefix)
    }

    /// Bit n is set when the holder of the n-th number of `part` was seen in this [`seen_slot`]
    /// [bitmap, waiting-room; it may be forgotten].
    #[must_use]
    pub fn seen(&self, slot: i64, part: i64) -> String {
        if part == 0 {
            format!("{}:seen:{slot}", self.prefix)
        } else {
            format!("{}:seen:{slot}:{part}", self.prefix)
        }
    }
}

/// Numbers that share a bitmap of presence: numbers `SEEN_PART * p ..` are part p. The cost thus
/// depends on those who poll, wherever in a long line they are.
pub const SEEN_PART: i64 = 1 << 20;

/// Width of one presence bitmap, in seconds.
pub const SEEN_SLOT_SECONDS: i64 = 5;
/// Retention of a presence bitmap, in slots: two and a half times the longest poll interval, and
/// some.
pub const SEEN_SLOTS: i64 = 20;

/// The presence slot of `now`.
#[must_use]
pub fn seen_slot(now: DateTime<Utc>) -> i64 {
    now.timestamp().div_euclid(SEEN_SLOT_SECONDS)
}

/// The shared state of a queue, the same for everyone who waits.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The sale.
    pub event_id: EventId,
    /// Grows with every snapshot that differs from the one before.
    pub seq: i64,
    /// When it was taken.
    pub at: DateTime<Utc>,
    /// State of the sale.
    pub state: SaleState,
    /// The operator's message to everyone.
    pub message: String,
    /// Whether joining requires a solved challenge.
    #[serde(default)]
    pub challenge: bool,
    /// Whether visitors without an account may join.
    #[serde(default)]
    pub anonymous: bool,
    /// The lottery of the lobby.
    #[serde(default)]
    pub lottery: Lottery,
    /// When calling starts; `None` in snapshots of older versions.
    #[serde(default)]
    pub opens_at: Option<DateTime<Utc>>,
    /// When people may join.
    #[serde(default)]
    pub lobby_opens_at: Option<DateTime<Utc>>,
    /// When the sale ends; `None`: when it is closed by hand.
    #[serde(default)]
    pub closes_at: Option<DateTime<Utc>>,
    /// The claim window of a called place.
    #[serde(default)]
    pub claim_window_seconds: u32,
    /// Arrivals per minute, as set.
    pub rate_per_minute: u32,
    /// The highest place issued.
    pub joined: Place,
    /// Places up to it have been called.
    pub cursor: Place,
    /// Number of places that have left; it changes whenever the set does.
    pub left: i64,
    /// Number of waiting places.
    pub waiting: i64,
    /// Number of running passes.
    pub shopping: i64,
    /// Most passes that may run at once.
    pub shopper_cap: u32,
    /// Claims in the last 60 s.
    pub claimed_last_minute: i64,
    /// Seats that are neither held nor sold; `None` until known.
    pub available: Option<i64>,
    /// Places after it will probably find everything sold; `None` while unknown.
    #[serde(default)]
    pub likely_until: Option<Place>,
    /// People ahead of each place.
    #[serde(default)]
    pub ahead: Ahead,
    /// The pace of calls; `None` while there are none.
    #[serde(default)]
    pub pace: Option<Pace>,
    /// The brake: the share of the set rate that passes, and the reason.
    #[serde(default)]
    pub brake: BrakeState,
    /// When queue tokens end that are signed now, as Unix seconds.
    pub tokens_expire_at: i64,
    /// Poll interval of the snapshot, in milliseconds.
    pub poll_after_ms: u32,
}

/// The pace at which waiting people are called.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pace {
    /// Median of the people called per hour.
    pub p50_per_hour: u32,
    /// 10th percentile of them: fewer in one case of ten.
    pub p90_per_hour: u32,
}

/// The share of the set rate that the brake lets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrakeState {
    /// Percentage of the set rate, from 1 to 100.
    pub percent: u32,
    /// The cause; `None` when there is none, also while the rate recovers.
    pub by: Option<Bottleneck>,
}

impl Default for BrakeState {
    fn default() -> Self {
        Self {
            percent: 100,
            by: None,
        }
    }
}

/// A bottleneck behind the gate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Bottleneck {
    /// Booking requests wait long for their outcome.
    Bookings,
    /// The booking API fails, or answers slowly.
    Api,
    /// Calls to the payment provider wait long, or it seems to be down.
    Payments,
    /// PostgreSQL answers slowly.
    Database,
}

/// The public state of the lobby's lottery. Bytes are lower-case hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Lottery {
    /// SHA-256 of the seed, published before the lobby opens.
    pub commitment: String,
    /// The id of the key that names the entries; empty for the key that signs. For servers.
    #[serde(default)]
    pub entries_key: String,
    /// Announced source of the public entropy; empty for none.
    pub entropy_source: String,
    /// The participants, once fixed: before anybody knows entropy and seed.
    #[serde(default)]
    pub fixed: Option<Fixed>,
    /// The draw, from the opening on.
    pub drawn: Option<Drawn>,
}

/// The participants of a lottery.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fixed {
    /// Number of participants: `1..=lobby`. Later numbers are places.
    pub lobby: i64,
    /// Commits to the holder of each number, see [`crate::lottery::EntriesDigest`].
    pub entries_digest: String,
}

/// A lottery that was drawn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drawn {
    /// Number of participants: `1..=lobby`. Later numbers are places.
    pub lobby: i64,
    /// The seed.
    pub seed: String,
    /// The value of the announced source.
    pub entropy: String,
    /// Commits to the holder of each number.
    pub entries_digest: String,
}

/// State of the place of a queue token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PlaceState {
    /// Not called yet.
    Waiting,
    /// Called: claim the pass.
    Ready,
    /// The pass was claimed.
    Claimed,
    /// Called, but the claim window expired.
    Missed,
    /// Left the queue.
    Left,
}

impl Snapshot {
    /// Time until somebody with `ahead` present places before theirs is called; `None` while
    /// nobody is called.
    #[must_use]
    pub fn eta(&self, ahead: i64) -> Option<Eta> {
        let pace = self.pace.filter(|_| self.state == SaleState::Open)?;
        Some(pace.eta(ahead))
    }

    /// The wait at `now` of somebody with `ahead` present places before theirs, which is `None`
    /// while their place is unknown.
    #[must_use]
    pub fn wait(&self, ahead: Option<i64>, now: DateTime<Utc>) -> Wait {
        if let Some(eta) = ahead.and_then(|ahead| self.eta(ahead)) {
            return Wait::Call(eta);
        }
        let is_before = matches!(self.state, SaleState::Scheduled | SaleState::Lobby);
        let opening = self.opens_at.filter(|_| is_before);
        let left = opening.and_then(|opening| (opening - now).to_std().ok());
        left.map_or(Wait::Unknown, Wait::Opening)
    }
}

impl Pace {
    /// Time until somebody with `ahead` people before theirs is called.
    #[must_use]
    pub fn eta(self, ahead: i64) -> Eta {
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let people = (ahead.max(0) + 1) as f64;
        let seconds = |per_hour: u32| {
            let tenths = people * 36_000.0 / f64::from(per_hour.max(1));
            tenths.round() / 10.0
        };
        Eta {
            p50: seconds(self.p50_per_hour),
            p90: seconds(self.p90_per_hour) + TICKS_SECONDS,
        }
    }
}

/// Delay from a call to its publication: one tick on average, two at most.
const TICKS_SECONDS: f64 = 0.5;

/// Time until a place is called, in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Eta {
    /// The median.
    pub p50: f64,
    /// The 90th percentile.
    pub p90: f64,
}

/// The wait of a place.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Wait {
    /// Until its call.
    Call(Eta),
    /// Until the opening.
    Opening(Duration),
    /// Nobody is called, and the time of the next call is unknown.
    Unknown,
}

/// The poll interval of a place, in milliseconds: sooner near the front, from 1 s to 30 s, or
/// before the opening, from 10 s to two minutes; and 20 % more or less by `jitter` (from 0 to 1),
/// so that clients that joined together don't poll together.
#[must_use]
pub fn poll_after_ms(state: PlaceState, wait: Wait, jitter: f64) -> u32 {
    let seconds = match (state, wait) {
        (PlaceState::Waiting, Wait::Call(eta)) => (eta.p50 / 10.0).clamp(1.0, 30.0),
        (PlaceState::Waiting, Wait::Opening(left)) => {
            (left.as_secs_f64() / 10.0).clamp(10.0, 120.0)
        }
        (PlaceState::Waiting, Wait::Unknown) => 10.0,
        (PlaceState::Ready, _) => 2.0,
        (PlaceState::Claimed | PlaceState::Missed | PlaceState::Left, _) => 30.0,
    };
    let millis = Duration::from_secs_f64(seconds * (0.8 + 0.4 * jitter.clamp(0.0, 1.0)));
    u32::try_from(millis.as_millis()).expect("at most 144 s")
}

/// Silence after which a waiting place counts as absent: two and a half of the longest intervals of
/// [`poll_after_ms`], and the delay until presence is flushed and read.
#[must_use]
pub fn absence_timeout(wait: Wait) -> Duration {
    const FLUSH_DELAY: Duration = Duration::from_secs(3);
    let pause = poll_after_ms(PlaceState::Waiting, wait, 1.0);
    Duration::from_millis(u64::from(pause)).mul_f64(2.5) + FLUSH_DELAY
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_nearer_the_front_poll_sooner() {
        let eta = |p50| Wait::Call(Eta { p50, p90: p50 });
        let at = |p50| poll_after_ms(PlaceState::Waiting, eta(p50), 0.5);
        assert_eq!([at(0.1), at(50.0), at(10_000.0)], [1_000, 5_000, 30_000]);
    }

    #[test]
    fn a_lobby_asks_seldom_while_the_opening_is_far_and_each_ten_seconds_at_it() {
        let left = |seconds| Wait::Opening(Duration::from_secs(seconds));
        let at = |seconds| poll_after_ms(PlaceState::Waiting, left(seconds), 0.5);
        assert_eq!(
            [at(604_800), at(600), at(100), at(0)],
            [120_000, 60_000, 10_000, 10_000]
        );
        let now = DateTime::UNIX_EPOCH;
        let mut lobby = snapshot();
        lobby.state = SaleState::Lobby;
        assert_eq!(lobby.wait(None, now), Wait::Unknown, "an older snapshot");
        lobby.opens_at = Some(now + chrono::TimeDelta::seconds(90));
        assert_eq!(lobby.wait(None, now), left(90));
        let late = now + chrono::TimeDelta::seconds(91);
        assert_eq!(
            lobby.wait(None, late),
            Wait::Unknown,
            "the entropy is awaited"
        );
        lobby.state = SaleState::Open;
        assert!(matches!(lobby.wait(Some(3), now), Wait::Call(_)));
    }

    #[test]
    fn a_silence_is_two_and_a_half_pauses_and_three_seconds() {
        assert_eq!(absence_timeout(Wait::Unknown), Duration::from_secs(33));
        let eta = Eta { p50: 0.0, p90: 0.0 };
        assert_eq!(absence_timeout(Wait::Call(eta)), Duration::from_secs(6));
    }

    #[test]
    fn polls_are_spread_by_a_fifth_both_ways() {
        let at = |jitter| poll_after_ms(PlaceState::Waiting, Wait::Unknown, jitter);
        assert_eq!([at(0.0), at(0.5), at(1.0)], [8_000, 10_000, 12_000]);
    }

    #[test]
    fn presence_is_kept_for_as_long_as_silence_may_last() {
        let longest = absence_timeout(Wait::Call(Eta { p50: 1e9, p90: 1e9 }));
        let retained = SEEN_SLOT_SECONDS * (SEEN_SLOTS - 1);
        assert!(
            longest.as_secs_f64() <= f64::from(i32::try_from(retained).unwrap()),
            "{longest:?} of {retained} s"
        );
    }

    fn snapshot() -> Snapshot {
        Snapshot {
            event_id: EventId(1),
            seq: 1,
            at: DateTime::UNIX_EPOCH,
            state: SaleState::Open,
            message: String::new(),
            challenge: false,
            anonymous: false,
            lottery: Lottery::default(),
            opens_at: None,
            lobby_opens_at: None,
            closes_at: None,
            claim_window_seconds: 120,
            rate_per_minute: 600,
            joined: Place(100),
            cursor: Place(20),
            left: 0,
            waiting: 80,
            shopping: 5,
            shopper_cap: 10,
            claimed_last_minute: 60,
            available: None,
            likely_until: None,
            ahead: Ahead::default(),
            pace: Some(Pace {
                p50_per_hour: 36_000,
                p90_per_hour: 27_000,
            }),
            brake: BrakeState::default(),
            tokens_expire_at: 0,
            poll_after_ms: 1000,
        }
    }

    #[test]
    fn the_estimate_follows_the_pace() {
        let eta = snapshot().eta(599).unwrap();
        assert_eq!((eta.p50, eta.p90), (60.0, 80.5));
    }

    #[test]
    fn there_is_no_estimate_while_nobody_is_called() {
        let paused = Snapshot {
            state: SaleState::Paused,
            ..snapshot()
        };
        let stopped = Snapshot {
            pace: None,
            ..snapshot()
        };
        assert_eq!((paused.eta(1), stopped.eta(1)), (None, None));
    }

    #[test]
    fn keys_of_a_sale_share_its_hash_tag() {
        let keys = SaleKeys::new("onsale", EventId(7));
        assert_eq!(keys.seen(3, 0), "onsale:{sale:7}:seen:3");
        assert_eq!(keys.seen(3, 2), "onsale:{sale:7}:seen:3:2");
        assert_eq!(keys.attempts(3), "onsale:{sale:7}:attempts:3");
        assert_eq!(keys.solved("ab"), "onsale:{sale:7}:solved:ab");
        assert_eq!(keys.limit("join", 9), "onsale:{sale:7}:limit:join:9");
    }
}

//! Parsing and validation of sale settings.

use chrono::{DateTime, Utc};
use domain::event::Event;
use domain::limits::{MAX_RATE_PER_MINUTE, MAX_SHOPPER_CAP};
use domain::sale::SaleSettings;
use platform::http;
use platform::problem::{Kind, Problem};
use serde::{Deserialize, Serialize};

use crate::fields::present;
use crate::fields::{self, invalid};

const LOBBY_SECONDS: std::ops::RangeInclusive<u32> = 0..=604_800;
const CLAIM_WINDOW_SECONDS: std::ops::RangeInclusive<u32> = 5..=3_600;
const PASS_SECONDS: std::ops::RangeInclusive<u32> = 30..=7_200;
const HOLD_SECONDS: std::ops::RangeInclusive<u32> = 5..=7_200;
const MAX_MESSAGE_CHARS: usize = 500;
const MAX_ENTROPY_CHARS: usize = 200;

/// Settings to change; absent ones are kept. Numbers are wide, so that out-of-range values are
/// refused by field name instead of as malformed JSON.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SalePatch {
    #[serde(skip_serializing_if = "Option::is_none")]
    opens_at: Option<DateTime<Utc>>,
    #[serde(
        default,
        deserialize_with = "present",
        skip_serializing_if = "Option::is_none"
    )]
    closes_at: Option<Option<DateTime<Utc>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lobby_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    rate_per_minute: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    shopper_cap: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    claim_window_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pass_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hold_seconds: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    paused: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    closed: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    queue: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    challenge: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    anonymous: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entropy_source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    entropy: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// Expected version, for optimistic concurrency control.
    #[serde(skip_serializing)]
    version: Option<i64>,
}

impl SalePatch {
    /// Applies the patch to `sale`. Refusals name fields with `prefix` in front.
    ///
    /// # Errors
    /// `invalid`, naming the first field that is out of bounds.
    pub(crate) fn apply(&self, sale: &mut SaleSettings, prefix: &str) -> Result<(), Problem> {
        let named = |field: &str| format!("{prefix}{field}");
        if let Some(opens_at) = self.opens_at {
            sale.opens_at = http::date(named("opens_at"), opens_at)?;
        }
        if let Some(closes_at) = self.closes_at {
            let checked = closes_at.map(|date| http::date(named("closes_at"), date));
            sale.closes_at = checked.transpose()?;
        }
        if sale
            .closes_at
            .is_some_and(|closes_at| closes_at <= sale.opens_at)
        {
            return Err(invalid(
                named("closes_at"),
                "A time after opens_at, or null.",
            ));
        }
        let numbers = [
            (
                "lobby_seconds",
                self.lobby_seconds,
                &mut sale.lobby_seconds,
                LOBBY_SECONDS,
            ),
            (
                "rate_per_minute",
                self.rate_per_minute,
                &mut sale.rate_per_minute,
                0..=MAX_RATE_PER_MINUTE,
            ),
            (
                "shopper_cap",
                self.shopper_cap,
                &mut sale.shopper_cap,
                0..=MAX_SHOPPER_CAP,
            ),
            (
                "claim_window_seconds",
                self.claim_window_seconds,
                &mut sale.claim_window_seconds,
                CLAIM_WINDOW_SECONDS,
            ),
            (
                "pass_seconds",
                self.pass_seconds,
                &mut sale.pass_seconds,
                PASS_SECONDS,
            ),
            (
                "hold_seconds",
                self.hold_seconds,
                &mut sale.hold_seconds,
                HOLD_SECONDS,
            ),
        ];
        for (field, value, setting, bounds) in numbers {
            if let Some(value) = value {
                *setting = fields::number(named(field), value, bounds)?;
            }
        }
        if let Some(message) = &self.message {
            sale.message = fields::text(named("message"), message, MAX_MESSAGE_CHARS)?;
        }
        if let Some(source) = &self.entropy_source {
            sale.entropy_source = fields::line(named("entropy_source"), source, MAX_ENTROPY_CHARS)?;
        }
        if let Some(entropy) = &self.entropy {
            sale.entropy = fields::line(named("entropy"), entropy, MAX_ENTROPY_CHARS)?;
        }
        sale.anonymous = self.anonymous.unwrap_or(sale.anonymous);
        sale.paused = self.paused.unwrap_or(sale.paused);
        sale.closed = self.closed.unwrap_or(sale.closed);
        sale.queue = self.queue.unwrap_or(sale.queue);
        sale.challenge = self.challenge.unwrap_or(sale.challenge);
        Ok(())
    }

    /// Checks that the patch has at least one setting.
    ///
    /// # Errors
    /// `invalid` for an empty patch.
    pub(crate) fn require_any_setting(&self) -> Result<(), Problem> {
        let nothing = Self {
            version: self.version,
            ..Self::default()
        };
        if *self == nothing {
            return Err(Problem::new(
                Kind::Invalid,
                "Give at least one setting to change.",
            ));
        }
        Ok(())
    }

    /// Checks the expected version, if given, against that of `sale`.
    ///
    /// # Errors
    /// `conflict` if they differ.
    pub(crate) fn check_version(&self, sale: &SaleSettings) -> Result<(), Problem> {
        match self.version {
            Some(version) if version != sale.version => {
                let now = sale.version;
                let detail = format!(
                    "The sale is at version {now}, not {version}. Reload it and try again."
                );
                Err(Problem::new(Kind::Conflict, detail))
            }
            _ => Ok(()),
        }
    }
}

/// Default settings of a new event's sale.
pub(crate) fn of_new_event(event: &Event, now: DateTime<Utc>) -> SaleSettings {
    SaleSettings {
        event_id: event.id,
        version: 1,
        opens_at: now,
        closes_at: None,
        event_starts_at: Some(event.date),
        lobby_seconds: 900,
        rate_per_minute: 600,
        shopper_cap: 1_000,
        claim_window_seconds: 120,
        pass_seconds: 600,
        hold_seconds: 600,
        paused: false,
        closed: false,
        queue: true,
        challenge: false,
        anonymous: false,
        entropy_source: String::new(),
        entropy: String::new(),
        message: String::new(),
        max_tickets_per_account: event.max_tickets_per_account,
    }
}

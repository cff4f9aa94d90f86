//! `onsale audit`: are the promises kept? Asks PostgreSQL and the payment provider, each by
//! itself, and compares.

mod bookings;
mod mails;
mod payments;
mod provider;
mod rest;
mod stuck;

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Context as _;
use chrono::TimeDelta;
use domain::clock::SharedClock;
use serde::Serialize;
use sqlx::PgPool;

pub(crate) use provider::Provider;
pub(crate) use rest::InFlight;

/// While things are in flight, what changed less than this ago is left out of the checks that
/// only hold at rest.
const SETTLING: TimeDelta = TimeDelta::seconds(60);

/// How many examples of a violation are printed.
const EXAMPLES: usize = 5;

/// One promise and how it fared.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Check {
    /// Its number in the documentation.
    pub(crate) id: &'static str,
    /// What it promises.
    pub(crate) promise: &'static str,
    /// How many things were looked at.
    pub(crate) checked: u64,
    /// How many break it.
    pub(crate) violations: u64,
    /// Some of them.
    pub(crate) examples: Vec<String>,
    /// Why it says nothing, when there was nothing to compare with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unchecked: Option<&'static str>,
}

/// The whole audit.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    /// Whether nothing was in flight.
    pub(crate) at_rest: bool,
    /// What was.
    pub(crate) in_flight: InFlight,
    /// The promises.
    pub(crate) checks: Vec<Check>,
    /// Figures that say what the checks looked at.
    pub(crate) totals: bookings::Totals,
}

impl Check {
    /// A check of `checked` things; `broken` says each violation in words.
    fn new(id: &'static str, promise: &'static str, checked: u64, broken: Vec<String>) -> Self {
        let violations = broken.len() as u64;
        let examples = broken.into_iter().take(EXAMPLES).collect();
        Self {
            id,
            promise,
            checked,
            violations,
            examples,
            unchecked: None,
        }
    }

    /// A check that can't fail here, and must not look as if it had passed.
    fn unchecked(self, why: &'static str) -> Self {
        Self {
            unchecked: Some(why),
            ..self
        }
    }
}

impl Report {
    /// How many violations there are in all.
    pub(crate) fn violations(&self) -> u64 {
        self.checks.iter().map(|check| check.violations).sum()
    }

    /// The report for people.
    pub(crate) fn to_text(&self) -> String {
        let mut text = String::new();
        for check in &self.checks {
            let mark = match (check.violations, check.unchecked) {
                (0, None) => "ok  ",
                (0, Some(_)) => "–   ",
                _ => "FAIL",
            };
            let Check {
                id,
                promise,
                checked,
                violations,
                ..
            } = check;
            let _infallible = writeln!(
                text,
                "{mark} {id:<4} {promise:<46} {checked:>7} checked {violations:>5} violations"
            );
            if let Some(why) = check.unchecked {
                let _infallible = writeln!(text, "          not checked: {why}");
            }
            for example in &check.examples {
                let _infallible = writeln!(text, "          {example}");
            }
        }
        let totals = &self.totals;
        let _infallible = writeln!(
            text,
            "seats: {} = {} available + {} held + {} sold; bookings: {} confirmed, {} expired, {} cancelled, {} rejected",
            totals.capacity,
            totals.available,
            totals.held,
            totals.sold,
            totals.confirmed,
            totals.expired,
            totals.cancelled,
            totals.rejected
        );
        if self.at_rest {
            text.push_str("at rest: nothing in flight\n");
        } else {
            let _infallible = writeln!(
                text,
                "not at rest ({}): what changed in the last {} s was left out of I2, I3, I5 and I6",
                self.in_flight,
                SETTLING.num_seconds()
            );
        }
        text
    }
}

/// I4 and I11 compare our records with the provider's: with themselves they can't fail.
fn only_with_provider(check: Check) -> Check {
    if ["I4", "I11"].contains(&check.id) {
        check.unchecked("without STRIPE_SECRET_KEY there are only our own records")
    } else {
        check
    }
}

/// Waits up to `patience` for rest, then checks.
///
/// # Errors
/// When the database or the payment provider can't be read.
pub(crate) async fn run(
    db: &PgPool,
    clock: &SharedClock,
    provider: &Provider,
    patience: Duration,
) -> anyhow::Result<Report> {
    let in_flight = rest::wait(db, patience).await?;
    let at_rest = in_flight.is_empty();
    let now = clock.now();
    let settled_before = if at_rest { now } else { now - SETTLING };
    // Ours first: what is captured while the provider is read is then more there, and never less.
    let payments = payments::ours(db).await.context("reading our payments")?;
    let money = provider
        .read(db)
        .await
        .context("reading the payment provider's records")?;
    let mut checks = vec![bookings::no_oversell(db).await.context("checking I1")?];
    checks.extend(
        payments::checks(db, &money, &payments, settled_before)
            .await
            .context("checking I2 to I4")?,
    );
    checks.push(
        bookings::nothing_accepted_is_lost(db, settled_before)
            .await
            .context("checking I5")?,
    );
    checks.push(
        mails::each_notice_once(db, settled_before)
            .await
            .context("checking I6")?,
    );
    checks.push(
        bookings::stock_is_conserved(db)
            .await
            .context("checking I10")?,
    );
    checks.push(payments::refunds_within_captured(&money, &payments));
    if matches!(provider, Provider::OwnRecords) {
        checks = checks.into_iter().map(only_with_provider).collect();
    }
    checks.push(
        stuck::nothing_is_stuck(db, now, in_flight)
            .await
            .context("looking for what is stuck")?,
    );
    let totals = bookings::totals(db).await.context("adding up")?;
    Ok(Report {
        at_rest,
        in_flight,
        checks,
        totals,
    })
}

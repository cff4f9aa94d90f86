//! `onsale audit`: checks the promises, by invariants over PostgreSQL and by comparison with the
//! payment provider's own records.

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

/// While something is in flight, rows that changed within this time are left out of the checks that
/// only hold at rest.
const SETTLING: TimeDelta = TimeDelta::seconds(60);

/// Most examples of a violation that are reported.
const EXAMPLES: usize = 5;

/// The result of checking one promise.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Check {
    /// Its number in the documentation.
    pub(crate) id: &'static str,
    pub(crate) promise: &'static str,
    /// Number of things that were checked.
    pub(crate) checked: u64,
    /// Number of things that break it.
    pub(crate) violations: u64,
    /// The first [`EXAMPLES`] violations, in words.
    pub(crate) examples: Vec<String>,
    /// Why the check could not fail, if there was nothing to compare with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) unchecked: Option<&'static str>,
}

/// The results of an audit.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Report {
    pub(crate) at_rest: bool,
    pub(crate) in_flight: InFlight,
    pub(crate) checks: Vec<Check>,
    pub(crate) totals: bookings::Totals,
}

impl Check {
    /// A check of `checked` things with the violations in `broken`.
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

    /// Marks a check that could not fail, so that it does not look passed.
    fn unchecked(self, why: &'static str) -> Self {
        Self {
            unchecked: Some(why),
            ..self
        }
    }
}

impl Report {
    /// Number of violations of all checks.
    pub(crate) fn violations(&self) -> u64 {
        self.checks.iter().map(|check| check.violations).sum()
    }

    /// Renders the report for a terminal.
    pub(crate) fn to_text(&self) -> String {
        let mut text = String::new();
        let _infallible = writeln!(text, "{:<57}{:>9} {:>11}", "audit", "checked", "violations");
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
                "{mark} {id:<4} {promise:<46} {checked:>9} {violations:>11}"
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
            "seats: {} = {} available + {} held + {} sold\nbookings: {} confirmed, {} expired, {} cancelled, {} rejected",
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

/// Marks I4 and I11 as unchecked: our records can't differ from themselves.
fn only_with_provider(check: Check) -> Check {
    if ["I4", "I11"].contains(&check.id) {
        check.unchecked("without STRIPE_SECRET_KEY there are only our own records")
    } else {
        check
    }
}

/// Waits up to `patience` until nothing is in flight, then checks.
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
    // The provider's first, page by page; of ours only what is not newer.
    let money = provider
        .read(db)
        .await
        .context("reading the payment provider's records")?;
    let mut checks = vec![bookings::no_oversell(db).await.context("checking I1")?];
    checks.extend(
        payments::checks(db, money, settled_before, now)
            .await
            .context("checking I2 to I4 and I11")?,
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

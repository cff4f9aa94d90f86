//! Commitment rules of the verifiable lottery, so that nobody can choose the order: whether there
//! is a draw is fixed once somebody has joined; the entropy source is announced before the lobby
//! opens; its value is published once, after the set of entries is fixed.

use chrono::{DateTime, Utc};
use domain::sale::SaleSettings;
use platform::problem::{Kind, Problem};
use platform::refusal::Refusal;
use sqlx::PgConnection;

use super::store::{self, LineStart};
use crate::events::stock;

/// Checks the change of a locked sale from `before` (`None`: a new sale) to `after`: it must not
/// make the lottery manipulable, nor admit visitors without an account to a line that sells seats.
///
/// # Errors
/// `conflict`, with the rule that forbids it.
pub(super) async fn check(
    conn: &mut PgConnection,
    before: Option<&SaleSettings>,
    after: &SaleSettings,
    now: DateTime<Utc>,
) -> Result<(), Refusal> {
    let line = store::line(conn, after.event_id).await?;
    if let Some(before) = before {
        check_order(before, after, &line, now)?;
    }
    let was = |text: fn(&SaleSettings) -> &str| before.map_or("", text).to_owned();
    let source_was = was(|sale| &sale.entropy_source);
    let entropy_was = was(|sale| &sale.entropy);
    if after.entropy_source != source_was {
        let has_opened = |sale: &SaleSettings| sale.lobby_opens_at() <= now;
        if has_opened(after) || before.is_some_and(has_opened) || line.is_joined {
            return Err(conflict(
                "The entropy source can only be set before the lobby opens.",
            ));
        }
    }
    if after.entropy != entropy_was {
        check_entropy(after, &entropy_was, line.is_fixed)?;
    }
    let was_anonymous = before.is_some_and(|sale| sale.anonymous);
    if after.anonymous && !was_anonymous {
        check_nothing_sold(conn, after).await?;
    }
    Ok(())
}

/// Checks that a change does not invalidate the order, or places, already announced to visitors.
fn check_order(
    before: &SaleSettings,
    after: &SaleSettings,
    line: &LineStart,
    now: DateTime<Utc>,
) -> Result<(), Refusal> {
    let is_bound = line.is_joined || line.takes_part;
    if (before.lobby_seconds == 0) != (after.lobby_seconds == 0) && is_bound {
        return Err(conflict(
            "Somebody has joined. A lobby can no longer be added or removed.",
        ));
    }
    let is_put_off = before.opens_at <= now && after.opens_at > now;
    if before.lobby_seconds > 0 && is_put_off {
        if is_bound {
            return Err(conflict(
                "The order has been drawn, so the opening cannot be moved. Pause the sale instead.",
            ));
        }
        if !before.entropy.is_empty() {
            return Err(conflict(
                "The entropy is published, so the opening cannot be moved. Pause the sale \
                 instead.",
            ));
        }
    }
    Ok(())
}

fn check_entropy(after: &SaleSettings, was: &str, is_fixed: bool) -> Result<(), Refusal> {
    if !was.is_empty() {
        return Err(conflict("The entropy is published and cannot be changed."));
    }
    if after.entropy_source.is_empty() {
        return Err(conflict("No entropy source was announced."));
    }
    if !is_fixed {
        return Err(conflict(
            "The entries of the lottery are not fixed yet. Publish the entropy after opens_at.",
        ));
    }
    Ok(())
}

async fn check_nothing_sold(conn: &mut PgConnection, sale: &SaleSettings) -> Result<(), Refusal> {
    let stock = stock::total(conn, sale.event_id).await?;
    if stock.is_some_and(|stock| stock.held + stock.sold > 0) {
        return Err(conflict(
            "Seats of this event are held or sold. Visitors without an account may only join a \
             queue that guards another site.",
        ));
    }
    Ok(())
}

fn conflict(detail: &str) -> Refusal {
    Problem::new(Kind::Conflict, detail).into()
}

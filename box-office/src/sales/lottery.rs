//! What may still be set of the lobby's lottery. The order is to be nobody's choice: whether it is
//! drawn stays once somebody has joined, the source of entropy is announced before anybody can
//! join, and what it showed is told once, when it is fixed who takes part.

use chrono::{DateTime, Utc};
use domain::sale::SaleSettings;
use platform::problem::{Kind, Problem};
use sqlx::PgConnection;

use super::store::{self, LineStart};
use crate::events::stock;
use crate::write::WriteError;

/// Refuses to make `after` of the locked sale `before` (none: of a new one) at `now` when that
/// would open the lottery to choice, or let visitors without an account into a line that sells.
///
/// # Errors
/// `conflict`.
pub(super) async fn check(
    conn: &mut PgConnection,
    before: Option<&SaleSettings>,
    after: &SaleSettings,
    now: DateTime<Utc>,
) -> Result<(), WriteError> {
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
                "The source of entropy is announced before the lobby opens, and stays.",
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

/// Whoever waits was told how the order comes about, and perhaps their place: neither changes.
fn check_order(
    before: &SaleSettings,
    after: &SaleSettings,
    line: &LineStart,
    now: DateTime<Utc>,
) -> Result<(), WriteError> {
    let is_bound = line.is_joined || line.takes_part;
    if (before.lobby_seconds == 0) != (after.lobby_seconds == 0) && is_bound {
        return Err(conflict(
            "Somebody has joined: whether there is a lobby, whose order is drawn, stays as it is.",
        ));
    }
    let is_put_off = before.opens_at <= now && after.opens_at > now;
    if before.lobby_seconds > 0 && is_put_off {
        if is_bound {
            return Err(conflict(
                "The sale has opened and somebody has joined, so the order is drawn. Pause the \
                 sale instead.",
            ));
        }
        if !before.entropy.is_empty() {
            return Err(conflict(
                "The entropy of the lottery was told, so the opening stays. Pause the sale \
                 instead.",
            ));
        }
    }
    Ok(())
}

fn check_entropy(after: &SaleSettings, was: &str, is_fixed: bool) -> Result<(), WriteError> {
    if !was.is_empty() {
        return Err(conflict("The entropy was told, and stays."));
    }
    if after.entropy_source.is_empty() {
        return Err(conflict("No source of entropy was announced."));
    }
    if !is_fixed {
        return Err(conflict(
            "It is not fixed yet who takes part in the lottery: tell the entropy after opens_at.",
        ));
    }
    Ok(())
}

async fn check_nothing_sold(
    conn: &mut PgConnection,
    sale: &SaleSettings,
) -> Result<(), WriteError> {
    let stock = stock::total(conn, sale.event_id).await?;
    if stock.is_some_and(|stock| stock.held + stock.sold > 0) {
        return Err(conflict(
            "Seats of the event are held or sold here. Visitors without an account may only join \
             a queue that guards another site.",
        ));
    }
    Ok(())
}

fn conflict(detail: &str) -> WriteError {
    Problem::new(Kind::Conflict, detail).into()
}

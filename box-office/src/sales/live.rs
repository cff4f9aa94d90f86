//! Live figures of a sale, for operators.

use domain::EventId;
use domain::queue::Snapshot;
use domain::sale::Stock;
use platform::problem::Problem;
use platform::service::Context;
use serde::Serialize;
use serde_json::Value;

use super::{Sale, store, unknown_sale};
use crate::events::stock;

/// A sale and its live figures.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Live {
    sale: Sale,
    live: Figures,
}

#[derive(Debug, Clone, Serialize)]
struct Figures {
    /// Absent until the release loop has published one.
    #[serde(flatten)]
    queue: Option<Snapshot>,
    /// `None` until the booking worker knows the event.
    stock: Option<Stock>,
}

/// Reads a sale with its current figures.
///
/// # Errors
/// `not-found` for an unknown sale.
pub(super) async fn read(ctx: &Context, id: EventId) -> Result<Live, Problem> {
    let mut conn = ctx.db.acquire().await?;
    let settings = store::get(&mut conn, id).await?.ok_or_else(unknown_sale)?;
    let stock = stock::total(&mut conn, id).await?;
    let queue = parse(id, store::snapshot(&mut conn, id).await?);
    let sale = Sale::at(settings, ctx.clock.now(), stock);
    Ok(Live {
        sale,
        live: Figures { queue, stock },
    })
}

/// Parses the queue's snapshot. An unreadable one is left out instead of failing the request:
/// operators need the settings most when something is wrong.
fn parse(id: EventId, snapshot: Option<Value>) -> Option<Snapshot> {
    serde_json::from_value(snapshot?)
        .inspect_err(
            |error| tracing::error!(event.id = %id, %error, "failed to parse queue snapshot"),
        )
        .ok()
}

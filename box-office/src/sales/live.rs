//! What operators watch while a sale runs.

use std::sync::Arc;

use domain::EventId;
use domain::queue::Snapshot;
use domain::sale::Stock;
use platform::problem::Problem;
use serde::Serialize;
use serde_json::Value;

use super::{Sale, store, unknown_sale};
use crate::events::stock;
use crate::office::Office;

/// A sale and its figures.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Live {
    sale: Sale,
    live: Figures,
}

#[derive(Debug, Clone, Serialize)]
struct Figures {
    /// Missing until the release loop has made one.
    #[serde(flatten)]
    queue: Option<Snapshot>,
    /// `None` until the booking worker knows the event.
    stock: Option<Stock>,
}

/// The sale with its figures, at most a second old: all who watch it share one look a second.
///
/// # Errors
/// `not-found`.
pub(super) async fn watch(office: &Arc<Office>, id: EventId) -> Result<Live, Problem> {
    let reading = || {
        let office = Arc::clone(office);
        async move { read(&office, id).await }
    };
    office.live.get(id, reading).await
}

/// The sale with its figures as they are now.
///
/// # Errors
/// `not-found`.
pub(super) async fn read(office: &Office, id: EventId) -> Result<Live, Problem> {
    let mut conn = office.ctx.db.acquire().await?;
    let settings = store::get(&mut conn, id).await?.ok_or_else(unknown_sale)?;
    let stock = stock::total(&mut conn, id).await?;
    let queue = parse(id, store::snapshot(&mut conn, id).await?);
    let sale = Sale::at(settings, office.ctx.clock.now(), stock);
    Ok(Live {
        sale,
        live: Figures { queue, stock },
    })
}

/// The queue's snapshot. An operator needs the settings all the more when something is wrong, so
/// one that can't be read only leaves the figures out.
fn parse(id: EventId, snapshot: Option<Value>) -> Option<Snapshot> {
    serde_json::from_value(snapshot?)
        .inspect_err(
            |error| tracing::error!(event.id = %id, %error, "the queue's snapshot is broken"),
        )
        .ok()
}

//! What operators watch while a sale runs.

use std::sync::Arc;

use domain::EventId;
use domain::queue::Snapshot;
use domain::sale::Stock;
use platform::problem::Problem;
use platform::redis::AsyncCommands as _;
use serde::Serialize;

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
    /// Missing until the release loop has made one, or while Redis does not answer.
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
    let reader = Arc::clone(office);
    let reading = async move { read(&reader, id).await };
    office.live.get(id, reading).await
}

/// The sale with its figures as they are now.
///
/// # Errors
/// `not-found`.
pub(super) async fn read(office: &Office, id: EventId) -> Result<Live, Problem> {
    let (settings, stock) = {
        let mut conn = office.ctx.db.acquire().await?;
        let settings = store::get(&mut conn, id).await?.ok_or_else(unknown_sale)?;
        (settings, stock::total(&mut conn, id).await?)
    };
    let sale = Sale::at(settings, office.ctx.clock.now(), stock);
    Ok(Live {
        sale,
        live: Figures {
            queue: snapshot(office, id).await,
            stock,
        },
    })
}

/// The queue's snapshot. An operator needs the settings all the more when Redis is away, so a
/// failure only leaves the figures out.
async fn snapshot(office: &Office, id: EventId) -> Option<Snapshot> {
    let key = office.ctx.sale_keys(id).snapshot();
    let json: Option<Vec<u8>> = match office.ctx.redis.clone().get(key).await {
        Ok(json) => json,
        Err(error) => {
            tracing::warn!(event.id = %id, %error, "the queue's snapshot can't be read");
            None
        }
    };
    serde_json::from_slice(&json?)
        .inspect_err(
            |error| tracing::error!(event.id = %id, %error, "the queue's snapshot is broken"),
        )
        .ok()
}

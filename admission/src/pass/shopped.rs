//! Ends passes that are used up: the buyer's booking is confirmed, or their hold reaches the
//! event's limit of tickets per account. The slots go to the next in line.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use chrono::{DateTime, Utc};
use domain::booking::BookingFacts;
use domain::message::{BookingConfirmed, HoldPlaced, Message};
use domain::{AccountId, EventId};
use platform::amqp::{self, BatchHandler, Delivery, ParseError, Settings, Verdict};
use platform::topology;

use crate::state::AppState;
use crate::store::accounts;

/// Maximum number of bookings handled in one batch.
const MAX_BATCH: u16 = 256;

/// Consumes holds and confirmations until soft shutdown.
pub(crate) async fn consume(state: Arc<AppState>) -> anyhow::Result<()> {
    let broker = state.ctx.broker.clone();
    let stop = state.ctx.shutdown.soft().clone();
    let queue = topology::admission_bookings();
    let settings = Settings {
        prefetch: MAX_BATCH * 2,
        max_batch: MAX_BATCH.into(),
        ..Settings::default()
    };
    let consuming = amqp::consume_batches(&broker, &stop, &queue, settings, BookingHandler(state));
    Box::pin(consuming).await
}

struct BookingHandler(Arc<AppState>);

/// A booking with the index of its message in the batch.
struct BatchEntry {
    index: usize,
    account_id: AccountId,
    /// A pass issued later belongs to another visit and stays.
    made_at: DateTime<Utc>,
    is_confirmed: bool,
}

impl BatchHandler for BookingHandler {
    async fn handle_batch(&self, batch: Vec<Delivery>) -> Vec<Verdict> {
        let mut verdicts = vec![Verdict::Ack; batch.len()];
        let mut by_sale: BTreeMap<EventId, Vec<BatchEntry>> = BTreeMap::new();
        for (index, delivery) in batch.iter().enumerate() {
            match read(delivery) {
                Ok((booking, is_confirmed)) if self.has_queue(booking.event_id) => {
                    by_sale
                        .entry(booking.event_id)
                        .or_default()
                        .push(BatchEntry {
                            index,
                            account_id: booking.account_id,
                            made_at: booking.created_at,
                            is_confirmed,
                        });
                }
                Ok(_) => {}
                Err(error) => verdicts[index] = error.into(),
            }
        }
        for (event_id, entries) in by_sale {
            if let Err(error) = self.end(event_id, &entries).await {
                tracing::warn!(%event_id, %error, "failed to end passes of buyers who are done");
                for BatchEntry { index, .. } in entries {
                    verdicts[index] = Verdict::retry(&batch[index]);
                }
            }
        }
        verdicts
    }
}

impl BookingHandler {
    /// Returns whether the sale issues passes; an unknown sale has issued none.
    fn has_queue(&self, event_id: EventId) -> bool {
        self.0.sales.known(event_id).is_some_and(|sale| sale.queue)
    }

    async fn end(&self, event_id: EventId, entries: &[BatchEntry]) -> Result<(), sqlx::Error> {
        let held: Vec<_> = entries
            .iter()
            .filter(|entry| !entry.is_confirmed)
            .map(|entry| entry.account_id)
            .collect();
        let full: HashSet<_> = accounts::full(&self.0.ctx.db, event_id, &held).await?;
        let done: Vec<_> = entries
            .iter()
            .filter(|entry| entry.is_confirmed || full.contains(&entry.account_id))
            .map(|entry| (entry.account_id, entry.made_at))
            .collect();
        let ended = self.0.passes.revoke(event_id, &done).await?;
        metrics::counter!("admission_shopped_total").increment(ended.len() as u64);
        self.0.revoked.add(ended);
        Ok(())
    }
}

/// Parses the booking, and whether it is confirmed.
fn read(delivery: &Delivery) -> Result<(BookingFacts, bool), ParseError> {
    if delivery.name == HoldPlaced::NAME {
        return Ok((delivery.parse::<HoldPlaced>()?.booking, false));
    }
    Ok((delivery.parse::<BookingConfirmed>()?.booking, true))
}

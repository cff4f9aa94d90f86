//! Metrics of the booking worker.

use std::time::Duration;

use chrono::TimeDelta;
use domain::message::Outcome;
use metrics::{counter, gauge, histogram};
use platform::service::Context;

use crate::store::inventory;

const STOCK_INTERVAL: Duration = Duration::from_secs(10);

/// Records the size of a batch.
pub(crate) fn batch_arrived(requests: usize) {
    histogram!("booking_batch_requests").record(f64::from(crate::count(requests)));
}

/// Records a decided request.
pub(crate) fn request_decided(outcome: &Outcome) {
    match outcome {
        Outcome::Held(facts) | Outcome::Confirmed(facts) => {
            counter!("booking_holds_total").increment(1);
            let seats = u64::try_from(facts.seats.len()).unwrap_or(u64::MAX);
            counter!("booking_held_seats_total").increment(seats);
        }
        Outcome::Rejected(reason) => {
            counter!("booking_rejections_total", "reason" => reason.as_str()).increment(1);
        }
        Outcome::Cancelled | Outcome::Refused(_) => {}
    }
}

/// Records how late the latest of the holds just expired is; `None` when none was due.
pub(crate) fn expiry_lag(lag: Option<TimeDelta>) {
    gauge!("booking_expiry_lag_seconds").set(lag.unwrap_or_default().as_seconds_f64());
}

/// Reports the seats in each state, until shutdown.
pub(crate) async fn watch_stock(ctx: Context) -> anyhow::Result<()> {
    let stop = ctx.shutdown.soft().clone();
    while !stop.is_cancelled() {
        match inventory::stock(&ctx.db).await {
            Ok(stock) => {
                let states = [
                    ("available", stock.available),
                    ("held", stock.held),
                    ("sold", stock.sold),
                ];
                for (state, seats) in states {
                    #[expect(clippy::cast_precision_loss, reason = "a gauge")]
                    gauge!("booking_seats", "state" => state).set(seats as f64);
                }
            }
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(error, "reading the stock failed");
            }
        }
        stop.run_until_cancelled(tokio::time::sleep(STOCK_INTERVAL))
            .await;
    }
    Ok(())
}

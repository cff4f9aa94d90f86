//! The sale as its public API shows it: the state of the queue and the stock.

use std::time::Duration;

use reqwest::Client;
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;
use url::Url;

use super::stage::Stage;

const LOOK_EVERY: Duration = Duration::from_millis(500);

/// The latest answers of the public API; dropping it ends the polling.
pub(super) struct House {
    shown: watch::Receiver<Shown>,
    _polling: AbortOnDropHandle<()>,
}

/// The public figures of the sale.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Shown {
    /// The state of the sale, as in the queue's snapshot.
    pub(super) state: String,
    /// Seats that are neither held nor sold.
    pub(super) free: u64,
    pub(super) held: u64,
    pub(super) sold: u64,
}

impl House {
    /// Starts polling the public API of an event.
    pub(super) fn watch(stage: &Stage, event_id: i64) -> anyhow::Result<Self> {
        let at = |resource: &str| {
            let path = format!("/api/events/{event_id}/{resource}");
            stage.public_url().join(&path)
        };
        let (queue, stock) = (at("queue")?, at("availability")?);
        let http = stage.http().clone();
        let (sender, shown) = watch::channel(Shown::default());
        let polling = tokio::spawn(async move {
            let mut looks = tokio::time::interval(LOOK_EVERY);
            loop {
                looks.tick().await;
                let answers = tokio::try_join!(get(&http, &queue), get(&http, &stock));
                // The last figures stay while a busy machine does not answer.
                if let Ok((queue, stock)) = answers {
                    sender.send_replace(Shown::of(&queue, &stock));
                }
            }
        });
        Ok(Self {
            shown,
            _polling: AbortOnDropHandle::new(polling),
        })
    }

    /// The figures as they change.
    pub(super) fn shown(&self) -> watch::Receiver<Shown> {
        self.shown.clone()
    }
}

impl Shown {
    fn of(queue: &Value, stock: &Value) -> Self {
        let sections = stock["sections"].as_array();
        let seats = |what: &str| {
            let each = sections.into_iter().flatten();
            each.map(|section| section[what].as_u64().unwrap_or_default())
                .sum()
        };
        Self {
            state: queue["state"].as_str().unwrap_or_default().to_owned(),
            free: seats("available"),
            held: seats("held"),
            sold: seats("sold"),
        }
    }

    /// Returns whether every seat is sold.
    pub(super) fn is_sold_out(&self) -> bool {
        self.state == "sold_out"
    }
}

async fn get(http: &Client, url: &Url) -> reqwest::Result<Value> {
    let answer = http.get(url.clone()).send().await?;
    answer.error_for_status()?.json().await
}

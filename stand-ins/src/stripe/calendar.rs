//! Expiry of authorisations: after seven days on the stand-in's clock the PaymentIntent is
//! cancelled.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;

use super::attempts;
use super::ledger::{Books, Ledger};
use super::model::Status;
use super::webhooks::Webhooks;

/// Lifetime of an authorisation.
pub(crate) const AUTHORISATION: TimeDelta = TimeDelta::days(7);
/// Polling period of the clock between requests.
const PERIOD: Duration = Duration::from_millis(50);

/// Schedules the expiry of an intent authorised now.
pub(crate) fn enter(books: &mut Books, id: &str) {
    let end = books.now() + AUTHORISATION;
    books.expiries.push_back((end, id.to_owned()));
}

/// Cancels every intent whose authorisation has expired.
pub(crate) fn expire_due(books: &mut Books) {
    let now = books.now();
    while let Some((_, id)) = books.expiries.pop_front_if(|(end, _)| *end <= now) {
        if books.known(&id).status == Status::RequiresCapture {
            attempts::release(books, &id, "charge.expired");
            attempts::cancel(books, &id, Some("automatic".to_owned()));
        }
    }
}

/// Cancels expired intents and publishes their events, until dropped.
pub(crate) async fn follow(ledger: Arc<Ledger>, webhooks: Webhooks) {
    let mut ticks = tokio::time::interval(PERIOD);
    loop {
        ticks.tick().await;
        let news = {
            let mut books = ledger.open();
            expire_due(&mut books);
            books.take_news()
        };
        webhooks.publish(news, "", None);
    }
}

//! Authorisations end after seven days: the PaymentIntent is cancelled then, on the stand-in's
//! clock.

use std::sync::Arc;
use std::time::Duration;

use chrono::TimeDelta;

use super::attempts;
use super::ledger::{Books, Ledger};
use super::model::Status;
use super::webhooks::Webhooks;

/// How long a card's authorisation can be captured.
pub(crate) const AUTHORISATION: TimeDelta = TimeDelta::days(7);
/// How often the clock is looked at between requests.
const PERIOD: Duration = Duration::from_millis(50);

/// Notes that an intent is authorised now.
pub(crate) fn enter(books: &mut Books, id: &str) {
    let end = books.now() + AUTHORISATION;
    books.expiries.push_back((end, id.to_owned()));
}

/// Cancels every intent whose authorisation has ended.
pub(crate) fn expire_due(books: &mut Books) {
    let now = books.now();
    while let Some((_, id)) = books.expiries.pop_front_if(|(end, _)| *end <= now) {
        if books.known(&id).status == Status::RequiresCapture {
            attempts::release(books, &id, "charge.expired");
            attempts::give_up(books, &id, Some("automatic".to_owned()));
        }
    }
}

/// Cancels them as the time passes, and tells it.
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

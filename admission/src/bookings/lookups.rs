//! Bookings are looked up many at a time: a crowd that waits for its payments to be ready asks
//! thousands of times a second.

use std::collections::HashMap;

use domain::BookingId;
use platform::lane::{Lane, Write};
use platform::problem::Problem;
use sqlx::PgPool;
use tokio::sync::oneshot;

use crate::store::bookings::{self, Booking};

/// Looks up on behalf of all requests of this node.
pub(crate) struct Lookups(Lane<Lookup>);

impl Lookups {
    pub(crate) fn new(db: &PgPool) -> Self {
        Self(Lane::new(Lookup(db.clone())))
    }

    /// The booking as it is now, or a moment later; `None` when no worker has decided it.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(super) async fn find(&self, id: BookingId) -> Result<Option<Booking>, Problem> {
        let (sender, found) = oneshot::channel();
        self.0.add((id, sender));
        found
            .await
            .unwrap_or_else(|error| Err(Problem::internal(&error)))
    }
}

struct Lookup(PgPool);

impl Write for Lookup {
    type Job = (BookingId, oneshot::Sender<Result<Option<Booking>, Problem>>);

    async fn write(&self, jobs: Vec<Self::Job>) {
        let ids: Vec<_> = jobs.iter().map(|(id, _)| *id).collect();
        let found = bookings::find(&self.0, &ids).await.map(by_id);
        let found = found.map_err(Problem::from);
        for (id, sender) in jobs {
            let booking = found.as_ref().map(|found| found.get(&id).cloned());
            // Whoever has left needs no answer.
            let _gone = sender.send(booking.map_err(Clone::clone));
        }
    }
}

fn by_id(bookings: Vec<Booking>) -> HashMap<BookingId, Booking> {
    let pairs = bookings.into_iter().map(|booking| (booking.id, booking));
    pairs.collect()
}

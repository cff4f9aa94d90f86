//! Bookings are looked up many at a time: a crowd that waits for its payments to be ready asks
//! thousands of times a second.

use std::collections::HashMap;

use domain::BookingId;
use platform::lane::{Job, Lane, Limits, Work};
use platform::problem::Problem;
use sqlx::PgPool;

use crate::store::bookings::{self, Booking};

/// Looks up on behalf of all requests of this node.
pub(crate) struct Lookups(Lane<Lookup>);

impl Lookups {
    pub(crate) fn new(db: &PgPool) -> Self {
        Self(Lane::new(Lookup(db.clone()), Limits::USUAL))
    }

    /// The booking as it is now, or a moment later; `None` when no worker has decided it.
    ///
    /// # Errors
    /// When the database does not answer.
    pub(super) async fn find(&self, id: BookingId) -> Result<Option<Booking>, Problem> {
        self.0.ask(id).await?
    }
}

struct Lookup(PgPool);

impl Work for Lookup {
    type Item = BookingId;
    type Answer = Result<Option<Booking>, Problem>;

    async fn work(&self, jobs: Vec<Job<Self>>) {
        let ids: Vec<_> = jobs.iter().map(|job| job.item).collect();
        let found = bookings::find(&self.0, &ids).await.map(by_id);
        let found = found.map_err(Problem::from);
        for Job { item, asker } in jobs {
            let booking = found.as_ref().map(|found| found.get(&item).cloned());
            asker.answer(booking.map_err(Clone::clone));
        }
    }
}

fn by_id(bookings: Vec<Booking>) -> HashMap<BookingId, Booking> {
    let pairs = bookings.into_iter().map(|booking| (booking.id, booking));
    pairs.collect()
}

//! Batched reads of bookings: buyers waiting for their payment to be ready poll thousands of times
//! a second.

use std::collections::HashMap;

use domain::BookingId;
use platform::batcher::{BatchLimits, Batcher, GroupCommit, Grouped};
use platform::problem::Problem;
use sqlx::PgPool;

use crate::store::bookings::{self, StoredBooking};

/// The node's batched reads.
pub(crate) struct Lookups(Batcher<Grouped<Lookup, Problem>>);

impl Lookups {
    pub(crate) fn new(db: &PgPool) -> Self {
        Self(Batcher::new(Lookup(db.clone()).into(), BatchLimits::USUAL))
    }

    /// Returns the booking, read after this call began; `None` when no worker has decided it.
    ///
    /// # Errors
    /// When the database fails.
    pub(super) async fn find(&self, id: BookingId) -> Result<Option<StoredBooking>, Problem> {
        self.0.ask(id).await?
    }
}

struct Lookup(PgPool);

impl GroupCommit for Lookup {
    type Item = BookingId;
    type Output = Option<StoredBooking>;

    async fn commit(&self, ids: &[BookingId]) -> Result<Vec<Option<StoredBooking>>, sqlx::Error> {
        let found = by_id(bookings::find(&self.0, ids).await?);
        Ok(ids.iter().map(|id| found.get(id).cloned()).collect())
    }
}

fn by_id(bookings: Vec<StoredBooking>) -> HashMap<BookingId, StoredBooking> {
    let pairs = bookings.into_iter().map(|booking| (booking.id, booking));
    pairs.collect()
}

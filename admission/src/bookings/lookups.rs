//! Batched reads of bookings: buyers waiting for their payment to be ready poll thousands of times
//! a second.

use std::collections::HashMap;

use domain::BookingId;
use platform::batcher::{Batcher, GroupCommit, Grouped, Limits};
use platform::problem::Problem;
use sqlx::PgPool;

use crate::store::bookings::{self, Booking};

/// The node's batched reads.
pub(crate) struct Lookups(Batcher<Grouped<Lookup, Problem>>);

impl Lookups {
    pub(crate) fn new(db: &PgPool) -> Self {
        Self(Batcher::new(Lookup(db.clone()).into(), Limits::USUAL))
    }

    /// Returns the booking, read after this call began; `None` when no worker has decided it.
    ///
    /// # Errors
    /// When the database fails.
    pub(super) async fn find(&self, id: BookingId) -> Result<Option<Booking>, Problem> {
        self.0.ask(id).await?
    }
}

struct Lookup(PgPool);

impl GroupCommit for Lookup {
    type Item = BookingId;
    type Output = Option<Booking>;

    async fn commit(&self, ids: &[BookingId]) -> Result<Vec<Option<Booking>>, sqlx::Error> {
        let found = by_id(bookings::find(&self.0, ids).await?);
        Ok(ids.iter().map(|id| found.get(id).cloned()).collect())
    }
}

fn by_id(bookings: Vec<Booking>) -> HashMap<BookingId, Booking> {
    let pairs = bookings.into_iter().map(|booking| (booking.id, booking));
    pairs.collect()
}

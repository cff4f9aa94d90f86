//! State shared by the service's handlers.

use domain::EventId;
use platform::http::SecondCache;
use platform::limits::{Key, LimitLayer, Quota};
use platform::service::Context;

use crate::accounts::attempts::Networks;
use crate::accounts::password::Passwords;
use crate::cached_response::CachedResponse;
use crate::sales::live::Live;

/// Changes per staff account and minute.
const STAFF_WRITES: Quota = Quota::per_minute(120);

pub(crate) struct AppState {
    /// Connections, keys, clock and limits.
    pub(crate) ctx: Context,
    /// One rate limit for all staff writes.
    pub(crate) staff_limit: LimitLayer,
    /// True if new addresses must be confirmed by a code.
    pub(crate) confirms_addresses: bool,
    /// Password hashing threads.
    pub(crate) passwords: Passwords,
    /// Cluster-wide quotas per network.
    pub(crate) networks: Networks,
    /// `GET /api/events/{id}`; `None` for an unknown event.
    pub(crate) events: SecondCache<EventId, Option<CachedResponse>>,
    /// `GET /api/events/{id}/availability`; `None` for an unknown event.
    pub(crate) availability: SecondCache<EventId, Option<CachedResponse>>,
    /// `GET /api/events/{id}/seats`; `None` for an unknown event.
    pub(crate) seats: SecondCache<EventId, Option<CachedResponse>>,
    /// Live figures of a sale, shared by its streams.
    pub(crate) live: SecondCache<EventId, Live>,
}

impl AppState {
    /// Creates the state with empty caches.
    pub(crate) fn new(ctx: Context, passwords: Passwords, confirms_addresses: bool) -> Self {
        let clock = || ctx.clock.clone();
        Self {
            events: SecondCache::new(clock()),
            availability: SecondCache::new(clock()),
            seats: SecondCache::new(clock()),
            live: SecondCache::new(clock()),
            staff_limit: ctx.limits.layer("staff", STAFF_WRITES, Key::Account),
            networks: Networks::new(&ctx),
            confirms_addresses,
            passwords,
            ctx,
        }
    }
}

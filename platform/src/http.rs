//! HTTP as every service speaks it: extractors whose refusals are problems, and the layers and
//! the server around all routes.

mod address;
mod compress;
mod extract;
mod layers;
mod metrics;
mod server;

use std::sync::Arc;
use std::time::Duration;

use axum::http::request::Parts;
use domain::clock::SharedClock;
use ipnet::IpNet;

use crate::problem::Problem;
use crate::tokens::KeyRing;

pub use address::ClientAddr;
pub use extract::{Json, Path, Query, RawBody};
pub use layers::{wrap, wrap_quick};
pub use server::{Listener, bind};

/// What extractors and layers need. [`wrap`] puts it into the extensions of every request, so
/// that a router may have any state of its own.
pub struct Shared {
    /// Verifies access tokens.
    pub keys: Arc<KeyRing>,
    /// Tells the time at which they must be good.
    pub clock: SharedClock,
    /// Whose `X-Forwarded-For` is believed.
    pub trusted_proxies: Vec<IpNet>,
    /// Longest time until an answer begins.
    pub request_timeout: Duration,
}

impl Shared {
    pub(crate) fn of(parts: &Parts) -> Result<&Self, Problem> {
        parts
            .extensions
            .get::<Arc<Self>>()
            .map(AsRef::as_ref)
            .ok_or_else(|| {
                tracing::error!("a route is served without `platform::http::wrap`");
                Problem::defect()
            })
    }
}

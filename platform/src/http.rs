//! HTTP of every service: extractors whose rejections are problems, and the layers and
//! the server around all routes.

mod address;
mod compress;
mod connections;
mod extract;
mod layers;
mod lent;
mod metrics;
mod second_cache;
mod server;
mod stalled;
mod storable;

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use axum::http::request::Parts;
use domain::clock::SharedClock;
use ipnet::IpNet;

use crate::health::Health;
use crate::problem::Problem;
use crate::tokens::KeyRing;

pub use address::ClientAddr;
pub use connections::{ConnectionLimits, Connections};
pub use extract::{Json, Path, Query, RawBody};
pub use layers::{wrap, wrap_quick};
pub use second_cache::{FOR_A_SECOND, SecondCache};
pub use server::{Listener, bind};
pub use storable::date;

/// State shared by extractors and layers. [`wrap`] puts it into the extensions of every request, so
/// that a router may have any state of its own.
pub struct HttpState {
    /// Verifies access tokens.
    pub keys: Arc<KeyRing>,
    /// The clock against which their validity is checked.
    pub clock: SharedClock,
    /// Proxies whose `X-Forwarded-For` is trusted.
    pub trusted_proxies: Vec<IpNet>,
    /// Timeout until a response begins.
    pub request_timeout: Duration,
    /// Whether responses carry HSTS.
    pub is_secure: bool,
    /// Receives the warnings of the HTTP layer.
    pub health: Health,
    /// Set by the first `X-Forwarded-For` from an untrusted peer.
    pub has_untrusted_forwarder: AtomicBool,
}

impl HttpState {
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

//! State shared by the waiting room's handlers.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use platform::service::Context;

use crate::challenge::Challenges;
use crate::sales::Sales;
use crate::streams::Streams;

pub(crate) struct AppState {
    pub(crate) ctx: Context,
    pub(crate) sales: Arc<Sales>,
    pub(crate) challenges: Challenges,
    pub(crate) streams: Streams,
    /// Epoch of [`now_ms`](Self::now_ms).
    pub(crate) begun: DateTime<Utc>,
}

/// Fraction of `poll_after_ms` before which another poll is too early.
const EARLY_PART: f64 = 0.5;

impl AppState {
    /// Milliseconds since the start; wraps around after 49 days.
    pub(crate) fn now_ms(&self, now: DateTime<Utc>) -> u32 {
        let elapsed = (now - self.begun).num_milliseconds();
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "it wraps around"
        )]
        let elapsed = elapsed as u32;
        elapsed
    }

    /// Time after a response with `poll_after_ms` for which another poll is too early.
    pub(crate) fn too_early_ms(&self, poll_after_ms: u32) -> u32 {
        let scale = self.ctx.config.limits_scale.max(1.0);
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "less than `poll_after_ms`"
        )]
        let early = (f64::from(poll_after_ms) * EARLY_PART / scale) as u32;
        early
    }
}

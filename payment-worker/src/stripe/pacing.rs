use std::num::NonZeroU32;

use governor::{DefaultDirectRateLimiter, DefaultKeyedRateLimiter, Quota, RateLimiter};

/// The kinds of calls, each with its own limit at Stripe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Call {
    /// Create a PaymentIntent.
    Create,
    /// Read a PaymentIntent.
    Retrieve,
    /// Capture a PaymentIntent.
    Capture,
    /// Cancel a PaymentIntent.
    Cancel,
    /// Create a refund.
    Refund,
    /// Read a refund.
    RetrieveRefund,
    /// Read a page of a list.
    List,
}

impl Call {
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Retrieve => "retrieve",
            Self::Capture => "capture",
            Self::Cancel => "cancel",
            Self::Refund => "refund",
            Self::RetrieveRefund => "retrieve_refund",
            Self::List => "list",
        }
    }
}

/// Keeps this process within the account's limits.
pub(super) struct Pacing {
    all: DefaultDirectRateLimiter,
    by_call: DefaultKeyedRateLimiter<Call>,
}

impl Pacing {
    pub(super) fn new(per_second: NonZeroU32, per_second_and_call: NonZeroU32) -> Self {
        Self {
            all: RateLimiter::direct(Quota::per_second(per_second)),
            by_call: RateLimiter::keyed(Quota::per_second(per_second_and_call)),
        }
    }

    /// Waits until the call may be sent.
    pub(super) async fn wait_for_turn(&self, call: Call) {
        self.by_call.until_key_ready(&call).await;
        self.all.until_ready().await;
    }
}

//! Quotas that the routes and the shared limits of joins have in common.

use std::time::Duration;

use platform::limits::Quota;

pub(crate) const MINUTE: Duration = Duration::from_secs(60);

/// Limit per account of repeated joins, and of challenges.
pub(crate) const PER_ACCOUNT: Quota = Quota {
    burst: 10,
    per: MINUTE,
};

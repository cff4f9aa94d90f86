//! Quotas that the routes and the shared limits of joins have in common.

use platform::limits::Quota;

/// Limit per account of repeated joins, and of challenges.
pub(crate) const PER_ACCOUNT: Quota = Quota::per_minute(10);

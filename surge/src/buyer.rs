//! A simulated buyer that uses only the HTTP API: signs up, joins the queue, polls on schedule,
//! claims the pass, books, pays at Stripe's API, or drops out on the way. It behaves as the pages
//! do: it refreshes its session, reloads, loses its network, retries requests under the same
//! idempotency key, and pays from the link in its mail.
//!
//! The demo, the load tool and the system tests share this buyer, so that they can't drift apart.

mod api;
mod funnel;
mod plan;
mod session;
mod shopping;

pub use api::{Api, ApiError, Endpoints};
pub use funnel::{Funnel, FunnelCounts, Latencies, Quantiles, Requests, Stage};
pub use plan::{Card, Habits, Plan, PlanMix};
pub use session::Session;
pub use shopping::{Buyer, Fate, PASSWORD};

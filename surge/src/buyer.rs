//! One simulated buyer, with nothing but the HTTP API: signs up, joins the queue, polls when the
//! next poll is due, claims the pass, books, pays at Stripe's API, and sometimes does not. It does
//! what the pages do: it renews its session, reloads, loses its network, repeats a request under
//! the same idempotency key, and follows the link in its mail.
//!
//! The demo, the load tool and the system tests all use this one buyer.

mod api;
mod funnel;
mod plan;
mod session;
mod shopping;

pub use api::{Api, ApiError, Endpoints};
pub use funnel::{Funnel, FunnelCounts, Latencies, Quantiles, Stage};
pub use plan::{Card, Habits, Plan, PlanMix};
pub use session::Session;
pub use shopping::{Buyer, Fate};

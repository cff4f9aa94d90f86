//! One simulated buyer, who knows Onsale only through its HTTP API: signs up, joins the queue,
//! polls as told, claims the pass, books, pays at Stripe's API, and sometimes does not.
//!
//! The demo, the load tool and the system tests all use this one buyer.

mod api;
mod funnel;
mod plan;
mod shopping;

pub use api::{Api, ApiError, Endpoints};
pub use funnel::{Funnel, FunnelCounts, Latencies, Quantiles, Stage};
pub use plan::{Card, Plan, PlanMix};
pub use shopping::{Buyer, Fate, Session};

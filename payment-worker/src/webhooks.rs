//! Stripe's webhooks: verified, stored in the inbox, and only then acknowledged.
//!
//! ```text
//! receive ─► signature ─► event ─► intake ─► payments (rules) ─► store, outbox
//!                                    │ what takes more than a plain step
//!                                    ▼
//! inbox ───► apply ─────► event ─► evidence (Stripe) ─► payments, refunds ─► store, outbox
//! ```

mod apply;
mod event;
mod evidence;
mod inbox;
mod intake;
mod receive;
mod signature;

pub(crate) use inbox::run;
pub(crate) use receive::routes;
pub(crate) use signature::Secrets;

//! State shared by admission's handlers, loops and consumers.

use platform::service::Context;

use crate::bookings::{Lookups, RequestWriter};
use crate::config::Config;
use crate::outcomes::Outcomes;
use crate::pass::{ClaimBatcher, Passes};
use crate::release::load::ResponseStats;
use crate::revocations::Revocations;
use crate::sales::Sales;

pub(crate) struct AppState {
    pub(crate) ctx: Context,
    pub(crate) config: Config,
    pub(crate) sales: Sales,
    pub(crate) passes: Passes,
    pub(crate) claims: ClaimBatcher,
    pub(crate) revoked: Revocations,
    pub(crate) outcomes: Outcomes,
    pub(crate) writer: RequestWriter,
    pub(crate) lookups: Lookups,
    pub(crate) responses: ResponseStats,
}

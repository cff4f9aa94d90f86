//! Audit log of all changes made by staff.

mod list;
mod notes;
mod store;

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use domain::AccountId;
use platform::service::Routes;
use platform::topology;

use crate::state::AppState;

pub(crate) use notes::consume;
pub(crate) use store::put;

/// The author of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Actor {
    /// A signed-in account.
    Account(AccountId),
    /// The server's command line, recorded as account 0.
    CommandLine,
}

impl Actor {
    /// The id stored in the log.
    fn id(self) -> i64 {
        match self {
            Self::Account(id) => id.0,
            Self::CommandLine => 0,
        }
    }
}

/// Audit log routes, on the internal listener only.
pub(crate) fn routes(state: &Arc<AppState>) -> Routes {
    let internal = Router::new().route("/api/audit-log", get(list::list));
    Routes {
        consumes: vec![topology::box_office_audit()],
        internal: internal.with_state(Arc::clone(state)),
        ..Routes::default()
    }
}

//! The log of everything staff changed.

mod list;
mod notes;
mod store;

use std::sync::Arc;

use axum::Router;
use axum::routing::get;
use domain::AccountId;
use platform::service::Routes;
use platform::topology;

use crate::office::Office;

pub(crate) use notes::consume;
pub(crate) use store::put;

/// Who changed something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Actor {
    /// Somebody who signed in.
    Account(AccountId),
    /// Somebody on the server's command line.
    CommandLine,
}

impl Actor {
    /// How the log names the actor.
    fn id(self) -> i64 {
        match self {
            Self::Account(id) => id.0,
            Self::CommandLine => 0,
        }
    }
}

/// The routes of this part.
pub(crate) fn routes(office: &Arc<Office>) -> Routes {
    let internal = Router::new().route("/api/audit-log", get(list::list));
    Routes {
        consumes: vec![topology::box_office_audit()],
        internal: internal.with_state(Arc::clone(office)),
        ..Routes::default()
    }
}

//! Sales: settings, and live figures for operators.

mod get;
pub(crate) mod live;
mod lottery;
mod put;
mod revoke;
pub(crate) mod settings;
mod store;
mod stream;

use std::sync::Arc;

use axum::Router;
use axum::routing::{delete as on_delete, get as on_get, put as on_put};
use chrono::{DateTime, Utc};
use domain::EventId;
use domain::account::Role;
use domain::event::Event;
use domain::message::SaleChanged;
use domain::sale::{SaleSettings, SaleState, Stock};
use platform::auth::Caller;
use platform::outbox;
use platform::problem::{Kind, Problem};
use platform::refusal::Refusal;
use platform::service::Routes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::PgConnection;

use crate::OWNER;
use crate::audit::{self, Actor};
use crate::state::AppState;
use settings::SalePatch;

/// Sale routes, on the internal listener only.
pub(crate) fn routes(state: &Arc<AppState>) -> Routes {
    let writes = Router::new()
        .route("/api/sales/{event_id}", on_put(put::put))
        .route(
            "/api/sales/{event_id}/passes/{account_id}",
            on_delete(revoke::revoke),
        )
        .route_layer(state.staff_limit.clone());
    let internal = Router::new()
        .route("/api/sales/{event_id}", on_get(get::get))
        .route("/api/sales/{event_id}/stream", on_get(stream::stream))
        .merge(writes);
    Routes {
        internal: internal.with_state(Arc::clone(state)),
        ..Routes::default()
    }
}

/// A sale as returned to staff.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Sale {
    #[serde(flatten)]
    settings: SaleSettings,
    state: SaleState,
}

impl Sale {
    fn at(settings: SaleSettings, now: DateTime<Utc>, stock: Option<Stock>) -> Self {
        let state = settings.state_at(now, stock);
        Self { settings, state }
    }
}

/// Creates the sale of a new event, open at once unless `patch` sets another time.
///
/// # Errors
/// `invalid` for a value of `patch` out of bounds, `conflict` for a lottery setting that is not
/// possible.
pub(crate) async fn open(
    conn: &mut PgConnection,
    event: &Event,
    patch: &SalePatch,
    actor: Actor,
    now: DateTime<Utc>,
) -> Result<(), Refusal> {
    let mut settings = settings::of_new_event(event, now);
    patch.apply(&mut settings, "sale.")?;
    lottery::check(conn, None, &settings, now).await?;
    store::insert(conn, &settings, now).await?;
    record(conn, &settings, "sale.open", &json!(settings), actor, now).await?;
    Ok(())
}

/// Publishes a new version of a sale whose event has changed its limit per account or its start.
pub(crate) async fn follow_event(
    conn: &mut PgConnection,
    event: &Event,
    actor: Actor,
    now: DateTime<Utc>,
) -> Result<(), Refusal> {
    let settings = store::lock(conn, event.id)
        .await?
        .ok_or_else(unknown_sale)?;
    let settings = store::update(conn, &settings, now).await?;
    let detail = json!({
        "event_version": event.version,
        "max_tickets_per_account": event.max_tickets_per_account,
        "date": event.date,
    });
    record(conn, &settings, "sale.change", &detail, actor, now).await?;
    Ok(())
}

/// Closes the sale of an event that is being cancelled.
pub(crate) async fn close(
    conn: &mut PgConnection,
    id: EventId,
    actor: Actor,
    now: DateTime<Utc>,
) -> Result<(), Refusal> {
    let mut settings = store::lock(conn, id).await?.ok_or_else(unknown_sale)?;
    settings.closed = true;
    let settings = store::update(conn, &settings, now).await?;
    record(
        conn,
        &settings,
        "sale.change",
        &json!({ "closed": true }),
        actor,
        now,
    )
    .await?;
    Ok(())
}

/// Adds a change to the audit log, and publishes `sale.changed`.
async fn record(
    conn: &mut PgConnection,
    settings: &SaleSettings,
    action: &'static str,
    detail: &Value,
    actor: Actor,
    now: DateTime<Utc>,
) -> Result<(), sqlx::Error> {
    let subject = format!("sale:{}", settings.event_id);
    audit::put(conn, actor, action, &subject, detail, now).await?;
    outbox::put(
        conn,
        OWNER,
        &SaleChanged {
            sale: settings.clone(),
        },
    )
    .await
}

/// Checks that the caller may see and change sales.
fn require_operator(caller: &Caller) -> Result<(), Problem> {
    caller.require_any(&[Role::Operator, Role::Admin])
}

fn unknown_sale() -> Problem {
    Problem::new(Kind::NotFound, "There is no sale with this id.")
}

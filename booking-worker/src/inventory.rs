//! Follows box-office: events, sections, seats and sales.

use domain::event::{Event, Section};
use domain::message::{EventChanged, SaleChanged};
use domain::sale::SaleSettings;
use platform::amqp::{Delivery, Handler, Verdict};
use platform::pg::run_tx;
use sqlx::{PgConnection, PgPool};

use crate::store::inventory::{self, Grid};
use crate::store::seats;

/// Most rows of a section, and seats of a row: a row has a thousand ranks.
const MAX_SIDE: u32 = 1000;

/// Consumer of `booking.events`.
pub(crate) struct InventoryHandler {
    pool: PgPool,
}

impl InventoryHandler {
    pub(crate) fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    async fn follow_event(&self, event: &Event) -> Result<(), sqlx::Error> {
        run_tx(&self.pool, "follow_event", |tx| {
            Box::pin(follow_event(tx, event))
        })
        .await
    }

    async fn follow_sale(&self, sale: &SaleSettings) -> Result<(), sqlx::Error> {
        run_tx(&self.pool, "follow_sale", |tx| {
            Box::pin(inventory::put_sale(tx, sale))
        })
        .await
    }
}

impl Handler for InventoryHandler {
    async fn handle(&self, delivery: Delivery) -> Verdict {
        let followed = if delivery.name == <SaleChanged as domain::message::Message>::NAME {
            match delivery.parse::<SaleChanged>() {
                Ok(SaleChanged { sale }) => self.follow_sale(&sale).await,
                Err(error) => return error.into(),
            }
        } else {
            match delivery.parse::<EventChanged>() {
                Ok(EventChanged { event }) => match fault(&event) {
                    None => self.follow_event(&event).await,
                    Some(fault) => return Verdict::DeadLetter(fault),
                },
                Err(error) => return error.into(),
            }
        };
        match followed {
            Ok(()) => Verdict::Ack,
            Err(error) => {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(
                    error,
                    message = delivery.name,
                    "applying a change of the inventory failed; retrying"
                );
                Verdict::retry(&delivery)
            }
        }
    }
}

/// Returns the reason for which an event's seats can't be laid out, if there is one.
fn fault(event: &Event) -> Option<String> {
    let bad = event.sections.iter().find(|section| {
        section.numbered && grid(section).is_none_or(|(rows, per_row)| rows.max(per_row) > MAX_SIDE)
    })?;
    Some(format!(
        "section {} has no rows, or more than {MAX_SIDE} rows or seats a row",
        bad.id
    ))
}

fn grid(section: &Section) -> Option<(u32, u32)> {
    Some((section.rows?, section.seats_per_row?))
}

/// Changes sections and seats to what `event` says, unless a later version was applied. Only free
/// seats are removed, the highest ranks first; a taken one is removed when it becomes free.
async fn follow_event(conn: &mut PgConnection, event: &Event) -> Result<(), sqlx::Error> {
    if !inventory::put_event(conn, event).await? {
        return Ok(());
    }
    inventory::put_sections(conn, event).await?;
    let withdrawn = inventory::withdraw_sections(conn, event).await?;
    let (mut grids, mut unnumbered) = (Vec::new(), Vec::new());
    for section in &event.sections {
        match grid(section).filter(|_| section.numbered) {
            Some((rows, per_row)) => {
                grids.push(Grid {
                    section_id: section.id,
                    rows,
                    per_row,
                });
            }
            None => unnumbered.push((section.id, section.capacity)),
        }
    }
    inventory::fill_grids(conn, &grids).await?;
    let sections = event.sections.iter().map(|section| section.id.0);
    seats::trim(conn, &sections.chain(withdrawn).collect::<Vec<_>>()).await?;
    inventory::add_missing(conn, &unnumbered).await
}

//! The baseline: the booking worker's writes for a batch of bookings as one statement, run by
//! pgbench without other load: same tables, constraints and triggers, one commit each.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use domain::EventId;
use secrecy::ExposeSecret as _;
use tokio::process::Command;

use super::super::say;
use super::crowd::Crowd;

/// Holds the best available seats for `:bookings` bookings of two and three.
const STATEMENT: &str = "\
with wanted as materialized (
    select gen_random_uuid() as booking_id, nth, 2 + nth % 2 as tickets,
           sum(2 + nth % 2) over (order by nth) as upto
    from generate_series(0, :bookings - 1) as nth
), free as materialized (
    select id, section_id, row_label, number, row_number() over (order by section_id, rank) as nth
    from (select s.* from booking.seats s
          where s.state = 'available' and s.section_id = (
              select section_id from booking.sections
              where event_id = :event and available >= :seats order by position limit 1)
          order by s.rank limit :seats for update skip locked) s
), given as materialized (
    select f.id, w.booking_id, f.row_label, f.number
    from free f join wanted w on f.nth > w.upto - w.tickets and f.nth <= w.upto
), held as (
    insert into booking.bookings (id, event_id, account_id, tickets, state, seats, total_minor, currency,
                                  hold_until, created_at, updated_at)
    select booking_id, :event, (random() * 1e12)::bigint, count(*), 'held',
           jsonb_agg(jsonb_build_object('id', id, 'section', 'Block', 'row', row_label, 'number', number)),
           4500 * count(*), 'eur', now() + interval '1 hour', now(), now()
    from given group by booking_id
    returning id, account_id, tickets, seats
), counted as (
    insert into booking.account_tickets (event_id, account_id, tickets)
    select :event, account_id, tickets from held
    on conflict (event_id, account_id) do update set tickets = booking.account_tickets.tickets + excluded.tickets
), announced as (
    insert into platform.outbox (id, owner, exchange, routing_key, message_name, body)
    select gen_random_uuid(), 'surge', 'events', 'hold.placed.v1', 'hold.placed.v1', to_jsonb(held) from held
)
update booking.seats s set state = 'held', booking_id = given.booking_id from given where s.id = given.id;
";

/// Returns the seats held a second; `None` when pgbench is not installed.
pub(super) async fn seats_per_second(
    crowd: &Crowd<'_>,
    event_id: EventId,
    bookings: u32,
    seats: u32,
) -> anyhow::Result<Option<f64>> {
    let Some(pgbench) = find().await else {
        say("pgbench is not installed, so PostgreSQL alone was not measured");
        return Ok(None);
    };
    let a_statement = bookings / 2 * 5 + bookings % 2 * 2;
    // A section's last seats may be too few for one more statement.
    let statements = (seats / a_statement)
        .saturating_sub(seats / super::SECTION_SEATS)
        .max(1);
    let script = std::env::temp_dir().join("surge-batch.sql");
    std::fs::write(&script, STATEMENT)?;
    let defined = |name: &str, value: i64| format!("--define={name}={value}");
    let ran = Command::new(pgbench)
        .args(["--no-vacuum", "--client=1", "--protocol=prepared"])
        .arg(format!("--transactions={statements}"))
        .arg(defined("event", event_id.0))
        .arg(defined("bookings", bookings.into()))
        .arg(defined("seats", a_statement.into()))
        .arg("--file")
        .arg(&script)
        .arg(crowd.subject.database_url()?.expose_secret())
        .output()
        .await?;
    let text = String::from_utf8_lossy(&ran.stdout);
    ensure!(
        ran.status.success(),
        "pgbench: {}",
        String::from_utf8_lossy(&ran.stderr)
    );
    let held = crowd.stock(event_id).await?.held;
    ensure!(
        held == i64::from(statements) * i64::from(a_statement),
        "pgbench held {held} seats in {statements} statements"
    );
    let per_second: f64 = text
        .lines()
        .find_map(|line| line.strip_prefix("tps = "))
        .and_then(|rest| rest.split(' ').next()?.parse().ok())
        .context("pgbench printed no tps")?;
    Ok(Some(per_second * f64::from(a_statement)))
}

/// Finds pgbench on the path, or where Debian installs it.
async fn find() -> Option<PathBuf> {
    let mut places = vec![PathBuf::from("pgbench")];
    if let Ok(versions) = std::fs::read_dir(Path::new("/usr/lib/postgresql")) {
        places.extend(
            versions
                .flatten()
                .map(|version| version.path().join("bin/pgbench")),
        );
    }
    for place in places {
        let asked = Command::new(&place).arg("--version").output().await;
        if asked.is_ok_and(|asked| asked.status.success()) {
            return Some(place);
        }
    }
    None
}

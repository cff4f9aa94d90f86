//! `onsale booking`: prints a booking's timeline, for support.

use anyhow::ensure;
use clap::Args;
use domain::BookingId;

use crate::{DatabaseArgs, say};

#[derive(Args)]
pub(crate) struct BookingArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// The booking's id
    id: BookingId,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Prints the booking's timeline, oldest first.
pub(crate) async fn run(args: BookingArgs) -> anyhow::Result<()> {
    let db = args.database.connect().await?;
    let timeline = payment_worker::timeline(&db, args.id).await?;
    ensure!(!timeline.is_empty(), "there is no booking {}", args.id);
    if args.json {
        say(serde_json::to_string_pretty(&timeline)?);
        return Ok(());
    }
    for entry in timeline {
        say(format_args!(
            "{}  {:<11} {:<40} {}",
            entry.at.format("%Y-%m-%d %H:%M:%S%.3f"),
            entry.part,
            entry.what,
            entry.detail
        ));
    }
    Ok(())
}

//! `onsale sale`: the operator's commands, through the staff API like the console's, so that every
//! change is checked and audited there.

use std::fmt::Display;
use std::io::{self, Write as _};
use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use platform::service::EXIT_USAGE;
use reqwest::Method;
use serde_json::{Value, json};

use crate::staff::{Staff, StaffArgs};
use crate::{say, warn};

/// A rate above this multiple of the current one needs `--yes`.
const JUMP: u64 = 3;

#[derive(Args)]
pub(crate) struct SaleArgs {
    #[command(flatten)]
    staff: StaffArgs,
    #[command(subcommand)]
    command: SaleCommand,
}

#[derive(Subcommand)]
enum SaleCommand {
    /// Show the settings and live figures
    Show {
        /// The event
        event: i64,
        /// Show them again every second
        #[arg(long)]
        watch: bool,
    },
    /// Set how many places are called per minute
    Rate {
        /// The event
        event: i64,
        /// Places per minute
        per_minute: u32,
        /// Set it even when it is 0, or more than 3 times the current rate
        #[arg(long)]
        yes: bool,
    },
    /// Set how many people may hold a pass at once
    Cap {
        /// The event
        event: i64,
        /// People
        shoppers: u32,
    },
    /// Pause: call nobody until resumed
    Pause {
        /// The event
        event: i64,
    },
    /// Resume calling
    Resume {
        /// The event
        event: i64,
    },
    /// End the sale
    Close {
        /// The event
        event: i64,
    },
    /// Reopen a closed sale
    Reopen {
        /// The event
        event: i64,
    },
    /// Ask for proof of work before joining, against robots
    Challenge {
        /// The event
        event: i64,
        /// Whether to ask for it
        switch: Switch,
    },
    /// Admit visitors without an account, for a queue that guards another site
    Anonymous {
        /// The event, which sells nothing here
        event: i64,
        /// Whether to admit them
        switch: Switch,
    },
    /// Announce where public entropy for the lobby's lottery will come from, before the lobby opens
    EntropySource {
        /// The event
        event: i64,
        /// The source, exactly enough that everyone reads the same; empty for none
        source: String,
    },
    /// Set what the announced source of entropy showed, once the opening time has come
    Entropy {
        /// The event
        event: i64,
        /// The value it published; it can't be changed
        value: String,
    },
    /// Revoke the pass of an account; it is refused everywhere within a second
    Revoke {
        /// The event
        event: i64,
        /// The account
        account: i64,
    },
    /// Show a message to everyone who waits
    Message {
        /// The event
        event: i64,
        /// The message; empty removes it
        text: String,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Switch {
    On,
    Off,
}

pub(crate) async fn run(args: SaleArgs) -> anyhow::Result<ExitCode> {
    let mut staff = Staff::new(args.staff)?;
    let (event, change) = match args.command {
        SaleCommand::Show { event, watch } => return show(&mut staff, event, watch).await,
        SaleCommand::Rate {
            event,
            per_minute,
            yes,
        } => {
            if !yes && let Some(doubt) = doubt(&mut staff, event, per_minute).await? {
                warn(doubt);
                return Ok(ExitCode::from(EXIT_USAGE));
            }
            (event, json!({ "rate_per_minute": per_minute }))
        }
        SaleCommand::Cap { event, shoppers } => (event, json!({ "shopper_cap": shoppers })),
        SaleCommand::Pause { event } => (event, json!({ "paused": true })),
        SaleCommand::Resume { event } => (event, json!({ "paused": false })),
        SaleCommand::Close { event } => (event, json!({ "closed": true })),
        SaleCommand::Reopen { event } => (event, json!({ "closed": false })),
        SaleCommand::Challenge { event, switch } => {
            (event, json!({ "challenge": switch == Switch::On }))
        }
        SaleCommand::Anonymous { event, switch } => {
            (event, json!({ "anonymous": switch == Switch::On }))
        }
        SaleCommand::EntropySource { event, source } => {
            (event, json!({ "entropy_source": source }))
        }
        SaleCommand::Entropy { event, value } => (event, json!({ "entropy": value })),
        SaleCommand::Revoke { event, account } => {
            return revoke(&mut staff, event, account).await;
        }
        SaleCommand::Message { event, text } => (event, json!({ "message": text })),
    };
    let answer = staff
        .call(Method::PUT, &format!("/api/sales/{event}"), Some(&change))
        .await?;
    say(settings_line(&answer["sale"]));
    Ok(ExitCode::SUCCESS)
}

/// Returns why a rate is probably a mistake, if it is.
async fn doubt(staff: &mut Staff, event: i64, per_minute: u32) -> anyhow::Result<Option<String>> {
    if per_minute == 0 {
        let doubt = "0 calls nobody while the sale says it is open: \
                     use `sale pause`, or repeat with --yes";
        return Ok(Some(doubt.to_owned()));
    }
    let path = format!("/api/sales/{event}");
    let answer = staff.call(Method::GET, &path, None).await?;
    let before = answer["sale"]["rate_per_minute"].as_u64().unwrap_or(0);
    let is_jump = before > 0 && u64::from(per_minute) > before.saturating_mul(JUMP);
    Ok(is_jump.then(|| {
        format!(
            "{per_minute} a minute is more than {JUMP} times the current {before}: \
             repeat with --yes if that is meant"
        )
    }))
}

/// Prints the sale; with `watch` every second, through outages of the server, until the reader of
/// standard output is gone.
async fn show(staff: &mut Staff, event: i64, watch: bool) -> anyhow::Result<ExitCode> {
    let path = format!("/api/sales/{event}");
    let mut is_away = false;
    loop {
        match staff.call(Method::GET, &path, None).await {
            Ok(answer) => {
                is_away = false;
                if !print_all(&lines(&answer)) {
                    return Ok(ExitCode::SUCCESS);
                }
            }
            Err(error) if watch && error.is_passing() => {
                if !is_away {
                    warn(format_args!("{error}; still trying"));
                }
                is_away = true;
            }
            Err(error) => return Err(error.into()),
        }
        if !watch {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn lines(answer: &Value) -> Vec<String> {
    let lottery = lottery_line(&answer["sale"], &answer["live"]["lottery"]);
    let lines = [settings_line(&answer["sale"]), live_line(&answer["live"])];
    lines.into_iter().chain(lottery).collect()
}

/// Prints the lines; `false` when the reader is gone.
fn print_all(lines: &[impl Display]) -> bool {
    let mut out = io::stdout().lock();
    lines.iter().all(|line| writeln!(out, "{line}").is_ok())
}

async fn revoke(staff: &mut Staff, event: i64, account: i64) -> anyhow::Result<ExitCode> {
    let path = format!("/api/sales/{event}/passes/{account}");
    staff.call(Method::DELETE, &path, None).await?;
    say(format_args!(
        "sale {event}: the pass of account {account} is revoked"
    ));
    Ok(ExitCode::SUCCESS)
}

fn settings_line(sale: &Value) -> String {
    format!(
        "sale {}: {}, {} a minute, cap {}, version {}",
        sale["event_id"],
        sale["state"].as_str().unwrap_or("unknown"),
        sale["rate_per_minute"],
        sale["shopper_cap"],
        sale["version"]
    )
}

fn live_line(live: &Value) -> String {
    if live["seq"].is_null() {
        return "no queue yet".to_owned();
    }
    let left = &live["stock"]["available"];
    let left = left.as_i64().map(|left| left.to_string());
    format!(
        "joined {}, called {}, waiting {}, shopping {}, claimed in the last minute {}, seats left {}",
        live["joined"],
        live["cursor"],
        live["waiting"],
        live["shopping"],
        live["claimed_last_minute"],
        left.as_deref().unwrap_or("unknown")
    )
}

/// The progress of the lobby's lottery; `None` when there is none yet.
fn lottery_line(sale: &Value, lottery: &Value) -> Option<String> {
    let commitment = lottery["commitment"]
        .as_str()
        .filter(|text| !text.is_empty())?;
    let source = sale["entropy_source"].as_str().unwrap_or_default();
    let awaits_entropy = !source.is_empty() && sale["entropy"] == "";
    Some(if !lottery["drawn"].is_null() {
        format!("lottery of {} drawn", lottery["drawn"]["lobby"])
    } else if !lottery["fixed"].is_null() && awaits_entropy {
        format!(
            "lottery of {}: opens when the entropy is set, from: {source}",
            lottery["fixed"]["lobby"]
        )
    } else {
        format!("lottery committed to {commitment}")
    })
}

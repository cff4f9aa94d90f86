//! `onsale mails`: lists mails and SMS that did not arrive, and sends them again.

use anyhow::bail;
use clap::{Args, Subcommand};
use domain::AccountId;
use domain::clock::{Clock as _, SystemClock};
use notifier::{Stuck, StuckState};
use sqlx::PgPool;
use uuid::Uuid;

use crate::{DatabaseArgs, say};

/// The actor in the audit log of commands on the server itself.
const COMMAND_LINE: AccountId = AccountId(0);

#[derive(Args)]
pub(crate) struct MailsArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(subcommand)]
    command: MailsCommand,
}

#[derive(Subcommand)]
enum MailsCommand {
    /// List mails and SMS that were refused for good, or may not have arrived, newest first
    List {
        #[command(flatten)]
        filter: Filter,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Send some of them again; a running notifier does it
    Again {
        /// Their ids, as `list` shows them
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        ids: Vec<Uuid>,
        /// All that `list` shows with the same filter
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        filter: Filter,
    },
}

#[derive(Args)]
struct Filter {
    /// Only those in this state
    #[arg(long, value_parser = parse_state)]
    state: Option<StuckState>,
    /// Only those of this kind, such as confirmed
    #[arg(long)]
    kind: Option<String>,
}

fn parse_state(word: &str) -> Result<StuckState, &'static str> {
    match word {
        "failed" => Ok(StuckState::Failed),
        "uncertain" => Ok(StuckState::Uncertain),
        _ => Err("take failed or uncertain"),
    }
}

impl Filter {
    async fn find(&self, db: &PgPool) -> anyhow::Result<Vec<Stuck>> {
        Ok(notifier::stuck(db, self.state, self.kind.as_deref()).await?)
    }
}

pub(crate) async fn run(args: MailsArgs) -> anyhow::Result<()> {
    let db = args.database.connect().await?;
    match args.command {
        MailsCommand::List { filter, json } => list(&filter.find(&db).await?, json),
        MailsCommand::Again { ids, all, filter } => {
            let found = if all {
                filter.find(&db).await?
            } else {
                Vec::new()
            };
            let found = found.into_iter().map(|mail| mail.id);
            again(&db, ids.into_iter().chain(found)).await
        }
    }
}

fn list(mails: &[Stuck], json: bool) -> anyhow::Result<()> {
    if json {
        say(serde_json::to_string_pretty(mails)?);
        return Ok(());
    }
    for mail in mails {
        say(format_args!(
            "{}  {}  {:<9} {:<15} {:<5} booking {}  {}",
            mail.id,
            mail.created_at.format("%Y-%m-%d %H:%M:%S"),
            mail.state,
            mail.kind,
            mail.channel,
            mail.booking_id,
            mail.error.as_deref().unwrap_or_default(),
        ));
    }
    Ok(())
}

async fn again(db: &PgPool, ids: impl Iterator<Item = Uuid>) -> anyhow::Result<()> {
    let (mut sent, mut refused) = (0, Vec::new());
    for id in ids {
        if notifier::send_again(db, id, COMMAND_LINE, SystemClock.now()).await? {
            sent += 1;
        } else {
            refused.push(id.to_string());
        }
    }
    say(format_args!("{sent} will be sent again"));
    if !refused.is_empty() {
        bail!(
            "not sent again, as they are neither failed nor uncertain: {}",
            refused.join(", ")
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(clap::Parser)]
    struct Command {
        #[command(flatten)]
        mails: MailsArgs,
    }

    fn parse(words: &[&str]) -> Result<MailsArgs, clap::Error> {
        let before = ["mails", "--database-url", "postgres://x"];
        Command::try_parse_from([&before, words].concat()).map(|command| command.mails)
    }

    #[test]
    fn what_is_sent_again_is_named_one_by_one_or_is_all_that_is_listed() {
        let one = "018f0000-0000-7000-8000-000000000000";
        assert!(parse(&["again", one]).is_ok());
        assert!(parse(&["again", "--all", "--state", "failed", "--kind", "confirmed"]).is_ok());
        assert!(parse(&["again"]).is_err());
        assert!(parse(&["again", "--all", one]).is_err());
        assert!(parse(&["list", "--state", "sent"]).is_err());
        let listed = parse(&["list", "--state", "uncertain", "--json"]).unwrap();
        assert!(matches!(
            listed.command,
            MailsCommand::List { filter, json: true } if filter.state == Some(StuckState::Uncertain)
        ));
    }
}

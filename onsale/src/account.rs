//! `onsale account`: creates staff accounts and grants roles, on the server itself.

use std::io::{IsTerminal as _, Read as _};

use anyhow::{Context as _, bail};
use box_office::CommandLineError;
use clap::{Args, Subcommand};
use domain::account::Role;
use domain::clock::SystemClock;
use secrecy::SecretString;

use crate::{DatabaseArgs, say};

/// The environment variable with the password of a new account.
const PASSWORD: &str = "ONSALE_ADMIN_PASSWORD";

#[derive(Args)]
pub(crate) struct AccountArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(subcommand)]
    command: AccountCommand,
}

#[derive(Subcommand)]
enum AccountCommand {
    /// Make an administrator, or make an existing account one, which keeps its password
    ///
    /// The password of a new account, 10 to 200 characters, is taken from ONSALE_ADMIN_PASSWORD,
    /// else prompted for, or read from standard input when that is no terminal.
    CreateAdmin {
        /// The address to sign in with
        email: String,
    },
    /// Grant an account a role: customer, organiser, operator or admin
    Grant {
        /// The address of the account
        email: String,
        /// The role
        #[arg(value_parser = role)]
        role: Role,
    },
    /// Revoke a role of an account; it stays a customer
    Revoke {
        /// The address of the account
        email: String,
        /// The role
        #[arg(value_parser = role)]
        role: Role,
    },
}

fn role(word: &str) -> Result<Role, &'static str> {
    Role::parse(word).ok_or("take customer, organiser, operator or admin")
}

pub(crate) async fn run(args: AccountArgs) -> anyhow::Result<()> {
    let db = args.database.connect().await?;
    let clock = SystemClock::shared();
    match args.command {
        AccountCommand::CreateAdmin { email } => {
            match box_office::grant_role(&db, &clock, &email, Role::Admin).await {
                Ok(id) => {
                    let text = "is an administrator; its password stays as it was";
                    say(format_args!("{email}, account {id}, {text}"));
                }
                Err(CommandLineError::Unknown(_)) => {
                    let password = password()?;
                    let id = box_office::bootstrap_admin(&db, &clock, &email, &password).await?;
                    say(format_args!("{email} is an administrator, account {id}"));
                }
                Err(error) => return Err(error.into()),
            }
        }
        AccountCommand::Grant { email, role } => {
            box_office::grant_role(&db, &clock, &email, role).await?;
            say(format_args!("{email} is now {}", role.as_str()));
        }
        AccountCommand::Revoke { email, role } => {
            box_office::revoke_role(&db, &clock, &email, role).await?;
            say(format_args!("{email} is no longer {}", role.as_str()));
        }
    }
    Ok(())
}

/// The password of a new account: not an argument, which every user of the machine could read.
fn password() -> anyhow::Result<SecretString> {
    if let Ok(password) = std::env::var(PASSWORD) {
        return Ok(password.into());
    }
    let mut input = std::io::stdin();
    if input.is_terminal() {
        let typed = rpassword::prompt_password("Password (10 to 200 characters): ")?;
        if typed != rpassword::prompt_password("Again: ")? {
            bail!("the two passwords differ");
        }
        return Ok(typed.into());
    }
    let mut read = String::new();
    input
        .read_to_string(&mut read)
        .context("reading the password from standard input")?;
    let password = read.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        bail!("no password: set {PASSWORD}, or write it to standard input");
    }
    Ok(password.into())
}

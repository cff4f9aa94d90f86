//! `onsale account`: staff accounts, made on the server itself.

use anyhow::Context as _;
use clap::{Args, Subcommand};
use domain::account::Role;
use domain::clock::SystemClock;
use secrecy::SecretString;

use crate::{DatabaseArgs, say};

#[derive(Args)]
pub(crate) struct AccountArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    #[command(subcommand)]
    command: AccountCommand,
}

#[derive(Subcommand)]
enum AccountCommand {
    /// Make an administrator, or make an existing account one
    CreateAdmin {
        /// The address to sign in with
        email: String,
        /// The password, 10 to 200 characters
        #[arg(long, env = "ONSALE_ADMIN_PASSWORD", hide_env_values = true)]
        password: SecretString,
    },
    /// Give an account a role: customer, organiser, operator or admin
    Grant {
        /// The address of the account
        email: String,
        /// The role
        role: String,
    },
}

/// Runs one command.
pub(crate) async fn run(args: AccountArgs) -> anyhow::Result<()> {
    let db = args.database.connect().await?;
    let clock = SystemClock::shared();
    match args.command {
        AccountCommand::CreateAdmin { email, password } => {
            let id = box_office::bootstrap_admin(&db, &clock, &email, &password).await?;
            say(format_args!("{email} is an administrator, account {id}"));
        }
        AccountCommand::Grant { email, role } => {
            let role = Role::parse(&role).with_context(|| {
                format!("{role} is no role; take customer, organiser, operator or admin")
            })?;
            box_office::grant_role(&db, &clock, &email, role).await?;
            say(format_args!("{email} is now {}", role.as_str()));
        }
    }
    Ok(())
}

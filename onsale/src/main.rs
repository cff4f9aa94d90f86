//! The one binary of Onsale: every service, the demo, the audit and the operator's commands.

mod account;
mod audit;
mod audit_command;
mod audit_lottery;
mod booking;
mod dead_letters;
mod demo;
mod keys;
mod mails;
mod reconcile;
mod sale;
mod services;
mod staff;
mod stand_ins;
mod verify_pass;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use platform::config::PlatformConfig;
use platform::{pg, service};
use secrecy::{ExposeSecret as _, SecretString};

/// A request makes dozens of small allocations; with the system's allocator they took a fifth of
/// its time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// A fair queue in front of a ticket sale, and a booking pipeline that can't oversell.
#[derive(Parser)]
#[command(name = "onsale", version, about, max_term_width = 100)]
struct Onsale {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run every service in one process
    All(Box<services::All>),
    /// Run the waiting room: joining the queue, the place in it, the shared snapshot
    WaitingRoom(Box<services::WaitingRoom>),
    /// Run admission: the release loop, passes and the booking API
    Admission(Box<services::Admission>),
    /// Run box-office: events, accounts, the staff API and the pages
    BoxOffice(Box<services::BoxOffice>),
    /// Run the booking worker: seats, holds and tickets
    BookingWorker(Box<services::BookingWorker>),
    /// Run the payment worker: authorise, capture, void and refund at Stripe
    PaymentWorker(Box<services::PaymentWorker>),
    /// Run the notifier: mail and SMS
    Notifier(Box<services::Notifier>),
    /// Migrate the database to this version's schema
    Migrate(MigrateArgs),
    /// Run a whole flash sale with simulated buyers, then stay up
    Demo(Box<demo::DemoArgs>),
    /// Check every promise against the database and the payment provider
    Audit(audit_command::AuditArgs),
    /// Compare our records of the money with Stripe's, and repair ours
    Reconcile(Box<reconcile::ReconcileArgs>),
    /// Show the timeline of a booking
    Booking(booking::BookingArgs),
    /// Watch and control a sale
    Sale(sale::SaleArgs),
    /// Create staff accounts and grant roles
    Account(account::AccountArgs),
    /// Rotate the secret that every key is derived from
    Keys(keys::KeysArgs),
    /// List and redrive messages that could not be handled
    DeadLetters(dead_letters::DeadLettersArgs),
    /// List mails and SMS that did not arrive, and send them again
    Mails(mails::MailsArgs),
    /// Guard another site: verify passes for its reverse proxy
    VerifyPass(verify_pass::VerifyPassArgs),
    /// Run stand-ins for Stripe, the mail server and the SMS provider
    StandIns(stand_ins::StandInsArgs),
}

#[derive(clap::Args)]
struct DatabaseArgs {
    /// PostgreSQL, such as postgres://user:password@host:5432/onsale
    #[arg(long, env = "ONSALE_DATABASE_URL", hide_env_values = true)]
    database_url: SecretString,
}

impl DatabaseArgs {
    async fn connect(&self) -> anyhow::Result<sqlx::PgPool> {
        Ok(pg::connect(self.database_url.expose_secret(), 4, "onsale").await?)
    }

    /// Connects without a statement timeout, for commands whose statements may take hours.
    async fn connect_unlimited(&self) -> anyhow::Result<sqlx::PgPool> {
        Ok(pg::connect_unlimited(self.database_url.expose_secret(), 4, "onsale").await?)
    }
}

#[derive(clap::Args)]
struct MigrateArgs {
    #[command(flatten)]
    database: DatabaseArgs,
}

#[tokio::main]
async fn main() -> ExitCode {
    ::stand_ins::tls::install();
    let onsale = match Onsale::try_parse() {
        Ok(onsale) => onsale,
        Err(error) => return refuse(&error),
    };
    let outcome = match onsale.command {
        Command::All(args) => args.run().await,
        Command::WaitingRoom(args) => args.run().await,
        Command::Admission(args) => args.run().await,
        Command::BoxOffice(args) => args.run().await,
        Command::BookingWorker(args) => args.run().await,
        Command::PaymentWorker(args) => args.run().await,
        Command::Notifier(args) => args.run().await,
        Command::Migrate(args) => migrate(&args).await,
        Command::Demo(args) => return finish(Box::pin(demo::run(*args)).await),
        Command::Audit(args) => return finish(audit_command::run(&args).await),
        Command::Reconcile(args) => return finish(reconcile::run(&args).await),
        Command::Booking(args) => booking::run(args).await,
        Command::Sale(args) => return finish(sale::run(args).await),
        Command::Account(args) => account::run(args).await,
        Command::Keys(args) => keys::run(args),
        Command::DeadLetters(args) => dead_letters::run(args).await,
        Command::Mails(args) => mails::run(args).await,
        Command::VerifyPass(args) => verify_pass::run(args).await,
        Command::StandIns(args) => stand_ins::run(args).await,
    };
    finish(outcome.map(|()| ExitCode::SUCCESS))
}

/// Prints help, version or a usage error; only the last is a failure.
fn refuse(error: &clap::Error) -> ExitCode {
    // The terminal may be gone.
    let _gone = error.print();
    ExitCode::from(if error.use_stderr() {
        service::EXIT_USAGE
    } else {
        0
    })
}

/// The exit status of a command: its own, or that of its error.
fn finish(outcome: anyhow::Result<ExitCode>) -> ExitCode {
    outcome.unwrap_or_else(|error| service::exit_code(Err(error)))
}

async fn migrate(args: &MigrateArgs) -> anyhow::Result<()> {
    let db = args.database.connect_unlimited().await?;
    pg::migrate(&db).await?;
    say("the schema is up to date");
    Ok(())
}

/// Prints to standard output, ignoring a reader that is gone, as in `| head`.
fn say(text: impl std::fmt::Display) {
    let _gone = writeln!(std::io::stdout().lock(), "{text}");
}

/// Prints a warning to standard error.
fn warn(text: impl std::fmt::Display) {
    let _gone = writeln!(std::io::stderr().lock(), "onsale: {text}");
}

/// Runs one service or several in this process until a signal.
async fn serve<F, Fut>(name: &'static str, config: PlatformConfig, start: F) -> anyhow::Result<()>
where
    F: FnOnce(service::Context) -> Fut,
    Fut: Future<Output = anyhow::Result<service::Routes>>,
{
    service::run(name, config, start).await
}

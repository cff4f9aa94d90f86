//! `onsale dead-letters`: lists and redrives messages that could not be handled.

use anyhow::Context as _;
use clap::{Args, Subcommand};
use platform::amqp::{Broker, dead_letters};
use platform::topology;
use secrecy::{ExposeSecret, SecretString};
use sqlx::PgPool;

use crate::{DatabaseArgs, say};

/// Bytes of a body that are shown.
const SHOWN_BYTES: usize = 300;

#[derive(Args)]
pub(crate) struct DeadLettersArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// RabbitMQ, such as amqp://user:password@host:5672/%2f
    #[arg(long, env = "ONSALE_AMQP_URL", hide_env_values = true)]
    amqp_url: SecretString,
    /// Prefix of every queue
    #[arg(long, env = "ONSALE_NAMESPACE", default_value = "onsale")]
    namespace: String,
    #[command(subcommand)]
    command: DeadLettersCommand,
}

#[derive(Subcommand)]
enum DeadLettersCommand {
    /// Show them, each with the reason it was dead-lettered
    List {
        /// One queue, such as payment.bookings; all by default
        queue: Option<String>,
        /// Most messages shown per queue
        #[arg(long, default_value_t = 20)]
        limit: usize,
    },
    /// Send them back to the queue they came from, once the cause is mended
    Redrive {
        /// The queue, such as payment.bookings
        queue: String,
        /// Most messages sent back
        #[arg(long, default_value_t = 1_000)]
        limit: usize,
    },
}

pub(crate) async fn run(args: DeadLettersArgs) -> anyhow::Result<()> {
    // Declares nothing, so that a mistyped namespace creates no queues.
    let broker = Broker::lazy(args.amqp_url.expose_secret(), &args.namespace)?;
    let db = args.database.connect().await?;
    match args.command {
        DeadLettersCommand::List { queue, limit } => list(&broker, &db, queue, limit).await,
        DeadLettersCommand::Redrive { queue, limit } => {
            let moved = dead_letters::redrive(&broker, &db, &queue, limit).await?;
            say(format_args!("{moved} sent back to {queue}"));
            Ok(())
        }
    }
}

async fn list(
    broker: &Broker,
    db: &PgPool,
    queue: Option<String>,
    limit: usize,
) -> anyhow::Result<()> {
    let queues = match queue {
        Some(queue) => vec![queue],
        None => topology::all()
            .into_iter()
            .map(|queue| queue.name)
            .collect(),
    };
    for queue in queues {
        let letters = dead_letters::list(broker, db, &queue, limit)
            .await
            .with_context(|| format!("queue {queue}"))?;
        let stored = dead_letters::count_stored(db).await?;
        let count = stored.get(&queue).copied().unwrap_or_default();
        say(format_args!("{queue}: {count}"));
        for letter in letters {
            let shown = &letter.body[..letter.body.len().min(SHOWN_BYTES)];
            say(format_args!(
                "  {}  {}  tried {} times: {}\n    {}",
                letter.id,
                letter.name,
                letter.attempts,
                letter.reason,
                String::from_utf8_lossy(shown)
            ));
        }
    }
    Ok(())
}

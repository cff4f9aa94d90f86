//! Everything around a service: configuration, telemetry, servers, listeners, signals, shutdown.
//!
//! ```text
//! start ──► serving ──first signal, or a task failed──► soft: /readyz fails, loops leave
//!                                                         │ drain time
//!                                                         ▼
//!                                                       accept no more, finish requests ──► exit
//!                                                         │ second signal, or grace time over
//!                                                         ▼
//!                                                       hard: drop everything ──► exit 1
//! ```

mod checks;
mod context;
mod housekeeping;
mod ops;
mod running;
mod signals;

use std::future::Future;
use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use axum::Router;
use domain::clock::{SharedClock, SystemClock};

use crate::amqp::QueueSpec;
use crate::config::{InvalidConfig, PlatformConfig};
use crate::{pg, telemetry, topology};
use signals::Signals;

pub use crate::files::raise_open_files;
pub use crate::shutdown::Shutdown;
pub use context::Context;
pub use running::{Running, serve};

/// `EX_USAGE` of sysexits: starting again without a change will not help.
pub const EXIT_USAGE: u8 = 64;
const EXIT_FAILURE: u8 = 1;
/// Longest time that a start waits for RabbitMQ.
const DECLARING_LIMIT: Duration = Duration::from_secs(3);

/// The routes of a service, or of several. They must not have a fallback.
#[derive(Debug, Default)]
pub struct Routes {
    /// Routes for buyers and apps.
    pub public: Router,
    /// Routes for buyers and apps so hot that a span per request would be noticeable.
    pub quick: Router,
    /// Routes for staff.
    pub internal: Router,
    /// The queues that the service consumes soon after its start.
    pub consumes: Vec<QueueSpec>,
}

impl Routes {
    /// The routes of both.
    ///
    /// # Panics
    /// When they have a path in common.
    #[must_use]
    pub fn merge(self, other: Self) -> Self {
        Self {
            public: self.public.merge(other.public),
            quick: self.quick.merge(other.quick),
            internal: self.internal.merge(other.internal),
            consumes: [self.consumes, other.consumes].concat(),
        }
    }
}

/// Runs a process: connects to the servers, calls `start`, serves its routes until a signal, and
/// shuts down. `service_name` appears in logs and in the servers' own views of their clients.
///
/// # Errors
/// When the configuration is invalid ([`InvalidConfig`]), a server is out of reach, `start` or a
/// task fails, or the shutdown had to be hard. Hand the outcome to [`exit_code`].
pub async fn run<F, Fut>(
    service_name: &'static str,
    config: PlatformConfig,
    start: F,
) -> anyhow::Result<()>
where
    F: FnOnce(Context) -> Fut,
    Fut: Future<Output = anyhow::Result<Routes>>,
{
    let mut signals = Signals::listen()?;
    let launch = Box::pin(launch(service_name, config, start));
    let running = tokio::select! {
        running = launch => running?,
        () = signals.next() => {
            tracing::info!("stopped before it was up");
            return Ok(());
        }
    };
    let shutdown = running.ctx.shutdown.clone();
    let mut finish = Box::pin(running.finish());
    tokio::select! {
        outcome = &mut finish => return outcome,
        () = signals.next() => {
            tracing::info!("shutting down; a second signal ends it at once");
            shutdown.soft().cancel();
        }
    }
    tokio::select! {
        outcome = &mut finish => return outcome,
        () = signals.next() => shutdown.hard().cancel(),
    }
    finish.await
}

/// Like [`run`] without signals, for programs that embed services: returns when the listeners
/// are bound.
///
/// # Errors
/// As [`run`]; whatever `start` had spawned is stopped.
pub async fn launch<F, Fut>(
    service_name: &'static str,
    config: PlatformConfig,
    start: F,
) -> anyhow::Result<Running>
where
    F: FnOnce(Context) -> Fut,
    Fut: Future<Output = anyhow::Result<Routes>>,
{
    launch_at(service_name, config, SystemClock::shared(), start).await
}

/// [`launch`] with a clock of the caller's.
///
/// # Errors
/// As [`launch`].
pub async fn launch_at<F, Fut>(
    service_name: &'static str,
    config: PlatformConfig,
    clock: SharedClock,
    start: F,
) -> anyhow::Result<Running>
where
    F: FnOnce(Context) -> Fut,
    Fut: Future<Output = anyhow::Result<Routes>>,
{
    let ctx = Context::connect(service_name, config, clock).await?;
    if let Err(error) = raise_open_files() {
        tracing::warn!(%error, "the limit of open files stays as it is");
    }
    let served = async {
        pg::check_schema(&ctx.db).await?;
        declare_queues(&ctx).await;
        let routes = start(ctx.clone()).await?;
        serve(&ctx, routes).await
    }
    .await;
    if served.is_err() {
        ctx.shutdown.soft().cancel();
        ctx.shutdown.hard().cancel();
        ctx.shutdown.tasks_left().await;
    }
    served
}

/// Declares the queues if RabbitMQ is reachable; otherwise housekeeping does, as soon as it is.
async fn declare_queues(ctx: &Context) {
    let declaring = topology::declare_all(&ctx.broker);
    let failure = match tokio::time::timeout(DECLARING_LIMIT, declaring).await {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error.to_string(),
        Err(_) => format!("not within {DECLARING_LIMIT:?}"),
    };
    tracing::warn!(failure, "starting without RabbitMQ");
}

/// Returns the exit status, and prints a failure to standard error: 64 for an invalid
/// configuration, 1 for everything else.
#[must_use]
pub fn exit_code(outcome: anyhow::Result<()>) -> ExitCode {
    telemetry::flush();
    let Err(error) = outcome else {
        return ExitCode::SUCCESS;
    };
    // Nothing can be done when standard error is closed.
    let _ = writeln!(std::io::stderr(), "onsale: {error:#}");
    let is_usage = error.is::<InvalidConfig>();
    ExitCode::from(if is_usage { EXIT_USAGE } else { EXIT_FAILURE })
}

//! Logs, traces and metrics of a process.

mod metrics;
mod trace;

use std::io::IsTerminal;
use std::sync::OnceLock;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

use crate::config::LogFormat;

pub use metrics::{render, run_upkeep};
pub use trace::{TraceContext, span_for};

/// What is logged when nobody says. lapin's warnings would show whole messages, with the personal
/// data in them.
const DEFAULT_FILTER: &str = "info,lapin=error,sqlx=warn,hyper=warn";

/// Installs the log writer (to standard error) and the metrics recorder, once per process; later
/// calls do nothing. Without a `filter` the one in `RUST_LOG` counts.
pub fn init(format: LogFormat, filter: Option<&str>) {
    static ONCE: OnceLock<()> = OnceLock::new();
    ONCE.get_or_init(|| {
        metrics::install();
        let registry = tracing_subscriber::registry().with(env_filter(filter));
        let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
        // A program that embeds us may have its own subscriber; it stays.
        let installed = match format {
            LogFormat::Json => registry
                .with(layer.json().flatten_event(true).with_current_span(false))
                .try_init(),
            LogFormat::Text => registry
                .with(layer.with_ansi(std::io::stderr().is_terminal()))
                .try_init(),
        };
        if let Err(error) = installed {
            tracing::debug!(%error, "logs go to the subscriber that was there");
        }
    });
}

fn env_filter(filter: Option<&str>) -> EnvFilter {
    let directives = filter
        .map(str::to_owned)
        .or_else(|| std::env::var("RUST_LOG").ok())
        .filter(|directives| !directives.is_empty())
        .unwrap_or_else(|| DEFAULT_FILTER.to_owned());
    EnvFilter::builder().parse_lossy(directives)
}
